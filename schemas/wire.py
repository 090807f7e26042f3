"""Arguments of a command in the form in which they go to Redis, for commands that have very many.

Whoever makes them knows their number and kind; to look at each once more costs more than all the rest of a command.
"""

from typing import NamedTuple

ARGUMENT = b"$%d\r\n%b\r\n"  # its length, and itself


class Packed(NamedTuple):
    """The last arguments of a command, so many; a connection of ``producer.connect`` sends them as they are."""

    number: int
    parts: list[bytes]
