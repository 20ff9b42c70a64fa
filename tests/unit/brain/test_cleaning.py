import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

from mindreel.brain import cleaning
from mindreel.errors import InputError


def test_parity_with_the_matlab_code(root):
    data = np.load(root / "tests/data/matlab_repro/data.npz")
    for segment, repeat in itertools.product(range(2), range(2)):
        kept = data["raw"][:, 1:-4, segment, repeat].T
        cleaned, tsnr = cleaning.standardise(kept, order=4, tolerance=1e-6)
        np.testing.assert_allclose(cleaned, data["standardised"][:, :, segment, repeat].T, rtol=1e-6, atol=1e-7)
        trend = np.polynomial.Polynomial.fit
        for voxel in range(3):
            x = np.arange(len(kept))
            rest = kept[:, voxel] - trend(x, kept[:, voxel].astype(float), 4)(x)
            np.testing.assert_allclose(tsnr[voxel], kept[:, voxel].mean(dtype=float) / rest.std(ddof=1), rtol=1e-6)


def test_detrending_against_scipy_and_the_blocks_agree(rng, monkeypatch):
    series = rng.normal(size=(30, 50)) + np.linspace(0, 9, 30)[:, None] + 10000
    expected = scipy.signal.detrend(series, axis=0)
    expected /= expected.std(axis=0, ddof=1)
    whole, _ = cleaning.standardise(series, order=1, tolerance=1e-6)
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    monkeypatch.setattr(cleaning, "BLOCK", 7)
    assert np.array_equal(whole, cleaning.standardise(series, order=1, tolerance=1e-6)[0])


def test_constant_polynomial_and_broken_vertices_become_zeros(rng):
    time = np.linspace(-1, 1, 40)
    series = rng.normal(size=(40, 6)) + 1000
    series[:, 0] = 7.0
    series[:, 1] = 0.0
    series[:, 2] = (1000 + 50 * time**3 - 20 * time).astype(np.float32)  # a polynomial, rounded to single precision
    series[5, 3] = np.nan
    series[:, 4] -= 1000  # already demeaned, and alive
    cleaned, tsnr = cleaning.standardise(series.astype(np.float32), order=4, tolerance=1e-6)
    constant = np.isnan(tsnr)
    assert constant.tolist() == [True, True, True, True, False, False]
    assert not cleaned[:, constant].any()
    assert tsnr.dtype == np.float32
    assert abs(tsnr[4]) < 1 and 700 < tsnr[5] < 1400, "a demeaned vertex has no tSNR to speak of"
    assert np.isfinite(cleaned).all()
    np.testing.assert_allclose(cleaned[:, 4:].std(axis=0, ddof=1), 1, rtol=1e-5)


def test_a_short_run_cannot_carry_the_trend():
    with pytest.raises(InputError, match=r"polynomial_order: order 4 needs 6 volumes or more, found 5"):
        cleaning.standardise(np.zeros((5, 3)), order=4, tolerance=1e-6)


@pytest.mark.parametrize(("length", "expected"), [(245, (1, 241)), (246, (2, 242))])
def test_trimming_keeps_240_volumes(length, expected):
    kept = cleaning.trimmed(Path("seg1_1"), length, length, {245: (1, 4), 246: (2, 4)})
    assert (kept.start, kept.stop) == expected
    assert len(range(length)[kept]) == 240


def test_other_lengths_are_errors_that_name_run_length_and_rule():
    with pytest.raises(InputError, match=r"seg1_1: 244 volumes, the sample sheet says 245"):
        cleaning.trimmed(Path("seg1_1"), 244, 245, {245: (1, 4)})
    with pytest.raises(InputError, match=r"seg1_1: 244 volumes, .*245: drop 1 first and 4 last"):
        cleaning.trimmed(Path("seg1_1"), 244, 244, {245: (1, 4)})
    with pytest.raises(InputError, match=r"bold.trim.3: .*nothing would be left"):
        cleaning.trimmed(Path("seg1_1"), 3, 3, {3: (2, 1)})
