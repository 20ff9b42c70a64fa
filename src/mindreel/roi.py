"""Runs -> voxel reproducibility map, selected voxels, train and test arrays (MinD-Video 3.2).

A vertex is kept if it does the same thing each time the same movie is shown: r between repeats in every training
segment, Fisher z, a one-sample t-test over segments, corrected over vertices; of the survivors the most significant
share. Test runs enter nowhere but in `test`, which applies what `train` fitted.
"""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mindreel import surface
from mindreel.artifacts import load_array, load_table, save_array, save_json, save_table
from mindreel.config import Roi
from mindreel.errors import InputError

LIMIT = 1 - 1e-6  # identical runs give |r| of 1 or, by rounding, above: z must stay finite
SAME = 0.9999  # two recordings of a brain are never this alike
ROWS = 32  # volumes read at once, to bound memory


def select(*, bold: list[Path], voxels: Path, maps: Path, summary: Path, cfg: Roi) -> None:
    """Select a subject's reproducible voxels from the training runs, named {segment}_{repeat}.npy.

    Writes `voxels` (a table, one row per selected voxel, in model order: up the visual hierarchy, left before right, by
    vertex), `maps` (.dscalar.nii: r, t, -log10 p, selected) and `summary` (.json: counts).
    """
    segments = by_segment(bold)
    repeated = {segment: runs for segment, runs in segments.items() if len(runs) > 1}
    if len(repeated) < 2:
        raise InputError(
            f"voxel selection needs 2 or more training segments with 2 or more repeats each, found {len(repeated)} "
            f"among {len(segments)} ({', '.join(segments)}); add runs to the sample sheet or lift an `exclude`"
        )
    z = np.stack([_reproducibility(*item) for item in tqdm(repeated.items(), desc="segments", mininterval=5)])
    t, p = t_test(z, cfg.alternative)
    tested = np.isfinite(p)
    significant = survivors(p, cfg.alpha, cfg.correction)
    if not significant.any():
        least = f"the smallest p is {np.nanmin(p):.3g}" if tested.any() else "all were constant"
        raise InputError(
            f"no voxel is reproducible: {tested.sum()} of {tested.size} vertices tested, {least}, alpha {cfg.alpha:g}, "
            f"correction {cfg.correction}; raise roi.alpha, set roi.correction to fdr or none, or add training segments"
        )
    chosen = most_significant(t, significant, cfg.top_fraction, cfg.alternative)
    finite = np.isfinite(z).all(axis=0)
    r = np.tanh(np.where(finite, z, 0.0).mean(axis=0))
    table = surface.atlas().assign(r=r, t=t, p=p)[chosen]
    table = table.sort_values(["rank", "hemisphere", "vertex"], kind="stable")
    counts = {
        "segments": list(repeated),
        "segments_without_repeat": [name for name in segments if name not in repeated],
        "vertices": int(tested.size),
        "tested": int(tested.sum()),
        "excluded": int(tested.size - tested.sum()),
        "significant": int(significant.sum()),
        "selected": len(table),
        "areas": counts_per_area(table),
    }
    log_p = -np.log10(np.maximum(np.nan_to_num(p, nan=1.0), np.finfo(float).tiny))
    surface.save_dscalar(maps, {"r": r, "t": np.nan_to_num(t), "-log10 p": log_p, "selected": chosen})
    save_json(summary, counts)
    save_table(voxels, table)
    print(f"{counts['tested']} vertices tested, {counts['significant']} significant, {counts['selected']} selected")


def train(*, voxels: Path, bold: list[Path], out: Path, statistics: Path) -> None:
    """Average the training repeats at the selected voxels and standardise: (S, T, V) float32.

    Segments come in the order of their first run in the list. The mean and deviation that were used go to `statistics`,
    (2, V) float32.
    """
    series = average_repeats(by_segment(bold), read_voxels(voxels))
    fitted = fit_statistics(series)
    save_array(statistics, fitted)
    save_array(out, standardise(series, fitted))


def test(*, voxels: Path, statistics: Path, bold: list[Path], out: Path) -> None:
    """Average the test repeats at the selected voxels, standardise with the TRAINING statistics: (S, T, V) float32."""
    index, fitted = read_voxels(voxels), load_array(statistics)
    if fitted.shape != (2, len(index)):
        raise InputError(f"{statistics}: found the shape {fitted.shape}, expected (2, {len(index)}) as of {voxels}")
    save_array(out, standardise(average_repeats(by_segment(bold), index), fitted))


def by_segment(paths: list[Path]) -> dict[str, list[Path]]:
    """Group runs named {segment}_{repeat}.npy by segment, in the order of first appearance."""
    segments: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        segment, _, repeat = path.stem.rpartition("_")
        if not segment or not repeat.isdigit():
            raise InputError(f"{path}: expected a name like seg1_2.npy ({{segment}}_{{repeat}}.npy)")
        if any(other.stem == path.stem for other in segments.get(segment, [])):
            raise InputError(f"{path}: {path.stem} is given twice")
        segments.setdefault(segment, []).append(path)
    return segments


