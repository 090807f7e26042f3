"""Each word that says something is marked at its last token, and a reader predicts the mark from the state there."""

import random

import pytest
import torch
from abstream import Abstract
from abstream.consumer.engine.tokens import PromptEncoder
from abstream.schemas import ONCOLOGY, Prompt
from abstream.training import marks as module
from abstream.training.cancer_words import TYPE_WORDS
from abstream.training.marks import Marked, Reader, marks
from abstream.training.objective import example

NOTHING, CANCER = 0, 1


def sign(kind):
    return 2 + list(TYPE_WORDS).index(kind)


def name(kind):
    return sign(kind) + len(TYPE_WORDS)


@pytest.fixture
def encoder(phi3_nano):
    return PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 640)


@pytest.fixture(autouse=True)
def no_others(monkeypatch):
    monkeypatch.setattr(module, "OTHERS", 0)


def marked(encoder, text):
    """Each mark with the last word of the text up to it."""
    abstract = Abstract(abstract=text)
    spans = encoder.spans(abstract)
    return [(text[: spans[place][1]].split()[-1], mark) for place, mark in marks(encoder, abstract, random.Random(1))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("A tumour grew.", [("tumour", CANCER)], id="cancer by itself"),
        pytest.param("We saw melanoma.", [("melanoma", name("skin_melanoma"))], id="a cancer's own name"),
        pytest.param(
            "Of breast cancer.",
            [("breast", sign("breast")), ("cancer", name("breast"))],
            id="a site weighs much once cancer is named after it",
        ),
        pytest.param(
            "Cancer of the breast.",
            [("Cancer", CANCER), ("breast", name("breast"))],
            id="or where it was named before",
        ),
        pytest.param("Given tamoxifen now.", [("tamoxifen", sign("breast"))], id="a sign"),
        pytest.param("With liver metastases.", [("metastases", NOTHING)], id="where it went says nothing"),
        pytest.param("Hips and knees.", [], id="other words are not marked"),
    ],
)
def test_a_token_is_marked_where_a_word_that_says_something_ends(encoder, text, found):
    assert [(word.strip("."), mark) for word, mark in marked(encoder, text)] == found


def test_some_of_the_other_tokens_are_asked_too(encoder, monkeypatch):
    monkeypatch.setattr(module, "OTHERS", 1)
    abstract = Abstract(abstract="Hips, knees and tumours")

    found = marks(encoder, abstract, random.Random(1))

    assert [place for place, _ in found] == list(range(len(encoder.spans(abstract))))
    assert [mark for _, mark in found] == [NOTHING] * (len(found) - 1) + [CANCER]


def test_what_is_cut_off_is_not_marked(phi3_nano):
    plain = PromptEncoder(phi3_nano, Prompt(ONCOLOGY), 640)
    short = PromptEncoder(phi3_nano, Prompt(ONCOLOGY), len(plain.prefix) + len(plain.suffix) + 8)
    abstract = Abstract(abstract="A tumour grew " * 30)

    assert len(short.spans(abstract)) == 8
    assert max(place for place, _ in marks(short, abstract, random.Random(1))) < 8


def test_the_reader_finds_each_mark_at_the_state_of_its_token(encoder):
    texts = ["A tumour grew.", "Hips and knees.", "Cancer of the breast."]
    batch = [
        Marked(example(encoder, ONCOLOGY, one, {}).tokens, (), marks(encoder, one, random.Random(1)))
        for one in (Abstract(abstract=text) for text in texts)
    ]
    lengths = [one.tokens.tail_length for one in batch]
    states = torch.zeros(sum(lengths), name("other") + 1)
    for begin, one in zip((0, lengths[0], lengths[0] + lengths[1]), batch, strict=True):
        for place, mark in one.marks:
            states[begin + place, mark] = 1
    reader = Reader(states.shape[1])
    with torch.no_grad():
        reader.weight.copy_(torch.eye(states.shape[1]))

    assert reader.loss(states, batch, lengths) < 0.1


def test_a_batch_without_a_mark_costs_nothing(encoder):
    one = Marked(encoder.encode(Abstract(abstract="Hips")), (), ())
    assert Reader(4).loss(torch.zeros(one.tokens.tail_length, 4), [one], [one.tokens.tail_length]) == 0
