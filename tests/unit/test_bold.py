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
from scipy.spatial.transform import Rotation

from mindreel import bold, registration, surface
from mindreel.cli import main
from mindreel.config import Bold, Registration
from mindreel.errors import InputError

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
        registration=Registration(motion="least-squares", transform="Affine", resolution_mm=8),
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
        cleaned, constant = bold.standardise(data["raw"][:, 1:-4, segment, repeat].T, order=4, tolerance=1e-6)
        np.testing.assert_allclose(cleaned, data["standardised"][:, :, segment, repeat].T, rtol=1e-6, atol=1e-6)
        assert not constant.any()


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
    cleaned, constant = bold.standardise(series.astype(np.float32), order=4, tolerance=1e-6)
    assert constant.tolist() == [True, True, True, True, False, False]
    assert not cleaned[:, constant].any()
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
    surface.save_dtseries(tmp_path / "run.dtseries.nii", series, 2.0, surface.cortex_axis())
    bold.clean(
        run=tmp_path / "run.dtseries.nii", source="cifti", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=VOLUMES
    )
    expected = scipy.signal.detrend(series[1:-2].astype(float), axis=0)
    expected /= expected.std(axis=0, ddof=1)
    expected[:, 11] = 0
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), expected, atol=1e-4)


def test_a_truncated_file_is_named_with_its_remedy(tmp_path, rng, cfg):
    path = tmp_path / "run.nii.gz"
    mni_run(path, rng)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"run.nii.gz: cannot be read .*truncated.*fetch it again"):
        bold.clean(run=path, source="mni", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=VOLUMES)
    path.write_bytes(gzip.compress(b"not an image at all" * 50))
    with pytest.raises(InputError, match=r"run.nii.gz: cannot be read"):
        bold.clean(run=path, source="mni", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=VOLUMES)
    with pytest.raises(InputError, match=r"absent.nii.gz: cannot be read"):
        bold.clean(run=tmp_path / "absent.nii.gz", source="mni", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=3)
    assert not (tmp_path / "a.npy").exists()


def test_a_run_outside_mni_space_is_refused(tmp_path, rng, cfg):
    series = rng.normal(size=(24, 29, 25, VOLUMES))
    save_run(tmp_path / "run.nii.gz", series, np.diag([8.0, 8, 8, 1]))  # no origin: the corner is at 0
    with pytest.raises(InputError, match=r"only \d+% of the cortex lies within its grid.*does not look like MNI"):
        bold.clean(run=tmp_path / "run.nii.gz", source="mni", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=VOLUMES)


def test_wrong_kinds_of_input_are_refused_before_any_work(tmp_path, rng, cfg):
    path = tmp_path / "run.nii.gz"
    mni_run(path, rng)
    common = {"run": path, "out": tmp_path / "a.npy", "cfg": cfg, "tr_s": 2, "volumes": VOLUMES}
    with pytest.raises(InputError, match="source: found 'nifti', expected one of raw, mni, cifti"):
        bold.clean(**common, source="nifti")
    with pytest.raises(InputError, match="needs --anatomy"):
        bold.clean(**common, source="raw")
    with pytest.raises(InputError, match="expected a dense CIFTI file"):
        bold.clean(**common, source="cifti")
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), path)
    with pytest.raises(InputError, match=r"expected a 4-D NIfTI, found the shape \(4, 4, 4\)"):
        bold.clean(**common, source="mni")


def test_a_run_without_signal_is_refused(tmp_path, cfg):
    surface.save_dtseries(tmp_path / "a.dtseries.nii", np.ones((VOLUMES, 59412)), 2.0, surface.cortex_axis())
    with pytest.raises(InputError, match=r"59412 of 59412 vertices are constant.*no signal"):
        bold.clean(
            run=tmp_path / "a.dtseries.nii", source="cifti", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=VOLUMES
        )


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


def test_raw_run_follows_the_head_to_the_surface(tmp_path, subject, cfg):
    anatomy, run, motion = subject
    outs = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for out in outs:
        bold.clean(
            run=run, source="raw", out=out, cfg=cfg, tr_s=2, volumes=VOLUMES, anatomy=anatomy, motion=tmp_path / "m.tsv"
        )
    assert outs[0].read_bytes() == outs[1].read_bytes(), "the same run gives the same bits"

    cleaned = np.load(outs[0])
    phases = [phantom.wave(surface.coordinates(), 0.9 * t) for t in range(VOLUMES)]
    truth, _ = bold.standardise(np.stack(phases)[1:-2], order=1, tolerance=1e-6)
    r = (cleaned * truth).sum(axis=0) / (len(truth) - 1)
    assert np.median(r) > 0.94, np.percentile(r, [5, 25, 50])  # 0.96 with the true transforms: the 6 mm voxels limit it
    unmoved = bold.from_mni(run)  # taken for MNI, without motion correction and registration, it must be much worse
    wrong, _ = bold.standardise(unmoved[1:-2], order=1, tolerance=1e-6)
    assert np.median((wrong * truth).sum(axis=0) / (len(truth) - 1)) < 0.9

    table = pd.read_csv(tmp_path / "m.tsv", sep="\t")
    assert len(table) == VOLUMES
    turned = Rotation.from_euler("xyz", motion[:, 3:])
    rotations = (turned * turned[VOLUMES // 2].inv()).as_euler("xyz")
    np.testing.assert_allclose(table[["rot_x", "rot_y", "rot_z"]], rotations, atol=4e-3)
    assert np.corrcoef(table["rot_x"], rotations[:, 0])[0, 1] > 0.97
    assert table["framewise_displacement"].iloc[1:].min() > 0.1


def test_a_failed_registration_is_noticed(tmp_path, subject, cfg):
    anatomy, run, _ = subject
    bad = tmp_path / "anatomy"
    bad.mkdir()
    (bad / "t1w.nii.gz").write_bytes((anatomy / "t1w.nii.gz").read_bytes())
    np.save(bad / "midthickness.npy", np.add(np.load(anatomy / "midthickness.npy"), [0, 0, 90]))
    with pytest.raises(InputError, match=r"run.nii.gz: registration to the T1w failed: \d+% of the cortex"):
        bold.clean(run=run, source="raw", out=tmp_path / "a.npy", cfg=cfg, tr_s=2, volumes=VOLUMES, anatomy=bad)
    assert not (tmp_path / "a.npy").exists()
