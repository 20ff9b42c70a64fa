import gzip
import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import phantom
import pytest
import scipy.signal
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ParcelsAxis, SeriesAxis
from scipy.spatial.transform import Rotation

from mindreel.brain import registration, reproducibility, slice_timing, surface
from mindreel.cli import main
from mindreel.config import Bold, Registration
from mindreel.errors import InputError
from mindreel.small_world import scanner
from mindreel.stages import bold

VOLUMES = 12
HEAD = registration.rigid(np.array([4.0, -6, 3]), np.array([0.08, -0.03, 0.05]), np.zeros(3)) @ np.diag(
    [1.05, 0.97, 1, 1]
)
PLACE = registration.rigid(np.array([-3.0, 4, 2]), np.array([0.03, 0.02, -0.04]), np.zeros(3))  # T1w to EPI


@pytest.fixture(scope="session")
def cfg() -> Bold:
    return Bold(
        trim={VOLUMES: (1, 2), 16: (2, 4), 3: (2, 1)},
        polynomial_order=1,
        constant_tolerance=1e-6,
        slice_timing=False,
        registration=Registration(transform="Affine", resolution_mm=8),
    )


@pytest.fixture(scope="session")
def subject(tmp_path_factory, cfg) -> tuple[Path, Path, np.ndarray]:
    """A subject's registered anatomy, a raw run of a moving head, and the motion (VOLUMES, 6) about the origin."""
    folder = tmp_path_factory.mktemp("subject")
    shape, affine = phantom.grid(5.0, tilt=0.1, margin_mm=10)
    nib.save(nib.Nifti1Image(phantom.scan("t1w", shape, affine, HEAD), affine), folder / "t1w.nii.gz")
    bold.anatomy(t1w=folder / "t1w.nii.gz", out=folder / "anatomy", cfg=cfg)
    rng = np.random.default_rng(2)
    motion = rng.normal(size=(VOLUMES, 6)) * ([0.5] * 3 + [0.008] * 3)
    shape, affine = phantom.grid(6.0, tilt=-0.1, margin_mm=10)
    volumes = []
    for t, step in enumerate(motion):
        matrix = registration.rigid(step[:3], step[3:], np.zeros(3)) @ PLACE @ HEAD
        volumes.append(phantom.scan("epi", shape, affine, matrix, phase=0.9 * t) + rng.normal(size=shape) * 2)
    save_run(folder / "run.nii.gz", np.stack(volumes, axis=-1), affine)
    return folder / "anatomy", folder / "run.nii.gz", motion


@pytest.fixture(scope="session")
def cleaned_raw(tmp_path_factory, subject, cfg) -> dict[str, Path]:
    """The raw run, cleaned, and its motion."""
    anatomy, run, _ = subject
    folder = tmp_path_factory.mktemp("raw")
    outs = {"out": folder / "run.npy", "motion": folder / "run.tsv"}
    bold.clean(run=run, source="raw", **outs, cfg=cfg, tr_s=2, volumes=VOLUMES, anatomy=anatomy)
    return outs


