"""MNI and CIFTI runs: cleaned time series of the cortex, and every way in which a run is refused."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.signal
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ParcelsAxis, SeriesAxis
from runs import CFG, VOLUMES, mni_run, refused, save_run

from mindreel.brain import cleaning, surface
from mindreel.cli import main
from mindreel.stages import bold


def test_mni_run_is_sampled_at_midthickness(tmp_path, rng):
    slopes, offsets = mni_run(tmp_path / "run.nii.gz", rng)
    bold.clean(run=tmp_path / "run.nii.gz", source="mni", out=tmp_path / "a.npy", cfg=CFG, tr_s=2, volumes=VOLUMES)
    truth = (slopes @ surface.coordinates().T.astype(float) + offsets[:, None])[1:-2]
    expected = scipy.signal.detrend(truth, axis=0)
    expected /= expected.std(axis=0, ddof=1)
    cleaned = np.load(tmp_path / "a.npy")
    assert cleaned.shape == (VOLUMES - 3, 59412)
    assert cleaned.dtype == np.float32
    np.testing.assert_allclose(cleaned, expected, atol=2e-3)


def test_cifti_run(tmp_path, rng):
    series = rng.normal(size=(VOLUMES, 59412)).astype(np.float32) + 100
    series[:, 11] = 5
    surface.save_dtseries(tmp_path / "run.dtseries.nii", series, 2.0, surface.brain_model_axis())
    bold.clean(
        run=tmp_path / "run.dtseries.nii", source="cifti", out=tmp_path / "a.npy", cfg=CFG, tr_s=2, volumes=VOLUMES
    )
    expected = scipy.signal.detrend(series[1:-2].astype(float), axis=0)
    expected /= expected.std(axis=0, ddof=1)
    expected[:, 11] = 0
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, atol=1e-4)


def test_the_command_line_prints_the_error_and_fails(tmp_path, rng, capsys):
    mni_run(tmp_path / "run.nii.gz", rng, volumes=5)
    command = f"bold clean --run {tmp_path}/run.nii.gz --source mni --out {tmp_path}/a.npy --tr-s 2 --volumes 5 --cfg"
    assert main([*command.split(), json.dumps(CFG.model_dump())]) == 1
    assert "5 volumes, but bold.trim only has a rule for" in capsys.readouterr().err


@pytest.fixture(scope="session")
def cifti_run(tmp_path_factory) -> bytes:
    """A good CIFTI run as a file's content; its data, (VOLUMES, 59412) float32, are the end of it."""
    path = tmp_path_factory.mktemp("cifti") / "run.dtseries.nii"
    series = np.random.default_rng(5).normal(size=(VOLUMES, surface.VERTICES)) + 100
    surface.save_dtseries(path, series, 2.0, surface.brain_model_axis())
    return path.read_bytes()


def damaged_cifti(content: bytes, path: Path, damage) -> None:
    """Write the good run with its series changed in place by `damage`."""
    path.write_bytes(content)
    count = VOLUMES * surface.VERTICES
    series = np.memmap(path, "<f4", "r+", offset=len(content) - 4 * count, shape=(VOLUMES, surface.VERTICES))
    damage(series)
    series.flush()


def damaged_mni(path: Path, damage) -> None:
    """Write a good MNI run changed by `damage`: (series, affine) -> (series, affine)."""
    mni_run(path, np.random.default_rng(5))
    image = nib.load(path)
    save_run(path, *damage(image.get_fdata(dtype=np.float32), image.affine.copy()))


def flattened(path: Path) -> None:
    """Write a good MNI run whose header says that slices are 0 mm thick."""
    mni_run(path, np.random.default_rng(5))
    image = nib.load(path)
    header = image.header.copy()
    header["srow_z"], header["qform_code"] = 0, 0
    nib.Nifti1Image(np.asarray(image.dataobj), None, header).to_filename(path)


def small_cifti(path: Path, last) -> None:
    """Write a CIFTI series over another axis than the cortex's."""
    series = np.ones((VOLUMES, len(last)), np.float32)
    Cifti2Image(series, header=(SeriesAxis(0, 2.0, VOLUMES), last)).to_filename(path)


def put(series: np.ndarray, where, value: float) -> np.ndarray:
    series[where] = value
    return series


def truncated(path: Path, count: int) -> None:
    path.write_bytes(path.read_bytes()[:-count])


