"""Frames come from the right moments, in the right shape, and broken movies are refused."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from mindreel.errors import InputError
from mindreel.sections import Stimuli
from mindreel.stages.stimuli import extract, square

CFG = Stimuli(fps=3, side=64)


def write_movie(path: Path, frames: np.ndarray, fps: int = 30, times: np.ndarray | None = None) -> Path:
    """Encode (N, H, W, 3) uint8 frames; `times` (ticks of 1 / fps) makes holes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1", "preset": "ultrafast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = int(index if times is None else times[index])
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def counting(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Uniform frames whose red and green say their number, in steps that encoding keeps."""
    n = np.arange(count)
    colours = np.stack([30 + 16 * (n % 12), 30 + 16 * (n // 12), np.full(count, 100)], 1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (count, height, width, 3))


def numbers(frames: np.ndarray) -> np.ndarray:
    red, green, _ = np.moveaxis(np.rint((frames.mean((-3, -2)) - 30) / 16).astype(int), -1, 0)
    return red + 12 * green


def test_frames_are_those_at_the_middle_of_each_interval(tmp_path):
    movie = write_movie(tmp_path / "seg1.mp4", counting(120))  # 4 s at 30 / s
    extract(movie=movie, volumes=2, out=tmp_path / "seg1.npy", cfg=CFG, tr_s=2.0)
    frames = np.load(tmp_path / "seg1.npy")
    assert frames.shape == (2, 6, 64, 64, 3) and frames.dtype == np.uint8
    # moments (i + 0.5) / 3 s, that is frame 5, 15, 25, ...
    np.testing.assert_array_equal(numbers(frames).ravel(), 5 + 10 * np.arange(12))
    assert list(tmp_path.glob(".*")) == []


def test_frame_on_the_screen_is_repeated_when_the_movie_is_slow(tmp_path):
    movie = write_movie(tmp_path / "slow.mp4", counting(8), fps=2)
    extract(movie=movie, volumes=2, out=tmp_path / "slow.npy", cfg=CFG, tr_s=2.0)
    # at 1/6, 1/2, 5/6, 7/6, ... s; frame n is shown from n / 2 s
    np.testing.assert_array_equal(numbers(np.load(tmp_path / "slow.npy")).ravel(), [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7])


def test_frame_without_successor_stays_on_the_screen(tmp_path):
    times = np.r_[0:30, 70:120]  # frame 29 is shown for more than a second
    movie = write_movie(tmp_path / "still.mp4", counting(80), times=times)
    extract(movie=movie, volumes=2, out=tmp_path / "still.npy", cfg=CFG, tr_s=2.0)
    expected = np.searchsorted(times, 5 + 10 * np.arange(12), side="right") - 1
    np.testing.assert_array_equal(numbers(np.load(tmp_path / "still.npy")).ravel(), expected)


def test_timestamps_in_milliseconds_do_not_shift_frames(tmp_path):
    movie = write_movie(tmp_path / "seg1.mkv", counting(120))  # Matroska rounds 5 / 30 s to 0.167 s
    extract(movie=movie, volumes=2, out=tmp_path / "seg1.npy", cfg=CFG, tr_s=2.0)
    np.testing.assert_array_equal(numbers(np.load(tmp_path / "seg1.npy")).ravel(), 5 + 10 * np.arange(12))


def test_fewer_volumes_than_the_movie_holds_take_its_start(tmp_path):
    movie = write_movie(tmp_path / "seg1.mp4", counting(120))
    extract(movie=movie, volumes=1, out=tmp_path / "seg1.npy", cfg=CFG, tr_s=2.0)
    np.testing.assert_array_equal(numbers(np.load(tmp_path / "seg1.npy"))[0], 5 + 10 * np.arange(6))


def test_picture_is_cropped_to_its_centre_before_it_is_resized():
    picture = np.zeros((32, 96, 3), np.uint8)
    picture[:, 32:64] = 200  # the centred square
    np.testing.assert_array_equal(square(picture, 16), np.full((16, 16, 3), 200, np.uint8))
    assert square(picture, 32).shape == (32, 32, 3)


def test_resizing_does_not_alias():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the target can show: must become grey, not black or white
    assert np.abs(square(stripes, 32).astype(int) - 127).max() < 20


def test_short_movie_names_file_and_remedy(tmp_path):
    movie = write_movie(tmp_path / "seg1.mp4", counting(100))
    with pytest.raises(InputError, match=r"seg1\.mp4: ends after 3\.33 s, expected at least 3\.83 s.*bold\.trim"):
        extract(movie=movie, volumes=2, out=tmp_path / "seg1.npy", cfg=CFG, tr_s=2.0)
    assert not (tmp_path / "seg1.npy").exists()


@pytest.mark.parametrize("content", [None, b"", b"this is not a movie" * 100])
def test_undecodable_movie_is_refused(tmp_path, content):
    movie = tmp_path / "seg9.mp4"
    if content is not None:
        movie.write_bytes(content)
    with pytest.raises(InputError, match=r"seg9\.mp4: cannot be decoded.*data\.patterns\.movie"):
        extract(movie=movie, volumes=1, out=tmp_path / "seg9.npy", cfg=CFG, tr_s=2.0)


def test_frames_must_fill_a_volume(tmp_path):
    with pytest.raises(InputError, match=r"stimuli\.fps.*2\.16 frames per volume"):
        extract(movie=tmp_path / "any.mp4", volumes=1, out=tmp_path / "any.npy", cfg=CFG, tr_s=0.72)
