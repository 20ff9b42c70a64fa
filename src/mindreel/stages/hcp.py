"""HCP runs -> windows for masked brain modelling (MinD-Video supplement B, after Mind-Vis).

A window is the mean of `hcp.window` volumes. Each run is then standardised with one mean and one deviation over all its
voxels and windows. There is one job per subject; what the jobs made is then listed in one index. Padding to the patch
size is left to the model. Artifacts call windows segments (see `brain.hcp_windows`).
"""

import difflib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mindreel.artifacts import atomic, save_json, save_table
from mindreel.brain import cifti, surface
from mindreel.brain.hcp_windows import INDEX, Windows, read_index, read_runs
from mindreel.dataset import limits
from mindreel.errors import InputError
from mindreel.sections import Hcp

SKIPPED = ("subject", "run", "reason")
BLOCK = 512  # grayordinates read at once, to bound memory
GAP = 32  # grayordinates that are read although nobody asked, rather than reading twice


def segments(*, subject: str, runs: list[Path], out: Path, cfg: Hcp) -> None:
    """Average one HCP subject's runs over windows of volumes, in the visual areas.

    A run that lacks a vertex of an area or is shorter than a window or has another TR is skipped; all may be. Memory
    does not grow with the number of runs, and a run is never in memory whole.

    Parameters
    ----------
    subject : str
        The subject's name, for the tables.
    runs : list of Path
        The subject's runs (.dtseries.nii).
    out : Path
        Folder that is written: `segments.npy`, (N, V) float16, N windows of the areas' V vertices, area after area,
        left before right; `runs.tsv`, a row per run (see `brain.hcp_windows`); `skipped.tsv`, runs that could not be
        used, and why.
    cfg : Hcp
        Section hcp of the configuration.

    Raises
    ------
    InputError
        If the atlas has no such area.
    """
    voxels = area_voxels(cfg.areas)
    index: list[tuple] = []
    skipped: list[tuple] = []
    count = 0
    with atomic(out) as folder:
        folder.mkdir()
        with array_writer(folder / "segments.npy", len(voxels), np.float16) as append:
            for run in tqdm(runs, desc=f"runs of {subject}", mininterval=5):
                try:
                    windows, volumes = read_windows(run, voxels, cfg)
                    rows = normalise(windows)
                except InputError as error:
                    skipped.append((subject, str(run), str(error)))
                    print(f"skipped: {run}: {error}")
                    continue
                append(rows)
                index.append((subject, str(run), "segments.npy", count, len(rows), volumes))
                count += len(rows)
        save_table(folder / "runs.tsv", pd.DataFrame(index, columns=list(INDEX)))
        save_table(folder / "skipped.tsv", pd.DataFrame(skipped, columns=list(SKIPPED)))
    print(f"{subject}: {count} windows of {len(voxels)} voxels from {len(index)} of {len(runs)} runs")


