"""Workers of one machine load by turns, and nobody waits for one that is frozen in its own."""

import os
import sys
import threading

import pytest
from abstream.consumer.adapters.aside import NICENESS, aside, in_turn


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_one_loads_at_a_time(tmp_path):
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


def test_where_no_lock_can_be_made_nobody_waits(tmp_path):
    with in_turn(tmp_path / "missing"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_the_thread_stands_back_and_the_process_does_not():
    with aside("test") as thread:
        assert thread.submit(os.getpriority, os.PRIO_PROCESS, 0).result() >= NICENESS
    assert os.getpriority(os.PRIO_PROCESS, 0) < NICENESS
