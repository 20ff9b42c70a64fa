"""Runs -> voxel reproducibility map, selected voxels, train and test arrays (MinD-Video 3.2).

A vertex is kept if it does the same each time the same movie is shown:

1. r between repeats, in every training segment
2. Fisher's z
3. a one-sample t-test over segments, corrected over vertices
4. of the significant vertices, the most significant share

Test runs enter nowhere but in `test`, which applies what `train` fitted.
"""

import hashlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mindreel.artifacts import load_array, load_table, save_array, save_json, save_table
from mindreel.brain import surface
from mindreel.brain.reproducibility import Selection, choose, correlate, fisher_z, strength
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
        The subject's cleaned training runs (.npy), (T, 59412) float32, named {segment}_{repeat}.npy.
    voxels : Path
        Table that is written (.tsv), a row per selected voxel, in model order: up the visual hierarchy, left before
        right, by vertex.
    maps : Path
        Maps that are written (.dscalar.nii): r, t, -log10 p, p, selected.
    summary : Path
        Counts that are written (.json), beside them the published count if `dataset` and `subject` are the paper's.
    cfg : Roi
        Section roi of the configuration.
    dataset : str
        Name of the data set.
    subject : str
        The subject's name in it.

    Raises
    ------
    InputError
        If fewer than two segments have repeats, runs differ in length or are the same recording, or no voxel is
        reproducible.
    """
    atlas = surface.atlas()
    segments = by_segment(bold)
    selection = choose(read_reproducibility(segments), cfg)
    table = atlas.assign(r=selection.r, t=selection.t, p=selection.p)[selection.selected]
    table = table.sort_values(["rank", "hemisphere", "vertex"], kind="stable")
    published = PUBLISHED.get(dataset, {}).get(subject)
    counts = summarise(selection, segments, table, cfg.alternative, published)
    surface.save_dscalar(maps, selection.maps())
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
    """Gather the training runs at the selected voxels and standardise them.

    Parameters
    ----------
    voxels : Path
        Table of the V selected voxels (.tsv), as of `mindreel roi select`.
    bold : list of Path
        The subject's cleaned training runs (.npy), (T, 59412) float32, named {segment}_{repeat}.npy.
    out : Path
        Array that is written (.npy): (S, T, V) float32. A row is a segment, its repeats averaged, or with roi.repeats:
        stack a run; rows come in the order of `bold`.
    statistics : Path
        Mean and deviation of each voxel that were used (.npy), written: (2, V) float32.
    pairs : Path
        Table that is written (.tsv): which frames of which movie belong to each volume.
    cfg : Roi
        Section roi of the configuration.
    tr_s : float
        Repetition time (s).
    frames : int
        Number of frames that are paired with a volume.

    Raises
    ------
    InputError
        If the table has no voxels, runs differ in length, or repeats are the same recording.
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
    """Average the test repeats at the selected voxels and standardise them with the training statistics.

    Parameters
    ----------
    voxels : Path
        Table of the V selected voxels (.tsv), as of `mindreel roi select`.
    statistics : Path
        Mean and deviation of each voxel (.npy), as of `mindreel roi train`.
    bold : list of Path
        The subject's cleaned test runs (.npy), (T, 59412) float32, named {segment}_{repeat}.npy.
    out : Path
        Array that is written (.npy): (S, T, V) float32, a row per segment, its repeats averaged.
    pairs : Path
        Table that is written (.tsv): which frames of which movie belong to each volume.
    tr_s : float
        Repetition time (s).
    frames : int
        Number of frames that are paired with a volume.

    Raises
    ------
    InputError
        If voxels and statistics do not belong together, runs differ in length, or repeats are the same recording.
    """
    index, fitted = read_voxels(voxels), load_array(statistics)
    if fitted.shape != (2, len(index)):
        raise InputError(f"{statistics}: found the shape {fitted.shape}, expected (2, {len(index)}) as of {voxels}")
    rows = by_segment(bold)
    series = average_repeats(rows, index)
    save_table(pairs, pairing(rows, series.shape[1], tr_s, frames))
    save_array(out, standardise(series, fitted))


def by_segment(paths: list[Path]) -> dict[str, list[Path]]:
    """Group runs by segment.

    Parameters
    ----------
    paths : list of Path
        Runs named {segment}_{repeat}.npy.

    Returns
    -------
    segments : dict of list of Path
        The runs of each segment, in the order of first appearance.

    Raises
    ------
    InputError
        If a name is another one, or is given twice.
    """
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
    """Read the grayordinates of a `voxels.tsv`, in model order: (V,) int64.

    Raises
    ------
    InputError
        If the table holds none, or one that does not exist or is there twice.
    """
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


