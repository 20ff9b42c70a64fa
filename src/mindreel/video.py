"""Arrays of frames to MP4 or GIF, for people; metrics read the arrays."""

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np

from mindreel.artifacts import atomic
from mindreel.errors import InputError

QUALITY = "16"  # x264's constant rate factor: next to invisible loss


def beside(left: Iterable[np.ndarray], right: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Put pictures (H, W, 3) beside each other, one pair at a time."""
    return (np.concatenate(pair, 1) for pair in zip(left, right, strict=True))


def check_suffix(path: Path) -> None:
    """Raise unless `write_film` can write it."""
    if path.suffix not in (".mp4", ".gif"):
        raise InputError(f"{path}: found the suffix {path.suffix!r}, expected .mp4 or .gif")


def write_film(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write what the suffix says: .mp4 or .gif."""
    check_suffix(path)
    {".mp4": write_mp4, ".gif": write_gif}[path.suffix](path, frames, fps)


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write H.264 that every player and browser shows, atomically; frames are taken one at a time.

    Parameters
    ----------
    path : Path
        .mp4.
    frames : (N, H, W, 3) uint8
        Or an iterator over (H, W, 3); H and W even.
    fps : float
        Frames per second (1/s).
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path}: no frames to write")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise InputError(f"{path}: frames are {height} x {width} pixels, H.264 needs even sides; change stimuli.side")
    with atomic(path) as temporary:
        encode_h264(str(temporary), itertools.chain([first], frames), fps, {"crf": QUALITY})


def encode_h264(
    target: str | BytesIO, frames: Iterable[np.ndarray], fps: float, options: dict[str, str], threads: int = 0
) -> None:
    """Encode frames as H.264 in mp4: the one place where it is done.

    Parameters
    ----------
    target : str or BytesIO
        Path, or what is written to.
    frames : iterable of (H, W, 3) uint8
        At least one; H and W even.
    fps : float
        Frames per second (1/s).
    options : dict
        Of x264, such as crf.
    threads : int
        With 1 the bytes are the same on every machine; 0: x264 chooses.
    """
    import av

    frames = iter(frames)
    first = next(frames)
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        if threads:
            stream.codec_context.thread_count = threads
        for frame in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_gif(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write a GIF that repeats for ever, atomically; 256 colours, so for looking only.

    Parameters
    ----------
    path : Path
        .gif.
    frames : (N, H, W, 3) uint8
        Or an iterator over (H, W, 3).
    fps : float
        Frames per second (1/s); a GIF counts hundredths of a second.
    """
    from PIL import Image

    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    if not pictures:
        raise InputError(f"{path}: no frames to write")
    with atomic(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=1000 / fps, loop=0)
