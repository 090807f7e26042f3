"""Random views of an abstract, new in each epoch: without its title, with only a passage of its text, or of its words.

Labels are often made from titles, and a model that only saw examples with titles does not look at the text. A text that
is the same in each epoch is soon memorised, so words are dropped (Iyyer et al. 2015,
https://aclanthology.org/P15-1162). A passage is also half the work.
"""

import random

from ..schemas import Abstract
from .config import TrainConfig

FROM_THE_BEGINNING = 0.3  # of the passages


def shown(abstract: Abstract, config: TrainConfig, draws: random.Random) -> Abstract:
    """A random view of an abstract, which is never empty."""
    without_title, in_part, begins, place, thin = (draws.random() for _ in range(5))
    text = abstract.abstract
    if in_part < config.passages:
        text = _passage(text, config.passage_words, 0 if begins < FROM_THE_BEGINNING else place)
    title = None if without_title < config.drop_title and text.strip() else abstract.title
    return Abstract(title=title, abstract=_thinned(text, 2 * thin * config.word_dropout, draws))


def judged(abstract: Abstract, config: TrainConfig) -> list[Abstract]:
    """The views for the validation loss: the whole abstract and, if titles are dropped in training, its text alone."""
    if not (config.drop_title and abstract.title and abstract.abstract.strip()):
        return [abstract]
    return [abstract, Abstract(title=None, abstract=abstract.abstract)]


def _passage(text: str, words: int, place: float) -> str:
    """A passage of ``words`` words, beginning at ``place`` in [0, 1) of the possible positions; shorter texts whole."""
    of_text = text.split()
    start = int(place * (len(of_text) - words + 1))
    return " ".join(of_text[start : start + words]) if len(of_text) > words else text


def _thinned(text: str, share: float, draws: random.Random) -> str:
    """Drop each word with the probability ``share``; keep all of them if none would be left."""
    return " ".join(word for word in text.split(" ") if draws.random() >= share) or text
