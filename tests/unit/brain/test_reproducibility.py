import numpy as np
import pytest
import scipy.stats

from mindreel.brain import cleaning, reproducibility
from mindreel.sections import Roi

CFG = Roi(
    alpha=0.01, alternative="greater", correction="bonferroni", top_fraction=0.5, top_count=None, repeats="average"
)


@pytest.fixture
def matlab(root) -> dict[str, np.ndarray]:
    return dict(np.load(root / "tests/data/matlab_repro/data.npz"))


def test_parity_with_the_matlab_code_correlation(matlab):
    found = []
    for segment in range(18):
        runs = [cleaning.standardise(matlab["raw"][:, 1:-4, segment, k].T, 4, 1e-6)[0] for k in range(2)]
        found.append(reproducibility.correlate(*runs))
    found = np.stack(found, axis=1)
    np.testing.assert_allclose(found, matlab["Rmat"], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(reproducibility.fisher_z(found), matlab["Zmat"][matlab["voxels"]], rtol=1e-6, atol=1e-8)


def test_parity_with_the_matlab_code_test_and_selection(matlab):
    t, p = reproducibility.t_test(matlab["Zmat"].T, "greater")
    np.testing.assert_allclose(t, matlab["t"], rtol=1e-13)
    np.testing.assert_allclose(p, matlab["p_greater"], rtol=1e-12)
    significant = reproducibility.survivors(p, 0.01, "bonferroni")
    assert np.array_equal(significant, matlab["bonf_greater"])
    kept = reproducibility.most_significant(t, significant, 0.5, "greater")
    assert np.array_equal(kept, matlab["top50_of_significant"])
    assert np.array_equal(reproducibility.most_significant(t, np.ones(300, bool), 0.5, "greater"), matlab["top50_all"])
    t, p = reproducibility.t_test(matlab["Zmat"].T, "two-sided")
    np.testing.assert_allclose(t, matlab["t"], rtol=1e-13)
    np.testing.assert_allclose(p, matlab["p_two"], rtol=1e-12)
    assert np.array_equal(reproducibility.survivors(p, 0.01, "bonferroni"), matlab["bonf_two"])


def test_correlation_against_numpy_whatever_mean_and_blocks(rng, monkeypatch):
    first = rng.normal(size=(50, 7)) * 3 + 1e4
    second = 0.5 * first + rng.normal(size=(50, 7))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(reproducibility.correlate(first, second), expected, rtol=1e-9)
    monkeypatch.setattr(reproducibility, "BLOCK", 3)
    np.testing.assert_allclose(reproducibility.correlate(first, second), expected, rtol=1e-9)


def test_degenerate_values_never_reach_a_voxel(rng):
    """Constant, broken and identical series."""
    series = rng.normal(size=(40, 4)).astype(np.float32)
    other = rng.normal(size=(40, 4)).astype(np.float32)
    series[:, 0] = 0
    other[3, 1] = np.inf
    other[:, 2] = series[:, 2]
    with np.errstate(invalid="ignore"):
        r = reproducibility.correlate(series, other)
    assert np.isnan(r[:2]).all()
    assert np.isfinite(reproducibility.fisher_z(np.array([1.0, 1 + 1e-9, -1 - 1e-9, r[2]]))).all()
    z = rng.normal(size=(6, 3))
    z[2, 0] = np.nan
    z[:, 1] = 0.7  # the same everywhere: no deviation
    t, p = reproducibility.t_test(z, "greater")
    assert np.isnan(t[:2]).all()
    assert np.isnan(p[:2]).all()
    assert np.isfinite([t[2], p[2]]).all()
    for correction in ("bonferroni", "fdr", "none"):
        assert not reproducibility.survivors(p, 0.999, correction)[:2].any()


def test_fdr_against_scipy_and_nan_is_no_test(rng):
    p = np.concatenate([rng.uniform(0, 0.002, 20), rng.uniform(size=180), [np.nan] * 50])
    expected = scipy.stats.false_discovery_control(p[:200], method="bh") <= 0.05
    assert np.array_equal(reproducibility.survivors(p, 0.05, "fdr")[:200], expected)
    assert expected.sum() > 10
    assert np.array_equal(reproducibility.survivors(p, 0.05, "bonferroni")[:200], p[:200] * 200 < 0.05)
    assert np.array_equal(reproducibility.survivors(p, 0.05, "none")[:200], p[:200] < 0.05)


def test_two_sided_keeps_the_strongest_of_both_signs():
    t, significant = np.array([5.0, -9, 7, -1]), np.array([True, True, True, False])
    assert reproducibility.most_significant(t, significant, 2 / 3, "two-sided").tolist() == [False, True, True, False]
    assert reproducibility.most_significant(t, significant, 2 / 3, "greater").tolist() == [True, False, True, False]
    assert reproducibility.most_significant(t, significant, 0.01, "greater").sum() == 1


CONVENTIONS = {  # of papers and released code: p < 0.01 and the top half, p < 0.05, the top so many
    "published": {},
    "p below 0.05": {"alpha": 0.05, "correction": "none", "top_fraction": 1.0},
    "top 150": {"alpha": 1.0, "correction": "none", "top_fraction": 1.0, "top_count": 150},
    "top 30 of the significant half": {"top_count": 30},
    "false discovery rate, two-sided": {"alpha": 0.05, "correction": "fdr", "alternative": "two-sided"},
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_conventions_of_the_peers_are_settings(matlab, name):
    """On the fixture's z values, against the definitions written out with SciPy."""
    cfg = CFG.model_copy(update=CONVENTIONS[name])
    tested = scipy.stats.ttest_1samp(matlab["Zmat"], 0, axis=1, alternative=cfg.alternative)
    strength = tested.statistic if cfg.alternative == "greater" else np.abs(tested.statistic)
    wanted = {
        "published": matlab["top50_of_significant"],
        "p below 0.05": tested.pvalue < 0.05,
        "top 150": matlab["top50_all"],  # half of the fixture's 300
        "top 30 of the significant half": scipy.stats.rankdata(-strength) <= 30,
    }.get(name)
    if wanted is None:
        kept = scipy.stats.false_discovery_control(tested.pvalue) <= 0.05
        wanted = kept & (scipy.stats.rankdata(np.where(kept, -strength, np.inf)) <= kept.sum() // 2)
    assert np.array_equal(reproducibility.choose(matlab["Zmat"].T, cfg).selected, wanted)
    assert 0 < wanted.sum() < 300
