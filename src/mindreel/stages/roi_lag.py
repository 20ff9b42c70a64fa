"""Find how late the fMRI is that a picture is best decoded from (`mindreel roi lag`).

A look at the training data, not a step of the pipeline: it helps to choose `encoder.shift`.
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
    """Sweep the delay between a picture and the fMRI that it is decoded from: a table and its curves.

    Ridge regression from a volume to the CLIP embedding of the frames shown that many TRs earlier, cross-validated over
    training segments.

    Parameters
    ----------
    bold : Path
        The subject's train.npy, (S, T, V) float32.
    targets : list of Path
        Folders of stage targets of its S rows, in that order.
    out : Path
        Table, a row per delay: lag (volumes), delay_s, r (of true and decoded values, mean over the embedding's
        dimensions), two_way (share of clips that are nearer to their own embedding than to another's; chance is 0.5),
        and the deviation of both over folds (r_deviation, two_way_deviation).
    figure : Path
        Both curves, .png or .svg.
    tr_s : float
        Repetition time (s).
    """
    series = load_array(bold)
    wanted = [load_array(folder / "image.npy") for folder in targets]
    if [len(array) for array in wanted] != [series.shape[1]] * len(series):
        raise InputError(
            f"{bold} has {series.shape[0]} rows of {series.shape[1]} volumes, the {len(wanted)} targets have "
            f"{', '.join(str(len(array)) for array in wanted)}; give --targets once per row of the fMRI, in its order"
        )
    lags = range(math.floor(LONGEST_S / tr_s + 1e-9) + 1)
    segments = list(dict.fromkeys(targets))
    if len(segments) < 2 or series.shape[1] < len(lags) + 2:
        raise InputError(
            f"{bold}: {len(segments)} segments of {series.shape[1]} volumes; a sweep of {len(lags)} delays that is "
            f"cross-validated over segments needs 2 segments of {len(lags) + 2} volumes or more"
        )
    pictures = np.stack([array[:, :, 0].mean(axis=1) for array in wanted])  # (S, T, E)
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
    series : (S, T, V)
    pictures : (S, T, E)
    fold : (S,) int
        Rows of one fold are left out together.

    Returns
    -------
    found : a row per delay: lag, r, two_way, r_deviation, two_way_deviation
    """
    from sklearn.linear_model import RidgeCV

    length = series.shape[1] - max(lags)
    found = []
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
        found.append({"lag": late, **folds.mean(), **folds.std().add_suffix("_deviation")})
    return found


def two_way(true: np.ndarray, decoded: np.ndarray) -> float:
    """Share of pairs (i, j) of which decoded i correlates more with true i than with true j; both (N, E)."""
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (decoded, true))
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    alike = a @ b.T
    beaten = alike < np.diag(alike)[:, None]
    return float(beaten.sum() / (beaten.size - len(beaten)))


def draw(table: pd.DataFrame) -> Figure:
    """Draw both scores of a sweep over the delay, with what chance would give and the best delay."""
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
