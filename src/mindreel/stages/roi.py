"""Runs -> voxel reproducibility map, selected voxels, train and test arrays (MinD-Video 3.2).

A vertex is kept if it does the same thing each time the same movie is shown: r between repeats in every training
segment, Fisher z, a one-sample t-test over segments, corrected over vertices; of the survivors the most significant
share. Test runs enter nowhere but in `test`, which applies what `train` fitted.
"""

import hashlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mindreel.artifacts import load_array, load_table, save_array, save_json, save_table
from mindreel.brain import surface
from mindreel.brain.reproducibility import correlate, fisher_z, most_significant, survivors, t_test
from mindreel.errors import InputError
from mindreel.sections import Roi

SAME = 0.9999  # two recordings of a brain are never this alike
PUBLISHED = {"wen2018": {"1": 6016, "2": 6224, "3": 3744}}  # voxels that MinD-Video 4.1 kept, by data set and subject


def select(
    *,
    bold: list[Path],
    voxels: Path,
    maps: Path,
    summary: Path,
    cfg: Roi,
    dataset: str = "",
    subject: str = "",
) -> None:
    """Select a subject's reproducible voxels from the training runs.

    Parameters
    ----------
    bold : list of Path
        Cleaned training runs, (T, 59412) float32 each, named {segment}_{repeat}.npy.
    voxels : Path
        Table to write, a row per selected voxel, in model order: up the visual hierarchy, left before right, by vertex.
    maps : Path
        Maps to write, .dscalar.nii: r, t, -log10 p, p, selected.
    summary : Path
        Counts to write, .json.
    cfg : Roi
        Section roi of the configuration.
    dataset : str
        The data set's name: beside the counts of a paper's data set stand the published ones.
    subject : str
        The subject's name, for the same.

    Raises
    ------
    InputError
        If there are too few repeats, or no voxel is reproducible.
    """
    atlas = surface.atlas()
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
    chosen = most_significant(t, significant, cfg.top_fraction, cfg.alternative, cfg.top_count)
    finite = np.isfinite(z).all(axis=0)
    r = np.tanh(np.where(finite, z, 0.0).mean(axis=0))
    table = atlas.assign(r=r, t=t, p=p)[chosen]
    table = table.sort_values(["rank", "hemisphere", "vertex"], kind="stable")
    strength = t if cfg.alternative == "greater" else np.abs(t)
    published = PUBLISHED.get(dataset, {}).get(subject)
    counts = {
        "segments": list(repeated),
        "segments_without_repeat": [name for name in segments if name not in repeated],
        "vertices": int(tested.size),
        "tested": int(tested.sum()),
        "excluded": int(tested.size - tested.sum()),
        "significant": int(significant.sum()),
        "selected": len(table),
        "published": published,
        "t_significant": float(strength[significant].min()),
        "t_selected": float(strength[chosen].min()),
        "repeats": {name: len(runs) for name, runs in segments.items()},
        "areas": counts_per_area(table),
    }
    log_p = -np.log10(np.maximum(np.nan_to_num(p, nan=1.0), np.finfo(float).tiny))
    p = np.nan_to_num(p, nan=1.0)
    surface.save_dscalar(maps, {"r": r, "t": np.nan_to_num(t), "-log10 p": log_p, "p": p, "selected": chosen})
    save_json(summary, counts)
    save_table(voxels, table)
    paper = f" (in the paper: {published})" if published else ""
    print(f"{counts['tested']} vertices tested, {counts['significant']} significant, {len(table)} selected{paper}")
    if cfg.top_count and len(table) < cfg.top_count:
        print(f"warning: roi.top_count is {cfg.top_count}, but only {len(table)} voxels passed the other criteria")


def train(
    *,
    voxels: Path,
    bold: list[Path],
    out: Path,
    statistics: Path,
    pairs: Path,
    cfg: Roi,
    tr_s: float,
    frames: int,
) -> None:
    """Gather the training runs at the selected voxels and standardise.

    A row is a segment, its repeats averaged, or (roi.repeats: stack) a run; rows come in the order of the list.

    Parameters
    ----------
    voxels : Path
        Table of `roi select`.
    bold : list of Path
        Cleaned training runs, named {segment}_{repeat}.npy.
    out : Path
        (S, T, V) float32.
    statistics : Path
        Mean and deviation that were used, (2, V) float32.
    pairs : Path
        Table to write: which frames of which movie belong to each volume.
    cfg : Roi
        Section roi of the configuration.
    tr_s : float
        Repetition time (s).
    frames : int
        Frames that a volume is paired with.
    """
    rows = by_segment(bold)
    if cfg.repeats == "stack":
        rows = {path.stem: [path] for runs in rows.values() for path in runs}
        rows = {path.stem: rows[path.stem] for path in bold}
    series = average_repeats(rows, read_voxels(voxels))
    fitted = fit_statistics(series)
    save_array(statistics, fitted)
    save_table(pairs, pairing(rows, series.shape[1], tr_s, frames))
    save_array(out, standardise(series, fitted))


