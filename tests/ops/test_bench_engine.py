"""The benchmark of the engine: all contestants do the same work, and missing ones are named."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.ops.bench import engine as bench
from abstream.ops.bench import peers
from abstream.ops.bench.engine import Turn, _of_model, _ratio, example_abstracts, table
from abstream.ops.bench.llama import gguf_name
from abstream.ops.bench.peers import PEERS, Peer, encoder_of
from safetensors.torch import load_file
from tokenizers import Tokenizer


def test_generating_peers_write_the_answers_of_both_questions(phi3_nano):
    encoder = encoder_of(phi3_nano)
    tokens = encoder.encode(example_abstracts(1)[0])
    asked, written = peers._asked(tokens, encoder), peers._answer_tokens(encoder)

    text = Tokenizer.from_file(str(phi3_nano / "tokenizer.json"))
    assert text.decode(asked, skip_special_tokens=False).endswith("<|assistant|>\n")
    assert text.decode(tokens.ids[len(asked) :]).strip() == "cancer: A\ncancer_type:"
    assert len(asked) + written == len(tokens.ids) + 1, "and the letter of the last answer"


def test_the_example_abstracts_are_reproducible_and_of_many_lengths():
    lengths = [len(abstract.abstract.split()) for abstract in example_abstracts(200)]

    assert example_abstracts(3) == example_abstracts(3)
    assert sum(lengths) / 200 == pytest.approx(218, abs=20)
    assert max(lengths) > 400 > 100 > min(lengths)


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    ours, theirs = ([Turn(one, 0) for one in each] for each in ((1.0, 10.0, 2.0), (3.0, 20.0, 8.0)))
    assert _ratio(ours, theirs) == 3


def test_a_peer_that_fails_is_reported_and_the_others_continue(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(bench, "TURN_SECONDS", 0)
    names, threads = ["abstream float32", "nobody"], partial(ThreadPoolExecutor, 1)
    found = _of_model("nano", names, 1, tmp_path, lambda _: None, threads)

    assert found["failed"] == {"nobody": "KeyError: 'nobody'"}
    ours = found["contestants"]["abstream float32"]
    gflops = found["gflop_each"] / ours["median"]["cpu_milliseconds"] * 1000
    assert ours["median"]["cpu_milliseconds"] > 0
    assert ours["share_of_ceiling"] == pytest.approx(gflops / found["ceiling_gflops"]["float32"])
    lines = "\n".join(table({"models": {"nano": found}, "lacking": {"Peer": ["package"]}}))
    assert "Not measured: Peer, since package is not installed." in lines
    assert "| abstream float32 |" in lines


def test_missing_packages_are_named():
    assert Peer(PEERS["abstream float32"].start, ("json", "no_such_package")).lacks == ["no_such_package"]


@pytest.mark.filterwarnings("ignore")  # warnings in peers' own code
@pytest.mark.parametrize(("name", "off"), [("CTranslate2 float32", 1e-5), ("llama.cpp bfloat16", 3e-2)])
def test_a_peer_with_our_model_gives_our_answers_to_prompts_of_many_lengths(name, off, phi3_nano, tmp_path):
    """Of a batch of unequal prompts, the first logits that CTranslate2 returns are not those of the answer."""
    if PEERS[name].lacks:
        pytest.skip(f"{', '.join(PEERS[name].lacks)} is not installed")
    abstracts = example_abstracts(3)
    ours, theirs = (PEERS[one].start(phi3_nano, tmp_path)(abstracts) for one in ("abstream float32", name))
    assert bench._difference(theirs, ours) < off


def test_llama_cpp_has_a_name_for_every_tensor_of_a_phi3(phi3_nano):
    names = {gguf_name(name) for name in load_file(phi3_nano / "model.safetensors")}
    assert {"token_embd.weight", "output_norm.weight", "blk.0.attn_qkv.weight", "blk.2.ffn_down.weight"} < names
    assert gguf_name("lm_head.weight") == "output.weight"


def test_our_engine_answers_the_last_question(phi3_nano, tmp_path):
    abstracts = example_abstracts(2)
    engine = Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu", dtype="float32"))

    given = PEERS["abstream float32"].start(phi3_nano, tmp_path)(abstracts)

    expected = engine.classify(list(map(engine.encode, abstracts))).logits
    for row in range(2):  # the order of additions depends on the rest of the batch
        assert given[row] == pytest.approx(list(expected[row][1]), abs=1e-4)