def save_run(path: Path, series: np.ndarray, affine: np.ndarray, tr_s: float = 2.0) -> None:
    image = nib.Nifti1Image(series.astype(np.float32), affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def mni_run(path: Path, rng: np.random.Generator, volumes: int = VOLUMES) -> tuple[np.ndarray, np.ndarray]:
    """Write a run on an 8 mm MNI grid; each volume is linear in space: (volumes, 3) slopes, (volumes,) offsets."""
    affine = np.diag([-8.0, 8, 8, 1])
    affine[:3, 3] = [92, -130, -76]
    places = registration.move(affine, np.indices((24, 29, 25)).reshape(3, -1).T)
    slopes, offsets = rng.normal(size=(volumes, 3)), 1000 + 10 * rng.normal(size=volumes)
    series = np.stack(
        [(places @ slope + offset).reshape(24, 29, 25) for slope, offset in zip(slopes, offsets, strict=True)], axis=-1
    )
    save_run(path, series, affine)
    return slopes, offsets


def test_parity_with_the_matlab_code(root):
    data = np.load(root / "tests/data/matlab_repro/data.npz")
    for segment, repeat in itertools.product(range(2), range(2)):
        kept = data["raw"][:, 1:-4, segment, repeat].T
        cleaned, tsnr = bold.standardise(kept, order=4, tolerance=1e-6)
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
    whole, _ = bold.standardise(series, order=1, tolerance=1e-6)
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    monkeypatch.setattr(bold, "BLOCK", 7)
    assert np.array_equal(whole, bold.standardise(series, order=1, tolerance=1e-6)[0])


def test_constant_polynomial_and_broken_vertices_become_zeros(rng):
    time = np.linspace(-1, 1, 40)
    series = rng.normal(size=(40, 6)) + 1000
    series[:, 0] = 7.0
    series[:, 1] = 0.0
    series[:, 2] = (1000 + 50 * time**3 - 20 * time).astype(np.float32)  # a polynomial, rounded to single precision
    series[5, 3] = np.nan
    series[:, 4] -= 1000  # already demeaned, and alive
    cleaned, tsnr = bold.standardise(series.astype(np.float32), order=4, tolerance=1e-6)
    constant = np.isnan(tsnr)
    assert constant.tolist() == [True, True, True, True, False, False]
    assert not cleaned[:, constant].any()
    assert tsnr.dtype == np.float32
    assert abs(tsnr[4]) < 1 and 700 < tsnr[5] < 1400, "a demeaned vertex has no tSNR to speak of"
    assert np.isfinite(cleaned).all()
    np.testing.assert_allclose(cleaned[:, 4:].std(axis=0, ddof=1), 1, rtol=1e-5)


def test_a_short_run_cannot_carry_the_trend():
    with pytest.raises(InputError, match=r"polynomial_order: order 4 needs 6 volumes or more, found 5"):
        bold.standardise(np.zeros((5, 3)), order=4, tolerance=1e-6)


@pytest.mark.parametrize(("length", "expected"), [(245, (1, 241)), (246, (2, 242))])
def test_trimming_keeps_240_volumes(length, expected):
    kept = bold.trimmed(Path("seg1_1"), length, length, {245: (1, 4), 246: (2, 4)})
    assert (kept.start, kept.stop) == expected
    assert len(range(length)[kept]) == 240


def test_other_lengths_are_errors_that_name_run_length_and_rule():
    with pytest.raises(InputError, match=r"seg1_1: 244 volumes, the sample sheet says 245"):
        bold.trimmed(Path("seg1_1"), 244, 245, {245: (1, 4)})
    with pytest.raises(InputError, match=r"seg1_1: 244 volumes, .*245: drop 1 first and 4 last"):
        bold.trimmed(Path("seg1_1"), 244, 244, {245: (1, 4)})
    with pytest.raises(InputError, match=r"bold.trim.3: .*nothing would be left"):
        bold.trimmed(Path("seg1_1"), 3, 3, {3: (2, 1)})


def test_mni_run_is_sampled_at_midthickness(tmp_path, rng, cfg):
    slopes, offsets = mni_run(tmp_path / "run.nii.gz", rng)
    bold.clean(run=tmp_path / "run.nii.gz", source="mni", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=VOLUMES)
    truth = (slopes @ surface.coordinates().T.astype(float) + offsets[:, None])[1:-2]
    expected = scipy.signal.detrend(truth, axis=0)
    expected /= expected.std(axis=0, ddof=1)
    cleaned = np.load(tmp_path / "a.npy")
    assert cleaned.shape == (VOLUMES - 3, 59412)
    assert cleaned.dtype == np.float32
    np.testing.assert_allclose(cleaned, expected, atol=2e-3)


def test_cifti_run(tmp_path, rng, cfg):
    series = rng.normal(size=(VOLUMES, 59412)).astype(np.float32) + 100
    series[:, 11] = 5
    surface.save_dtseries(tmp_path / "run.dtseries.nii", series, 2.0, surface.brain_model_axis())
    bold.clean(
        run=tmp_path / "run.dtseries.nii", source="cifti", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=VOLUMES
    )
    expected = scipy.signal.detrend(series[1:-2].astype(float), axis=0)
    expected /= expected.std(axis=0, ddof=1)
    expected[:, 11] = 0
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, atol=1e-4)