def test(*, voxels: Path, statistics: Path, bold: list[Path], out: Path, pairs: Path, tr_s: float, frames: int) -> None:
    """Average the test repeats at the selected voxels; standardise with the training statistics.

    Parameters
    ----------
    voxels : Path
        Table of `roi select`.
    statistics : Path
        Mean and deviation of the training data, as `roi train` wrote them.
    bold : list of Path
        Cleaned test runs, named {segment}_{repeat}.npy.
    out : Path
        (S, T, V) float32.
    pairs : Path
        Table to write: which frames of which movie belong to each volume.
    tr_s : float
        Repetition time (s).
    frames : int
        Frames that a volume is paired with.
    """
    index, fitted = read_voxels(voxels), load_array(statistics)
    if fitted.shape != (2, len(index)):
        raise InputError(f"{statistics}: found the shape {fitted.shape}, expected (2, {len(index)}) as of {voxels}")
    rows = by_segment(bold)
    series = average_repeats(rows, index)
    save_table(pairs, pairing(rows, series.shape[1], tr_s, frames))
    save_array(out, standardise(series, fitted))


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
    table = load_table(path)
    if "grayordinate" not in table or not len(table):
        raise InputError(f"{path}: no grayordinates; expected a table that `mindreel roi select` wrote")
    index = table["grayordinate"].to_numpy(np.int64)
    wrong = index[(index < 0) | (index >= surface.VERTICES)]
    if len(wrong) or len(np.unique(index)) < len(index):
        raise InputError(
            f"{path}: grayordinates must be different and below {surface.VERTICES}, found "
            f"{f'{wrong[0]}' if len(wrong) else 'one twice'}; rerun `mindreel roi select`"
        )
    return index


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


def pairing(rows: dict[str, list[Path]], volumes: int, tr_s: float, frames: int) -> pd.DataFrame:
    """Say what was on the screen during each volume of an array (S, T, V).

    Parameters
    ----------
    rows : dict
        The array's rows and the runs of each, named {segment}_{repeat}.npy.

    Returns
    -------
    table : a line per row and volume: row, volume, segment, repeats ("1,2"), onset_s (of the volume, from the first one
        kept), first_frame, last_frame (of the segment's extracted frames, counted through)
    """
    volume = np.arange(volumes)
    parts = []
    for row, runs in enumerate(rows.values()):
        names = [path.stem.rpartition("_") for path in runs]
        parts.append(
            pd.DataFrame(
                {
                    "row": row,
                    "volume": volume,
                    "segment": names[0][0],
                    "repeats": ",".join(repeat for _, _, repeat in names),
                    "onset_s": volume * tr_s,
                    "first_frame": volume * frames,
                    "last_frame": (volume + 1) * frames - 1,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def average_repeats(segments: dict[str, list[Path]], voxels: np.ndarray) -> np.ndarray:
    """Average each segment's repeats at some grayordinates: (S, T, V) float32; repeats may differ in number.

    Raises
    ------
    InputError
        If two runs differ in length, the runs are not (T, 59412), or two repeats are the same recording.
    """
    averages: list[np.ndarray] = []
    shape, example = None, None
    for runs in tqdm(segments.values(), desc="segments", mininterval=5):
        total: np.ndarray | float = 0.0
        known: dict[bytes, Path] = {}
        for path in runs:
            series = load_array(path)
            shape, example = shape or series.shape, example or path
            if series.shape != shape or series.ndim != 2 or series.shape[1] != surface.VERTICES:
                raise InputError(
                    f"{path}: found the shape {series.shape}, expected {shape} as in {example}, with "
                    f"{surface.VERTICES} columns; all segments of a split must be equally long (bold.trim)"
                )
            part = np.asarray(series[:, voxels])
            same = known.setdefault(hashlib.sha256(part.tobytes()).digest(), path)
            if same is not path:
                raise InputError(
                    f"{same} and {path} are the same recording; correct the files or set `exclude` for one in the "
                    "sample sheet"
                )
            total = total + part.astype(np.float64)
        averages.append(np.asarray(total / len(runs), np.float32))
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
