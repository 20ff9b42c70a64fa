"""Movie to frames: a few moments of every volume, as square pictures."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from mindreel.artifacts import atomic
from mindreel.errors import InputError
from mindreel.sections import Stimuli

ROUNDING_S = 1e-3  # containers round timestamps, some to milliseconds


def extract(*, movie: Path, volumes: int, out: Path, cfg: Stimuli, tr_s: float) -> None:
    """Cut a movie into the frames that were seen during each volume.

    Volume t spans [t, t + 1) TR from the movie's first frame and has F = fps * TR frames. Frame i stands for the
    middle of its 1 / fps interval: it is the decoded frame that is on the screen at that moment.
    Memory does not grow with the movie's length.

    Parameters
    ----------
    movie : Path
        Anything that FFmpeg decodes.
    volumes : int
        T, the volumes kept of a run (after trimming).
    out : Path
        (T, F, H, W, 3) uint8, RGB: the centred square of the picture, resized with an antialiased bicubic filter.
    tr_s : float
        Repetition time (s).
    cfg : Stimuli
        Section stimuli of the configuration.

    Raises
    ------
    InputError
        If the movie cannot be decoded or ends before the last of these moments.
    """
    frames = round(cfg.fps * tr_s)
    if frames < 1 or abs(frames - cfg.fps * tr_s) > 1e-6:
        raise InputError(
            f"stimuli.fps: found {cfg.fps} and a TR of {tr_s} s, that is {cfg.fps * tr_s:g} frames per volume, "
            "expected a whole number; change stimuli.fps"
        )
    moments = (np.arange(volumes * frames) + 0.5) / cfg.fps
    with atomic(out) as path:
        shape = (volumes, frames, cfg.side, cfg.side, 3)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        flat = array.reshape(-1, *shape[2:])
        shown = sample(movie, moments)
        previous: av.VideoFrame | None = None
        for index, frame in enumerate(tqdm(shown, total=len(moments), desc=f"frames of {movie.name}", mininterval=2)):
            # in a slow movie one frame is shown at several moments
            flat[index] = flat[index - 1] if frame is previous else square(frame.to_ndarray(format="rgb24"), cfg.side)
            previous = frame
        array.flush()


def sample(movie: Path, moments: np.ndarray) -> Iterator[av.VideoFrame]:
    """Yield, for each moment, the decoded frame that is on the screen then.

    Parameters
    ----------
    moments : (N,) float
        Seconds from the movie's first frame, ascending.

    Raises
    ------
    InputError
        If the movie cannot be decoded or ends too early.
    """
    index, shown, end_s = 0, None, 0.0
    for frame, appears_s, goes_s in _decode(movie):
        while shown is not None and moments[index] < appears_s - ROUNDING_S:
            yield shown
            index += 1
            if index == len(moments):
                return
        shown, end_s = frame, goes_s
    if shown is None:
        raise InputError(f"{movie}: found no video frames, expected a movie; get the file again")
    if moments[-1] > end_s:
        raise InputError(
            f"{movie}: ends after {end_s:.2f} s, expected at least {moments[-1]:.2f} s for the volumes that are kept; "
            "get the whole movie, or correct the volumes in the sample sheet or bold.trim"
        )
    for _ in moments[index:]:
        yield shown


def _decode(movie: Path) -> Iterator[tuple[av.VideoFrame, float, float]]:
    """Yield every frame, when it appears and when it goes (s from the first one)."""
    try:
        with av.open(str(movie)) as container:
            if not container.streams.video:
                raise InputError(f"{movie}: found no video stream, expected a movie; get the file again")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            start = None
            for frame in container.decode(stream):
                if frame.time is None:
                    raise InputError(f"{movie}: has frames without timestamps; re-encode it as MP4")
                start = frame.time if start is None else start
                time_s = frame.time - start
                yield frame, time_s, time_s + float((frame.duration or 0) * (frame.time_base or 0))
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(
            f"{movie}: cannot be decoded ({error}); get the file again, or correct data.patterns.movie"
        ) from error


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """Crop a picture to its centred square and resize it.

    Parameters
    ----------
    picture : (H, W, 3) uint8
    side : int
        Pixels.

    Returns
    -------
    resized : (side, side, 3) uint8
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    cropped = picture[top : top + short, left : left + short]
    if short == side:
        return cropped
    return np.asarray(Image.fromarray(cropped).resize((side, side), Image.Resampling.BICUBIC))