def test_the_command_line_prints_the_error_and_fails(tmp_path, rng, cfg, capsys):
    mni_run(tmp_path / "run.nii.gz", rng, volumes=5)
    command = f"bold clean --run {tmp_path}/run.nii.gz --source mni --out {tmp_path}/a.npy --tr-s 2 --volumes 5 --cfg"
    assert main([*command.split(), json.dumps(cfg.model_dump())]) == 1
    assert "5 volumes, but bold.trim only has a rule for" in capsys.readouterr().err


def test_anatomy_puts_the_cortex_where_it_is(subject):
    anatomy, _, _ = subject
    points = np.load(anatomy / "midthickness.npy")
    truth = registration.move(HEAD, surface.coordinates())
    assert points.dtype == np.float32
    assert np.linalg.norm(points - truth, axis=1).mean() < 1.5  # mm, at a resolution of 8 mm
    registered = nib.load(anatomy / "t1w_mni.nii.gz")
    assert registration.inside(registered.shape, registered.affine, surface.coordinates()) == 1


def test_raw_run_follows_the_head_to_the_surface(subject, cleaned_raw):
    _, run, motion = subject
    cleaned = np.load(cleaned_raw["out"])
    phases = [phantom.wave(surface.coordinates(), 0.9 * t) for t in range(VOLUMES)]
    truth, _ = bold.standardise(np.stack(phases)[1:-2], order=1, tolerance=1e-6)
    r = (cleaned * truth).sum(axis=0) / (len(truth) - 1)
    assert np.median(r) > 0.94, np.percentile(r, [5, 25, 50])  # 0.96 with the true transforms: the 6 mm voxels limit it
    unmoved = bold.from_mni(run)  # taken for MNI, without motion correction and registration, it must be much worse
    wrong, _ = bold.standardise(unmoved[1:-2], order=1, tolerance=1e-6)
    assert np.median((wrong * truth).sum(axis=0) / (len(truth) - 1)) < 0.9

    table = pd.read_csv(cleaned_raw["motion"], sep="\t")
    assert len(table) == VOLUMES
    turned = Rotation.from_euler("xyz", motion[:, 3:])
    rotations = (turned * turned[VOLUMES // 2].inv()).as_euler("xyz")
    # the wave, 5 % strong and as long as the head, looks a little like motion
    np.testing.assert_allclose(table[["rot_x_rad", "rot_y_rad", "rot_z_rad"]], rotations, atol=8e-3)
    assert np.corrcoef(table["rot_x_rad"], rotations[:, 0])[0, 1] > 0.97
    assert table["framewise_displacement_mm"].iloc[1:].min() > 0.1


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


def refused(folder: Path, message: str, **options) -> None:
    """The run is refused with a message, and nothing, whole or partial, is written."""
    outs = {name: folder / "out" / name for name in ("tsnr", "motion")}
    with pytest.raises(InputError, match=message):
        bold.clean(**{"tr_s": 2.0, "volumes": VOLUMES, "out": folder / "out" / "bold.npy", **outs, **options})
    assert not list((folder / "out").rglob("*"))


@pytest.mark.parametrize("case", BAD_MNI)
def test_a_bad_mni_run(tmp_path, cfg, case):
    damage, message = BAD_MNI[case]
    damage(tmp_path / "run.nii.gz")
    refused(tmp_path, message, run=tmp_path / "run.nii.gz", source="mni", cfg=cfg)


@pytest.mark.parametrize("case", BAD_CIFTI)
def test_a_bad_cifti_run(tmp_path, cfg, cifti_run, case):
    damage, message = BAD_CIFTI[case]
    damage(tmp_path / "run.dtseries.nii", cifti_run)
    refused(tmp_path, message, run=tmp_path / "run.dtseries.nii", source="cifti", cfg=cfg)


def test_bad_options_are_refused_before_any_work(tmp_path, cfg):
    common = {"run": tmp_path / "absent.nii.gz", "cfg": cfg}
    refused(tmp_path, "source: found 'nifti', expected one of raw, mni, cifti", **common, source="nifti")
    refused(tmp_path, "a raw run needs --anatomy", **common, source="raw")
    timed = {**common, "cfg": cfg.model_copy(update={"slice_timing": True})}
    refused(tmp_path, "bold.slice_timing needs --sidecar", **timed, source="raw", anatomy=tmp_path)
    mni_run(tmp_path / "run.nii.gz", np.random.default_rng(5), volumes=5)
    short = {"run": tmp_path / "run.nii.gz", "cfg": cfg, "source": "mni", "volumes": 5}
    refused(tmp_path, r"5 volumes, but bold.trim only has a rule for 3: drop 2 first and 1 last, 12", **short)


def test_a_bad_raw_run(tmp_path, subject, cfg):
    anatomy, run, _ = subject
    options = {"source": "raw", "cfg": cfg}
    far = tmp_path / "far"
    far.mkdir()
    (far / "t1w.nii.gz").write_bytes((anatomy / "t1w.nii.gz").read_bytes())
    np.save(far / "midthickness.npy", np.add(np.load(anatomy / "midthickness.npy"), [0, 0, 90]))
    failed = r"run.nii.gz: registration to the T1w failed: \d+% of the cortex lies in the brain, expected 50%"
    refused(tmp_path, failed, run=run, anatomy=far, **options)
    image, empty = nib.load(run), tmp_path / "run.nii.gz"
    save_run(empty, 0 * image.get_fdata(dtype=np.float32), image.affine)
    refused(tmp_path, r"run.nii.gz: volume 6 shows no head: 0 bright voxels", run=empty, anatomy=anatomy, **options)
    refused(tmp_path, r"midthickness.npy: not a readable .npy", run=run, anatomy=tmp_path / "none", **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"run.json: no SliceTiming can be read .*KeyError.*set bold.slice_timing to false"),
        ("not json", r"run.json: no SliceTiming can be read"),
        ('{"SliceTiming": [0, 0.5, 1]}', r"SliceTiming has 3 times for 5 slices along k"),
        ('{"SliceTiming": [0, 400, 800, 1200, 1600]}', r"from 0 to 1600, expected seconds between 0 and .*\(2\)"),
        ('{"SliceTiming": [0, 1], "SliceEncodingDirection": "z"}', r"SliceEncodingDirection: found 'z', expected i, j"),
    ],
)
def test_a_bad_sidecar(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=message):
        slice_timing.read_times(tmp_path / "run.json", (3, 4, 5, 10), 2.0)
    with pytest.raises(InputError, match=r"absent.json: no SliceTiming can be read"):
        slice_timing.read_times(tmp_path / "absent.json", (3, 4, 5, 10), 2.0)