MASK = np.ones((2, 2, 2), bool)
DEEP = BrainModelAxis.from_mask(MASK, name="thalamus_left", affine=np.eye(4))
OTHER_MESH = BrainModelAxis.from_surface(np.arange(10), 10242, name="cortex_left")
PARCELS = ParcelsAxis.from_brain_models([("one", OTHER_MESH), ("two", DEEP)])
# What is wrong with an MNI run, the run that has it, what is said.
BAD_MNI = {
    "truncated gzip": (
        lambda path: (mni_run(path, np.random.default_rng(5)), truncated(path, 2000)),
        r"run.nii.gz: cannot be read .*truncated.*fetch it again",
    ),
    "no image": (lambda path: path.write_bytes(gzip.compress(b"not an image" * 50)), r"run.nii.gz: cannot be read"),
    "missing file": (lambda path: None, r"run.nii.gz: cannot be read .*it is missing"),
    "wrong length": (
        lambda path: mni_run(path, np.random.default_rng(5), volumes=11),
        r"run.nii.gz: 11 volumes, the sample sheet says 12; .*set `exclude`",
    ),
    "swapped dimensions": (
        lambda path: damaged_mni(path, lambda series, affine: (np.moveaxis(series, -1, 0), affine)),
        r"the shape \(12, 24, 29, 25\), expected \(X, Y, Z, 12\): its dimensions are swapped",
    ),
    "one volume": (
        lambda path: nib.save(nib.Nifti1Image(np.ones((24, 29, 25), np.float32), np.eye(4)), path),
        r"expected a 4-D NIfTI, found the shape \(24, 29, 25\)",
    ),
    "all zeros": (
        lambda path: damaged_mni(path, lambda series, affine: (0 * series, affine)),
        r"9 of 9 volumes hold no signal, all values are zeros",
    ),
    "an empty volume": (
        lambda path: damaged_mni(path, lambda series, affine: (put(series, (..., 7), np.nan), affine)),
        r"1 of 9 volumes hold no signal, .*\(volumes 7\)",
    ),
    "not in MNI": (
        lambda path: damaged_mni(path, lambda series, affine: (series, np.diag([8.0, 8, 8, 1]))),
        r"only \d+% of the cortex lies within its grid, expected at least 95%.*does not look like MNI",
    ),
    "affine without volume": (
        flattened,
        r"affine .* gives voxels no volume; repair the header",
    ),
}
BAD_CIFTI = {
    "truncated": (
        lambda path, good: path.write_bytes(good[:-5000]),
        r"run.dtseries.nii: cannot be read whole: \d+ bytes, its header announces \d+; fetch it again",
    ),
    "all zeros": (
        lambda path, good: damaged_cifti(good, path, lambda series: put(series, ..., 0)),
        r"9 of 9 volumes hold no signal, all values are zeros .*exclude it",
    ),
    "all NaN": (
        lambda path, good: damaged_cifti(good, path, lambda series: put(series, ..., np.nan)),
        r"9 of 9 volumes hold no signal, all values are not finite",
    ),
    "constant": (
        lambda path, good: damaged_cifti(good, path, lambda series: put(series, ..., 7)),
        r"59412 of 59412 vertices are constant, not finite or outside.*no signal",
    ),
    "without cortex": (
        lambda path, good: small_cifti(path, DEEP),
        r"run.dtseries.nii: has no CIFTI_STRUCTURE_CORTEX_LEFT, only CIFTI_STRUCTURE_THALAMUS_LEFT",
    ),
    "another mesh": (
        lambda path, good: small_cifti(path, OTHER_MESH),
        r"CORTEX_LEFT has 10 vertices of a mesh of 10242, expected 29696 of 32492 .*resample it to fsLR 32k",
    ),
    "parcels": (
        lambda path, good: small_cifti(path, PARCELS),
        r"expected a dense CIFTI time series .*, its axes are SERIES x PARCELS",
    ),
    "no CIFTI": (
        lambda path, good: nib.save(nib.Nifti1Image(MASK.astype(np.float32), np.eye(4)), path),
        r"expected a dense CIFTI time series .*, found another NIfTI",
    ),
}


@pytest.mark.parametrize("case", BAD_MNI)
def test_a_bad_mni_run(tmp_path, case):
    damage, message = BAD_MNI[case]
    damage(tmp_path / "run.nii.gz")
    refused(tmp_path, message, run=tmp_path / "run.nii.gz", source="mni", cfg=CFG)


@pytest.mark.parametrize("case", BAD_CIFTI)
def test_a_bad_cifti_run(tmp_path, cifti_run, case):
    damage, message = BAD_CIFTI[case]
    damage(tmp_path / "run.dtseries.nii", cifti_run)
    refused(tmp_path, message, run=tmp_path / "run.dtseries.nii", source="cifti", cfg=CFG)


