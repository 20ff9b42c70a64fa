"""Write artifacts whole or not at all; read arrays memory-mapped."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from mindreel.errors import InputError


@contextmanager
def atomic(out: Path) -> Iterator[Path]:
    """Yield a temporary path beside `out` (same suffix); move it to `out` when the block ends without an error.

    Works for a file and, if the block makes a folder at the path, for a folder. An older `out` is replaced.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        yield temporary
        if out.is_dir():
            shutil.rmtree(out)
        os.replace(temporary, out)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def save_array(out: Path, array: np.ndarray) -> None:
    """Write an array as `.npy`, atomically."""
    with atomic(out) as path, open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: Path) -> np.ndarray:
    """Open a `.npy` memory-mapped, read-only."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable .npy array ({error}); delete it and rerun to restore it") from error


def save_table(out: Path, table: pd.DataFrame) -> None:
    """Write a table as tab-separated text, atomically; floats with six significant digits."""
    with atomic(out) as path:
        table.to_csv(path, sep="\t", index=False, float_format="%.6g")


def load_table(path: Path) -> pd.DataFrame:
    """Read a tab-separated table; empty cells become empty strings in text columns."""
    return pd.read_csv(path, sep="\t", keep_default_na=True)


def save_json(out: Path, content: dict) -> None:
    """Write a JSON file, atomically."""
    with atomic(out) as path:
        path.write_text(json.dumps(content, indent=2) + "\n")


def load_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(Path(path).read_text())