@pytest.mark.parametrize(("direction", "axis"), [("k", 2), ("k-", 2), ("j", 1)])
def test_slice_timing_brings_every_slice_to_the_same_moment(tmp_path, direction, axis):
    """A slow wave, sampled slice by slice: afterwards all slices show it at the middle of the acquisition."""
    times_s = np.array([0.0, 1.0, 0.4, 1.4, 0.8])
    (tmp_path / "run.json").write_text(
        json.dumps({"SliceTiming": times_s.tolist(), "SliceEncodingDirection": direction})
    )
    wave = lambda t: 100 + np.sin(2 * np.pi * t / 24)  # noqa: E731  a period of 12 volumes
    start = 2.0 * np.arange(40)
    shape = [5 if i == axis else 2 for i in range(3)]
    late = times_s[::-1] if direction.endswith("-") else times_s
    each = wave(start + late[:, None])  # (slices, T)
    series = np.broadcast_to(np.expand_dims(each, [i for i in range(3) if i != axis]), (*shape, 40)).astype(np.float32)
    found = slice_timing.correct(series, *slice_timing.read_times(tmp_path / "run.json", series.shape, 2.0), 2.0)
    assert found.shape == series.shape and found.dtype == np.float32
    np.testing.assert_allclose(found[..., 2:-2], np.broadcast_to(wave(start + 0.7), found.shape)[..., 2:-2], atol=3e-3)
    assert np.abs(series[..., 2:-2] - wave(start + 0.7)[2:-2]).max() > 0.1


