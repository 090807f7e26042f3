"""Loading an adapter gives way to answering, workers of one machine load in turn, and nobody waits for ever."""

import os
import sys
import threading

import pytest
from abstream.consumer.adapters.background import NICER, Courtesy, background_thread, in_turn
from abstream.consumer.engine.breaks import take_a_break, with_breaks


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_only_one_worker_loads_at_a_time(tmp_path):
    inside, most, lock = 0, 0, threading.Lock()

    def load() -> None:
        nonlocal inside, most
        with in_turn(tmp_path):
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.01)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_nobody_waits_for_ever(tmp_path):
    with in_turn(tmp_path), in_turn(tmp_path, patience_seconds=0.02):
        pass


def test_without_a_lock_file_nobody_waits(tmp_path):
    with in_turn(tmp_path / "missing"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_the_thread_has_a_lower_priority_and_the_process_does_not():
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with background_thread("test") as thread:
        assert thread.submit(os.getpriority, os.PRIO_PROCESS, 0).result() == min(own + NICER, 19)
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_break_ends_when_nobody_is_busy():
    looks = iter([True, True, False])
    Courtesy(lambda: next(looks), seconds=60).give_way()
    assert list(looks) == []


def test_the_time_for_giving_way_is_a_total_for_all_breaks():
    """Otherwise a worker that is always computing would never finish its switch."""
    courtesy, looks = Courtesy(lambda: True, seconds=0.01), 0
    courtesy.give_way()

    def busy() -> bool:
        nonlocal looks
        looks += 1
        return True

    courtesy._busy = busy
    courtesy.give_way()
    assert looks <= 1


def test_only_the_thread_that_asked_for_breaks_takes_them():
    taken: list[str] = []
    with with_breaks(lambda: taken.append("here")):
        take_a_break()
        other = threading.Thread(target=take_a_break)
        other.start()
        other.join()
    take_a_break()
    assert taken == ["here"]