def read_voxels(path: Path) -> np.ndarray:
    """Read the grayordinates of a `voxels.tsv`, in model order: (V,) int."""
    return load_table(path)["grayordinate"].to_numpy(np.int64)


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's r of each column of two (T, N) arrays: (N,) float64; NaN where a column is constant or not finite."""
    means = [np.add.reduce(series, axis=0, dtype=np.float64) / len(series) for series in (first, second)]
    sums = np.zeros((3, first.shape[1]))
    for start in range(0, len(first), ROWS):
        rows = slice(start, start + ROWS)
        a, b = (np.asarray(s[rows], np.float64) - m for s, m in zip((first, second), means, strict=True))
        sums += [np.einsum("tn,tn->n", *pair) for pair in ((a, b), (a, a), (b, b))]
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[0] / np.sqrt(sums[1] * sums[2])


def fisher_z(r: np.ndarray) -> np.ndarray:
    """Fisher's z = arctanh(r), r clipped just inside (-1, 1); NaN stays NaN."""
    return np.arctanh(np.clip(r, -LIMIT, LIMIT))


def _reproducibility(segment: str, runs: list[Path]) -> np.ndarray:
    series = [load_array(path) for path in runs]
    for path, array in zip(runs, series, strict=True):
        if array.shape != series[0].shape or array.ndim != 2 or array.shape[1] != surface.VERTICES:
            raise InputError(
                f"{path}: found the shape {array.shape}, {runs[0].name} has {series[0].shape}; expected "
                f"{surface.VERTICES} columns and the repeats of {segment} equally long (bold.trim)"
            )
    total = np.zeros(surface.VERTICES)
    pairs = list(combinations(range(len(series)), 2))
    for i, j in pairs:
        r = correlate(series[i], series[j])
        if np.isfinite(r).any() and np.nanmedian(r) > SAME:
            raise InputError(
                f"{runs[i]} and {runs[j]} are the same recording (median r {np.nanmedian(r):.6f}): they say nothing "
                "about reproducibility; correct the files or set `exclude` for one in the sample sheet"
            )
        total += fisher_z(r)
    return total / len(pairs)


def t_test(z: np.ndarray, alternative: str) -> tuple[np.ndarray, np.ndarray]:
    """Test whether the mean over segments is above zero ("greater") or not zero ("two-sided").

    t = mean / (deviation / sqrt(S)), S - 1 degrees of freedom.

    Parameters
    ----------
    z : (S, N) Fisher z

    Returns
    -------
    t, p : (N,); NaN where a segment's z is not finite or all segments have the same
    """
    from scipy.stats import t as student

    count = len(z)
    usable = np.isfinite(z).all(axis=0)
    safe = np.where(usable, z, 0.0)
    deviation = safe.std(axis=0, ddof=1)
    usable &= deviation > 1e-12 * np.abs(safe).max(axis=0)
    t = np.where(usable, safe.mean(axis=0) * np.sqrt(count) / np.where(usable, deviation, 1.0), np.nan)
    p = student.sf(t, count - 1) if alternative == "greater" else 2 * student.sf(np.abs(t), count - 1)
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


def most_significant(t: np.ndarray, significant: np.ndarray, fraction: float, alternative: str) -> np.ndarray:
    """Keep the share of the significant tests with the largest t (two-sided: |t|): (N,) bool; at least one."""
    strength = np.where(significant, t if alternative == "greater" else np.abs(t), -np.inf)
    count = max(1, int(fraction * significant.sum() + 1e-9))
    chosen = np.zeros(len(t), bool)
    chosen[np.argsort(-strength, kind="stable")[:count]] = True
    return chosen


def average_repeats(segments: dict[str, list[Path]], voxels: np.ndarray) -> np.ndarray:
    """Average each segment's repeats at some grayordinates: (S, T, V) float32; repeats may differ in number.

    Raises
    ------
    InputError
        If two runs differ in length, or the runs are not (T, 59412).
    """
    averages, shape, example = [], None, None
    for runs in tqdm(segments.values(), desc="segments", mininterval=5):
        total = 0.0
        for path in runs:
            series = load_array(path)
            shape, example = shape or series.shape, example or path
            if series.shape != shape or series.ndim != 2 or series.shape[1] != surface.VERTICES:
                raise InputError(
                    f"{path}: found the shape {series.shape}, expected {shape} as in {example}, with "
                    f"{surface.VERTICES} columns; all segments of a split must be equally long (bold.trim)"
                )
            total = total + np.asarray(series[:, voxels], np.float64)
        averages.append((total / len(runs)).astype(np.float32))
    return np.stack(averages)


def fit_statistics(series: np.ndarray) -> np.ndarray:
    """Mean and deviation (ddof 0) of each voxel over segments and volumes of (S, T, V): (2, V) float32."""
    flat = series.reshape(-1, series.shape[-1])
    return np.stack([flat.mean(axis=0, dtype=np.float64), flat.std(axis=0, dtype=np.float64)]).astype(np.float32)


def standardise(series: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """Subtract the mean and divide by the deviation of (2, V) statistics; a voxel without deviation stays unscaled."""
    mean, deviation = statistics
    return ((series - mean) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)


def counts_per_area(table: pd.DataFrame) -> dict[str, int]:
    """Count a table's voxels per area, in the table's order."""
    return {str(area): int(count) for area, count in table.groupby("area", sort=False).size().items()}
