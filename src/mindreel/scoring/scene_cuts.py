"""Where scenes begin: clips of one scene resemble each other and are not independent."""

from itertools import pairwise

import numpy as np


def scenes(frames: np.ndarray, cut: float) -> np.ndarray:
    """Number the scenes of a segment.

    Volume t begins a new scene if both differences from volume t - 1 (mean absolute, of pictures from 0 to 1) exceed
    `cut`: that of the two volumes' middle frames, and the largest one between neighbouring frames on the way from
    one middle to the other. So neither smooth motion (large first, small second difference) nor a motion that starts
    anew with every volume (small first, large second) counts as a cut.

    Parameters
    ----------
    frames : (T, F, H, W, 3) uint8

    Returns
    -------
    scene : (T,) int
        From 0, ascending.
    """
    return np.cumsum([False, *(is_cut(before, after, cut) for before, after in pairwise(frames))])


def is_cut(before: np.ndarray, after: np.ndarray, cut: float) -> bool:
    """Whether a new scene begins between two neighbouring clips (F, H, W, 3) uint8; see `scenes`."""
    middle = len(before) // 2
    way = np.concatenate([before[middle:], after[: middle + 1]]).astype(np.int16)
    steps = np.abs(np.diff(way, axis=0)).mean((1, 2, 3))
    direct = np.abs(way[-1] - way[0]).mean()
    return bool(min(direct, steps.max()) / 255 > cut)
