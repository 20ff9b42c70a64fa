"""HCP runs -> segments for masked brain modelling (MinD-Video supplement B, after Mind-Vis).

Windows of volumes are averaged and each run gets one mean and one deviation over all its voxels and windows. Padding to
the patch size is the model's affair, not stored. One job per subject; what they made is then listed in one index.
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
from mindreel.brain.hcp_segments import INDEX, Segments, read_index, read_text
from mindreel.config import Hcp
from mindreel.errors import InputError

SKIPPED = ("subject", "run", "reason")
BLOCK = 512  # grayordinates read at once, to bound memory
GAP = 32  # grayordinates that are read although nobody asked, rather than reading twice
TR_TOLERANCE = 0.01  # headers round


def segments(*, subject: str, runs: list[Path], out: Path, cfg: Hcp) -> None:
    """Cut one HCP subject's runs (*.dtseries.nii) into segments of the visual areas.

    Writes a folder: `segments.npy` ((N, V) float16, V the areas' vertices, area after area, left before right),
    `runs.tsv` (a row per run, see `mindreel.segments`), `skipped.tsv` (runs that could not be used, and why). A run
    that lacks a vertex of an area, or volumes, or has another TR is skipped; all may be. Memory does not grow with the
    number of runs, and a run is never in memory whole.
    """
    voxels = area_voxels(cfg.areas)
    index, skipped, count = [], [], 0
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
    print(f"{subject}: {count} segments of {len(voxels)} voxels from {len(index)} of {len(runs)} runs")


def gather(*, subjects: list[Path], index: Path, skipped: Path, summary: Path, cfg: Hcp) -> None:
    """List what the subjects' folders hold; nothing is copied.

    Parameters
    ----------
    subjects : folders that `mindreel hcp segments` made
    index : .tsv, a row per used run; its folder is what `mindreel.segments.open_segments` opens
    skipped : .tsv, a row per run that could not be used, with the reason
    summary : .json, counts of voxels (whole and per area), segments, runs and subjects

    Raises
    ------
    InputError
        If no run of any subject could be used, or a shard's voxel count is not that of `hcp.areas`.
    """
    voxels = area_voxels(cfg.areas)
    used = pd.concat([_index_from(folder, index.parent) for folder in subjects], ignore_index=True)
    unused = pd.concat([read_text(folder / "skipped.tsv") for folder in subjects], ignore_index=True)
    runs = len(used) + len(unused)
    if used.empty:
        reason = f"; the first, {unused.run.iloc[0]}: {unused.reason.iloc[0]}" if len(unused) else ""
        raise InputError(f"none of {runs} HCP runs could be used{reason}; check hcp.pattern")
    opened = Segments([index.parent / shard for shard in used.shard.unique()])
    if opened.shape != (used.segments.sum(), len(voxels)):
        raise InputError(
            f"{index.parent}: the shards hold {opened.shape[0]} segments of {opened.shape[1]} voxels, expected "
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
    print(f"{len(opened)} segments of {len(voxels)} voxels; {len(used)} of {runs} runs of {len(subjects)} subjects")


def _index_from(folder: Path, base: Path) -> pd.DataFrame:
    """A subject's index with the shards' paths as seen from another folder."""
    index = read_index(folder)
    return index.assign(shard=[os.path.relpath(folder / shard, base) for shard in index["shard"]])


def area_voxels(areas: tuple[str, ...]) -> pd.DataFrame:
    """Describe the vertices of Glasser areas, area after area in the given order, left before right.

    Returns
    -------
    voxels : (V rows) grayordinate, hemisphere, vertex, area; see `mindreel.surface.atlas`
    """
    atlas = surface.atlas()
    known = set(atlas["area"])
    unknown = [area for area in areas if area not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=5, cutoff=0.3)
        raise InputError(f"hcp.areas: no such Glasser area: {', '.join(unknown)}; near: {', '.join(near) or 'none'}")
    chosen = pd.concat([atlas[atlas["area"] == area] for area in areas], ignore_index=True)
    return chosen[["grayordinate", "hemisphere", "vertex", "area"]]


def read_windows(run: Path, voxels: pd.DataFrame, cfg: Hcp) -> tuple[np.ndarray, int]:
    """Read the window means of some vertices, block by block, and the run's length in volumes.

    Parameters
    ----------
    run : .dtseries.nii with an fsLR 32k cortex; the order of its structures does not matter
    voxels : (V rows) as of `area_voxels`

    Returns
    -------
    windows : (T // window, V) float64
    volumes : T

    Raises
    ------
    InputError
        If the run cannot be read, its TR is not `cfg.tr_s`, it is shorter than a window or lacks a vertex, or an area
        of a hemisphere is constant.
    """
    series = cifti.open_series(run)
    volumes = series.shape[0]
    if abs(series.tr_s - cfg.tr_s) > TR_TOLERANCE * cfg.tr_s:
        raise InputError(f"its TR is {series.tr_s:g} s, hcp.tr_s says {cfg.tr_s:g} s")
    columns = find_columns(series, voxels)
    windows = np.empty((volumes // cfg.window, len(columns)))
    for first, last, wanted in blocks(columns):
        block = series.read(first, last)  # (T, n): in HCP's files contiguous
        windows[:, wanted] = window_means(block[:, columns[wanted] - first], cfg.window)
    for (area, side), members in voxels.groupby(["area", "hemisphere"], sort=False).indices.items():
        if np.ptp(windows[:, members]) == 0:
            raise InputError(f"{area} ({side}) is constant: all its values are {windows[0, members[0]]:g}")
    return windows, volumes


def find_columns(series: cifti.Series, voxels: pd.DataFrame) -> np.ndarray:
    """Find vertices among a file's grayordinates: (V,) int, their columns.

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
    """Cover columns with stretches of at most BLOCK: yields first, last (exclusive), and which `columns` lie there."""
    order = np.argsort(columns)
    stretch: list[int] = []
    for index in order:
        if stretch and (columns[index] - columns[stretch[-1]] > GAP or columns[index] - columns[stretch[0]] >= BLOCK):
            yield columns[stretch[0]], columns[stretch[-1]] + 1, np.array(stretch)
            stretch = []
        stretch.append(index)
    if stretch:
        yield columns[stretch[0]], columns[stretch[-1]] + 1, np.array(stretch)


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
    """Write a `.npy` of (N, columns) block by block, N unknown until the end: yields the function that adds rows."""
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
