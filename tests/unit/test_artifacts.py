from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mindreel import artifacts
from mindreel.errors import InputError


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), artifacts.atomic(tmp_path / "a" / "x.txt") as path:
        path.write_text("half")
        1 / 0  # noqa: B018
    assert list((tmp_path / "a").iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    out = tmp_path / "x.txt"
    out.write_text("old")
    with pytest.raises(ZeroDivisionError), artifacts.atomic(out) as path:
        path.write_text("half")
        1 / 0  # noqa: B018
    assert out.read_text() == "old"


def test_a_folder_replaces_an_older_one_whole(tmp_path):
    out = tmp_path / "model"
    for name in ("old", "new"):
        with artifacts.atomic(out) as path:
            path.mkdir()
            (path / name).touch()
    assert {p.name for p in out.iterdir()} == {"new", artifacts.MARK}


@pytest.fixture
def thesis(tmp_path):
    """A folder that somebody needs."""
    folder = tmp_path / "keep"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years")
    yield folder
    assert (folder / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("write", [Path.touch, Path.mkdir])
def test_a_folder_of_somebody_else_is_refused_before_the_work(thesis, write):
    with (
        pytest.raises(InputError, match=r"keep: is a folder with files that mindreel did not write"),
        artifacts.atomic(thesis) as path,
    ):
        write(path)
        pytest.fail("the work was done")


def test_a_link_to_a_folder_is_refused(thesis, tmp_path):
    (tmp_path / "link").symlink_to(thesis)
    with pytest.raises(InputError, match="is a link to a folder"):
        artifacts.save_json(tmp_path / "link", {})


def test_a_file_does_not_replace_an_artifact_folder_nor_a_folder_a_file(tmp_path):
    with artifacts.atomic(tmp_path / "model") as path:
        path.mkdir()
    with pytest.raises(InputError, match="is a folder, expected a place for a file"):
        artifacts.save_json(tmp_path / "model", {})
    (tmp_path / "notes.txt").write_text("mine")
    with (
        pytest.raises(InputError, match="is a file, expected a place for a folder"),
        artifacts.atomic(tmp_path / "notes.txt") as path,
    ):
        path.mkdir()
    assert (tmp_path / "model").is_dir() and (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".[0-9]*"))


def test_what_snakemake_or_nobody_filled_is_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / ".snakemake_timestamp").touch()
    for name in ("empty", "older"):
        with artifacts.atomic(tmp_path / name) as path:
            path.mkdir()
        assert [p.name for p in (tmp_path / name).iterdir()] == [artifacts.MARK]


def test_an_output_is_no_input(tmp_path):
    (tmp_path / "pred").mkdir()
    clip = tmp_path / "pred" / "clip.npy"
    artifacts.refuse_overlap(tmp_path / "out", [clip])
    for out in (clip, tmp_path / "pred", tmp_path / "pred" / ".." / "pred"):
        with pytest.raises(InputError, match="would replace the input"):
            artifacts.refuse_overlap(out, [clip])


def test_arrays_come_back_memory_mapped(tmp_path, rng):
    array = rng.normal(size=(3, 4)).astype(np.float32)
    artifacts.save_array(tmp_path / "a.npy", array)
    loaded = artifacts.load_array(tmp_path / "a.npy")
    assert isinstance(loaded, np.memmap) and np.array_equal(loaded, array)


def test_a_truncated_array_says_what_to_do(tmp_path):
    path = tmp_path / "a.npy"
    artifacts.save_array(path, np.zeros((100, 100)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"a\.npy.*delete it and rerun"):
        artifacts.load_array(path)


def test_tables_round_trip(tmp_path):
    table = pd.DataFrame({"name": ["a", "b"], "value": [1.5, 2e-9]})
    artifacts.save_table(tmp_path / "t.tsv", table)
    pd.testing.assert_frame_equal(artifacts.load_table(tmp_path / "t.tsv"), table)
