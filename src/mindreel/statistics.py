"""Chance levels, closed forms and the block bootstrap: pure functions on arrays."""

from math import comb

import numpy as np
from scipy.stats import hypergeom


def beating(logits: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Count the candidate classes that beat the best of the true classes; a tie counts as beaten.

    Parameters
    ----------
    logits : (N, C) float32
        Of the reconstructions. Float32, because half-precision softmax makes ties that are none.
    true : (N, K) int
        The true classes of each row; they are never candidates.

    Returns
    -------
    beaten_by : (N,) int
        How many of the C - K candidates have a logit as large as that of the best true class, or larger.
    """
    best = np.take_along_axis(logits, true, 1).max(1, keepdims=True)
    beats = logits >= best
    np.put_along_axis(beats, true, False, 1)
    return beats.sum(1)


def nway_accuracy(beaten_by: np.ndarray, candidates: int, ways: int, top_k: int) -> np.ndarray:
    """Expected N-way top-K accuracy over infinitely many trials.

    A trial draws N - 1 of the M candidates without replacement and succeeds if at most K - 1 of them beat the best
    true class. Of the candidates r beat it, so the number drawn is hypergeometric, and
    success = P(hypergeometric(M, r, N - 1) <= K - 1).

    Parameters
    ----------
    beaten_by : (N,) int
        r of each row.
    candidates
        M, the classes that are not true ones.
    ways
        N.
    top_k
        K.

    Returns
    -------
    accuracy : (N,) float64
    """
    return hypergeom.cdf(top_k - 1, candidates, beaten_by, ways - 1)


def nway_sampled(
    beaten_by: np.ndarray, candidates: int, ways: int, top_k: int, trials: int, rng: np.random.Generator
) -> np.ndarray:
    """N-way top-K accuracy of a finite number of trials, as published numbers are made.

    Only how many of the drawn classes beat the true ones matters, so that number is drawn instead of the classes:
    the same distribution, without a loop.

    Returns
    -------
    accuracy : (N,) float64
        Share of successful trials. Other parameters as for `nway_accuracy`.
    """
    drawn = rng.hypergeometric(beaten_by, candidates - beaten_by, ways - 1, size=(trials, len(beaten_by)))
    return (drawn <= top_k - 1).mean(0)


def nway_chance(true_classes: int, ways: int, top_k: int) -> float:
    """Chance level of N-way top-K accuracy when any of c true classes counts.

    If the reconstruction says nothing, the c true and N - 1 drawn classes are in random order. A trial fails if the
    first K of these N - 1 + c are all drawn ones, which has probability C(N - 1, K) / C(N - 1 + c, K). For K = 1,

        chance = 1 - (N - 1) / (N - 1 + c) = c / (N - 1 + c),

    for any of the top 3, 3 / (N + 2): 0.75 for 2-way, not 0.5, and 0.058 for 50-way.
    """
    return 1.0 - comb(ways - 1, top_k) / comb(ways - 1 + true_classes, top_k)


def block_bootstrap(values: np.ndarray, blocks: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Means over clips under resampling of whole blocks, because clips of one scene are not independent.

    As many blocks as there are drawn with replacement; a bootstrap mean is the sum over the clips drawn divided by
    their number. All columns see the same draws, so differences of columns are paired.

    Parameters
    ----------
    values : (N, M) float
        One row per clip, one column per quantity.
    blocks : (N,) int
        The block (scene) of each clip.
    samples
        B, how many bootstrap means.

    Returns
    -------
    means : (B, M) float64
    """
    _, index = np.unique(blocks, return_inverse=True)
    count = index.max() + 1
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, index, values)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=samples)  # (B, blocks)
    return drawn @ sums / (drawn @ np.bincount(index))[:, None]


def interval(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95% percentile interval of bootstrap means (B, ...): lower and upper ends."""
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def one_sided_p(differences: np.ndarray) -> np.ndarray:
    """Bootstrap p of "the difference is not positive", (B, ...) to (...): (count of <= 0, plus 1) / (B + 1)."""
    return ((differences <= 0).sum(0) + 1) / (len(differences) + 1)
