import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.stats

from mindreel import roi, surface
from mindreel.config import Roi
from mindreel.errors import InputError

CFG = Roi(alpha=0.01, alternative="greater", correction="bonferroni", top_fraction=0.5)


@pytest.fixture
def matlab(root) -> dict[str, np.ndarray]:
    return dict(np.load(root / "tests/data/matlab_repro/data.npz"))


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


def select(folder, bold, **changes) -> tuple[pd.DataFrame, dict]:
    cfg = CFG.model_copy(update=changes)
    outs = {"voxels": folder / "voxels.tsv", "maps": folder / "r.dscalar.nii", "summary": folder / "summary.json"}
    roi.select(bold=bold, **outs, cfg=cfg)
    return pd.read_csv(outs["voxels"], sep="\t", keep_default_na=False), json.loads(outs["summary"].read_text())


def test_parity_with_the_matlab_code_correlation(matlab):
    from mindreel.bold import standardise

    found = []
    for segment in range(18):
        runs = [standardise(matlab["raw"][:, 1:-4, segment, k].T, 4, 1e-6)[0] for k in range(2)]
        found.append(roi.correlate(*runs))
    found = np.stack(found, axis=1)
    np.testing.assert_allclose(found, matlab["Rmat"], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(roi.fisher_z(found), matlab["Zmat"][matlab["voxels"]], rtol=1e-6, atol=1e-7)


def test_parity_with_the_matlab_code_test_and_selection(matlab):
    t, p = roi.t_test(matlab["Zmat"].T, "greater")
    np.testing.assert_allclose(t, matlab["t"], rtol=1e-9)
    np.testing.assert_allclose(p, matlab["p_greater"], rtol=1e-6)
    significant = roi.survivors(p, 0.01, "bonferroni")
    assert np.array_equal(significant, matlab["bonf_greater"])
    kept = roi.most_significant(t, significant, 0.5, "greater")
    assert np.array_equal(kept, matlab["top50_of_significant"])
    assert np.array_equal(roi.most_significant(t, np.ones(300, bool), 0.5, "greater"), matlab["top50_all"])
    t, p = roi.t_test(matlab["Zmat"].T, "two-sided")
    np.testing.assert_allclose(p, matlab["p_two"], rtol=1e-6)
    assert np.array_equal(roi.survivors(p, 0.01, "bonferroni"), matlab["bonf_two"])


def test_correlation_against_numpy_whatever_mean_and_blocks(rng, monkeypatch):
    first = rng.normal(size=(50, 7)) * 3 + 1e4
    second = 0.5 * first + rng.normal(size=(50, 7))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(roi.correlate(first, second), expected, rtol=1e-9)
    monkeypatch.setattr(roi, "ROWS", 13)
    np.testing.assert_allclose(roi.correlate(first, second), expected, rtol=1e-9)


def test_degenerate_values_never_reach_a_voxel(rng):
    """Constant, broken and identical series (reference notes D12)."""
    series = rng.normal(size=(40, 4)).astype(np.float32)
    other = rng.normal(size=(40, 4)).astype(np.float32)
    series[:, 0] = 0
    other[3, 1] = np.inf
    other[:, 2] = series[:, 2]
    with np.errstate(invalid="ignore"):
        r = roi.correlate(series, other)
    assert np.isnan(r[:2]).all()
    assert np.isfinite(roi.fisher_z(np.array([1.0, 1 + 1e-9, -1 - 1e-9, r[2]]))).all()
    z = rng.normal(size=(6, 3))
    z[2, 0] = np.nan
    z[:, 1] = 0.7  # the same everywhere: no deviation
    t, p = roi.t_test(z, "greater")
    assert np.isnan(t[:2]).all()
    assert np.isnan(p[:2]).all()
    assert np.isfinite([t[2], p[2]]).all()
    for correction in ("bonferroni", "fdr", "none"):
        assert not roi.survivors(p, 0.999, correction)[:2].any()


def test_fdr_against_scipy_and_nan_is_no_test(rng):
    p = np.concatenate([rng.uniform(0, 0.002, 20), rng.uniform(size=180), [np.nan] * 50])
    expected = scipy.stats.false_discovery_control(p[:200], method="bh") <= 0.05
    assert np.array_equal(roi.survivors(p, 0.05, "fdr")[:200], expected)
    assert expected.sum() > 10
    assert np.array_equal(roi.survivors(p, 0.05, "bonferroni")[:200], p[:200] * 200 < 0.05)
    assert np.array_equal(roi.survivors(p, 0.05, "none")[:200], p[:200] < 0.05)


def test_two_sided_keeps_the_strongest_of_both_signs():
    t, significant = np.array([5.0, -9, 7, -1]), np.array([True, True, True, False])
    assert roi.most_significant(t, significant, 2 / 3, "two-sided").tolist() == [False, True, True, False]
    assert roi.most_significant(t, significant, 2 / 3, "greater").tolist() == [True, False, True, False]
    assert roi.most_significant(t, significant, 0.01, "greater").sum() == 1


def test_selection_finds_what_was_planted_in_hierarchical_order(tmp_path, planted):
    paths, responsive = planted
    table, summary = select(tmp_path, paths, top_fraction=1.0)
    assert set(table["grayordinate"]) <= set(responsive)
    assert len(table) > 0.8 * len(responsive)
    assert summary["tested"] == surface.VERTICES - 50
    assert summary["excluded"] == 50
    assert summary["selected"] == len(table) == sum(summary["areas"].values())
    columns = "grayordinate hemisphere vertex area network group rank r t p"
    assert list(table) == columns.split()
    keys = list(zip(table["rank"], table["hemisphere"], table["vertex"], strict=True))
    assert keys == sorted(keys)
    assert table["t"].min() > 0

    half, summary = select(tmp_path, paths)
    assert len(half) == summary["significant"] // 2 == summary["selected"]
    weakest = half["t"].min()
    assert (table["t"] > weakest * (1 + 1e-5)).sum() < len(half)  # the strongest half, not any half
    maps = nib.load(tmp_path / "r.dscalar.nii")
    assert list(maps.header.get_axis(0).name) == ["r", "t", "-log10 p", "selected"]
    values = surface.read_cifti(tmp_path / "r.dscalar.nii")
    assert np.isfinite(values).all()
    assert set(np.flatnonzero(values[3])) == set(half["grayordinate"])


def test_the_summary_r_is_the_mean_over_pairs_and_segments(tmp_path, planted):
    paths, _ = planted
    table, _ = select(tmp_path, paths, top_fraction=1.0)
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


def test_too_few_repeats(tmp_path, planted):
    paths, _ = planted
    with pytest.raises(InputError, match=r"2 or more repeats each, found 0 among 8 \(seg1, seg2"):
        select(tmp_path, [path for path in paths if path.stem.endswith("_1")])


def test_nothing_survives_says_how_many_and_what_to_change(tmp_path, planted):
    paths, _ = planted
    with pytest.raises(InputError, match=r"59362 of 59412 vertices tested, the smallest p is .*raise roi.alpha"):
        select(tmp_path, paths, alpha=1e-30)
    assert not (tmp_path / "voxels.tsv").exists()


def test_the_same_recording_twice_is_refused(tmp_path, planted):
    paths, _ = planted
    copy = tmp_path / "seg3_2.npy"
    copy.write_bytes(paths[5].read_bytes())
    assert paths[5].stem == "seg3_1"
    with pytest.raises(InputError, match=r"seg3_1.npy and .*seg3_2.npy are the same recording"):
        select(tmp_path, [copy if path.stem == "seg3_2" else path for path in paths])


def test_wrong_files_are_named(tmp_path, planted):
    paths, _ = planted
    short = tmp_path / "seg1_2.npy"
    np.save(short, np.load(paths[0])[:-1])
    with pytest.raises(InputError, match=r"seg1_2.npy: found the shape \(19, 59412\)"):
        select(tmp_path, [short if path.stem == "seg1_2" else path for path in paths])
    with pytest.raises(InputError, match=r"expected a name like seg1_2.npy"):
        roi.by_segment([tmp_path / "run.npy"])
    with pytest.raises(InputError, match=r"seg1_2 is given twice"):
        roi.by_segment([paths[1], short])
    short.write_bytes(paths[1].read_bytes()[:5000])
    with pytest.raises(InputError, match=r"seg1_2.npy: not a readable .npy array"):
        select(tmp_path, [paths[0], short, *paths[3:]])


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
    common = {"voxels": tmp_path / "voxels.tsv", "statistics": tmp_path / "statistics.npy"}
    roi.train(**common, bold=training, out=tmp_path / "train.npy")
    before = (tmp_path / "statistics.npy").read_bytes()
    roi.test(**common, bold=testing, out=tmp_path / "test.npy")
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


def test_arrays_refuse_what_does_not_fit(tmp_path, rng):
    pd.DataFrame({"grayordinate": [1, 2]}).to_csv(tmp_path / "voxels.tsv", sep="\t", index=False)
    paths = arrays(tmp_path, rng, ["test1_1"]) + arrays(tmp_path, rng, ["test2_1"], length=9)
    np.save(tmp_path / "statistics.npy", np.ones((2, 2), np.float32))
    common = {"voxels": tmp_path / "voxels.tsv", "statistics": tmp_path / "statistics.npy", "out": tmp_path / "a.npy"}
    with pytest.raises(
        InputError, match=r"test2_1.npy: found the shape \(9, 59412\), expected \(10, 59412\) as in .*test1_1"
    ):
        roi.test(**common, bold=paths)
    np.save(tmp_path / "statistics.npy", np.ones((2, 5), np.float32))
    with pytest.raises(InputError, match=r"statistics.npy: found the shape \(2, 5\), expected \(2, 2\)"):
        roi.test(**common, bold=paths[:1])
