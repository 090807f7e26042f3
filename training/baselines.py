"""The baselines that a model must beat: the most common label, rules over words, TF-IDF with logistic regression."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..schemas import Prompt, Question
from .cancer_words import TYPE_WORDS
from .data import Labelled
from .evaluate import Answers, Matrix
from .weak_labels import cancer_mentions, type_weights

WORDS = "cancer words"
_ABOUT_CANCER = ("cancer", "neoplasm")


def baselines(question: Question, train: Sequence[Labelled], test: Sequence[Labelled]) -> dict[str, Answers]:
    """Name to answers to one question on ``test``. Without labels in ``train``, those that learn are left out."""
    known = [record for record in train if question.name in record.answers]
    asked = [record for record in test if question.name in record.answers]
    found: dict[str, Matrix] = {}
    if known:
        found["majority"] = _majority(question, known, asked)
    if len(question.labels) == 2 and question.labels[0].lower() in _ABOUT_CANCER:
        found[WORDS] = _cancer_words(asked)
    if TYPE_WORDS.keys() >= set(question.labels):
        found[WORDS] = _type_words(question, asked)
    if len({record.answers[question.name] for record in known}) > 1:  # a single label teaches nothing
        found["TF-IDF + logistic regression"] = _tfidf(question, known, asked)
    ids = tuple(record.id for record in asked)
    truth = np.array([question.labels.index(record.answers[question.name]) for record in asked], dtype=np.int64)
    return {name: Answers(question, ids, truth, probabilities) for name, probabilities in found.items()}


def _majority(question: Question, known: Sequence[Labelled], asked: Sequence[Labelled]) -> Matrix:
    counts = Counter(record.answers[question.name] for record in known)
    shares = np.array([counts[label] / len(known) for label in question.labels])
    return np.tile(shares, (len(asked), 1))


def _cancer_words(asked: Sequence[Labelled]) -> Matrix:
    """The first label if at least two words name cancer; a word in the title counts three times."""
    named = np.array([cancer_mentions(record.abstract) >= 2 for record in asked], dtype=np.float64)
    return np.stack([named, 1 - named], axis=1)


def _type_words(question: Question, asked: Sequence[Labelled]) -> Matrix:
    """The probability of a type is its share of the weight of all words that name types; equal if no word does."""
    weights = [type_weights(record.abstract) for record in asked]
    found: Matrix = np.array([[one[label] for label in question.labels] for one in weights], dtype=np.float64) + 1e-3
    totals: Matrix = found.sum(axis=1, keepdims=True)
    return found / totals


def _tfidf(question: Question, known: Sequence[Labelled], asked: Sequence[Labelled]) -> Matrix:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(known) > 100 else 1),
        LogisticRegression(C=10, max_iter=2_000),
    )
    model.fit([Prompt.body(one.abstract) for one in known], [one.answers[question.name] for one in known])
    found = np.zeros((len(asked), len(question.labels)))
    columns = [question.labels.index(label) for label in model.classes_]
    found[:, columns] = model.predict_proba([Prompt.body(one.abstract) for one in asked])
    return found
