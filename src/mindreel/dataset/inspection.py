"""One file of a data set -> what it says about itself: header, and a thin slice of the data.

Used by `dataset.file_cache`, which keeps the answers.
"""

import gzip
import hashlib
import json
import os
import zlib
from pathlib import Path

import av
import nibabel as nib
import numpy as np

from mindreel.brain import cifti, surface
from mindreel.dataset import deidentify
from mindreel.dataset.sheet import Item
from mindreel.errors import InputError

COLUMNS = 64  # grayordinates looked at per CIFTI run, spread over the cortex
VOLUMES = (0, 5)  # volumes looked at per NIfTI run; early, so that a compressed file is read up to there only
CENTRE = 0.5  # share of each axis looked at, around the middle: outside the head anything may be constant


def examine(item: Item, sample: bool) -> dict:
    """Read one file: its facts, `problem` among them if it cannot be read."""
    try:
        if item.kind == "movie":
            return {**movie(item.path), "sample": None}
        if item.kind == "sidecar":
            return {**sidecar(item.path), "sample": None}
        return read_image(item, sample)
    except InputError as error:
        return {"problem": str(error), "sample": None}


def movie(path: str) -> dict:
    """Length of a movie by its container (s), of its picture where that is said."""
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise InputError("has no video stream")
            stream = container.streams.video[0]
            if stream.duration is not None and stream.time_base is not None:
                return {"duration_s": float(stream.duration * stream.time_base)}
            if container.duration is None:
                raise InputError("does not say how long it is; re-encode it as MP4")
            return {"duration_s": container.duration / av.time_base}
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"cannot be opened as a movie: {error}") from error


def sidecar(path: str) -> dict:
    """TR (s; 0: not said) and what may identify a person in the JSON file beside an image."""
    try:
        content = json.loads(Path(path).read_text())
        tr_s = float(content.get("RepetitionTime") or 0)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"cannot be read as JSON: {error}") from error
    return {"tr_s": tr_s, "identifying": deidentify.identifying(Path(path))}


def read_image(item: Item, sample: bool) -> dict:
    """Facts of an image.

    Returns
    -------
    facts : shape; tr_s (0: not said); identifying; for a CIFTI series cortex ("" or what is wrong with it), for NIfTI
        affine (4, 4), placed (whether the header sets an affine at all), covered (share of the MNI cortex within the
        grid); sample
    """
    path = Path(item.path)
    if item.kind == "cifti":
        series = cifti.open_series(path)
        facts = {"shape": list(series.shape), "tr_s": series.tr_s, "cortex": series.surface_problem()}
        sampled = _columns(series) if sample and not facts["cortex"] else None
    else:
        image = cifti.open_image(path)
        check_end(item.path, image)
        facts = {"shape": list(image.shape), "affine": image.affine.tolist(), **_placed(image)}
        facts["tr_s"] = cifti.image_tr(image) if image.ndim == 4 else 0.0
        sampled = _volumes(image) if sample and image.ndim == 4 and item.kind != "t1w" else None
    facts["identifying"] = deidentify.identifying(path) if item.path.endswith((".nii", ".nii.gz")) else []
    if sample:
        facts["sample"] = None if sampled is None else look(sampled)
    return facts


def check_end(path: str, image: nib.Nifti1Pair) -> None:
    """See whether a compressed file ends where its header says.

    The last four bytes of a gzip hold its length (modulo 2^32). Only if that differs is the file read through.
    """
    if not path.endswith(".gz"):
        return
    needed = cifti.data_bytes(image)
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        said = int.from_bytes(file.read(4), "little")
    if said == needed % 2**32:
        return
    length = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 22):
                length += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read whole: {error}; it is truncated: fetch it again") from error
    if length < needed:
        raise InputError(f"cannot be read whole: {length} bytes, its header announces {needed}; fetch it again")


def look(values: np.ndarray) -> dict | None:
    """Describe sampled values (T, N) or (few volumes, N): share not finite, whether constant in time, empty, a hash."""
    values = np.asarray(values, np.float32)
    if not values.size:
        return None
    finite = np.isfinite(values)
    filled = np.where(finite, values, 0)
    return {
        "nonfinite": float(1 - finite.mean()),
        "zero": not filled.any(),
        "constant": bool(np.ptp(filled, axis=0).max() == 0),
        "empty": int((~filled.any(axis=1)).sum()),
        "hash": hashlib.sha1(np.ascontiguousarray(filled).tobytes()).hexdigest(),
    }


def _columns(series: cifti.Series) -> np.ndarray:
    """All volumes of a few cortical grayordinates: (T, n)."""
    cortex = [series.surfaces[name] for name in surface.HEMISPHERES]
    rows = np.sort(np.concatenate([part.first + np.arange(len(part.vertices)) for part in cortex]))
    chosen = rows[np.linspace(0, len(rows) - 1, COLUMNS).astype(int)].tolist()
    return np.concatenate([series.read(row, row + 1) for row in chosen], axis=1)


def _volumes(image: nib.Nifti1Pair) -> np.ndarray:
    """The middle of a few volumes: (n, voxels)."""
    box = []
    for length in image.shape[:3]:
        margin = int(length * (1 - CENTRE) / 2)
        box.append(slice(margin, max(margin + 1, length - margin)))
    numbers = sorted({min(t, image.shape[3] - 1) for t in VOLUMES})
    try:
        return np.stack([np.asarray(image.dataobj[(*box, t)]).ravel() for t in numbers])
    except cifti.UNREADABLE as error:
        raise InputError(f"cannot be read: {error}; fetch it again") from error


def _placed(image: nib.Nifti1Pair) -> dict:
    """Whether a NIfTI sets an affine, and the share of the MNI cortex that lies within its grid."""
    placed = bool(image.header["qform_code"] > 0 or image.header["sform_code"] > 0)
    affine = np.asarray(image.affine, float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        return {"placed": placed, "covered": None}
    points = surface.coordinates() @ np.linalg.inv(affine)[:3, :3].T + np.linalg.inv(affine)[:3, 3]
    within = (points >= 0) & (points <= np.array(image.shape[:3]) - 1)
    return {"placed": placed, "covered": float(within.all(axis=1).mean())}
