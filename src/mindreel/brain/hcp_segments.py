"""The folder of pretraining segments that stage hcp makes, as one array: read by whoever learns from it.

`runs.tsv` has a row per run: subject, run, shard (a `.npy` of (N, V) float16, its path within the folder), first (row
of the shard at which the run begins), segments (how many rows follow), volumes (the run's length).
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from mindreel.artifacts import load_array
from mindreel.errors import InputError

INDEX = ("subject", "run", "shard", "first", "segments", "volumes")


class Segments:
    """Rows of all shards, one after the other, as an array (N, V) that stays on disk.

    Only rows that are asked for are read. Shards are not kept mapped, since a map holds an open file, and a thousand
    subjects are more than most systems allow; reading rows by their place in the file is as fast.
    """

    ndim = 2

    def __init__(self, paths: list[Path]):
        self.paths = [Path(path) for path in paths]
        described = [_describe(path) for path in self.paths]
        shapes = [shape for shape, _ in described]
        self.offsets = [offset for _, offset in described]
        columns = {shape[1]: path for shape, path in zip(shapes, self.paths, strict=True)}
        if len(columns) != 1:
            found = "; ".join(f"{count} in {path}" for count, path in columns.items()) or "no shard"
            raise InputError(f"hcp segments: the shards' voxel counts differ: {found}; delete the folder and rerun hcp")
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
        size = self.shape[1] * self.dtype.itemsize
        with open(self.paths[shard], "rb", buffering=0) as file:
            parts = [os.pread(file.fileno(), size, self.offsets[shard] + int(row) * size) for row in rows]
        return np.frombuffer(b"".join(parts), self.dtype).reshape(len(rows), self.shape[1])


def open_segments(folder: Path) -> Segments:
    """Open the segments of a folder that `mindreel hcp` made: an array-like (N, V) float16, nothing read yet.

    Raises
    ------
    InputError
        If the index is missing or names a shard that is not there or has another shape than it says.
    """
    index = read_index(folder)
    shards = index.groupby("shard", sort=False)["segments"].sum()
    opened = Segments([Path(folder) / name for name in shards.index])
    found = np.diff(opened.ends, prepend=0)
    wrong = np.flatnonzero(found != shards.to_numpy())
    if len(wrong):
        path, has, expected = opened.paths[wrong[0]], found[wrong[0]], shards.iloc[wrong[0]]
        raise InputError(f"{path}: has {has} segments, the index says {expected}; delete it and rerun hcp")
    return opened


def read_index(folder: Path) -> pd.DataFrame:
    """Read the index of a folder of segments: a row per run, columns INDEX."""
    path = Path(folder) / "runs.tsv"
    if not path.exists():
        raise InputError(f"{folder}: holds no runs.tsv; expected a folder that `mindreel hcp` made")
    index = read_text(path)
    missing = [name for name in INDEX if name not in index]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; delete it and rerun hcp")
    return index


def read_text(path: Path) -> pd.DataFrame:
    """Read a table of HCP runs; a subject named 007 stays 007."""
    return pd.read_csv(path, sep="\t", dtype={"subject": str, "run": str}, keep_default_na=False)


def _describe(path: Path) -> tuple[tuple[int, int], int]:
    """A shard's shape, and the bytes before its data."""
    array = load_array(path)
    if array.ndim != 2 or array.dtype != np.float16:
        raise InputError(f"{path}: found {array.dtype} {array.shape}, expected float16 (N, V); delete it and rerun hcp")
    if not array.flags.c_contiguous or array.dtype.byteorder not in "=<|":
        raise InputError(f"{path}: expected rows one after the other, little-endian; delete it and rerun hcp")
    assert isinstance(array, np.memmap)  # as `load_array` opens it
    rows, voxels = array.shape
    return (rows, voxels), array.offset
