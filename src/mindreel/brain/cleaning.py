"""Cleaning a run: volumes are trimmed, trends are removed, vertices are standardised.

The MATLAB code of Wen 2018's data does the same: a polynomial of order 4, a standard deviation with T - 1.
"""

from pathlib import Path

import numpy as np

from mindreel.errors import InputError

BLOCK = 512  # vertices detrended at once: they fit the processor's cache


def trimmed(run: Path, length: int, volumes: int, trim: dict[int, tuple[int, int]]) -> slice:
    """Say which volumes of a run stay.

    Parameters
    ----------
    run : Path
        The run, for the message.
    length : int
        Its number of volumes.
    volumes : int
        The number that the sample sheet says.
    trim : dict of tuple of 2 ints
        `bold.trim`: volumes to drop at the start and at the end, by the run's length.

    Returns
    -------
    kept : slice
        Volumes that stay.

    Raises
    ------
    InputError
        If the length is not that of the sample sheet, or has no entry in `bold.trim`, or nothing would stay.
    """
    if length != volumes:
        raise InputError(
            f"{run}: {length} volumes, the sample sheet says {volumes}; "
            "fetch the run again if it is incomplete, or correct `volumes` or set `exclude` in the sheet"
        )
    if length not in trim:
        rules = ", ".join(f"{n}: drop {start} first and {end} last" for n, (start, end) in sorted(trim.items()))
        raise InputError(f"{run}: {length} volumes, but bold.trim only has a rule for {rules}; add {length} there")
    start, end = trim[length]
    if start + end >= length:
        raise InputError(f"bold.trim.{length}: drops {start} + {end} of {length} volumes; nothing would be left")
    return slice(start, length - end)


def check_volumes(run: Path, series: np.ndarray, start: int) -> None:
    """Refuse a run with volumes in which every vertex is 0 or not finite: one alone is a spike in every vertex.

    Parameters
    ----------
    run : Path
        The run, for the message.
    series : ndarray of shape (T, N), float32
        Its volumes after trimming.
    start : int
        Number of the first of them in the file.

    Raises
    ------
    InputError
        If there are such volumes.
    """

    def silent(values: np.ndarray) -> np.ndarray:
        return ~(np.isfinite(values) & (values != 0)).any(axis=1)

    empty = silent(series[:, :: max(1, series.shape[1] // 64)])  # a few vertices clear nearly all volumes
    if empty.any():
        empty[empty] = silent(series[empty])
    if empty.any():
        numbers = ", ".join(str(start + i) for i in np.flatnonzero(empty)[:10])
        finite = "zeros" if np.isfinite(series[empty]).any() else "not finite"
        raise InputError(
            f"{run}: {empty.sum()} of {len(series)} volumes hold no signal, all values are {finite} (volumes "
            f"{numbers}{', …' if empty.sum() > 10 else ''}); fetch it again or exclude it in the sample sheet"
        )


def standardise(series: np.ndarray, order: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Remove a polynomial trend per vertex, then divide by the standard deviation (ddof 1).

    Parameters
    ----------
    series : ndarray of shape (T, N), float
        A run.
    order : int
        Order of the polynomial; 0 removes the mean only.
    tolerance : float
        A vertex is constant if its deviation, trend removed, is at most this share of its root mean square. (The
        deviation before the trend is removed would miss a vertex that is itself a polynomial.)

    Returns
    -------
    cleaned : ndarray of shape (T, N), float32, Fortran order
        Mean 0 and deviation 1; constant and non-finite vertices are 0 throughout.
    tsnr : ndarray of shape (N,), float32
        Temporal signal-to-noise ratio: the mean over that deviation. NaN for constant and non-finite vertices.

    Raises
    ------
    InputError
        If the run is too short for the polynomial.
    """
    volumes, count = series.shape
    if volumes < order + 2:
        raise InputError(f"bold.polynomial_order: order {order} needs {order + 2} volumes or more, found {volumes}")
    trend = np.linalg.qr(np.polynomial.legendre.legvander(np.linspace(-1, 1, volumes), order))[0]  # (T, order + 1)
    cleaned, tsnr = np.empty((count, volumes), np.float32).T, np.empty(count, np.float32)
    for first in range(0, count, BLOCK):
        part = slice(first, first + BLOCK)
        # double precision: what BLAS adds in another order (on more threads) is lost when it is rounded to single
        block = np.array(series[:, part].T, np.float64, order="C")  # (n, T)
        with np.errstate(invalid="ignore"):
            weights = block @ trend
            block -= weights @ trend.T
            rest = np.vecdot(block, block)  # squares that remain
            power = np.vecdot(weights, weights) + rest  # before: Pythagoras. Not finite if a value is not
        alive = np.isfinite(power) & (rest > tolerance**2 * power * (volumes - 1) / volumes)
        scale = np.zeros_like(rest)
        scale[alive] = np.sqrt((volumes - 1) / rest[alive])
        if not alive.all():
            block[~alive] = 0.0  # NaN times 0 is NaN
        np.multiply(block, scale[:, None], out=cleaned[:, part].T, casting="same_kind")
        tsnr[part] = np.where(alive, weights[:, 0] * trend[0, 0] * scale, np.nan)  # the first polynomial is constant
    return cleaned, tsnr