def test_bad_options_are_refused_before_any_work(tmp_path):
    common = {"run": tmp_path / "absent.nii.gz", "cfg": CFG}
    refused(tmp_path, "source: found 'nifti', expected one of raw, mni, cifti", **common, source="nifti")
    refused(tmp_path, "a raw run needs --anatomy", **common, source="raw")
    timed = {**common, "cfg": CFG.model_copy(update={"slice_timing": True})}
    refused(tmp_path, "bold.slice_timing needs --sidecar", **timed, source="raw", anatomy=tmp_path)
    mni_run(tmp_path / "run.nii.gz", np.random.default_rng(5), volumes=5)
    short = {"run": tmp_path / "run.nii.gz", "cfg": CFG, "source": "mni", "volumes": 5}
    refused(tmp_path, r"5 volumes, but bold.trim only has a rule for 3: drop 2 first and 1 last, 12", **short)


@pytest.mark.parametrize("order", ["time first", "time last", "subcortex first"])
def test_a_cifti_run_is_read_by_its_axes(tmp_path, order):
    """59,412 or more grayordinates, either axis first: the cleaned run is the same."""
    series = np.random.default_rng(7).normal(size=(VOLUMES, surface.VERTICES)).astype(np.float32) + 100
    time, cortex = SeriesAxis(0, 2.0, VOLUMES), surface.brain_model_axis()
    if order == "subcortex first":
        image = Cifti2Image(np.concatenate([np.full((VOLUMES, 8), 3, np.float32), series], 1), (time, DEEP + cortex))
    else:
        image = Cifti2Image(series, (time, cortex)) if order == "time first" else Cifti2Image(series.T, (cortex, time))
    image.to_filename(tmp_path / "run.dtseries.nii")
    assert bold.describe(tmp_path / "run.dtseries.nii", "cifti") == (VOLUMES, 2.0)
    options = {"source": "cifti", "cfg": CFG, "tr_s": 2, "volumes": VOLUMES}
    bold.clean(run=tmp_path / "run.dtseries.nii", out=tmp_path / "a.npy", tsnr=tmp_path / "t.npy", **options)
    expected, ratio = cleaning.standardise(series[1:-2], CFG.polynomial_order, CFG.constant_tolerance)
    assert np.array_equal(np.load(tmp_path / "a.npy"), expected)
    assert np.array_equal(np.load(tmp_path / "t.npy"), ratio)
    assert 70 < np.median(ratio) < 140


@pytest.mark.parametrize(
    ("tr", "unit", "expected"),
    [
        (2.0, "sec", 2.0),
        (2000.0, "msec", 2.0),
        (2e6, "usec", 2.0),
        (2000.0, "sec", 2.0),
        (0.0, "sec", 0.0),
        (1.0, "unknown", 0.0),
    ],
)
def test_the_repetition_time_is_read_in_its_unit(tmp_path, capsys, tr, unit, expected):
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 5), np.float32), np.eye(4))
    image.header.set_zooms((1, 1, 1, tr))
    image.header.set_xyzt_units("mm", unit)
    nib.save(image, tmp_path / "run.nii.gz")
    assert bold.describe(tmp_path / "run.nii.gz", "mni") == (5, pytest.approx(expected))
    assert ("taken for milliseconds" in capsys.readouterr().out) == (tr == 2000 and unit == "sec")


def test_another_repetition_time_is_refused_unless_check_ignores_it(tmp_path, cifti_run, capsys):
    run = tmp_path / "run.dtseries.nii"
    run.write_bytes(cifti_run)
    options = {"run": run, "source": "cifti", "cfg": CFG}
    message = r"its header says TR 2 s, data.tr_s says 0.72 s; correct one of them, or name `tr` in check.ignore"
    refused(tmp_path, message, tr_s=0.72, **options)
    bold.clean(**options, volumes=VOLUMES, out=tmp_path / "a.npy", tr_s=0.72, header_tr="ignore")
    assert "its header says TR 2 s, data.tr_s says 0.72 s; the latter is used" in capsys.readouterr().out
    bold.clean(**options, volumes=VOLUMES, out=tmp_path / "b.npy", tr_s=1.99)
    assert "TR" not in capsys.readouterr().out, "headers round"
    refused(tmp_path, "--header-tr: found 'maybe', expected check or ignore", header_tr="maybe", **options)
