"""Trains the fast pass: one weight per hashed n-gram. Needs scikit-learn and scipy."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from training.risk.augment import augmented, fillers_of
from training.risk.rows import Row
from vlmguard.rewriters.ngrams import BUCKETS, FastPass, features

HARMFUL_WEIGHT = 3.0
"""A harmful text let through costs more than a harmless one that the encoder has to read."""
SEEN_IN = 2
"""Texts that an n-gram must occur in, to have a weight."""


def matrix(texts: Sequence[str]) -> object:
    """(texts, BUCKETS) sparse, scaled as ``FastPass.logits`` scales."""
    from scipy.sparse import csr_matrix

    found = features(texts)
    values = 1 / np.sqrt(found.counts[found.owners])
    return csr_matrix((values, (found.owners, found.buckets)), shape=(len(texts), BUCKETS))


def fit_fast(rows: Sequence[Row], strength: float = 2.0, harmful: float = HARMFUL_WEIGHT, seed: int = 0) -> FastPass:
    """Logistic regression over n-grams; each text once as it is and once disguised."""
    from sklearn.linear_model import LogisticRegression

    rng = random.Random(seed)
    fillers = fillers_of(rows)
    texts = [row.text for row in rows] + [augmented(row.text, rng, fillers, 1.0) for row in rows]
    truth = np.array([row.harmful for row in rows] * 2)
    weight = np.where(truth, harmful, 1.0) * np.repeat((1.0, 0.5), len(rows))
    x = matrix(texts)
    common = np.asarray((x > 0).sum(axis=0)).ravel() >= 2 * SEEN_IN  # type: ignore[operator]
    fitted = LogisticRegression(C=strength, max_iter=200, solver="liblinear", tol=1e-3)
    kept = np.flatnonzero(common)
    fitted.fit(x[:, kept], truth, sample_weight=weight)  # type: ignore[index]
    weights = np.zeros(BUCKETS, dtype=np.float32)
    weights[kept] = fitted.coef_[0].astype(np.float16)
    return FastPass(weights, float(fitted.intercept_[0]))