def read_reproducibility(segments: dict[str, list[Path]]) -> np.ndarray:
    """Correlate the repeats of every segment that has some.

    Parameters
    ----------
    segments : dict of list of Path
        Runs of each segment, as of `by_segment`.

    Returns
    -------
    z : ndarray of shape (S, 59412), float64
        Fisher's z of the S segments with repeats, mean over pairs of repeats; NaN where a vertex is constant.

    Raises
    ------
    InputError
        If fewer than two segments have repeats, repeats differ in length, or two are the same recording.
    """
    repeated = {segment: runs for segment, runs in segments.items() if len(runs) > 1}
    if len(repeated) < 2:
        raise InputError(
            f"voxel selection needs 2 or more training segments with 2 or more repeats each, found {len(repeated)} "
            f"among {len(segments)} ({', '.join(segments)}); add runs to the sample sheet or lift an `exclude`"
        )
    return np.stack([_reproducibility(*item) for item in tqdm(repeated.items(), desc="segments", mininterval=5)])


def _reproducibility(segment: str, runs: list[Path]) -> np.ndarray:
    """Fisher's z of one segment, mean over all pairs of its repeats: (59412,)."""
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


def summarise(
    selection: Selection,
    segments: dict[str, list[Path]],
    table: pd.DataFrame,
    alternative: str,
    published: int | None,
) -> dict[str, object]:
    """Count what was tested and selected.

    Parameters
    ----------
    selection : Selection
        The tests and the selected vertices.
    segments : dict of list of Path
        Runs of each segment.
    table : DataFrame
        The selected voxels, in model order.
    alternative : str
        greater or two-sided.
    published : int, optional
        The paper's number of voxels.

    Returns
    -------
    counts : dict
        What `summary.json` holds.
    """
    tested = np.isfinite(selection.p)
    ranked = strength(selection.t, alternative)
    return {
        "segments": [name for name, runs in segments.items() if len(runs) > 1],
        "segments_without_repeat": [name for name, runs in segments.items() if len(runs) == 1],
        "vertices": int(tested.size),
        "tested": int(tested.sum()),
        "excluded": int(tested.size - tested.sum()),
        "significant": int(selection.significant.sum()),
        "selected": len(table),
        "published": published,
        "t_significant": float(ranked[selection.significant].min()),
        "t_selected": float(ranked[selection.selected].min()),
        "repeats": {name: len(runs) for name, runs in segments.items()},
        "areas": counts_per_area(table),
    }


def pairing(rows: dict[str, list[Path]], volumes: int, tr_s: float, frames: int) -> pd.DataFrame:
    """Say what was on the screen during each volume of an array (S, T, V).

    Parameters
    ----------
    rows : dict of list of Path
        The array's S rows and the runs of each, named {segment}_{repeat}.npy.
    volumes : int
        Length T of a row.
    tr_s : float
        Repetition time (s).
    frames : int
        Number of frames per volume.

    Returns
    -------
    table : DataFrame of S x T rows
        row, volume, segment, repeats ("1,2"), onset_s (of the volume, from the first one kept), first_frame, last_frame
        (of the segment's extracted frames, counted through).
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
    """Average each segment's repeats at some grayordinates; repeats may differ in number.

    Parameters
    ----------
    segments : dict of list of Path
        Runs of each of S segments, (T, 59412) each.
    voxels : ndarray of shape (V,), int
        Grayordinates.

    Returns
    -------
    series : ndarray of shape (S, T, V), float32
        Means over repeats.

    Raises
    ------
    InputError
        If two runs differ in length, the runs are not (T, 59412), or two repeats are the same recording.
    """
    averages, shape, example = [], None, None
    for runs in tqdm(segments.values(), desc="segments", mininterval=5):
        repeats: list[np.ndarray] = []
        path_of: dict[bytes, Path] = {}
        for path in runs:
            series = load_array(path)
            shape, example = shape or series.shape, example or path
            if series.shape != shape or series.ndim != 2 or series.shape[1] != surface.VERTICES:
                raise InputError(
                    f"{path}: found the shape {series.shape}, expected {shape} as in {example}, with "
                    f"{surface.VERTICES} columns; all segments of a split must be equally long (bold.trim)"
                )
            part = np.asarray(series[:, voxels])
            same = path_of.setdefault(hashlib.sha256(part.tobytes()).digest(), path)
            if same is not path:
                raise InputError(
                    f"{same} and {path} are the same recording; correct the files or set `exclude` for one in the "
                    "sample sheet"
                )
            repeats.append(part.astype(np.float64))
        averages.append((sum(repeats, np.zeros_like(repeats[0])) / len(runs)).astype(np.float32))
    return np.stack(averages)


def fit_statistics(series: np.ndarray) -> np.ndarray:
    """Fit mean and deviation (ddof 0) of each voxel over segments and volumes of (S, T, V): (2, V) float32."""
    flat = series.reshape(-1, series.shape[-1])
    return np.stack([flat.mean(axis=0, dtype=np.float64), flat.std(axis=0, dtype=np.float64)]).astype(np.float32)


def standardise(series: np.ndarray, statistics: np.ndarray) -> np.ndarray:
    """Apply (2, V) statistics to (S, T, V): float32; a voxel without deviation is only centred."""
    mean, deviation = statistics
    return ((series - mean) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)


def counts_per_area(table: pd.DataFrame) -> dict[str, int]:
    """Count a table's voxels per area, in the table's order."""
    return {str(area): int(count) for area, count in table.groupby("area", sort=False).size().items()}
