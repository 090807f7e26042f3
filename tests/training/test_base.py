"""The program that made the shipped base model runs from its data to a model that the engine can serve."""

import gzip
import json
from collections import Counter
from itertools import islice

import pytest
import torch
from abstream import Abstract
from abstream.consumer.engine.config import EngineConfig
from abstream.consumer.engine.phi3 import Phi3Engine
from abstream.consumer.engine.tokens import PromptEncoder
from abstream.schemas import ONCOLOGY, Prompt
from abstream.training import base, corpus
from safetensors.torch import load_file
from transformers import Phi3ForCausalLM

from ..tiny import tiny_phi3

SENTENCE = "In {n} patients with breast cancer the tumour was removed and {n} weeks later they went home well again. "
OTHER = "In {n} children with asthma the cough was gone after {n} weeks of treatment with the inhaler at home. "


@pytest.fixture
def data(tmp_path):
    """All permitted sources, with a few records each, and the validation data."""
    for name in corpus.TEXTS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "wt") as lines:
            for n in range(3):
                text = (SENTENCE if n % 2 else OTHER).format(n=n) * 30
                lines.write(json.dumps({"title": f"Study {n}", "text": text.strip()}) + "\n")
    for name, sources in corpus.TYPED.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        rows = [{"title": "T", "text": OTHER, "source": of, "pmid": 1} for of in (*sources, "not-permitted")]
        path.write_text("".join(json.dumps({**row, "cancer_type": "breast"}) + "\n" for row in rows))
    for name in corpus.JUDGED_ON:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as lines:
            lines.write(json.dumps({"title": "[Study 2.]"}) + "\n")
    (tmp_path / "lexicon").mkdir()
    (tmp_path / "lexicon/DO_cancer_slim.obo").write_text(
        'format-version: 1.2\n\n[Term]\nname: seminoma\ndef: "A testicular_germ_cell cancer." [url]\n'
        '\n[Term]\nname: lymphoma\n\n[Term]\nname: eye cancer\nsynonym: "tumor" EXACT []\n'
    )
    return tmp_path


def test_sources_without_a_permitting_licence_are_left_out(data):
    assert len(list(corpus.typed(data))) == sum(map(len, corpus.TYPED.values()))


def test_typed_records_that_the_model_is_judged_on_are_left_out(data):
    learned_from = list(corpus.typed(data))
    held = next(pmid for pmid in range(1_000) if corpus.is_held_back({"source": "civic", "pmid": pmid}))
    for name, source, pmid, title in (
        ("train.jsonl", "oncology-rct", 1, "Study 2"),
        ("civic_train.jsonl", "civic", held, "T"),
    ):
        row = {"title": title, "text": OTHER, "source": source, "pmid": pmid, "cancer_type": "breast"}
        with (data / "cancer_types" / name).open("a") as lines:
            lines.write(json.dumps(row) + "\n")
    assert list(corpus.typed(data)) == learned_from


def test_the_ontology_tells_what_a_cancer_is(data):
    assert list(corpus.terms(data)) == [
        Abstract(title="seminoma", abstract="A testicular germ cell cancer."),
        Abstract(title="eye cancer", abstract="tumor"),
    ]


def test_what_the_model_is_judged_on_is_not_learned_from(data):
    titles = {piece.title for piece in corpus.texts(data)}
    assert {"Study 0", "Study 1"} <= titles
    assert "Study 2" not in titles


def test_a_tenth_of_the_articles_with_evidence_statements_is_held_back():
    held = [corpus.is_held_back({"source": "civic", "pmid": pmid}) for pmid in range(2_000)]
    assert 150 < sum(held) < 250
    assert not corpus.is_held_back({"source": "oncology-rct", "pmid": held.index(True)})


def test_long_texts_come_in_pieces_of_whole_sentences(data):
    pieces = list(corpus.texts(data))
    assert len(pieces) > 3 * len(corpus.TEXTS)
    assert all(len(piece.abstract.split()) <= 260 for piece in pieces)
    assert all(piece.abstract.endswith(".") for piece in pieces)


def test_no_example_is_empty_however_short_its_text(data, phi3_nano):
    encoder = PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 640)
    examples = islice(iter(base.Mixture(data, encoder, seed=1)), 2_000)
    assert all(len(one.tokens.ids) > len(encoder.prefix) + len(encoder.suffix) for one in examples)


def test_where_words_were_exchanged_the_type_is_what_they_say_now(data, phi3_nano, monkeypatch):
    monkeypatch.setattr(base, "SWAPPED", 1.0)
    monkeypatch.setattr(base.TypeSwap, "__call__", lambda *_: Abstract(abstract="A tumour of the eye. " * 3))
    mixture = base.Mixture(data, PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 640), seed=1)

    answers = Counter(one.answers[1] for one in islice(iter(mixture), 400))

    eye, breast = (ONCOLOGY.questions[1].labels.index(kind) for kind in ("eye", "breast"))
    assert answers.keys() == {eye, breast}, "curated abstracts have nothing exchanged, and are of the breast"


def test_one_head_of_each_layer_is_a_mean_that_no_step_moves(tmp_path, phi3_nano):
    model = Phi3ForCausalLM.from_pretrained(tiny_phi3(tmp_path, phi3_nano), attn_implementation="eager")
    base.average_in_one_head(model)

    ids = torch.arange(100, 107)[None]
    found = model(ids, labels=ids, output_attentions=True)
    found.loss.backward()

    for layer, attention in zip(model.model.layers, found.attentions, strict=True):
        other, mean = attention[0, :, -1]
        assert torch.allclose(mean, torch.full((7,), 1 / 7))
        assert not torch.allclose(other, mean, atol=1e-3)
        queries, keys, values = layer.self_attn.qkv_proj.weight.grad.chunk(3)
        assert [part.any().item() for part in (queries[:8], queries[8:], keys[8:], values[8:])] == [
            True,
            False,
            False,
            True,
        ]


def has_mean_heads(model):
    """Whether the last head of each layer has zero queries and keys, and some other head has not."""
    shape = json.loads((model / "config.json").read_text())
    size = shape["hidden_size"] // shape["num_attention_heads"]
    weights = load_file(model / "model.safetensors")
    joint = [weight.chunk(3)[:2] for name, weight in weights.items() if name.endswith("qkv_proj.weight")]
    return all(part[:-size].any() and not part[-size:].any() for layer in joint for part in layer)


def test_the_shipped_model_has_heads_that_are_a_mean(phi3_nano):
    assert has_mean_heads(phi3_nano)


def test_a_few_steps_make_a_model_that_the_engine_serves(data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "model"
    monkeypatch.setattr(base, "BATCH_TOKENS", 1024)
    monkeypatch.setattr(base, "VOCABULARY", 600)
    monkeypatch.setattr("sys.argv", ["base", "--data", str(data), "--out", str(out), "--steps", "2"])

    base.main()

    spent = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert spent["steps"] == 2
    monkeypatch.setattr(
        "sys.argv", ["base", "--data", str(data), "--out", str(out), "--steps", "3", "--from-step", "2"]
    )
    base.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"] == 1
    assert has_mean_heads(out)
    engine = Phi3Engine(EngineConfig(model=str(out), device="cpu"))
    [logits] = engine.classify([engine.encode(Abstract(title="Breast cancer", abstract=""))]).logits
    assert [len(row) for row in logits] == [2, 20]
