"""Chance levels, closed forms, intervals and tests: pure functions on arrays."""

from math import comb

import numpy as np
from scipy import optimize, stats

PAIRWISE = "clip_cosine_pairwise"  # how much reconstructions resemble each other; see `pairwise_similarity`
EXACT = 16  # up to so many blocks every sign pattern is tried instead of drawing some


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of the metric is the better one: errors, ranks, likeness of unlike clips."""
    return metric in ("mse", PAIRWISE) or metric.startswith("epe_") or metric.endswith("_rank")


def is_median(metric: str) -> bool:
    """Whether the metric is summarised by its median over clips instead of its mean: ranks."""
    return metric.endswith("_rank")


# ---------------------------------------------------------------------------------------------- N-way accuracy


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
    own = np.take_along_axis(logits, true, 1)
    best = own.max(1, keepdims=True)
    return np.count_nonzero(logits >= best, axis=1) - np.count_nonzero(own >= best, axis=1)


def nway_accuracy(beaten_by: np.ndarray, candidates: int, ways: int, top_k: int) -> np.ndarray:
    """Expected N-way top-K accuracy over infinitely many trials.

    A trial draws N - 1 of the M candidates without replacement and succeeds if at most K - 1 of them beat the best
    true class. Of the candidates r beat it, so the number drawn is hypergeometric, and
    success = P(hypergeometric(M, r, N - 1) <= K - 1).

    Parameters
    ----------
    beaten_by : (N,) int
        r of each row.
    candidates : int
        M, the classes that are not true ones.
    ways : int
        N.
    top_k : int
        K.

    Returns
    -------
    accuracy : (N,) float64
    """
    ranks, index = np.unique(beaten_by, return_inverse=True)
    return stats.hypergeom.cdf(top_k - 1, candidates, ranks, ways - 1)[index]


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


def sampling_error(expected: np.ndarray, trials: int) -> np.ndarray:
    """Standard error of a sampled accuracy around its expectation p: sqrt(p (1 - p) / trials), same shape."""
    expected = np.clip(expected, 0, 1)
    return np.sqrt(expected * (1 - expected) / trials)


def nway_chance(true_classes: int, ways: int, top_k: int) -> float:
    """Chance level of N-way top-K accuracy when any of c true classes counts.

    If the reconstruction says nothing, the c true and N - 1 drawn classes are in random order. A trial fails if the
    first K of these N - 1 + c are all drawn ones, which has probability C(N - 1, K) / C(N - 1 + c, K). For K = 1,

        chance = 1 - (N - 1) / (N - 1 + c) = c / (N - 1 + c),

    for any of the top 3, 3 / (N + 2): 0.75 for 2-way, not 0.5, and 0.058 for 50-way. With one true class it is K / N.
    """
    return 1.0 - comb(ways - 1, top_k) / comb(ways - 1 + true_classes, top_k)


# ---------------------------------------------------------------------------------------------- identification


def identification_ranks(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Rank of the own true clip among all true clips, by similarity to the reconstruction.

    Similarity is Pearson's correlation of the two vectors. A true clip as similar as the own one counts before it.

    Parameters
    ----------
    made, true : (N, D) float
        Row n of both belongs to clip n.

    Returns
    -------
    rank : (N,) int
        1: no other true clip is as similar.
    """
    similarity = _standardised(made) @ _standardised(true).T  # (N made, N true)
    own = np.diagonal(similarity)[:, None]
    return np.count_nonzero(similarity >= own, axis=1)


def _standardised(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1)


def identification_chance(clips: int, first: int) -> float:
    """Chance that the own clip is among the first k of N: every rank is equally likely, so k / N."""
    return min(first, clips) / clips


def rank_chance(clips: int) -> float:
    """Median rank by chance: ranks 1 to N are equally likely, so their median is (N + 1) / 2."""
    return (clips + 1) / 2