def test_slice_timing_reaches_a_raw_run(tmp_path, subject, cleaned_raw, cfg):
    """All slices at once change no bit; slices in turn move, those far from the middle most."""
    anatomy, run, _ = subject
    slices = nib.load(run).shape[2]
    timed = cfg.model_copy(update={"slice_timing": True})

    def clean(times_s: np.ndarray) -> np.ndarray:
        (tmp_path / "run.json").write_text(json.dumps({"SliceTiming": times_s.tolist()}))
        options = {"run": run, "source": "raw", "tr_s": 2.0, "volumes": VOLUMES, "anatomy": anatomy}
        bold.clean(**options, out=tmp_path / "a.npy", cfg=timed, sidecar=tmp_path / "run.json")
        return np.load(tmp_path / "a.npy")

    plain = np.load(cleaned_raw["out"])
    assert np.array_equal(clean(np.zeros(slices)), plain), "the same run gives the same bits"
    height = np.load(anatomy / "midthickness.npy")[:, 2]
    unlike = 1 - (plain * clean(np.linspace(0, 1.9, slices))).sum(axis=0) / (len(plain) - 1)
    middle = np.abs(height - np.median(height)) < 10
    assert unlike[middle].mean() < 0.5 * unlike[height > np.percentile(height, 95)].mean(), "early and late slices move"


@pytest.mark.parametrize("order", ["time first", "time last", "subcortex first"])
def test_a_cifti_run_is_read_by_its_axes(tmp_path, cfg, order):
    """59,412 or more grayordinates, either axis first: the cleaned run is the same."""
    series = np.random.default_rng(7).normal(size=(VOLUMES, surface.VERTICES)).astype(np.float32) + 100
    time, cortex = SeriesAxis(0, 2.0, VOLUMES), surface.brain_model_axis()
    if order == "subcortex first":
        image = Cifti2Image(np.concatenate([np.full((VOLUMES, 8), 3, np.float32), series], 1), (time, DEEP + cortex))
    else:
        image = Cifti2Image(series, (time, cortex)) if order == "time first" else Cifti2Image(series.T, (cortex, time))
    image.to_filename(tmp_path / "run.dtseries.nii")
    assert bold.describe(tmp_path / "run.dtseries.nii", "cifti") == (VOLUMES, 2.0)
    options = {"source": "cifti", "cfg": cfg, "tr_s": 2, "volumes": VOLUMES}
    bold.clean(run=tmp_path / "run.dtseries.nii", out=tmp_path / "a.npy", tsnr=tmp_path / "t.npy", **options)
    expected, ratio = bold.standardise(series[1:-2], cfg.polynomial_order, cfg.constant_tolerance)
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


def test_another_repetition_time_is_refused_unless_check_ignores_it(tmp_path, cfg, cifti_run, capsys):
    run = tmp_path / "run.dtseries.nii"
    run.write_bytes(cifti_run)
    options = {"run": run, "source": "cifti", "cfg": cfg}
    message = r"its header says TR 2 s, data.tr_s says 0.72 s; correct one of them, or name `tr` in check.ignore"
    refused(tmp_path, message, tr_s=0.72, **options)
    bold.clean(**options, volumes=VOLUMES, out=tmp_path / "a.npy", tr_s=0.72, header_tr="ignore")
    assert "its header says TR 2 s, data.tr_s says 0.72 s; the latter is used" in capsys.readouterr().out
    bold.clean(**options, volumes=VOLUMES, out=tmp_path / "b.npy", tr_s=1.99)
    assert "TR" not in capsys.readouterr().out, "headers round"
    refused(tmp_path, "--header-tr: found 'maybe', expected check or ignore", header_tr="maybe", **options)