def gather(*, subjects: list[Path], index: Path, skipped: Path, summary: Path, cfg: Hcp) -> None:
    """List what the subjects' folders hold; nothing is copied.

    Parameters
    ----------
    subjects : list of Path
        Folders that `mindreel hcp segments` made.
    index : Path
        Table that is written (.tsv), a row per used run. Its folder is what `brain.hcp_windows.open_windows` opens.
    skipped : Path
        Table that is written (.tsv), a row per run that could not be used, with the reason.
    summary : Path
        Counts that are written (.json): voxels (whole and per area), windows, runs and subjects.
    cfg : Hcp
        Section hcp of the configuration.

    Raises
    ------
    InputError
        If no run of any subject could be used, or a shard's voxel count is not that of `hcp.areas`.
    """
    voxels = area_voxels(cfg.areas)
    used = pd.concat([_index_from(folder, index.parent) for folder in subjects], ignore_index=True)
    unused = pd.concat([read_runs(folder / "skipped.tsv") for folder in subjects], ignore_index=True)
    runs = len(used) + len(unused)
    if used.empty:
        reason = f"; the first, {unused.run.iloc[0]}: {unused.reason.iloc[0]}" if len(unused) else ""
        raise InputError(f"none of {runs} HCP runs could be used{reason}; check hcp.pattern")
    opened = Windows([index.parent / shard for shard in used.shard.unique()])
    if opened.shape != (used.segments.sum(), len(voxels)):
        raise InputError(
            f"{index.parent}: the shards hold {opened.shape[0]} windows of {opened.shape[1]} voxels, expected "
            f"{used.segments.sum()} of {len(voxels)} by their indices and hcp.areas; delete them and rerun hcp"
        )
    counts = {
        "voxels": len(voxels),
        "voxels_per_area": {area: int((voxels.area == area).sum()) for area in cfg.areas},
        "segments": len(opened),
        "segment_s": round(cfg.window * cfg.tr_s, 6),
        "subjects": int(used.subject.nunique()),
        "subjects_without_a_run": len(subjects) - int(used.subject.nunique()),
        "runs": len(used),
        "runs_skipped": len(unused),
    }
    save_table(skipped, unused)
    save_json(summary, counts)
    save_table(index, used)
    print(f"{len(opened)} windows of {len(voxels)} voxels; {len(used)} of {runs} runs of {len(subjects)} subjects")


def _index_from(folder: Path, base: Path) -> pd.DataFrame:
    """Read a subject's index, with the shards' paths as seen from another folder."""
    index = read_index(folder)
    return index.assign(shard=[os.path.relpath(folder / shard, base) for shard in index["shard"]])


def area_voxels(areas: tuple[str, ...]) -> pd.DataFrame:
    """Describe the vertices of Glasser areas.

    Parameters
    ----------
    areas : tuple of str
        Names of areas, without hemisphere.

    Returns
    -------
    voxels : DataFrame of V rows
        grayordinate, hemisphere, vertex, area, as in `surface.atlas`; area after area in the given order, left before
        right.

    Raises
    ------
    InputError
        If the atlas has no such area.
    """
    atlas = surface.atlas()
    names = set(atlas["area"])
    unknown = [area for area in areas if area not in names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, n=5, cutoff=0.3)
        raise InputError(f"hcp.areas: no such Glasser area: {', '.join(unknown)}; near: {', '.join(near) or 'none'}")
    chosen = pd.concat([atlas[atlas["area"] == area] for area in areas], ignore_index=True)
    return chosen[["grayordinate", "hemisphere", "vertex", "area"]]