def mismatched(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Pair every clip with one of another scene, which shows what a metric gives without any information.

    Some metrics have no closed chance level: what unrelated pictures score depends on the pictures. Their chance is the
    metric of the same reconstructions against these partners: the true clips themselves, in random order.

    Parameters
    ----------
    scene : (N,) int

    Returns
    -------
    partner : (N,) int or None
        A permutation; None if one scene holds more than half of the clips, so that there is none.
    """
    costs = rng.random((len(scene), len(scene))) + len(scene) * (scene[:, None] == scene)
    partner = optimize.linear_sum_assignment(costs)[1]
    return None if (scene[partner] == scene).any() else partner


# ---------------------------------------------------------------------------------------------- distinctness


def between_scenes(vectors: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """Mean cosine of the clips of one scene and those of another, for every two scenes.

    Parameters
    ----------
    vectors : (N, D) float
    scene : (N,) int

    Returns
    -------
    cosine : (S, S) float64
        In ascending order of the scenes' numbers; 0 on the diagonal.
    """
    unit = _unit(vectors)
    _, index, sizes = np.unique(scene, return_inverse=True, return_counts=True)
    means = np.zeros((len(sizes), unit.shape[1]))
    np.add.at(means, index, unit)
    means /= sizes[:, None]
    cosine = means @ means.T
    np.fill_diagonal(cosine, 0)
    return cosine


def pairwise_similarity(vectors: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """Mean cosine of each vector (N, D) with those of all other scenes (N,): (N,) float64."""
    unit = _unit(vectors)
    other = scene[:, None] != scene
    return ((unit @ unit.T) * other).sum(1) / other.sum(1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pairwise_means(cosine: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over clips of `pairwise_similarity` when every scene occurs so many times.

    Both clips of a pair are drawn, so the pairs are weighted by the product. Copies of a scene do not make pairs with
    each other: they would be taken for resemblance. A sample of one scene only gets the value of the whole.

    Parameters
    ----------
    cosine : (S, S)
        As from `between_scenes`.
    sizes : (S,) int
        Clips of each scene.
    weights : (B, S) int

    Returns
    -------
    means : (B,) float64
    """
    clips = np.concatenate([np.ones((1, len(sizes)), int), weights]) * sizes  # (1 + B, S)
    others = clips.sum(1, keepdims=True) - clips
    similarity = (clips @ cosine) / np.maximum(others, 1)
    means = (clips * similarity).sum(1) / clips.sum(1)
    return np.where((others * clips).any(1), means, means[0])[1:]


# ---------------------------------------------------------------------------------------------- intervals


def draw_blocks(blocks: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often every clip occurs when as many blocks as there are are drawn with replacement.

    Parameters
    ----------
    blocks : (N,) int
        The block (scene) of each clip.
    samples : int
        B.

    Returns
    -------
    weights : (B, N) int
    """
    _, index = np.unique(blocks, return_inverse=True)
    count = index.max() + 1
    return rng.multinomial(count, np.full(count, 1 / count), size=samples)[:, index]


def weighted_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means of the columns of (N, M) under each row of weights (B, N): (B, M) float64."""
    return weights @ values / weights.sum(1, keepdims=True)


def weighted_medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Medians of the columns of (N, M) under each row of weights (B, N), counted as repetitions: (B, M) float64."""
    medians = np.empty((len(weights), values.shape[1]))
    total = weights.sum(1, keepdims=True)
    for column, row in enumerate(values.T):
        order = np.argsort(row, kind="stable")
        reached = np.cumsum(weights[:, order], 1)
        lower = (2 * reached >= total).argmax(1)
        upper = (2 * reached > total).argmax(1)
        medians[:, column] = (row[order][lower] + row[order][upper]) / 2
    return medians


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
    samples : int
        B, how many bootstrap means.

    Returns
    -------
    means : (B, M) float64
    """
    return weighted_means(values, draw_blocks(blocks, samples, rng))


def interval(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95% percentile interval of bootstrap means (B, ...): lower and upper ends."""
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def one_sided_p(differences: np.ndarray) -> np.ndarray:
    """Bootstrap p of "the difference is not positive", (B, ...) to (...): (count of <= 0, plus 1) / (B + 1)."""
    return ((differences <= 0).sum(0) + 1) / (len(differences) + 1)


# ---------------------------------------------------------------------------------------------- tests


def two_sample_t(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Student's two-sample t-test over clips, two-sided, as the papers compare experiments: t and p.

    It takes clips for independent and forgets that both experiments saw the same ones. Both are wrong here, in
    opposite directions; `paired_permutation` is right. NaN if nothing varies.
    """
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return np.nan, np.nan
    result = stats.ttest_ind(a, b)
    return float(result.statistic), float(result.pvalue)


def paired_permutation(difference: np.ndarray, blocks: np.ndarray, samples: int, rng: np.random.Generator) -> float:
    """Two-sided p of a mean paired difference over clips, by exchanging the two experiments scene by scene.

    If the experiments were equal, their labels could be exchanged in any scene: the sign of all differences of a scene
    at once, because clips of one scene are not independent. The statistic is the mean over clips. With few scenes all
    sign patterns are tried, else `samples` random ones, and p = (count as extreme, plus 1) / (samples + 1).

    Parameters
    ----------
    difference : (N,) float
    blocks : (N,) int
        The block (scene) of each clip.
    """
    _, index = np.unique(blocks, return_inverse=True)
    sums = np.bincount(index, weights=difference)
    limit = abs(sums.sum()) * (1 - 1e-9)  # sums in another order may differ in the last digits
    if len(sums) <= EXACT:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float((np.abs((2 * patterns - 1) @ sums) >= limit).mean())
    extreme = 0
    for size in np.diff(np.r_[np.arange(0, samples, 1000), samples]):
        signs = rng.integers(0, 2, (size, len(sums))) * 2 - 1
        extreme += int((np.abs(signs @ sums) >= limit).sum())
    return (extreme + 1) / (samples + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction of a family of p values, (M,) to (M,); NaN is no member and stays.

    The smallest of M is multiplied by M, the next by M - 1, and so on; a corrected value is never below the one before
    it, nor above 1. The chance of any false positive in the family is at most that at which they are read.
    """
    p = np.asarray(p, float)
    corrected = np.full(p.shape, np.nan)
    members = np.flatnonzero(np.isfinite(p))
    order = members[np.argsort(p[members], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected
