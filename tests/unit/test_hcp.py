import numpy as np
import pandas as pd
import pytest

from mindreel import hcp, surface
from mindreel.config import Hcp
from mindreel.errors import InputError

CFG = Hcp(pattern="*.dtseries.nii", areas=("V2", "V1"), window=10)


def write(path, series):
    surface.save_dtseries(path, series, 0.72, surface.cortex_axis())
    return path


def test_areas_in_the_given_order_left_before_right():
    atlas = surface.atlas()
    index = hcp.area_voxels(("V2", "V1"))
    areas = atlas["area"].to_numpy()[index]
    first = int((areas == "V2").sum())
    assert (areas[:first] == "V2").all()
    assert (areas[first:] == "V1").all()
    assert len(index) == atlas["area"].isin(["V1", "V2"]).sum()
    for part in (slice(first), slice(first, None)):
        assert (np.diff(index[part]) > 0).all()  # grayordinates: all of the left hemisphere come first
        assert set(atlas["hemisphere"].to_numpy()[index[part]]) == {"L", "R"}


def test_segments_against_a_direct_computation(tmp_path, rng):
    runs, expected = [], []
    index = hcp.area_voxels(CFG.areas)
    for number, volumes in enumerate((35, 20)):
        series = (1000 * (number + 1) + 7 * rng.normal(size=(volumes, surface.VERTICES))).astype(np.float32)
        runs.append(write(tmp_path / f"run{number}.dtseries.nii", series))
        windows = [series[start : start + 10, index].astype(float).mean(axis=0) for start in range(0, volumes - 9, 10)]
        expected.append((np.stack(windows) - np.mean(windows)) / np.std(windows))
    hcp.segments(runs=runs, out=tmp_path / "hcp", cfg=CFG)
    found = np.load(tmp_path / "hcp/segments.npy", mmap_mode="r")
    assert found.shape == (5, len(index))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=2e-3, atol=2e-3)
    table = pd.read_csv(tmp_path / "hcp/index.tsv", sep="\t")
    assert table["run"].tolist() == [str(runs[0])] * 3 + [str(runs[1])] * 2
    assert table["start"].tolist() == [0, 10, 20, 0, 10]
    assert len(pd.read_csv(tmp_path / "hcp/skipped.tsv", sep="\t")) == 0


def test_bad_runs_are_skipped_with_a_reason(tmp_path, rng):
    good = write(tmp_path / "good.dtseries.nii", rng.normal(size=(12, surface.VERTICES)))
    short = write(tmp_path / "short.dtseries.nii", rng.normal(size=(9, surface.VERTICES)))
    flat = write(tmp_path / "flat.dtseries.nii", np.full((12, surface.VERTICES), 5.0))
    broken = write(tmp_path / "broken.dtseries.nii", np.full((12, surface.VERTICES), np.nan))
    truncated = tmp_path / "truncated.dtseries.nii"
    truncated.write_bytes(good.read_bytes()[:-100000])
    hcp.segments(runs=[short, flat, good, broken, truncated], out=tmp_path / "hcp", cfg=CFG)
    assert len(np.load(tmp_path / "hcp/segments.npy")) == 1
    skipped = pd.read_csv(tmp_path / "hcp/skipped.tsv", sep="\t").set_index("run")["reason"]
    for run, reason in (
        (short, "9 volumes"),
        (flat, "constant"),
        (broken, "not finite"),
        (truncated, "cannot be read"),
    ):
        assert reason in skipped[str(run)]


def test_no_usable_run_is_an_error_and_leaves_nothing(tmp_path, rng):
    short = write(tmp_path / "short.dtseries.nii", rng.normal(size=(9, surface.VERTICES)))
    with pytest.raises(
        InputError, match=r"none of 1 HCP runs could be used; the first: 9 volumes, hcp.window needs 10"
    ):
        hcp.segments(runs=[short], out=tmp_path / "hcp", cfg=CFG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.dtseries.nii"]


def test_unknown_area_is_named_with_its_neighbours():
    with pytest.raises(InputError, match=r"hcp.areas: no such Glasser area: V9; near: .*V"):
        hcp.area_voxels(("V1", "V9"))


def test_array_writer_grows_over_many_blocks(tmp_path, rng):
    blocks = [rng.normal(size=(rows, 3)).astype(np.float16) for rows in (1, 0, 1200, 7)]
    with hcp.array_writer(tmp_path / "a.npy", 3, np.float16) as append:
        for block in blocks:
            append(block)
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.concatenate(blocks))
