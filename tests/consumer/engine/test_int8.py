"""Int8 products on the CPU give close answers that do not depend on other tokens, and the receipt names them."""

import pytest
import torch
from abstream.consumer.engine import int8
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.int8 import Int8, products_are_right, quantized
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.products import Plain
from abstream.consumer.engine.scoring import softmax
from abstream.ops.bench.engine import example_abstracts
from abstream.schemas import ModelUnusable

needs_bytes = pytest.mark.skipif(not int8.int8_works(), reason="this CPU has no int8 products")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@needs_bytes
@pytest.mark.parametrize("call", ["__call__", "gated", "plus"])
@pytest.mark.parametrize("is_normed", [False, True], ids=["as they are", "normed"])
def test_a_product_and_what_follows_it_are_close_to_those_of_bfloat16(call, is_normed):
    weight, rows, others = random(48, 64), 3 * random(33, 64).bfloat16(), [random(33, 48).bfloat16()][: call == "plus"]

    def made(product):
        taken = product.normed(rows, random(64).bfloat16(), 1e-5) if is_normed else rows
        return getattr(product, call)(taken, *others).float()

    given, expected = made(Int8.of(weight)), made(Plain.of(weight.bfloat16()))
    assert (given - expected).abs().max() < 0.03 * expected.abs().max()
    assert not torch.equal(given, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_are_rounded_to_bytes_around_128_and_are_not_changed(dtype):
    rows = torch.cat([random(32, 64), torch.zeros(1, 64)]).to(dtype)
    before = rows.clone()

    whole, scales = quantized(rows)

    assert torch.equal(whole.int() - 128, (rows.float() / scales).round().int())
    assert torch.equal(scales[:-1], rows.float().abs().amax(1, keepdim=True)[:-1] / 127)
    assert torch.equal(rows, before)


@needs_bytes
def test_a_token_has_a_scale_of_its_own():
    """With a single scale, a token a thousand times larger would leave nothing of the others."""
    product, rows = Int8.of(random(48, 64)), random(8, 64).bfloat16()
    alone = product(rows)
    rows[3] *= 1000

    beside = product(rows)

    kept = [number for number in range(8) if number != 3]
    assert torch.equal(alone[kept], beside[kept])


@needs_bytes
@pytest.mark.parametrize("is_normed", [False, True], ids=["as it is", "normed"])
def test_a_row_of_zeros_stays_zero(is_normed):
    product, rows = Int8.of(random(48, 64)), torch.zeros(3, 64).bfloat16()
    assert not product(product.normed(rows, random(64), 1e-5) if is_normed else rows).any()


@needs_bytes
def test_wrong_products_are_detected(monkeypatch):
    assert products_are_right()
    right = int8.Int8.__call__
    monkeypatch.setattr(int8.Int8, "__call__", lambda eight, rows: 1.1 * right(eight, rows))
    assert not products_are_right()


@needs_bytes
def test_answers_are_close_to_those_of_float32_and_the_receipt_names_the_precision(engine, phi3_nano):
    eight = Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu", dtype="int8", threads=1))
    batch = [engine.encode(abstract) for abstract in example_abstracts(4)]

    off = [
        abs(a - b)
        for one, two in zip(engine.classify(batch).logits, eight.classify(batch).logits, strict=True)
        for row, other in zip(one, two, strict=True)
        for a, b in zip(softmax(row), softmax(other), strict=True)
    ]

    assert 1e-5 < max(off) < 0.2
    assert eight.model.receipt.dtype == "int8"


def test_where_the_cpu_has_none_the_error_says_what_to_use(monkeypatch, phi3_nano):
    monkeypatch.setattr(int8, "int8_works", lambda: False)
    with pytest.raises(ModelUnusable, match="use bfloat16 here"):
        Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu", dtype="int8"))
