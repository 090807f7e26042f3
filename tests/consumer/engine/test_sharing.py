"""Replicas that share memory answer, to the bit, as if each had its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from abstream.consumer.engine import tensor_bytes
from abstream.consumer.engine.config import Dtype, EngineConfig
from abstream.consumer.engine.int8 import int8_works
from abstream.consumer.engine.merging import EMBEDDING, Base
from abstream.consumer.engine.parts import SharedParts
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.products import Packed, packing_works
from abstream.consumer.engine.sharing import parts_in_service
from abstream.consumer.engine.slots import Slots, make_slots
from abstream.consumer.engine.tensor_bytes import bytes_of, describe, made_of, sharing_works
from abstream.ops.bench.engine import example_abstracts
from abstream.schemas import AdapterRefused

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not sharing_works(), reason="nothing can be shared here")

DTYPES = [
    "float32",
    "bfloat16",
    pytest.param("int8", marks=pytest.mark.skipif(not int8_works(), reason="no int8 products")),
]
READER = """
import sys
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.merging import Base
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.ops.bench.engine import example_abstracts
from abstream.schemas.artifacts import verify
from pathlib import Path

def merges(*_):
    raise AssertionError("another has merged it")

Base.weights = merges
model, adapter, dtype, *slots = sys.argv[1:]
config = EngineConfig(model=model, device="cpu", dtype=dtype, threads=1, slots=tuple(map(int, slots)))
engine = Phi3Engine(config, adapter=verify(Path(adapter)))
print(repr(engine.classify([engine.encode(abstract) for abstract in example_abstracts(3)]).logits))
"""


@pytest.fixture
def slots() -> Iterator[tuple[int, ...]]:
    made = make_slots(4)
    yield tuple(made)
    for file in made:
        os.close(file)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config_of(model: Path, dtype: Dtype, slots: tuple[int, ...] = ()) -> EngineConfig:
    return EngineConfig(model=str(model), device="cpu", dtype=dtype, threads=1, slots=slots)


def answers(engine: Phi3Engine) -> list:
    return engine.classify([engine.encode(abstract) for abstract in example_abstracts(3)]).logits


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_process_that_maps_what_another_has_merged_answers_the_same_to_the_bit(
    dtype, phi3_nano, make_nano_adapter, slots
):
    adapter = make_nano_adapter()
    alone = answers(Phi3Engine(config_of(phi3_nano, dtype), adapter=adapter))

    shared = Phi3Engine(config_of(phi3_nano, dtype, slots), adapter=adapter)
    command = [sys.executable, "-c", READER, str(phi3_nano), str(adapter.path), dtype, *map(str, slots)]
    other = subprocess.run(command, pass_fds=slots, capture_output=True, text=True, check=True).stdout

    assert answers(shared) == alone
    assert other.strip() == repr(alone)


def test_the_weights_lie_in_the_slots_and_nowhere_else(phi3_nano, make_nano_adapter, slots):
    base = Base(config_of(phi3_nano, "float32", slots))
    parts = parts_in_service(base, make_nano_adapter())

    assert isinstance(parts, SharedParts)
    (product,) = parts.products("model.layers.0.self_attn.o_proj.weight")
    begin, end = parts._memory.data_ptr(), parts._memory.data_ptr() + parts._memory.nbytes
    assert begin <= torch.ops.mkldnn.data_ptr(product.tensors[0]) < end


def test_a_replica_knows_which_heads_were_left_out(phi3_nano, slots):
    """The last head of each layer of phi3-nano is a mean head."""
    config = config_of(phi3_nano, "float32", slots)
    assert [parts_in_service(Base(config), None).means for _ in range(2)] == [1, 1]
    assert answers(Phi3Engine(config)) == answers(Phi3Engine(config_of(phi3_nano, "float32")))


def test_two_adapters_share_one_copy_of_the_embeddings(phi3_nano, make_nano_adapter, slots):
    base = Base(config_of(phi3_nano, "bfloat16" if base_is_float32(phi3_nano) else "float32", slots))
    one, other = (parts_in_service(base, make_nano_adapter(str(seed), seed=seed)) for seed in (1, 2))

    embeddings = one.tensor(EMBEDDING)
    assert embeddings is other.tensor(EMBEDDING)
    assert Slots(slots).free_unused() == 3, "the embeddings, and what each adapter changes"


def base_is_float32(phi3_nano: Path) -> bool:
    return Base(config_of(phi3_nano, "float32"))._stored[EMBEDDING].dtype == torch.float32


def test_an_adapter_of_the_embeddings_is_shared_too(phi3_nano, make_nano_adapter, slots):
    adapter = make_nano_adapter(target_modules=["o_proj", "embed_tokens"])
    alone = answers(Phi3Engine(config_of(phi3_nano, "float32"), adapter=adapter))
    shared = [Phi3Engine(config_of(phi3_nano, "float32", slots), adapter=adapter) for _ in range(2)]
    assert [answers(engine) for engine in shared] == [alone, alone]


def test_what_a_replica_serves_stays_while_it_serves_it_and_no_longer(phi3_nano, make_nano_adapter, slots):
    engine = Phi3Engine(config_of(phi3_nano, "float32", slots), adapter=make_nano_adapter())
    before = answers(engine)

    assert Slots(slots).free_unused() > 0
    assert answers(engine) == before
    del engine
    assert Slots(slots).free_unused() == 0


def test_an_adapter_that_is_refused_is_refused_by_each_and_takes_no_slot(phi3_nano, make_nano_adapter, slots):
    adapter = make_nano_adapter()
    weights = adapter.path / "adapter_model.safetensors"
    weights.write_bytes(b"broken")
    for _ in range(2):
        with pytest.raises(AdapterRefused):
            parts_in_service(Base(config_of(phi3_nano, "bfloat16", slots)), adapter)
    assert Slots(slots).free_unused() == 0


def test_where_every_slot_is_taken_a_replica_serves_from_its_own_memory(phi3_nano, slots):
    held = [Slots(slots).get(str(number), lambda writer: writer.add(memoryview(b"other"))) for number in range(4)]
    assert all(held)
    engine = Phi3Engine(config_of(phi3_nano, "float32", slots))
    assert answers(engine) == answers(Phi3Engine(config_of(phi3_nano, "float32")))


@pytest.mark.skipif(not packing_works(torch.float32), reason="nothing is packed here")
def test_where_torch_cannot_restore_packed_weights_nothing_is_shared(phi3_nano, slots, monkeypatch):
    def broken(*_: object) -> None:
        raise AttributeError("another torch")

    monkeypatch.setattr(tensor_bytes, "_opaque", broken)
    sharing_works.cache_clear()
    try:
        assert Base(config_of(phi3_nano, "float32", slots)).slots is None
    finally:
        sharing_works.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_weight_is_restored_from_its_bytes(dtype):
    if not packing_works(dtype):
        pytest.skip("this CPU or torch has no such products")
    weight, rows = torch.randn(48, 64).to(dtype), torch.randn(5, 64).to(dtype)
    packed = Packed.of(weight)
    memory = torch.frombuffer(bytearray(bytes_of(packed.tensors[0])), dtype=torch.uint8)

    again = Packed([made_of(memory, describe(packed.tensors[0]))], memory)

    assert torch.equal(again.tensors[0].to_dense(), weight)
    assert torch.equal(again(rows), packed(rows))
