"""The initial embeddings of the small base model: tokens that occur in the same abstracts get similar vectors.

Latent semantic analysis (Deerwester et al. 1990, https://doi.org/10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9)
takes seconds. How much training it and the rest of ``base.new_model`` save is in DECISIONS.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd


def word_vectors(documents: Sequence[Sequence[int]], vocabulary: int, size: int, seed: int) -> NDArray[np.float32]:
    """A unit vector for every token that occurs, zeros for the others.

    Args:
        documents: token ids of each text.
        vocabulary: the number of tokens.
        size: the length of a vector.
        seed: of the randomized decomposition.

    Returns:
        Shape (vocabulary, size).
    """
    counts = _counts(documents, vocabulary)
    in_documents = np.bincount(counts.indices, minlength=vocabulary)
    rarity = np.log(len(documents) / (1 + in_documents)).clip(0).astype(np.float32)
    counts.data = 1 + np.log(counts.data)
    weighted = counts @ sparse.diags(rarity)
    lengths = np.sqrt(weighted.multiply(weighted).sum(axis=1)).A1
    weighted = sparse.diags(1 / np.maximum(lengths, 1e-6)) @ weighted
    _, strengths, directions = randomized_svd(weighted.astype(np.float32), size + 1, n_iter=3, random_state=seed)
    found = (directions.T * strengths)[:, 1:]  # the first direction is how common a token is
    vectors = np.zeros((vocabulary, size), dtype=np.float32)  # few documents have fewer directions than this
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    np.divide(found, norms, out=vectors[:, : found.shape[1]], where=norms > 1e-8)
    return vectors


def _counts(documents: Sequence[Sequence[int]], vocabulary: int) -> Any:
    """How often each token (column) occurs in each document (row)."""
    rows = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    columns = np.concatenate([np.asarray(document, dtype=np.int64) for document in documents])
    ones = np.ones(len(columns), dtype=np.float32)
    counts = sparse.csr_matrix((ones, (rows, columns)), shape=(len(documents), vocabulary))
    counts.sum_duplicates()
    return counts
