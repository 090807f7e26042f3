"""The baselines that a model must beat: the most common label, rules over words, TF-IDF with logistic regression."""

import numpy as np
import pytest
from abstream.schemas import ONCOLOGY, Abstract, Question
from abstream.training.baselines import baselines
from abstream.training.data import Labelled
from abstream.training.evaluate import measure

CANCER, KIND = ONCOLOGY.questions
TFIDF = "TF-IDF + logistic regression"


def labelled(text: str, **answers: str) -> Labelled:
    return Labelled(text, Abstract(title=None, abstract=text), answers)


def about(n: int, label: str, words: str) -> list[Labelled]:
    return [labelled(f"{words} number {index}", cancer=label) for index in range(n)]


TRAIN = [*about(6, "Cancer", "tumour of the breast"), *about(4, "Non-Cancer", "fracture of the hip")]
TEST = [*about(2, "Cancer", "a tumour seen in the breast, cancer"), *about(3, "Non-Cancer", "a hip and its fracture")]


def test_each_is_as_good_as_it_should_be_on_a_toy():
    found = baselines(CANCER, TRAIN, TEST)
    accuracy = {name: measure(given).accuracy.value for name, given in found.items()}

    assert list(found) == ["majority", "cancer words", TFIDF]
    assert accuracy == {"majority": 2 / 5, "cancer words": 1.0, TFIDF: 1.0}


def test_the_majority_says_what_is_commonest_as_surely_as_it_is_common():
    given = baselines(CANCER, TRAIN, TEST)["majority"]
    assert np.allclose(given.probabilities, [[0.6, 0.4]] * 5)


def test_probabilities_sum_to_one_and_belong_to_the_records_that_are_asked():
    unasked = labelled("no label here")
    for given in baselines(CANCER, [*TRAIN, unasked], [*TEST, unasked]).values():
        assert given.ids == tuple(one.id for one in TEST)
        assert given.truth.tolist() == [0, 0, 1, 1, 1]
        assert np.allclose(given.probabilities.sum(axis=1), 1)


def test_a_label_that_was_never_seen_gets_nothing():
    """Eighteen of twenty types are missing from the training data; one of them is asked for."""
    train = [labelled(f"{kind} {n}", cancer_type=kind) for kind in ("lung", "eye") for n in range(3)]
    test = [labelled("lung again", cancer_type="lung"), labelled("breast", cancer_type="breast")]

    given = baselines(KIND, train, test)[TFIDF]

    seen = [KIND.labels.index(kind) for kind in ("lung", "eye")]
    assert given.predicted[0] == seen[0]
    assert np.allclose(given.probabilities[:, sorted(seen)].sum(axis=1), 1)


def test_of_one_class_alone_the_majority_is_all_that_is_learned():
    found = baselines(CANCER, about(3, "Cancer", "tumour"), TEST)
    assert list(found) == ["majority", "cancer words"]
    assert found["majority"].probabilities.tolist() == [[1.0, 0.0]] * 5


def test_where_nothing_is_known_those_that_learn_are_left_out():
    """As when a model is measured without training data, or on a question that only the test data answers."""
    assert list(baselines(CANCER, [], TEST)) == ["cancer words"]
    assert list(baselines(KIND, TRAIN, [labelled("lung", cancer_type="lung")])) == ["cancer words"]


def test_words_that_name_types_of_cancer_judge_types_and_nothing_else():
    test = [labelled("Tumours of the lung", cancer_type="lung"), labelled("It was benign", cancer_type="eye")]
    words = baselines(KIND, [], test)["cancer words"]
    assert words.predicted[0] == KIND.labels.index("lung")
    assert np.allclose(words.probabilities[1], 1 / len(KIND.labels))


@pytest.mark.parametrize("labels", [("yes", "no"), ("Cancer", "Non-Cancer", "unclear")])
def test_words_of_cancer_judge_no_other_question(labels):
    question = Question(name="q", text="?", labels=labels)
    train = [labelled(f"{label} {n}", q=label) for label in labels for n in range(2)]
    assert "cancer words" not in baselines(question, train, train)
