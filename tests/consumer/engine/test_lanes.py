"""Passes of one batch run at once, each on one thread, and give the same answers as one after the other."""

import threading

import pytest
import torch
from abstream.consumer.engine import Tokens
from abstream.consumer.engine.budget import Budget
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.lanes import Lanes, one_thread
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.schemas import Abstract
from hypothesis import given
from hypothesis import strategies as st

TWO = Lanes(2)


def of(*lengths: int) -> list[Tokens]:
    return [Tokens((number,) * length, slice(0, length), truncated=False) for number, length in enumerate(lengths)]


def numbers(batch) -> list[int]:
    return [one.ids[0] for one in batch]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 2_000), st.integers(1, 5))
def test_all_are_shared_out_in_order_and_no_lane_gets_much_more_than_another(lengths, tokens, count):
    passes = Lanes(count).share_out(of(*lengths), tokens)

    assert [number for some in passes for number in numbers(some)] == list(range(len(lengths)))
    even = sum(lengths) / len(passes)
    assert all(sum(len(one.ids) for one in some) <= min(tokens, even) + max(lengths) for some in passes)


def test_two_abstracts_of_equal_length_go_to_two_lanes():
    assert [numbers(some) for some in TWO.share_out(of(100, 100), 1_000)] == [[0], [1]]


def test_passes_run_at_once_on_one_thread_each_and_answers_come_in_order():
    """Each waits for the other, so that run one after the other they would never end."""
    together = threading.Barrier(2, timeout=30)

    def compute(some):
        together.wait()
        return [(number, torch.get_num_threads()) for number in numbers(some)]

    assert TWO.run([of(1, 1), of(1, 1, 1)], compute) == [(0, 1), (1, 1), (0, 1), (1, 1), (2, 1)]


def test_afterwards_the_number_of_threads_is_as_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_where_memory_runs_out_passes_run_one_by_one():
    def compute(some):
        if threading.current_thread().name.startswith("lane"):
            raise MemoryError("for two at once")
        return numbers(some)

    limit = Budget(torch.device("cpu"))
    before = limit.tokens
    assert limit.run(of(*[100] * 50), compute, TWO) == list(range(50))
    assert limit.tokens == before, "one alone fits"


def test_another_failure_is_raised_as_it_is():
    def compute(_):
        raise ValueError("not of memory")

    with pytest.raises(ValueError, match="not of memory"):
        Budget(torch.device("cpu")).run(of(5, 5), compute, TWO)


def test_after_a_failure_no_lane_computes_any_more():
    """What is tried next would share memory with it."""
    begun, failed, computing = threading.Event(), threading.Event(), []

    def compute(some):
        if numbers(some) == [0]:
            begun.wait(30)
            failed.set()
            raise MemoryError("for two at once")
        computing.append(some)
        begun.set()
        failed.wait(30)
        for _ in range(1_000):
            torch.ones(64, 64) @ torch.ones(64, 64)
        computing.clear()
        return numbers(some)

    with pytest.raises(MemoryError):
        TWO.run([of(5), of(5, 5)[1:]], compute)
    assert not computing


def test_the_answers_of_lanes_are_those_of_one_thread(phi3_nano):
    config = EngineConfig(model=str(phi3_nano), device="cpu", dtype="float32", threads=1)
    engine = Phi3Engine(config)
    words = (0, 1, 2, 30, 90, 250, 250, 700)
    some_abstracts = [Abstract(title=f"Of {count} words", abstract="cells grew " * count) for count in words]
    batch = [engine.encode(abstract) for abstract in some_abstracts]
    engine._budget.tokens = 512

    alone = engine.classify(batch).logits
    engine._lanes = TWO
    together = engine.classify(batch).logits

    for one, two in zip(alone, together, strict=True):
        for some, others in zip(one, two, strict=True):
            assert some == pytest.approx(others, abs=1e-4)
