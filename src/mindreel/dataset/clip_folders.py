"""Clips of others, as they are published: folders of MP4, GIF or arrays, also two clips side by side in one."""

import re
from pathlib import Path

import numpy as np

from mindreel import artifacts
from mindreel.errors import InputError

SUFFIXES = (".npy", ".gif", ".mp4")


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Read every clip of a folder, in natural order of the names (2 before 10).

    Parameters
    ----------
    folder : Path
        Of .npy, (F, H, W, 3) or (N, F, H, W, 3) uint8, .gif and .mp4.

    Returns
    -------
    clips
        Name to (F, H, W, 3) uint8; the clips of an array of several are `name_0`, `name_1`, ...

    Raises
    ------
    InputError
        If there is no folder, no clip in it, two of one name, or a file cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: found no folder, expected one of {', '.join(SUFFIXES)} files")
    files = sorted((p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES), key=_natural)
    clips: dict[str, np.ndarray] = {}
    for path in files:
        for name, clip in _read(path).items():
            if name in clips:
                raise InputError(f"{path}: found a second clip named {name} in {folder}; keep one of them")
            clips[name] = clip
    if not clips:
        raise InputError(f"{folder}: found no clips, expected {', '.join(SUFFIXES)} files")
    return clips


def halves(clips: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Cut clips that show the truth on the left and the reconstruction on the right: true clips, reconstructions."""
    odd = [f"{name} ({clip.shape[2]})" for name, clip in clips.items() if clip.shape[2] % 2]
    if odd:
        raise InputError(f"clips side by side: found odd widths, {', '.join(odd[:3])}; expected two equal halves")
    true = {name: clip[:, :, : clip.shape[2] // 2] for name, clip in clips.items()}
    return true, {name: clip[:, :, clip.shape[2] // 2 :] for name, clip in clips.items()}


def matched(pred: dict[str, np.ndarray], true: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Stack reconstructions and true clips of the same names, in that order: (N, F, H, W, 3) uint8 both.

    Raises
    ------
    InputError
        If a name has no counterpart or clips differ in their number of frames or size.
    """
    alone = sorted(pred.keys() ^ true.keys(), key=lambda name: _natural(Path(name)))
    if alone:
        raise InputError(
            f"found {len(pred)} reconstructions and {len(true)} true clips; without a counterpart of the same name: "
            f"{', '.join(alone[:5])}{', ...' if len(alone) > 5 else ''}; rename the files so that they correspond"
        )
    names = list(true)
    shapes = {clip.shape for clips in (pred, true) for clip in clips.values()}
    if len(shapes) > 1:
        found = ", ".join(str(shape) for shape in sorted(shapes)[:4])
        raise InputError(
            f"found clips of different shapes (F, H, W, 3): {found}; expected one; resize and cut them alike first, "
            "since every metric depends on how that is done"
        )
    return np.stack([pred[name] for name in names]), np.stack([true[name] for name in names])


def _natural(path: Path) -> list:
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts] + [(-1, path.suffix)]


def _read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix.lower() == ".npy":
        array = artifacts.load_array(path)
        if array.dtype != np.uint8 or array.ndim not in (4, 5) or array.shape[-1] != 3:
            raise InputError(
                f"{path}: found {array.dtype} {array.shape}, expected uint8 (F, H, W, 3) or (N, F, H, W, 3); round "
                "other values to 0 to 255 first"
            )
        if array.ndim == 4:
            return {path.stem: np.asarray(array)}
        return {f"{path.stem}_{n}": np.asarray(clip) for n, clip in enumerate(array)}
    return {path.stem: _gif(path) if path.suffix.lower() == ".gif" else _film(path)}


def _gif(path: Path) -> np.ndarray:
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a GIF ({error}); get the file again") from error


def _film(path: Path) -> np.ndarray:
    import av

    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise InputError(f"{path}: cannot be decoded ({error}); get the file again") from error
    if not frames:
        raise InputError(f"{path}: found no video frames; get the file again")
    return np.stack(frames)
