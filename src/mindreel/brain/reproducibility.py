"""Statistics of voxel selection (MinD-Video 3.2): whether a vertex does the same each time a movie is shown.

r between repeats (`correlate`), Fisher's z (`fisher_z`), a one-sample t-test over segments (`t_test`), corrected over
vertices (`survivors`); of the survivors the most significant (`most_significant`). `choose` does the last three.
"""

from dataclasses import dataclass

import numpy as np

from mindreel.errors import InputError
from mindreel.sections import Roi

LIMIT = 1 - 1e-6  # identical runs give |r| of 1 or, by rounding, above: z must stay finite
BLOCK = 512  # vertices correlated at once: they fit the processor's cache


@dataclass(frozen=True)
class Selection:
    """What was found about each of the N = 59412 vertices, and which of them are selected.

    Attributes
    ----------
    r : ndarray of shape (N,), float64
        Correlation of repeats, mean over segments in Fisher's z.
    t, p : ndarray of shape (N,), float64
        The test over segments; NaN where none could be made.
    significant, selected : ndarray of shape (N,), bool
        The vertices that passed the test, and the strongest ones of these.
    """

    r: np.ndarray
    t: np.ndarray
    p: np.ndarray
    significant: np.ndarray
    selected: np.ndarray

    def maps(self) -> dict[str, np.ndarray]:
        """Maps without NaN by name: an untested vertex has t = 0 and p = 1."""
        p = np.nan_to_num(self.p, nan=1.0)
        log_p = -np.log10(np.maximum(p, np.finfo(float).tiny))
        return {"r": self.r, "t": np.nan_to_num(self.t), "-log10 p": log_p, "p": p, "selected": self.selected}


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate two arrays column by column (Pearson).

    Parameters
    ----------
    first, second : ndarray of shape (T, N), float
        Two runs.

    Returns
    -------
    r : ndarray of shape (N,), float64
        NaN where a column is constant or not finite.
    """
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
    """Transform correlations to Fisher's z = arctanh(r), r clipped just inside (-1, 1); NaN stays NaN."""
    return np.arctanh(np.clip(r, -LIMIT, LIMIT))


def t_test(z: np.ndarray, alternative: str) -> tuple[np.ndarray, np.ndarray]:
    """Test whether the mean over segments is above zero ("greater") or not zero ("two-sided").

    t = mean / (deviation / sqrt(S)), S - 1 degrees of freedom.

    Parameters
    ----------
    z : ndarray of shape (S, N), float64
        Fisher's z of each segment.
    alternative : str
        greater or two-sided.

    Returns
    -------
    t, p : ndarray of shape (N,), float64
        NaN where a segment's z is not finite or all segments have the same.
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


def strength(t: np.ndarray, alternative: str) -> np.ndarray:
    """Rank statistic of tests: t (greater) or |t| (two-sided), of the shape of t."""
    return t if alternative == "greater" else np.abs(t)


def survivors(p: np.ndarray, alpha: float, correction: str) -> np.ndarray:
    """Mark the significant ones of n tests.

    Parameters
    ----------
    p : ndarray of shape (N,), float64
        NaN is no test.
    alpha : float
        Level.
    correction : str
        bonferroni: p n < alpha. fdr (Benjamini & Hochberg 1995): all p up to the largest that is at most alpha rank /
        n. none: p < alpha.

    Returns
    -------
    significant : ndarray of shape (N,), bool
        False where there is no test.
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
    """Keep the most significant ones of the significant tests.

    Parameters
    ----------
    t : ndarray of shape (N,), float64
        Statistics of the tests.
    significant : ndarray of shape (N,), bool
        As of `survivors`.
    fraction : float
        Share of the significant tests to keep; at least one is kept.
    alternative : str
        greater or two-sided; sets what is `strength`.
    most : int, optional
        Number of tests to keep at most.

    Returns
    -------
    kept : ndarray of shape (N,), bool
        The strongest ones.
    """
    ranked = np.where(significant, strength(t, alternative), -np.inf)
    count = max(1, int(fraction * significant.sum() + 1e-9))
    count = min(count, most or count)
    chosen = np.zeros(len(t), bool)
    chosen[np.argsort(-ranked, kind="stable")[:count]] = True
    return chosen


def choose(z: np.ndarray, cfg: Roi) -> Selection:
    """Test every vertex over segments and select the most significant ones.

    Parameters
    ----------
    z : ndarray of shape (S, N), float64
        Fisher's z of each segment and vertex.
    cfg : Roi
        Section roi of the configuration.

    Returns
    -------
    selection : Selection
        The tests and the selected vertices.

    Raises
    ------
    InputError
        If no vertex is significant.
    """
    t, p = t_test(z, cfg.alternative)
    tested = np.isfinite(p)
    significant = survivors(p, cfg.alpha, cfg.correction)
    if not significant.any():
        least = f"the smallest p is {np.nanmin(p):.3g}" if tested.any() else "all were constant"
        raise InputError(
            f"no voxel is reproducible: {tested.sum()} of {tested.size} vertices tested, {least}, alpha {cfg.alpha:g}, "
            f"correction {cfg.correction}; raise roi.alpha, set roi.correction to fdr or none, or add training segments"
        )
    selected = most_significant(t, significant, cfg.top_fraction, cfg.alternative, cfg.top_count)
    finite = np.isfinite(z).all(axis=0)
    r = np.tanh(np.where(finite, z, 0.0).mean(axis=0))
    return Selection(r, t, p, significant, selected)
