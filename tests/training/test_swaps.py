"""After a swap, the words of a type stand where those of another type stood, and all else is as it was."""

import random
import re

import pytest
from abstream import Abstract
from abstream.training.swaps import TypeSwap
from abstream.training.weak_labels import type_weights

TEXT = "Lung cancer was found early. Of those with cancer of the lung, some had it in both lungs."
SITES = re.compile("breast|mammary|lungs?|kidney", re.IGNORECASE)


@pytest.fixture
def swap() -> TypeSwap:
    """A swap that knows sites of three types and a sign of one."""
    swap = TypeSwap()
    swap.learn("Cancer of the breast or the mammary gland, the lung, or the kidney; mastectomy")
    return swap


def swapped(swap, abstract):
    return [swap(abstract, random.Random(seed)) for seed in range(200)]


def test_a_site_becomes_one_of_another_type_and_all_else_stays(swap):
    for found in swapped(swap, Abstract(abstract=TEXT)):
        assert SITES.sub("*", found.abstract) == SITES.sub("*", TEXT)


def test_every_type_that_is_known_comes(swap):
    found = {tuple(type_weights(one)) for one in swapped(swap, Abstract(abstract=TEXT))}
    assert found == {("breast",), ("lung",), ("kidney",)}


def test_title_and_text_speak_of_the_same_type(swap):
    for found in swapped(swap, Abstract(title="In lungs", abstract=TEXT)):
        title, text = (type_weights(Abstract(abstract=part)) for part in (found.title, found.abstract))
        assert title.keys() == text.keys()


def test_a_word_becomes_the_same_word_wherever_it_stands(swap):
    for found in swapped(swap, Abstract(abstract="Lung, lung and lung")):
        assert len(set(SITES.findall(found.abstract.lower()))) == 1


def test_a_capital_stays_a_capital(swap):
    assert all(found.abstract[0].isupper() for found in swapped(swap, Abstract(abstract=TEXT)))


def test_a_sign_becomes_a_sign_or_stays(swap):
    found = {one.abstract for one in swapped(swap, Abstract(abstract="asbestos"))}
    assert found == {"asbestos", "mastectomy"}


def test_the_same_draws_make_the_same_text(swap):
    first, second = (swapped(swap, Abstract(abstract=TEXT)) for _ in range(2))
    assert first == second
