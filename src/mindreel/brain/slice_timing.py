"""Slice timing: slices of a volume are acquired one after another, and are brought to one moment."""

import json
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline

from mindreel.errors import InputError


def read_times(sidecar: Path, shape: tuple[int, ...], tr_s: float) -> tuple[np.ndarray, int]:
    """Read when each slice of a volume was acquired.

    Parameters
    ----------
    sidecar : Path
        BIDS sidecar (.json) with SliceTiming and, unless it is k, SliceEncodingDirection.
    shape : tuple of 3 or 4 ints
        Shape of the run.
    tr_s : float
        Repetition time (s).

    Returns
    -------
    times_s : ndarray of shape (slices,), float64
        Seconds after the volume's start.
    axis : int
        0, 1 or 2, along which slices are counted.

    Raises
    ------
    InputError
        If the file cannot be read, has no SliceTiming, or the times do not fit the image's shape or the TR.
    """
    try:
        content = json.loads(sidecar.read_text())
        times_s = np.array(content["SliceTiming"], float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{sidecar}: no SliceTiming can be read from it ({error!r}); add it (s, one per slice), "
            "or set bold.slice_timing to false"
        ) from error
    direction = content.get("SliceEncodingDirection", "k")
    if direction not in ("i", "j", "k", "i-", "j-", "k-"):
        raise InputError(f"{sidecar}: SliceEncodingDirection: found {direction!r}, expected i, j or k, or one with a -")
    axis = "ijk".index(direction[0])
    if times_s.shape != (shape[axis],):
        raise InputError(f"{sidecar}: SliceTiming has {times_s.size} times for {shape[axis]} slices along {direction}")
    if not (times_s.min() >= 0 and times_s.max() <= tr_s):
        raise InputError(
            f"{sidecar}: SliceTiming runs from {times_s.min():g} to {times_s.max():g}, expected seconds between 0 and "
            f"data.tr_s ({tr_s:g}); correct the unit or data.tr_s"
        )
    return times_s[::-1] if direction.endswith("-") else times_s, axis


def correct(series: np.ndarray, times_s: np.ndarray, axis: int, tr_s: float) -> np.ndarray:
    """Bring all slices of a run to the middle of their acquisition, by cubic splines in time.

    Parameters
    ----------
    series : ndarray of shape (X, Y, Z, T), float32
        A run.
    times_s : ndarray of shape (slices,), float64
        When each slice is acquired (s after the volume's start).
    axis : int
        Along which slices are counted.
    tr_s : float
        Repetition time (s).

    Returns
    -------
    corrected : ndarray of shape (X, Y, Z, T), float32
        Before the first volume and after the last one, a slice stays as it is there.
    """
    volumes = np.arange(series.shape[-1])
    late = (times_s - (times_s.min() + times_s.max()) / 2) / tr_s  # in volumes
    corrected = np.empty_like(series)
    for part, out, by in zip(np.moveaxis(series, axis, 0), np.moveaxis(corrected, axis, 0), late, strict=True):
        out[:] = CubicSpline(volumes, part, axis=-1)(np.clip(volumes - by, 0, volumes[-1]))
    return corrected
