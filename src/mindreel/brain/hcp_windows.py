"""The windows of HCP runs that stage hcp makes for pretraining, as one array: read by whoever learns from it.

A window is the mean of a few volumes (`hcp.window`). On disk windows are called segments: a folder of them has a shard
`segments.npy` per subject, and an index `runs.tsv` with a row per run: subject, run, shard (a `.npy` of (N, V) float16,
its path within the folder), first (row of the shard at which the run begins), segments (how many rows follow), volumes
(the run's length).
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from mindreel.artifacts import load_array
from mindreel.errors import InputError

INDEX = ("subject", "run", "shard", "first", "segments", "volumes")


class Windows:
    """Rows of all shards, one after the other, as an array (N, V) that stays on disk.

    Only rows that are asked for are read. Shards are not kept mapped, since a map holds an open file, and a thousand
    subjects are more than most systems allow; reading rows by their place in the file is as fast.

    Parameters
    ----------
    paths : list of Path
        The shards, each a `.npy` of shape (n, V), float16.

    Attributes
    ----------
    shape : tuple of 2 ints
        N windows of V voxels.
    dtype : dtype
        float16.
    ends : ndarray of shape (shards,), int
        Row after the last one of each shard.

    Raises
    ------
    InputError
        If a shard cannot be read, has another type or another number of voxels than the others.
    """

    ndim = 2

    def __init__(self, paths: list[Path]):
        self.paths = [Path(path) for path in paths]
        described = [_describe(path) for path in self.paths]
        shapes = [shape for shape, _ in described]
        self.offsets = [offset for _, offset in described]
        columns = {shape[1]: path for shape, path in zip(shapes, self.paths, strict=True)}
        if len(columns) != 1:
            counts = "; ".join(f"{count} in {path}" for count, path in columns.items()) or "no shard"
            raise InputError(f"hcp windows: the shards' voxel counts differ: {counts}; delete the folder and rerun hcp")
        self.ends = np.cumsum([rows for rows, _ in shapes])
        self.shape = (int(self.ends[-1]), *columns)
        self.dtype = np.dtype(np.float16)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        """Read a row (V,), or rows by slice, indices or mask, in the order asked for: (n, V) float16."""
        wanted = np.arange(len(self))[rows]  # bounds, negative indices and masks as for any array
        flat = np.atleast_1d(wanted)
        shards = np.searchsorted(self.ends, flat, side="right")
        values = np.empty((len(flat), self.shape[1]), self.dtype)
        for shard in np.unique(shards):
            here = shards == shard
            first = self.ends[shard - 1] if shard else 0
            values[here] = self._read(shard, flat[here] - first)
        return values.reshape(*np.shape(wanted), self.shape[1])

    def _read(self, shard: int, rows: np.ndarray) -> np.ndarray:
        """Read rows of one shard: (n, V) float16."""
        size = self.shape[1] * self.dtype.itemsize
        with open(self.paths[shard], "rb", buffering=0) as file:
            parts = [os.pread(file.fileno(), size, self.offsets[shard] + int(row) * size) for row in rows]
        return np.frombuffer(b"".join(parts), self.dtype).reshape(len(rows), self.shape[1])


def open_windows(folder: Path) -> Windows:
    """Open the windows of a folder that `mindreel hcp` made.

    Parameters
    ----------
    folder : Path
        Folder with `runs.tsv`, such as `results/DATASET/hcp`.

    Returns
    -------
    windows : Windows
        Array-like of shape (N, V), float16; nothing is read yet.

    Raises
    ------
    InputError
        If the index is missing or names a shard that is not there or has another shape than it says.
    """
    index = read_index(folder)
    expected = index.groupby("shard", sort=False)["segments"].sum()
    opened = Windows([Path(folder) / name for name in expected.index])
    counts = np.diff(opened.ends, prepend=0)
    wrong = np.flatnonzero(counts != expected.to_numpy())
    if len(wrong):
        shard = wrong[0]
        raise InputError(
            f"{opened.paths[shard]}: has {counts[shard]} windows, the index says {expected.iloc[shard]}; delete it and "
            "rerun hcp"
        )
    return opened


def read_index(folder: Path) -> pd.DataFrame:
    """Read the index of a folder of windows: a row per run, columns INDEX.

    Raises
    ------
    InputError
        If there is no index, or it lacks a column.
    """
    path = Path(folder) / "runs.tsv"
    if not path.exists():
        raise InputError(f"{folder}: holds no runs.tsv; expected a folder that `mindreel hcp` made")
    index = read_runs(path)
    missing = [name for name in INDEX if name not in index]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; delete it and rerun hcp")
    return index


def read_runs(path: Path) -> pd.DataFrame:
    """Read a table of HCP runs; a subject named 007 stays 007."""
    return pd.read_csv(path, sep="\t", dtype={"subject": str, "run": str}, keep_default_na=False)


def _describe(path: Path) -> tuple[tuple[int, int], int]:
    """A shard's shape, and the bytes before its data."""
    array = load_array(path)
    if array.ndim != 2 or array.dtype != np.float16:
        raise InputError(f"{path}: found {array.dtype} {array.shape}, expected float16 (N, V); delete it and rerun hcp")
    if not array.flags.c_contiguous or array.dtype.byteorder not in "=<|":
        raise InputError(f"{path}: expected rows one after the other, little-endian; delete it and rerun hcp")
    assert isinstance(array, np.memmap), "load_array maps"
    return array.shape, array.offset
