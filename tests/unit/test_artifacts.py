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
    assert [p.name for p in out.iterdir()] == ["new"]


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
