"""Arrays of frames to MP4, for people; metrics read the arrays."""

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mindreel.artifacts import atomic
from mindreel.errors import InputError

QUALITY = "16"  # x264's constant rate factor: next to invisible loss


def write_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write H.264 that every player and browser shows, atomically; frames are taken one at a time.

    Parameters
    ----------
    path : .mp4
    frames : (N, H, W, 3) uint8, or an iterator over (H, W, 3); H and W even
    fps : frames per second (1/s)
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{path}: no frames to write")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise InputError(f"{path}: frames are {height} x {width} pixels, H.264 needs even sides; change stimuli.side")
    with atomic(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": QUALITY})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
