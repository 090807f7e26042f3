"""The initial embeddings of the small base model."""

import numpy as np
from abstream.training.word_vectors import word_vectors

# Tokens 0 to 2 occur together, and so do 3 to 5; 6 is everywhere, 7 nowhere.
DOCUMENTS = [[0, 1, 2, 6], [0, 1, 6], [1, 2, 6], [0, 2, 2, 6], [3, 4, 5, 6], [3, 4, 6], [4, 5, 6], [3, 5, 5, 6]]


def test_tokens_of_the_same_documents_have_like_vectors():
    vectors = word_vectors(DOCUMENTS, vocabulary=8, size=2, seed=1)

    alike, unlike = vectors[0] @ vectors[1], vectors[0] @ vectors[4]
    assert alike > 0.9
    assert unlike < 0.1


def test_every_vector_has_length_1_but_that_of_a_token_which_never_occurs():
    lengths = np.linalg.norm(word_vectors(DOCUMENTS, vocabulary=8, size=2, seed=1), axis=1)

    assert np.allclose(lengths[:6], 1)
    assert lengths[7] == 0


def test_few_documents_leave_the_last_elements_0():
    vectors = word_vectors(DOCUMENTS[:2], vocabulary=8, size=16, seed=1)

    assert vectors.shape == (8, 16)
    assert not vectors[:, 2:].any()


def test_the_same_seed_gives_the_same_vectors():
    one, other = (word_vectors(DOCUMENTS, vocabulary=8, size=3, seed=5) for _ in range(2))
    assert np.array_equal(one, other)
