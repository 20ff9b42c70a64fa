"""The delay after which fMRI shows a picture best (`mindreel roi lag`).

No step of the pipeline: a look at the training data that helps to choose `encoder.shift`.
"""

import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from mindreel.artifacts import atomic, load_array, save_table
from mindreel.brain.reproducibility import correlate
from mindreel.errors import InputError
from mindreel.reporting import style

LONGEST_S = 12.0  # a haemodynamic response is over by then
FOLDS = 6  # of the training segments, at most
PENALTIES = np.logspace(1, 6, 6)  # of ridge regression; voxels have deviation 1


def sweep(*, bold: Path, targets: list[Path], out: Path, figure: Path, tr_s: float) -> None:
    """Sweep the delay between a picture and the fMRI that it is decoded from.

    At each delay, ridge regression goes from a volume to the CLIP embedding of the frames shown that many TRs earlier.
    It is cross-validated over training segments.

    Parameters
    ----------
    bold : Path
        The subject's train.npy, (S, T, V) float32.
    targets : list of Path
        Folders of stage targets, one for each of the S rows of `bold`, in its order.
    out : Path
        Table that is written (.tsv), a row per delay: lag (volumes), delay_s, r (of true and decoded values, mean over
        the embedding's dimensions), two_way (share of clips that are nearer to their own embedding than to another's;
        chance is 0.5), r_deviation and two_way_deviation (over folds).
    figure : Path
        Curves of both scores that are drawn (.png or .svg).
    tr_s : float
        Repetition time (s).

    Raises
    ------
    InputError
        If fMRI and targets do not fit each other, or there are too few segments or volumes.
    """
    series = load_array(bold)
    embeddings = [load_array(folder / "image.npy") for folder in targets]
    if [len(array) for array in embeddings] != [series.shape[1]] * len(series):
        raise InputError(
            f"{bold} has {series.shape[0]} rows of {series.shape[1]} volumes, the {len(embeddings)} targets have "
            f"{', '.join(str(len(array)) for array in embeddings)}; give --targets once per row of the fMRI, in its "
            "order"
        )
    lags = range(math.floor(LONGEST_S / tr_s + 1e-9) + 1)
    segments = list(dict.fromkeys(targets))
    if len(segments) < 2 or series.shape[1] < len(lags) + 2:
        raise InputError(
            f"{bold}: {len(segments)} segments of {series.shape[1]} volumes; a sweep of {len(lags)} delays that is "
            f"cross-validated over segments needs 2 segments of {len(lags) + 2} volumes or more"
        )
    pictures = np.stack([array[:, :, 0].mean(axis=1) for array in embeddings])  # (S, T, E)
    fold = np.array([segments.index(folder) % min(FOLDS, len(segments)) for folder in targets])
    table = pd.DataFrame(scores(series, pictures, fold, lags))
    table.insert(1, "delay_s", table["lag"] * tr_s)
    save_table(out, table)
    with matplotlib.rc_context(style.PRINT), atomic(figure) as path:
        draw(table).savefig(path, dpi=300)
    best = table.loc[table["r"].idxmax()]
    print(f"decoded best {best['delay_s']:g} s after the picture ({best['lag']:g} volumes): r {best['r']:.3f}")


def scores(series: np.ndarray, pictures: np.ndarray, fold: np.ndarray, lags: range) -> list[dict[str, float]]:
    """Decode pictures from fMRI at several delays; every delay is judged by the same pictures.

    Parameters
    ----------
    series : ndarray of shape (S, T, V), float
        fMRI.
    pictures : ndarray of shape (S, T, E), float
        Embedding of what is shown during each volume.
    fold : ndarray of shape (S,), int
        Rows of one fold are left out together.
    lags : range
        Delays (volumes).

    Returns
    -------
    rows : list of dict
        One per delay: lag, r, two_way, r_deviation, two_way_deviation.
    """
    from sklearn.linear_model import RidgeCV

    length = series.shape[1] - max(lags)
    scored = []
    for late in tqdm(lags, desc="lags", mininterval=5):
        shifted, each = series[:, late : late + length], []
        for left_out in np.unique(fold):
            split = [fold != left_out, fold == left_out]
            x, x_test = (np.asarray(shifted[rows], np.float64).reshape(-1, series.shape[-1]) for rows in split)
            y, y_test = (pictures[rows, :length].reshape(-1, pictures.shape[-1]).astype(np.float64) for rows in split)
            decoded = RidgeCV(PENALTIES).fit(x, y).predict(x_test)
            r = correlate(y_test, decoded)
            each.append({"r": np.nanmean(r) if np.isfinite(r).any() else 0.0, "two_way": two_way(y_test, decoded)})
        folds = pd.DataFrame(each)
        scored.append({"lag": late, **folds.mean(), **folds.std().add_suffix("_deviation")})
    return scored


def two_way(true: np.ndarray, decoded: np.ndarray) -> float:
    """Compute two-way identification: how often a decoded row is nearer to its own true row than to another's.

    Parameters
    ----------
    true, decoded : ndarray of shape (N, E), float
        Embeddings.

    Returns
    -------
    share : float
        Share of pairs (i, j) of which decoded i correlates more with true i than with true j.
    """
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (decoded, true))
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    alike = a @ b.T
    beaten = alike < np.diag(alike)[:, None]
    return float(beaten.sum() / (beaten.size - len(beaten)))


def draw(table: pd.DataFrame) -> Figure:
    """Draw both scores of a sweep, a table as of `sweep`, over the delay, with chance and the best delay."""
    drawn = Figure(figsize=(5.2, 2.1), layout="constrained")
    left, right = drawn.subplots(1, 2)
    drawn.suptitle("Ridge regression from later fMRI, training segments left out in turn")
    drawn.supxlabel("fMRI after the picture (s); shaded: deviation over folds", fontsize=7)
    _curve(left, table, "r", 0.0, "r of CLIP embeddings")
    _curve(right, table, "two_way", 0.5, "two-way identification")
    left.set_ylim(min(left.get_ylim()[0], -0.05), None)
    right.set_ylim(min(right.get_ylim()[0], 0.45), 1.02)
    return drawn


def _curve(axes: Axes, table: pd.DataFrame, score: str, chance: float, label: str) -> None:
    """Draw one score with its deviation over folds."""
    delay, value, deviation = table["delay_s"], table[score], table[f"{score}_deviation"]
    best = table.loc[value.idxmax()]
    axes.fill_between(delay, value - deviation, value + deviation, color=style.ACCENT, alpha=0.2, linewidth=0)
    axes.plot(delay, value, "o-", color=style.ACCENT, markersize=3, linewidth=1.2)
    axes.plot(best["delay_s"], best[score], "o", color=style.SECOND, markersize=5)
    axes.axhline(chance, color=style.MUTED, linestyle="--", linewidth=0.8)
    axes.annotate("chance", (0.5, chance), (0, 2), ("axes fraction", "data"), "offset points", ha="center",
                  fontsize=style.NOTE, color=style.MUTED)  # fmt: skip
    axes.set_title(f"best at {best['delay_s']:g} s: {best[score]:.2f}", color=style.SECOND)
    axes.set_ylabel(label)
    if len(delay) <= 9:
        axes.set_xticks(delay)
