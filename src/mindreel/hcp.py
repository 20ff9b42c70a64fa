"""HCP runs -> segments for masked brain modelling (MinD-Video supplement B, after Mind-Vis).

Windows of volumes are averaged and each run gets one mean and one deviation over all its voxels and windows. Padding to
the patch size is the model's affair, not stored.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mindreel import surface
from mindreel.artifacts import atomic, save_table
from mindreel.config import Hcp
from mindreel.errors import InputError


def segments(*, runs: list[Path], out: Path, cfg: Hcp) -> None:
    """Cut HCP runs (*.dtseries.nii) into segments of the visual areas.

    Writes a folder: `segments.npy` ((N, V) float16, V the areas' vertices, area after area, left before right),
    `index.tsv` (run and first volume of each segment), `skipped.tsv` (runs that could not be used, and why).
    """
    voxels = area_voxels(cfg.areas)
    with atomic(out) as folder:
        folder.mkdir()
        index, skipped = [], []
        with array_writer(folder / "segments.npy", len(voxels), np.float16) as append:
            for run in tqdm(runs, desc="runs", mininterval=5):
                try:
                    rows = normalise(window_means(surface.read_cifti(run)[:, voxels], cfg.window))
                except InputError as error:
                    skipped.append((str(run), str(error)))
                    print(f"skipped: {run}: {error}")
                    continue
                append(rows)
                index += [(str(run), start) for start in range(0, len(rows) * cfg.window, cfg.window)]
        if not index:
            reason = f"; the first: {skipped[0][1]}" if skipped else ""
            raise InputError(f"none of {len(runs)} HCP runs could be used{reason}; check hcp.pattern")
        save_table(folder / "index.tsv", pd.DataFrame(index, columns=["run", "start"]))
        save_table(folder / "skipped.tsv", pd.DataFrame(skipped, columns=["run", "reason"]))
    print(f"{len(index)} segments of {len(voxels)} voxels from {len(runs) - len(skipped)} of {len(runs)} runs")


def area_voxels(areas: tuple[str, ...]) -> np.ndarray:
    """Grayordinates of Glasser areas, area after area in the given order, left before right: (V,) int."""
    atlas = surface.atlas()
    known = set(atlas["area"])
    unknown = [area for area in areas if area not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=5, cutoff=0.3)
        raise InputError(f"hcp.areas: no such Glasser area: {', '.join(unknown)}; near: {', '.join(near) or 'none'}")
    return np.concatenate([atlas.loc[atlas["area"] == area, "grayordinate"].to_numpy() for area in areas])


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
