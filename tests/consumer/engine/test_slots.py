"""Memory that replicas share: one writes it, the others map it, and a process that ends frees what it held.

The processes are real: each runs a few lines of Python and inherits the slots' descriptors, as a replica does.
"""

import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from abstream.consumer.engine import slots as module
from abstream.consumer.engine.slots import Slots, Writer, make_slots

from ...conftest import PATIENCE_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is shared")

PROCESS = """
import sys, time
from abstream.consumer.engine.slots import Slots

slots = Slots(list(map(int, sys.argv[2:])))

def write(writer):
    begin = writer.add(memoryview(b"numbers"))
    if sys.argv[1] == "dies":
        print("writing", flush=True)
        sys.stdin.read()
    return begin

kept = slots.get("key", write)
print(kept.memory[kept.index : kept.index + 7].decode(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def files() -> Iterator[list[int]]:
    made = make_slots(2)
    yield made
    for file in made:
        os.close(file)


@contextlib.contextmanager
def process(files: list[int], does: str = "writes") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROCESS, does, *map(str, files)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, pass_fds=files, **pipes) as started:
        try:
            yield started
        finally:
            started.kill()


def numbers(writer: Writer) -> int:
    return writer.add(memoryview(b"numbers"))


def never(_: Writer) -> None:
    raise AssertionError("it is there")


def read(slots: Slots, write=never) -> bytes:
    kept = slots.get("key", write)
    return kept.memory[kept.index : kept.index + 7]


def test_what_one_process_has_written_another_maps(files):
    with process(files) as other:
        assert other.stdout.readline() == "numbers\n"
        assert read(Slots(files)) == b"numbers"


def test_what_is_written_to_the_mapping_stays_in_the_process(files):
    slots = Slots(files)
    kept, again = slots.get("key", numbers), slots.get("key", never)
    kept.memory[kept.index] = ord("N")
    assert again.memory[kept.index] == ord("n")


def test_a_slot_is_freed_when_the_last_process_releases_it(files):
    slots = Slots(files)
    with process(files) as other:
        other.stdout.readline()
        kept = slots.get("key", never)
        other.kill()
        other.wait()
        assert slots.free_unused() == 1, "this process has it"
        del kept
        gc.collect()
        assert slots.free_unused() == 0


def test_a_killed_process_frees_what_it_held(files):
    with process(files) as other:
        other.stdout.readline()
        assert Slots(files).free_unused() == 1
        other.kill()
        other.wait()
        assert Slots(files).free_unused() == 0


def test_where_the_writer_dies_a_waiting_process_takes_over(files, monkeypatch):
    with process(files, "dies") as writer, ThreadPoolExecutor(1) as beside:
        assert writer.stdout.readline() == "writing\n"
        looked = Event()
        monkeypatch.setattr(module.time, "sleep", lambda _: looked.set())
        waiting = beside.submit(read, Slots(files), numbers)
        assert looked.wait(PATIENCE_SECONDS)
        assert not waiting.done()
        writer.kill()
        assert waiting.result(PATIENCE_SECONDS) == b"numbers"


def test_a_writer_that_dies_between_two_looks_is_seen_at_the_next(files, monkeypatch):
    """What it left is not taken for a model, though nobody has locked it any more."""
    with process(files, "dies") as writer:
        writer.stdout.readline()
        empty = Slots._empty_the_free

        def empty_and_kill(slots: Slots) -> None:
            empty(slots)
            writer.kill()
            writer.wait()

        monkeypatch.setattr(Slots, "_empty_the_free", empty_and_kill)
        assert read(Slots(files), numbers) == b"numbers"


def test_a_frozen_writer_is_not_waited_for_indefinitely(files):
    with process(files, "dies") as writer:
        writer.stdout.readline()
        writer.send_signal(signal.SIGSTOP)
        assert Slots(files, patience_seconds=0.01).get("key", never) is None


def test_a_process_frozen_with_the_door_locked_is_not_waited_for_indefinitely(files, monkeypatch):
    monkeypatch.setattr(module, "DOOR_SECONDS", 0.01)
    slots = Slots(files)
    with slots._alone():
        assert Slots(files).get("key", never) is None
    assert read(slots, numbers) == b"numbers"


def test_where_every_slot_is_taken_nothing_is_shared(files):
    slots = Slots(files)
    held = [slots.get(key, numbers) for key in ("one", "two")]
    assert slots.get("three", never) is None
    held.pop()
    assert slots.get("three", numbers)


def test_a_write_that_fails_leaves_nothing(files):
    slots = Slots(files)
    with pytest.raises(AssertionError):
        slots.get("key", never)
    assert slots.free_unused() == 0
    assert read(slots, numbers) == b"numbers"


def test_where_memory_runs_out_nothing_is_shared_and_nothing_left(files):
    def full(writer: Writer) -> None:
        numbers(writer)
        raise OSError("no space left")

    slots = Slots(files)
    assert slots.get("key", full) is None
    assert slots.free_unused() == 0


def test_where_files_cannot_be_opened_anew_nothing_is_shared_and_nobody_fails(files, monkeypatch):
    """Such as where /proc is not mounted: a supervisor watches its replicas all the same."""

    def no_proc(file: int) -> int:
        raise FileNotFoundError(f"/proc/self/fd/{file}")

    monkeypatch.setattr(module, "_open", no_proc)
    assert Slots(files).get("key", never) is None
    assert Slots(files).free_unused() == 0


def test_a_system_without_such_files_has_no_slots(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    assert make_slots() == []


def test_the_files_have_no_name_that_somebody_would_have_to_remove(files):
    """The kernel frees them with the last process that has them open."""
    links = {Path(f"/proc/self/fd/{file}").readlink().name for file in files}
    assert links == {"memfd:abstream-weights (deleted)"}
