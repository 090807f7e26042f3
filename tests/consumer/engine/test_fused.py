"""A fused function returns the same with a compiler and without."""

import torch
from abstream.consumer.engine.fused import Fused


def doubled(rows: torch.Tensor) -> torch.Tensor:
    return 2 * rows


def test_on_a_cpu_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: 1 / 0)
    assert Fused(doubled)(torch.ones(2)).tolist() == [2, 2]


def test_the_compiled_function_is_made_once_and_used(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: made.append(function) or (lambda rows: 3 * rows))
    fused = Fused(doubled)

    assert [fused.compiled(torch.ones(1)).item() for _ in range(2)] == [3, 3]
    assert made == [doubled]


def test_where_it_cannot_be_compiled_it_runs_as_written_and_is_not_tried_again(monkeypatch):
    tried = []

    def without_compiler(function, **_):
        def fails(*arguments):
            tried.append(arguments)
            raise RuntimeError("no compiler")

        return fails

    monkeypatch.setattr(torch, "compile", without_compiler)
    fused = Fused(doubled)

    assert [fused.compiled(torch.ones(1)).item() for _ in range(2)] == [2, 2]
    assert len(tried) == 1
