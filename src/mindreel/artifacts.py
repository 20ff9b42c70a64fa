"""Write artifacts whole or not at all; read arrays memory-mapped."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from mindreel.errors import InputError

MARK = ".mindreel"  # in every folder that is an artifact: it may be replaced
MARKS = (MARK, ".snakemake_timestamp")  # Snakemake's stands in every folder that a rule has made


@contextmanager
def atomic(out: Path) -> Iterator[Path]:
    """Yield a temporary path beside `out` (same suffix); move it to `out` when the block ends without an error.

    Works for a file and, if the block makes a folder at the path, for a folder. An older artifact at `out` is replaced;
    anything else that is there is left alone.

    Parameters
    ----------
    out : Path
        File or folder to write.

    Raises
    ------
    InputError
        If `out` is a folder with files that are not an artifact, a folder where a file is due, or a file where a folder
        is due.
    """
    out = Path(out)
    refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{os.getpid()}.{out.name}")
    try:
        yield temporary
        if temporary.is_dir():
            (temporary / MARK).touch()
        refuse_foreign(out, "folder" if temporary.is_dir() else "file")
        if out.is_dir():
            shutil.rmtree(out)
        os.replace(temporary, out)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def refuse_foreign(out: Path, due: Literal["file", "folder"] | None = None) -> None:
    """Raise unless `out` may be replaced: it is not there, an empty folder, an artifact folder, or a file.

    Parameters
    ----------
    out : Path
        Where an artifact is to be written.
    due : "file", "folder" or None
        What is to be written; None: not known yet.

    Raises
    ------
    InputError
        With what is there and what to change.
    """
    out = Path(out)
    if out.is_symlink() and out.is_dir():
        raise InputError(f"{out}: is a link to a folder, which is not replaced; name another output")
    if out.is_dir():
        empty, ours = not any(out.iterdir()), any((out / mark).exists() for mark in MARKS)
        if not (empty or ours):
            raise InputError(f"{out}: is a folder with files that mindreel did not write; name another output")
        if due == "file":
            raise InputError(f"{out}: is a folder, expected a place for a file; name another output")
    elif out.exists() and due == "folder":
        raise InputError(f"{out}: is a file, expected a place for a folder; name another output")


def refuse_overlap(out: Path, inputs: Iterable[Path]) -> None:
    """Raise if an output is one of the inputs, or a folder that holds one.

    Parameters
    ----------
    out : Path
        Where an artifact is to be written.
    inputs : paths
        What it is made from.

    Raises
    ------
    InputError
        With both paths.
    """
    place = Path(out).resolve()
    for path in inputs:
        resolved = Path(path).resolve()
        if place == resolved or place in resolved.parents:
            raise InputError(f"{out}: to write it would replace the input {path}; name another output")


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
