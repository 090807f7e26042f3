"""Command arguments in the wire format of Redis, for commands with very many arguments.

The caller knows their number and types. Checking each argument again would cost more than the rest of the command.
"""

from typing import NamedTuple

ARGUMENT = b"$%d\r\n%b\r\n"  # a bulk string of RESP: its length, then its bytes


class Packed(NamedTuple):
    """The last ``number`` arguments of a command, which a connection of ``producer.connect`` sends as they are."""

    number: int
    parts: list[bytes]
