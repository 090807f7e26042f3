"""Memory shared by the replicas on one machine: the first to need a model's weights writes them, and all map them.

The memory consists of anonymous files (memfd), which the supervisor passes to each replica. One file, a slot, holds the
tensors of one key. Whoever writes it or has it mapped holds a lock on it (flock), which ends with the mapping or the
process; a slot without a lock is free. Only the process that has locked another file, the door, looks for slots or
takes one. The kernel frees the memory when nobody has the file open, however the processes ended (Linux).
"""

import json
import logging
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

SLOTS = 16  # for the live model, one being loaded, one in the shadow, and what they share
DOOR_SECONDS = 2.0  # the door is locked for less than a millisecond, unless its process is frozen
PATIENCE_SECONDS = 10.0  # with a writer that makes no progress, because it is frozen
_LOOK_SECONDS = 0.005
_PAGE = 4_096  # bytes: of the head, and what each tensor is aligned to

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """The tensors of one key. They stay as long as ``memory``, which everything must hold that reads it.

    Attributes:
        memory: mapped from the slot; what is written to it stays in this process.
        index: what ``write`` returned.
    """

    memory: mmap.mmap
    index: Any


class Slots:
    """The files as one process has them."""

    def __init__(self, files: Sequence[int], patience_seconds: float = PATIENCE_SECONDS) -> None:
        """
        Args:
            files: descriptors from ``make_slots``, of this process or inherited.
            patience_seconds: with a writer that does not go on.
        """
        self._door, *self._files = files
        self._patience_seconds = patience_seconds

    def get(self, key: str, write: Callable[["Writer"], Any]) -> Kept | None:
        """What is kept under ``key``: found, waited for, or written; None where that cannot be.

        Args:
            key: names all that decides the bytes.
            write: gives the bytes to a ``Writer`` and returns an index of them, made of JSON's types.
        """
        size, since = -1, time.monotonic()
        try:
            while isinstance(found := self._look(key), int):
                if found != size:
                    size, since = found, time.monotonic()
                if time.monotonic() > since + self._patience_seconds:
                    raise TimeoutError("the process that writes them does not go on")
                time.sleep(_LOOK_SECONDS)
            if found is None:
                raise TimeoutError("every slot is taken")
            return found if isinstance(found, Kept) else self._written(found, key, write)
        except OSError as error:  # a TimeoutError is one, no memory another
            log.warning("weights are not shared with other replicas: %s", error)
            return None

    def free_unused(self) -> int:
        """Give back the memory of what nobody reads or writes; how many slots hold something."""
        with suppress(OSError), self._alone():  # it is tried again
            self._empty_the_free()
        return sum(os.fstat(file).st_size > 0 for file in self._files)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While the block lasts, no other process looks or takes.

        Raises:
            TimeoutError: another does, and does not end.
        """
        door, deadline = _open(self._door), time.monotonic() + DOOR_SECONDS
        try:
            while not _lock(door):
                if time.monotonic() > deadline:
                    raise TimeoutError("another process does not leave the door")
                time.sleep(_LOOK_SECONDS)
            yield
        finally:
            os.close(door)

    def _look(self, key: str) -> "Kept | Writer | int | None":
        """What is kept; else a writer for it; else how many bytes another has written by now; None: no slot is free."""
        with self._alone():
            self._empty_the_free()
            for number in self._files:
                if _head(number).get("key") == key:
                    return _mapped(number) or os.fstat(number).st_size
            for number in self._files:
                file = _open(number)
                if _lock(file):
                    _write_head(file, {"key": key})
                    return Writer(file)
                os.close(file)
            return None

    def _written(self, writer: "Writer", key: str, write: Callable[["Writer"], Any]) -> Kept:
        try:
            index = json.dumps(write(writer)).encode()
            head = {"key": key, "index": [writer.add(memoryview(index)), len(index)]}
            with self._alone():
                _write_head(writer.file, head)
                # It is let go of and taken anew: but for the door, another might empty the slot in between.
                assert _lock(writer.file, shared=True)
            return _kept(writer.file, head)
        except BaseException:
            os.ftruncate(writer.file, 0)
            raise
        finally:
            os.close(writer.file)  # its lock stays with the mapping

    def _empty_the_free(self) -> None:
        for number in self._files:
            if os.fstat(number).st_size:
                file = _open(number)
                if _lock(file):
                    os.ftruncate(file, 0)
                os.close(file)


class Writer:
    """Fills a slot, which is locked meanwhile."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._end = _PAGE

    def add(self, data: memoryview) -> int:
        """Write ``data``, bytes; where it stands."""
        begin, done = -(-self._end // _PAGE) * _PAGE, 0
        while done < len(data):
            done += os.pwrite(self.file, data[done:], begin + done)
        self._end = begin + done
        return begin


def make_slots(count: int = SLOTS) -> list[int]:
    """File descriptors of a door and so many slots, which take memory when they are used; none where there is no such.

    They are to be handed to the processes that share them, under the same numbers.
    """
    try:
        return [os.memfd_create("abstream-weights") for _ in range(count + 1)]
    except (AttributeError, OSError):
        return []


def _mapped(number: int) -> Kept | None:
    """None where it is being written, or the writer died this moment."""
    file = _open(number)
    try:
        whole = _lock(file, shared=True) and "index" in (head := _head(file))
        return _kept(file, head) if whole else None
    finally:
        os.close(file)


def _kept(file: int, head: dict[str, Any]) -> Kept:
    begin, length = head["index"]
    return Kept(mmap.mmap(file, 0, access=mmap.ACCESS_COPY), json.loads(os.pread(file, length, begin)))


def _head(file: int) -> dict[str, Any]:
    written = os.pread(file, _PAGE, 0).rstrip(b"\0")
    head: dict[str, Any] = json.loads(written) if written else {}
    return head


def _write_head(file: int, head: dict[str, Any]) -> None:
    os.pwrite(file, json.dumps(head).encode().ljust(_PAGE, b"\0"), 0)


def _open(file: int) -> int:
    """The same file opened anew: descriptors that were inherited have their locks in common."""
    return os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)


def _lock(file: int, *, shared: bool = False) -> bool:
    """Whether it was to be had at once; what was held before is let go of."""
    import fcntl  # Windows has none, nor such files

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
