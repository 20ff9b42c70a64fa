"""Does a vertex do the same each time the same movie is shown? The statistics of voxel selection (MinD-Video 3.2).

r between repeats (`correlate`), Fisher's z (`fisher_z`), a one-sample t-test over segments (`t_test`), corrected over
vertices (`survivors`); of the survivors the most significant (`most_significant`).
"""

import numpy as np

LIMIT = 1 - 1e-6  # identical runs give |r| of 1 or, by rounding, above: z must stay finite
BLOCK = 512  # vertices correlated at once: they fit the processor's cache


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's r of each column of two (T, N) arrays: (N,) float64; NaN where a column is constant or not finite."""
    r = np.empty(first.shape[1])
    for start in range(0, len(r), BLOCK):
        part = slice(start, start + BLOCK)
        a, b = (np.array(series[:, part].T, np.float64, order="C") for series in (first, second))
        with np.errstate(divide="ignore", invalid="ignore"):
            a -= a.mean(axis=1, keepdims=True)
            b -= b.mean(axis=1, keepdims=True)
            r[part] = np.vecdot(a, b) / np.sqrt(np.vecdot(a, a) * np.vecdot(b, b))
    return r


def fisher_z(r: np.ndarray) -> np.ndarray:
    """Fisher's z = arctanh(r), r clipped just inside (-1, 1); NaN stays NaN."""
    return np.arctanh(np.clip(r, -LIMIT, LIMIT))


def t_test(z: np.ndarray, alternative: str) -> tuple[np.ndarray, np.ndarray]:
    """Test whether the mean over segments is above zero ("greater") or not zero ("two-sided").

    t = mean / (deviation / sqrt(S)), S - 1 degrees of freedom.

    Parameters
    ----------
    z : (S, N)
        Fisher z.

    Returns
    -------
    t, p : (N,); NaN where a segment's z is not finite or all segments have the same
    """
    from scipy.special import stdtr  # as scipy.stats.t.sf does, which takes a second to import

    count = len(z)
    usable = np.isfinite(z).all(axis=0)
    safe = np.where(usable, z, 0.0)
    deviation = safe.std(axis=0, ddof=1)
    usable &= deviation > 1e-12 * np.abs(safe).max(axis=0)
    t = np.where(usable, safe.mean(axis=0) * np.sqrt(count) / np.where(usable, deviation, 1.0), np.nan)
    p = stdtr(count - 1, -t) if alternative == "greater" else 2 * stdtr(count - 1, -np.abs(t))
    return t, p


def survivors(p: np.ndarray, alpha: float, correction: str) -> np.ndarray:
    """Mark the significant tests: (N,) bool; NaN is no test.

    "bonferroni": p n < alpha. "fdr": Benjamini & Hochberg 1995: all p up to the largest that is at most alpha rank / n.
    "none": p < alpha. n counts the tests made.
    """
    tested = np.isfinite(p)
    filled = np.where(tested, p, 1.0)
    count = int(tested.sum())
    if correction == "bonferroni":
        return tested & (filled * count < alpha)
    if correction == "fdr":
        ranked = np.sort(p[tested])
        passed = ranked <= alpha * np.arange(1, count + 1) / max(count, 1)
        return tested & (filled <= ranked[passed].max()) if passed.any() else np.zeros_like(tested)
    return tested & (filled < alpha)


def most_significant(
    t: np.ndarray, significant: np.ndarray, fraction: float, alternative: str, most: int | None = None
) -> np.ndarray:
    """Keep the share of the significant tests with the largest t (two-sided: |t|): (N,) bool; 1 to `most` of them."""
    strength = np.where(significant, t if alternative == "greater" else np.abs(t), -np.inf)
    count = max(1, int(fraction * significant.sum() + 1e-9))
    count = min(count, most or count)
    chosen = np.zeros(len(t), bool)
    chosen[np.argsort(-strength, kind="stable")[:count]] = True
    return chosen
