"""A pass takes as many tokens as the budget allows. Where memory runs out the budget is halved, and remembered."""

import weakref

import pytest
import torch
from abstream.consumer.engine import Tokens, budget
from abstream.consumer.engine.budget import Budget, is_out_of_memory, passes
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.schemas import Abstract

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def of(*lengths: int) -> list[Tokens]:
    return [Tokens(tuple(range(length)), slice(0, length), truncated=False) for length in lengths]


def lengths(batch) -> list[int]:
    return [len(one.ids) for one in batch]


class Clock:
    """Stands still unless it is moved."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def limited(most: int, ran: list[list[int]]):
    """A computation that has memory for ``most`` tokens, and lists the passes it was given in ``ran``."""

    def compute(batch):
        ran.append(lengths(batch))
        if sum(ran[-1]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ran[-1]

    return compute


@pytest.mark.parametrize("tokens", [1, 10, 100, 10_000])
def test_every_abstract_is_in_one_pass_in_order_and_only_a_single_one_may_exceed_the_budget(tokens):
    batch = of(17, 3, 450, 88, 88, 1, 240)
    given = list(passes(batch, tokens))
    assert [one for some in given for one in some] == batch
    assert all(sum(lengths(some)) <= tokens or len(some) == 1 for some in given)


def test_where_memory_ends_the_budget_is_halved_and_all_are_answered(tmp_path):
    ran: list[list[int]] = []
    file = tmp_path / "budgets.json"
    limit = Budget(GPU, file, "a")

    answers = limit.run(of(*[100] * 12), limited(450, ran))

    assert answers == [100] * 12
    assert limit.tokens <= 450
    assert len([some for some in ran if sum(some) > 450]) == 2, "1 200, then 600 tokens, and never again"
    assert Budget(GPU, file, "a").tokens == limit.tokens, "it is remembered"
    assert Budget(GPU, file, "b").tokens == Budget(GPU).tokens, "for this device, model and dtype"


def test_an_abstract_that_does_not_fit_alone_is_refused_and_the_budget_stays():
    limit = Budget(CPU)
    before = limit.tokens
    with pytest.raises(torch.OutOfMemoryError):
        limit.run(of(500), limited(450, []))
    assert limit.tokens == before


def test_an_abstract_that_fits_alone_at_the_second_try_is_answered():
    """Another process, or an adapter being loaded, may have had the memory for a moment."""
    free = iter([50, 500])

    def compute(batch):
        if sum(lengths(batch)) > next(free):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lengths(batch)

    assert Budget(GPU).run(of(100), compute) == [100]


def test_memory_is_given_back_when_nothing_holds_the_tensors_of_the_pass_that_failed(monkeypatch):
    """An error holds the frames that it came through, and they their tensors: these must be gone before."""
    tensors: list[weakref.ref[torch.Tensor]] = []
    still_there: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: still_there.append(tensors[-1]() is not None))

    def compute(batch):
        held = torch.ones(5)
        tensors.append(weakref.ref(held))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lengths(batch)

    assert Budget(GPU).run(of(100, 100), compute) == [100, 100]
    assert still_there == [False]


def test_another_error_is_not_taken_for_a_lack_of_memory():
    def broken(_):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        Budget(CPU).run(of(5, 5), broken)
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))


@pytest.mark.parametrize(
    ("rates", "found"),
    [({512: 10, 1024: 15, 2048: 15.1}, 1024), ({512: 10, 1024: 9}, 512), ({512: 10, 1024: 20}, 1024), ({}, 512)],
)
def test_the_probe_grows_while_it_pays_and_memory_lasts(monkeypatch, tmp_path, rates, found):
    def rate(_, tokens: int) -> float:
        if tokens not in rates:
            raise torch.OutOfMemoryError
        return 1e6 * rates[tokens]

    monkeypatch.setattr(budget, "_rate", rate)
    limit = Budget(GPU, tmp_path / "budgets.json", "a")
    limit.probe(lambda _: None, 16_384)
    assert limit.tokens == found

    monkeypatch.setattr(budget, "_rate", None)
    known = Budget(GPU, tmp_path / "budgets.json", "a")
    known.probe(lambda _: None, 16_384)
    assert known.tokens == found, "known, so nothing was probed"


def test_a_first_pass_that_compiles_for_long_does_not_end_the_probe(monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)

    def run(tokens: int) -> None:
        clock.now += 0.01 + 1e-6 * tokens if clock.now else 60.0

    limit = Budget(GPU, tmp_path / "budgets.json", "a")
    limit.probe(run, 4_096)
    assert limit.tokens == 4_096


def test_the_probe_ends_when_its_time_is_used_up(monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)

    def run(_: int) -> None:
        clock.now += 0.2

    limit = Budget(GPU, tmp_path / "budgets.json", "a")
    limit.probe(run, 16_384)
    assert limit.tokens == 1_024


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": "many"}', b'{"a": -1}', b"\xff"])
def test_a_broken_file_of_budgets_is_ignored(tmp_path, content):
    (tmp_path / "budgets.json").write_bytes(content)
    assert Budget(GPU, tmp_path / "budgets.json", "a").tokens == Budget(GPU).tokens


def test_a_disk_that_cannot_be_written_costs_no_answer(tmp_path):
    (tmp_path / "file").write_text("")
    limit = Budget(GPU, tmp_path / "file/budgets.json", "a")
    assert limit.run(of(*[100] * 12), limited(450, [])) == [100] * 12


def test_a_cpu_ignores_a_remembered_budget(tmp_path):
    """Older versions probed CPUs too, so the file may still hold a budget for one."""
    (tmp_path / "budgets.json").write_text('{"a": 512}')
    assert Budget(CPU, tmp_path / "budgets.json", "a").tokens == Budget(CPU).tokens


def test_a_cpu_is_not_probed_and_takes_a_whole_batch_in_one_pass(tmp_path, phi3_nano):
    file = tmp_path / "budgets.json"
    engine = Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu", dtype="float32", budgets=file))
    batch = [engine.encode(Abstract(abstract="word " * words)) for words in (1, 700, 300, 2, 400, 400, 400, 400)]
    ran: list[int] = []

    engine._budget.run(batch, lambda some: ran.append(len(some)) or list(some))

    assert ran == [len(batch)]
    assert not file.exists()
