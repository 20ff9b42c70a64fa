import numpy as np
import pandas as pd
import pytest

from mindreel.errors import InputError
from mindreel.stages import roi_lag


@pytest.fixture(scope="module")
def delayed(tmp_path_factory) -> dict:
    """Six rows of fMRI that shows CLIP embeddings two volumes late, in noise; the last two share a movie."""
    folder = tmp_path_factory.mktemp("lag")
    rng = np.random.default_rng(8)
    mixing = rng.normal(size=(5, 40))
    targets, rows = [], []
    for segment in (1, 2, 3, 4, 5, 5):
        targets.append(folder / f"seg{segment}")
        if not targets[-1].exists():
            targets[-1].mkdir()
            frames = np.repeat(rng.normal(size=(30, 1, 1, 5)), 3, axis=1) + 0.1 * rng.normal(size=(30, 3, 2, 5))
            np.save(targets[-1] / "image.npy", frames.astype(np.float32))
        shown = np.load(targets[-1] / "image.npy")[:, :, 0].mean(1)
        rows.append(np.concatenate([np.zeros((2, 40)), shown @ mixing])[:30] + 1.5 * rng.normal(size=(30, 40)))
    np.save(folder / "train.npy", np.stack(rows).astype(np.float32))
    return {"bold": folder / "train.npy", "targets": targets}


def test_the_sweep_finds_the_delay(tmp_path, delayed):
    outs = {"out": tmp_path / "lag.tsv", "figure": tmp_path / "lag.svg"}
    roi_lag.sweep(**delayed, **outs, tr_s=2.0)
    table = pd.read_csv(outs["out"], sep="\t")
    assert list(table) == ["lag", "delay_s", "r", "two_way", "r_deviation", "two_way_deviation"]
    assert table["delay_s"].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert table["r"].idxmax() == table["two_way"].idxmax() == 2
    assert table["r"][2] > 0.8 and table["two_way"][2] > 0.9
    assert table["r"].drop(2).abs().max() < 0.4
    assert table["two_way"].drop(2).between(0.3, 0.7).all(), "chance is a half"
    assert "fMRI after the picture" in outs["figure"].read_text()
    roi_lag.sweep(**delayed, out=tmp_path / "slow.tsv", figure=tmp_path / "slow.png", tr_s=5.0)
    assert pd.read_csv(tmp_path / "slow.tsv", sep="\t")["delay_s"].tolist() == [0, 5, 10]
    assert (tmp_path / "slow.png").read_bytes().startswith(b"\x89PNG")


def test_repeats_of_a_movie_are_left_out_together(delayed, monkeypatch, tmp_path):
    folds = []
    monkeypatch.setattr(roi_lag, "scores", lambda series, pictures, fold, lags: folds.append(fold) or [{"lag": 0}])
    with pytest.raises(KeyError):  # no scores to draw
        roi_lag.sweep(**delayed, out=tmp_path / "a.tsv", figure=tmp_path / "a.png", tr_s=2.0)
    assert folds[0].tolist() == [0, 1, 2, 3, 4, 4]


def test_two_way_by_hand(rng):
    true = rng.normal(size=(4, 9))
    assert roi_lag.two_way(true, true) == 1
    assert roi_lag.two_way(true, -true) == 0
    swapped = true[[1, 0, 2, 3]]
    expected = [
        np.corrcoef(swapped[i], true[i])[0, 1] > np.corrcoef(swapped[i], true[j])[0, 1]
        for i in range(4)
        for j in range(4)
        if i != j
    ]
    assert roi_lag.two_way(true, swapped) == pytest.approx(np.mean(expected))


def test_a_sweep_that_cannot_be_made(tmp_path, delayed):
    targets = delayed["targets"]
    for message, folders, tr_s in (
        (r"train.npy has 6 rows of 30 volumes, the 5 targets have 30, 30, .*once per row", targets[:5], 2.0),
        (r"1 segments of 30 volumes; a sweep of 7 delays .*needs 2 segments of 9 volumes", [targets[0]] * 6, 2.0),
        (r"5 segments of 30 volumes; a sweep of 121 delays", targets, 0.1),
    ):
        outs = {"out": tmp_path / "made" / "lag.tsv", "figure": tmp_path / "made" / "lag.png"}
        with pytest.raises(InputError, match=message):
            roi_lag.sweep(bold=delayed["bold"], targets=folders, tr_s=tr_s, **outs)
        assert not list(tmp_path.rglob("made/*"))
