"""Memory shared by the replicas on one machine: the first that needs a model's weights writes them, and all map them.

The memory is anonymous files (memfd), whose descriptors the supervisor passes to its replicas. Each file is a slot and
holds the tensors of one key. A process that writes or maps a slot holds a lock on its file (flock), which ends with the
mapping or with the process; a slot that nobody has locked is free. One more file, the door, is a mutex: only the
process that has locked it looks for a slot or takes one. The kernel frees what nobody has open any more, however the
processes ended (Linux).
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

SLOTS = 16  # a model in service, one being loaded, one in the shadow, and what they have in common
DOOR_SECONDS = 2.0  # the door is held for less than a millisecond, unless a process freezes there
PATIENCE_SECONDS = 10.0  # how long to wait for a writer that makes no progress, such as a frozen one
_LOOK_SECONDS = 0.005
_PAGE = 4_096  # bytes: the size of the header, and the alignment of each tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """The tensors of one key. They are valid as long as ``memory``, to which every reader must keep a reference.

    Attributes:
        memory: the slot, mapped copy-on-write: what is written to it stays in this process.
        index: what ``write`` returned.
    """

    memory: mmap.mmap
    index: Any


class Slots:
    """The slots, as one process uses them."""

    def __init__(self, files: Sequence[int], patience_seconds: float = PATIENCE_SECONDS) -> None:
        """
        Args:
            files: descriptors from ``make_slots``, of this process or inherited.
            patience_seconds: how long to wait for a writer that makes no progress.
        """
        self._door, *self._files = files
        self._patience_seconds = patience_seconds

    def get(self, key: str, write: Callable[["Writer"], Any]) -> Kept | None:
        """What is kept under ``key``: found, waited for, or written now; None where it cannot be shared.

        Args:
            key: names everything that decides the bytes.
            write: passes the bytes to a ``Writer`` and returns an index of them, made of JSON's types.
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
        except OSError as error:  # also a TimeoutError, and the lack of memory
            log.warning("weights are not shared with other replicas: %s", error)
            return None

    def free_unused(self) -> int:
        """Free the slots that nobody reads or writes; returns how many slots still hold something."""
        with suppress(OSError), self._alone():  # the next call tries again
            self._empty_the_free()
        return sum(os.fstat(file).st_size > 0 for file in self._files)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the door: within the block, no other process looks for a slot or takes one.

        Raises:
            TimeoutError: another process does not release it.
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
        """What is kept; or how many bytes another process has written; or a writer for it; or None: no slot is free."""
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
                # flock drops the lock before it takes the other kind: without the door, another could empty the slot.
                assert _lock(writer.file, shared=True)
            return _kept(writer.file, head)
        except BaseException:
            os.ftruncate(writer.file, 0)
            raise
        finally:
            os.close(writer.file)  # the mapping keeps the lock

    def _empty_the_free(self) -> None:
        for number in self._files:
            if os.fstat(number).st_size:
                file = _open(number)
                if _lock(file):
                    os.ftruncate(file, 0)
                os.close(file)


class Writer:
    """Fills a slot, on which it holds the lock."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._end = _PAGE

    def add(self, data: memoryview) -> int:
        """Write ``data``, bytes, and return its offset in the file."""
        begin, done = -(-self._end // _PAGE) * _PAGE, 0
        while done < len(data):
            done += os.pwrite(self.file, data[done:], begin + done)
        self._end = begin + done
        return begin


def make_slots(count: int = SLOTS) -> list[int]:
    """File descriptors of a door and ``count`` slots, which take memory when used; empty where there is no memfd.

    The processes that share them must inherit them under the same numbers.
    """
    try:
        return [os.memfd_create("abstream-weights") for _ in range(count + 1)]
    except (AttributeError, OSError):
        return []


def _mapped(number: int) -> Kept | None:
    """What a slot holds; None while it is being written, or where the writer has just died."""
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
    """Open the file anew: an inherited descriptor shares its lock with the process it came from."""
    return os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)


def _lock(file: int, *, shared: bool = False) -> bool:
    """Try to lock without waiting, and return whether that succeeded; a lock held before is released."""
    import fcntl  # not on Windows, which has no memfd either

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
