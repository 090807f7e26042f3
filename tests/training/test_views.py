"""Each epoch shows another view of an abstract, and never an empty one."""

import random

import pytest
from abstream.schemas import Abstract
from abstream.training.config import TrainConfig
from abstream.training.views import judged, shown

WORDS = [f"w{number}" for number in range(50)]
TITLED = Abstract(title="A title", abstract=" ".join(WORDS))


def views(abstract: Abstract, n: int = 400, **knobs: float) -> list[Abstract]:
    config = TrainConfig(data="unused", **{"drop_title": 0, "passages": 0, "word_dropout": 0} | knobs)
    return [shown(abstract, config, random.Random(number)) for number in range(n)]


def test_with_shares_of_nought_the_whole_is_shown():
    assert views(TITLED, 10) == [TITLED] * 10


def test_a_share_is_shown_without_title():
    untitled = [view for view in views(TITLED, drop_title=0.3) if view.title is None]
    assert 80 <= len(untitled) <= 160
    assert {view.abstract for view in untitled} == {TITLED.abstract}


def test_a_passage_is_words_in_a_row_from_anywhere():
    passages = [view.abstract.split() for view in views(TITLED, passages=0.99, passage_words=20) if view != TITLED]

    starts = {WORDS.index(passage[0]) for passage in passages}
    assert all(passage == WORDS[start : start + 20] for passage in passages for start in [WORDS.index(passage[0])])
    assert starts == set(range(31)), "up to the last that leaves so many words"
    assert sum(passage[0] == "w0" for passage in passages) > 80, "more often from the beginning"


def test_a_text_that_is_no_longer_than_a_passage_stays_as_it_is():
    lined = Abstract(title=None, abstract="Two  spaces,\na line.")
    assert views(lined, 20, passages=0.99, passage_words=4) == [lined] * 20


def test_a_share_of_the_words_is_left_out_each_time_another_up_to_twice_as_large():
    kept = [view.abstract.split() for view in views(TITLED, word_dropout=0.2)]

    assert all(set(words) <= set(WORDS) and words == sorted(words, key=WORDS.index) for words in kept)
    lost = [1 - len(words) / len(WORDS) for words in kept]
    assert 0.17 <= sum(lost) / len(lost) <= 0.23
    assert min(lost) < 0.05
    assert 0.35 < max(lost) < 0.65


def test_a_text_never_loses_all_its_words():
    one = Abstract(title=None, abstract="One")
    assert views(one, word_dropout=0.5) == [one] * 400


@pytest.mark.parametrize("text", ["", " "])
def test_a_title_without_text_is_never_dropped(text):
    assert {view.title for view in views(Abstract(title="A title", abstract=text), drop_title=0.9)} == {"A title"}


def test_judged_is_the_whole_and_where_titles_are_dropped_the_text_alone():
    alone = Abstract(title=None, abstract=TITLED.abstract)
    dropping, keeping = (TrainConfig(data="unused", drop_title=share) for share in (0.3, 0))
    assert judged(TITLED, dropping) == [TITLED, alone]
    assert judged(TITLED, keeping) == [TITLED]
    assert judged(alone, dropping) == [alone]
    assert judged(Abstract(title="A title", abstract=""), dropping) == [Abstract(title="A title", abstract="")]
