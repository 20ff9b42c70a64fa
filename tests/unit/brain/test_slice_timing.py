import json

import numpy as np
import pytest

from mindreel.brain import slice_timing
from mindreel.errors import InputError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"run.json: no SliceTiming can be read .*KeyError.*set bold.slice_timing to false"),
        ("not json", r"run.json: no SliceTiming can be read"),
        ('{"SliceTiming": [0, 0.5, 1]}', r"SliceTiming has 3 times for 5 slices along k"),
        ('{"SliceTiming": [0, 400, 800, 1200, 1600]}', r"from 0 to 1600, expected seconds between 0 and .*\(2\)"),
        ('{"SliceTiming": [0, 1], "SliceEncodingDirection": "z"}', r"SliceEncodingDirection: found 'z', expected i, j"),
    ],
)
def test_a_bad_sidecar(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=message):
        slice_timing.read_times(tmp_path / "run.json", (3, 4, 5, 10), 2.0)
    with pytest.raises(InputError, match=r"absent.json: no SliceTiming can be read"):
        slice_timing.read_times(tmp_path / "absent.json", (3, 4, 5, 10), 2.0)


@pytest.mark.parametrize(("direction", "axis"), [("k", 2), ("k-", 2), ("j", 1)])
def test_slice_timing_brings_every_slice_to_the_same_moment(tmp_path, direction, axis):
    """A slow wave, sampled slice by slice: afterwards all slices show it at the middle of the acquisition."""
    times_s = np.array([0.0, 1.0, 0.4, 1.4, 0.8])
    (tmp_path / "run.json").write_text(
        json.dumps({"SliceTiming": times_s.tolist(), "SliceEncodingDirection": direction})
    )
    wave = lambda t: 100 + np.sin(2 * np.pi * t / 24)  # noqa: E731  a period of 12 volumes
    start = 2.0 * np.arange(40)
    shape = [5 if i == axis else 2 for i in range(3)]
    late = times_s[::-1] if direction.endswith("-") else times_s
    each = wave(start + late[:, None])  # (slices, T)
    series = np.broadcast_to(np.expand_dims(each, [i for i in range(3) if i != axis]), (*shape, 40)).astype(np.float32)
    found = slice_timing.correct(series, *slice_timing.read_times(tmp_path / "run.json", series.shape, 2.0), 2.0)
    assert found.shape == series.shape and found.dtype == np.float32
    np.testing.assert_allclose(found[..., 2:-2], np.broadcast_to(wave(start + 0.7), found.shape)[..., 2:-2], atol=3e-3)
    assert np.abs(series[..., 2:-2] - wave(start + 0.7)[2:-2]).max() > 0.1