def read_windows(run: Path, voxels: pd.DataFrame, cfg: Hcp) -> tuple[np.ndarray, int]:
    """Read the window means of some vertices, block by block, and the run's length in volumes.

    Parameters
    ----------
    run : Path
        A .dtseries.nii with an fsLR 32k cortex; the order of its structures does not matter.
    voxels : DataFrame of V rows
        As of `area_voxels`.
    cfg : Hcp
        Section hcp of the configuration.

    Returns
    -------
    windows : ndarray of shape (T // window, V), float64
        Means over the windows' volumes.
    volumes : int
        Length T of the run.

    Raises
    ------
    InputError
        If the run cannot be read, its TR is not `cfg.tr_s`, it is shorter than a window or lacks a vertex, or an area
        of a hemisphere is constant.
    """
    series = cifti.open_series(run)
    volumes = series.shape[0]
    if not limits.same_tr(series.tr_s, cfg.tr_s):
        raise InputError(f"its TR is {series.tr_s:g} s, hcp.tr_s says {cfg.tr_s:g} s")
    columns = find_columns(series, voxels)
    windows = np.empty((volumes // cfg.window, len(columns)))
    for first, last, members in blocks(columns):
        block = series.read(first, last)  # (T, n): in HCP's files contiguous
        windows[:, members] = window_means(block[:, columns[members] - first], cfg.window)
    for (area, side), members in voxels.groupby(["area", "hemisphere"], sort=False).indices.items():
        if np.ptp(windows[:, members]) == 0:
            raise InputError(f"{area} ({side}) is constant: all its values are {windows[0, members[0]]:g}")
    return windows, volumes


def find_columns(series: cifti.Series, voxels: pd.DataFrame) -> np.ndarray:
    """Find vertices among a file's grayordinates.

    Parameters
    ----------
    series : Series
        The file.
    voxels : DataFrame of V rows
        As of `area_voxels`.

    Returns
    -------
    columns : ndarray of shape (V,), int
        The vertices' columns in the file.

    Raises
    ------
    InputError
        If a hemisphere is not there or not fsLR 32k, or a vertex is missing.
    """
    columns = np.full(len(voxels), -1)
    for name, side in zip(surface.HEMISPHERES, "LR", strict=True):
        if name not in series.surfaces:
            raise InputError(f"has no {name}, only {', '.join(series.structures)}")
        mesh, first, vertices = series.surfaces[name]
        if mesh != surface.MESH:
            raise InputError(f"{name} is a mesh of {mesh} vertices, expected {surface.MESH}: fsLR 32k")
        column_of = np.full(surface.MESH, -1)
        column_of[vertices] = first + np.arange(len(vertices))
        here = (voxels["hemisphere"] == side).to_numpy()
        columns[here] = column_of[voxels.loc[here, "vertex"]]
    lacking = voxels[columns < 0]
    if len(lacking):
        area, side = lacking.iloc[0][["area", "hemisphere"]]
        whole = int(((voxels["area"] == area) & (voxels["hemisphere"] == side)).sum())
        count = int(((lacking["area"] == area) & (lacking["hemisphere"] == side)).sum())
        raise InputError(f"lacks {count} of the {whole} vertices of {area} ({side}), {len(lacking)} in all")
    return columns


def blocks(columns: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Cover columns of a file by blocks of at most BLOCK columns.

    Parameters
    ----------
    columns : ndarray of shape (V,), int
        Columns that are needed, all different.

    Yields
    ------
    first, last : int
        The block's columns; last is exclusive.
    members : ndarray of shape (n,), int
        Which of `columns` lie in the block.
    """
    order = np.argsort(columns)
    block: list[int] = []
    for index in order:
        if block and (columns[index] - columns[block[-1]] > GAP or columns[index] - columns[block[0]] >= BLOCK):
            yield columns[block[0]], columns[block[-1]] + 1, np.array(block)
            block = []
        block.append(index)
    if block:
        yield columns[block[0]], columns[block[-1]] + 1, np.array(block)


def window_means(series: np.ndarray, window: int) -> np.ndarray:
    """Average non-overlapping windows of (T, V); volumes left over at the end are dropped: (T // window, V) float64."""
    count = len(series) // window
    if count == 0:
        raise InputError(f"{len(series)} volumes, hcp.window needs {window}")
    return series[: count * window].reshape(count, window, -1).mean(axis=1, dtype=np.float64)


def normalise(values: np.ndarray) -> np.ndarray:
    """Give a run's (N, V) values one zero mean and unit variance over everything: (N, V) float64."""
    if not np.isfinite(values).all():
        raise InputError(f"{(~np.isfinite(values)).mean():.2%} of the values are not finite")
    deviation = values.std()
    if deviation <= 1e-9 * np.abs(values).max():
        raise InputError(f"constant: all values are {values.flat[0]:g}")
    return (values - values.mean()) / deviation


@contextmanager
def array_writer(path: Path, columns: int, dtype: type) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a `.npy` of shape (N, columns) block by block, N unknown until the end.

    Parameters
    ----------
    path : Path
        The file.
    columns : int
        Length of a row.
    dtype : type
        Type of the values.

    Yields
    ------
    append : callable
        Adds rows (n, columns).
    """
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    count = 0
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {**described, "shape": (0, columns)})
        data = file.tell()

        def append(rows: np.ndarray) -> None:
            nonlocal count
            file.write(np.ascontiguousarray(rows, dtype).tobytes())
            count += len(rows)

        yield append
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**described, "shape": (count, columns)})
        assert file.tell() == data, "numpy leaves room in the header for the first axis to grow"
