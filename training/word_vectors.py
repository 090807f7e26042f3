"""Where the small base model starts: tokens that occur in the same abstracts have like embeddings.

Latent semantic analysis (Deerwester et al. 1990, https://doi.org/10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9)
takes seconds. What it and the rest of ``base.new_model`` save of the training is in DECISIONS.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd


def word_vectors(documents: Sequence[Sequence[int]], vocabulary: int, size: int, seed: int) -> NDArray[np.float32]:
    """A vector of length 1 for every token that occurs, 0 for the others.

    Args:
        documents: token ids of each text.
        vocabulary: how many tokens there are.
        size: of a vector.
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
    vectors = np.zeros((vocabulary, size), dtype=np.float32)  # few documents have fewer directions
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    np.divide(found, norms, out=vectors[:, : found.shape[1]], where=norms > 1e-8)
    return vectors


def _counts(documents: Sequence[Sequence[int]], vocabulary: int) -> Any:
    """How often each token (column) stands in each document (row)."""
    rows = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    columns = np.concatenate([np.asarray(document, dtype=np.int64) for document in documents])
    ones = np.ones(len(columns), dtype=np.float32)
    counts = sparse.csr_matrix((ones, (rows, columns)), shape=(len(documents), vocabulary))
    counts.sum_duplicates()
    return counts
