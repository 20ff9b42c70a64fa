"""The shards of HCP windows as one array."""

import numpy as np
import pandas as pd
import pytest

from mindreel.brain.hcp_windows import INDEX, open_windows
from mindreel.errors import InputError


@pytest.fixture
def folder(tmp_path, rng):
    """Shards of 3, 1 and 5 rows."""
    return save(tmp_path, [rng.normal(size=(rows, 4)).astype(np.float16) for rows in (3, 1, 5)])


def save(folder, arrays):
    rows = []
    for number, array in enumerate(arrays):
        shard = f"sub-{number}/segments.npy"
        (folder / shard).parent.mkdir()
        np.save(folder / shard, array)
        # two runs a shard, but for those of one row
        half = len(array) // 2
        rows += [(number, "a", shard, 0, half, 10 * half)] if half else []
        rows += [(number, "b", shard, half, len(array) - half, 10 * (len(array) - half))]
    pd.DataFrame(rows, columns=list(INDEX)).to_csv(folder / "runs.tsv", sep="\t", index=False)
    return folder


@pytest.mark.parametrize(
    "rows",
    [0, -1, slice(None), slice(2, 7), slice(None, None, -2), [8, 0, 4, 4, 3], np.arange(9) % 2 == 0, np.array([], int)],
    ids=str,
)
def test_rows_are_those_of_the_whole_array(folder, rows):
    whole = np.concatenate([np.load(folder / f"sub-{i}/segments.npy") for i in range(3)])
    opened = open_windows(folder)
    assert len(opened) == 9 and opened.shape == (9, 4) and opened.dtype == np.float16
    assert opened[rows].shape == whole[rows].shape
    assert np.array_equal(opened[rows], whole[rows])


def test_beyond_the_end_is_an_index_error(folder):
    with pytest.raises(IndexError):
        open_windows(folder)[9]


def test_only_the_shards_asked_for_are_read(folder):
    opened = open_windows(folder)
    (folder / "sub-2/segments.npy").unlink()
    assert np.array_equal(opened[[2, 0]], np.load(folder / "sub-0/segments.npy")[[2, 0]])
    with pytest.raises(FileNotFoundError):
        opened[8]


def test_more_shards_than_open_files(tmp_path):
    import resource

    save(tmp_path, [np.full((1, 2), i, np.float16) for i in range(120)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        assert np.array_equal(open_windows(tmp_path)[:][:, 0], np.arange(120))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_folder_without_index_is_named(tmp_path):
    with pytest.raises(InputError, match=r"holds no runs.tsv; expected a folder that `mindreel hcp` made"):
        open_windows(tmp_path)


def test_an_older_index_is_refused(tmp_path):
    (tmp_path / "runs.tsv").write_text("run\tstart\n")
    with pytest.raises(InputError, match=r"has no column subject, shard, first, segments, volumes"):
        open_windows(tmp_path)


def test_a_shard_that_is_gone_or_shorter_is_named(folder):
    np.save(folder / "sub-2/segments.npy", np.zeros((2, 4), np.float16))
    with pytest.raises(InputError, match=r"sub-2/segments.npy: has 2 windows, the index says 5"):
        open_windows(folder)
    (folder / "sub-2/segments.npy").unlink()
    with pytest.raises(InputError, match=r"sub-2/segments.npy: not a readable .npy"):
        open_windows(folder)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 3), np.float16), "voxel counts differ: 4 in .*sub-1.*; 3 in .*sub-2"),
        (np.zeros((4, 5), np.float16).T, "sub-2.*expected rows one after the other"),
        (np.zeros((5, 4), np.float32), r"sub-2.*found float32 \(5, 4\), expected float16 \(N, V\)"),
    ],
)
def test_a_shard_of_another_kind_is_named(folder, array, message):
    np.save(folder / "sub-2/segments.npy", array)
    with pytest.raises(InputError, match=message):
        open_windows(folder)
