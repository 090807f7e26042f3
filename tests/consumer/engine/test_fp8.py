"""FP8 products give close answers, and the receipt names them. Tested on the CPU, where torch has them too."""

import pytest
import torch
from abstream.consumer.engine import fp8
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.fp8 import Scaled, products_are_right, quantized
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.products import Plain
from abstream.consumer.engine.scoring import softmax
from abstream.ops.bench.engine import example_abstracts
from abstream.schemas import ModelUnusable

CPU = torch.device("cpu")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def test_each_row_has_a_scale_of_its_own():
    rows = random(5, 32) * torch.tensor([[1e-3], [1.0], [1e3], [0.0], [1.0]])

    eight, scales = quantized(rows)

    assert (eight.dtype, scales.shape) == (torch.float8_e4m3fn, (5, 1))
    torch.testing.assert_close(eight.float() * scales, rows.float(), rtol=0.07, atol=1e-12)


@pytest.mark.parametrize("sides", [(48, 40), (40, 48)])
def test_a_weight_whose_sides_are_no_multiples_of_16_is_refused(sides):
    with pytest.raises(ModelUnusable, match="multiples of 16: use bfloat16"):
        Scaled(random(*sides))


@pytest.mark.parametrize("call", ["__call__", "gated", "plus"])
def test_a_product_and_what_follows_it_are_close_to_those_of_bfloat16(call):
    weight, rows, other = random(48, 64), random(33, 64), random(33, 48)
    others = [other] if call == "plus" else []

    given, expected = (getattr(make(weight), call)(rows, *others).float() for make in (Scaled, Plain.of))

    assert (given - expected).abs().max() < 0.06 * expected.abs().max()
    assert not torch.equal(given, expected)


def test_wrong_products_are_detected(monkeypatch):
    assert products_are_right(CPU)
    monkeypatch.setattr(fp8, "_LARGEST", 1.0)
    right = torch._scaled_mm
    monkeypatch.setattr(torch, "_scaled_mm", lambda *given, **how: 1.2 * right(*given, **how))
    assert not products_are_right(CPU)


def test_answers_are_close_to_those_of_float32_and_the_receipt_names_the_precision(monkeypatch, engine, phi3_nano):
    monkeypatch.setattr(fp8, "fp8_works", lambda _: True)
    eight = Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu", dtype="fp8"))
    batch = [engine.encode(abstract) for abstract in example_abstracts(4)]

    pairs = zip(engine.classify(batch).logits, eight.classify(batch).logits, strict=True)

    off = [
        abs(a - b)
        for one, two in pairs
        for q in range(2)
        for a, b in zip(softmax(one[q]), softmax(two[q]), strict=True)
    ]
    assert 1e-5 < max(off) < 0.2
    assert eight.model.receipt.dtype == "fp8"


def test_where_the_device_has_none_the_error_says_what_to_use(phi3_nano):
    with pytest.raises(ModelUnusable, match="use bfloat16 here"):
        Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu", dtype="fp8"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_products_are_right():
    device = torch.device("cuda")
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU of Hopper's generation")
    assert fp8.fp8_works(device)
    weight, rows = random(8192, 3072).to(device), random(512, 3072).to(device)
    given, expected = Scaled(weight)(rows).float(), Plain.of(weight)(rows).float()
    assert (given - expected).abs().max() < 0.06 * expected.abs().max()