def test_an_anatomy_that_cannot_be_read(tmp_path, cfg):
    (tmp_path / "t1w.nii.gz").write_bytes(gzip.compress(b"no image" * 99))
    with pytest.raises(InputError, match=r"t1w.nii.gz: cannot be read"):
        bold.anatomy(t1w=tmp_path / "t1w.nii.gz", out=tmp_path / "out" / "anatomy", cfg=cfg)
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "t1w.nii.gz")
    with pytest.raises(InputError, match=r"expected a 3-D NIfTI, found the shape \(4, 4, 4, 3\)"):
        bold.anatomy(t1w=tmp_path / "t1w.nii.gz", out=tmp_path / "out" / "anatomy", cfg=cfg)
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.slow
def test_a_raw_subject_against_the_truth(tmp_path, cfg):
    """A simulated head: its motion is recovered, and raw runs give the map of the same runs read where they truly lie.

    Three segments of two runs. "cifti" has the same response and noise in a head that does not move, sampled with the
    true geometry: what a CIFTI run of equal noise would hold. "known" is the moving run sampled with the true geometry:
    what no registration can surpass. Its map is not that of "cifti" either, for a moving vertex meets the noise of
    other voxels; the fewer the segments, the more that counts (r 0.84 with one, 0.91 with two, 0.94 with three).
    """
    cfg = cfg.model_copy(update={"trim": {25: (1, 4)}, "polynomial_order": 2})
    cfg = cfg.model_copy(update={"registration": cfg.registration.model_copy(update={"resolution_mm": 4})})
    head = scanner.draw_head(5.0, np.random.default_rng(0))
    nib.save(head.t1w, tmp_path / "t1w.nii.gz")
    bold.anatomy(t1w=tmp_path / "t1w.nii.gz", out=tmp_path / "anatomy", cfg=cfg)
    voxels = np.stack([head.sample @ axis for axis in np.indices(head.shape).reshape(3, -1).astype(np.float32)], axis=1)
    cortex = registration.move(head.affine, voxels.astype(float))  # where the vertices lie as long as the head is still
    atlas = surface.atlas()
    visual = (atlas["rank"] < 8).to_numpy()
    area = (atlas["area"] + atlas["hemisphere"]).factorize()[0]
    options = {"source": "raw", "cfg": cfg, "tr_s": 2.0, "volumes": 25, "anatomy": tmp_path / "anatomy"}
    maps: dict[str, list] = {"raw": [], "known": [], "cifti": []}
    for segment in range(3):
        shown = np.random.default_rng([1, segment]).standard_normal((25, area.max() + 1), np.float32)
        response = np.where(visual, shown[:, area], 0).astype(np.float32)
        cleaned: dict[str, list] = {kind: [] for kind in maps}
        for repeat in range(2):
            path = scanner.motion(25, 2.0, np.random.default_rng([2, segment, repeat]))
            moving, still = (
                scanner.scan(head, response, 0.6, moved, np.random.default_rng([3, segment, repeat]))
                for moved in (path, 0 * path)
            )
            save_run(tmp_path / "run.nii.gz", moving, head.affine)
            outs = {"out": tmp_path / "run.npy", "motion": tmp_path / "run.tsv"}
            bold.clean(run=tmp_path / "run.nii.gz", **outs, **options)
            found = pd.read_csv(outs["motion"], sep="\t").to_numpy()[:, :6]
            assert np.linalg.norm(path[:, :3], axis=1).max() > 0.3, "the test needs motion"
            assert all(np.corrcoef(a, b)[0, 1] > 0.9 for a, b in zip(path.T, found.T, strict=True))
            cleaned["raw"].append(np.load(outs["out"]))
            places = [registration.move(registration.rigid(p[:3], p[3:], head.centre), cortex) for p in path]
            volumes = np.moveaxis(moving.astype(np.float32), -1, 0)
            known = [registration.sample(v, head.affine, at) for v, at in zip(volumes, places, strict=True)]
            series = (head.sample @ still.reshape(-1, 25).astype(np.float32)).T
            for kind, values in {"known": np.stack(known), "cifti": series}.items():
                cleaned[kind].append(bold.standardise(values[1:-4], 2, 1e-6)[0])
        for kind, runs in cleaned.items():
            maps[kind].append(reproducibility.fisher_z(reproducibility.correlate(*runs)))
    mean = {kind: np.mean(z, axis=0) for kind, z in maps.items()}
    seen = np.isfinite(list(mean.values())).all(axis=0)
    assert seen.mean() > 0.98
    alike = {kind: np.corrcoef(mean[kind][seen], mean["cifti"][seen])[0, 1] for kind in ("raw", "known")}
    print("r of the map with that of a still head:", alike)
    assert alike["raw"] > 0.92
    assert alike["raw"] > alike["known"] - 0.01, "registration costs next to nothing"
