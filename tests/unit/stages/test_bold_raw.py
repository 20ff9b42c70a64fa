"""Raw runs: the head is followed, registered and sampled where the cortex lies."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import phantom
import pytest
from runs import CFG, VOLUMES, refused, save_run
from scipy.spatial.transform import Rotation

from mindreel.brain import cleaning, registration, reproducibility, surface
from mindreel.errors import InputError
from mindreel.small_world import scanner
from mindreel.stages import bold

HEAD = registration.rigid(np.array([4.0, -6, 3]), np.array([0.08, -0.03, 0.05]), np.zeros(3)) @ np.diag(
    [1.05, 0.97, 1, 1]
)
PLACE = registration.rigid(np.array([-3.0, 4, 2]), np.array([0.03, 0.02, -0.04]), np.zeros(3))  # T1w to EPI


@pytest.fixture(scope="session")
def subject(tmp_path_factory) -> tuple[Path, Path, np.ndarray]:
    """A subject's registered anatomy, a raw run of a moving head, and the motion (VOLUMES, 6) about the origin."""
    folder = tmp_path_factory.mktemp("subject")
    shape, affine = phantom.grid(5.0, tilt=0.1, margin_mm=10)
    nib.save(nib.Nifti1Image(phantom.scan("t1w", shape, affine, HEAD), affine), folder / "t1w.nii.gz")
    bold.anatomy(t1w=folder / "t1w.nii.gz", out=folder / "anatomy", cfg=CFG)
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
def cleaned_raw(tmp_path_factory, subject) -> dict[str, Path]:
    """The raw run, cleaned, and its motion."""
    anatomy, run, _ = subject
    folder = tmp_path_factory.mktemp("raw")
    outs = {"out": folder / "run.npy", "motion": folder / "run.tsv"}
    bold.clean(run=run, source="raw", **outs, cfg=CFG, tr_s=2, volumes=VOLUMES, anatomy=anatomy)
    return outs


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
    truth, _ = cleaning.standardise(np.stack(phases)[1:-2], order=1, tolerance=1e-6)
    r = (cleaned * truth).sum(axis=0) / (len(truth) - 1)
    assert np.median(r) > 0.94, np.percentile(r, [5, 25, 50])  # 0.96 with the true transforms: the 6 mm voxels limit it
    unmoved = bold.from_mni(run)  # taken for MNI, without motion correction and registration, it must be much worse
    wrong, _ = cleaning.standardise(unmoved[1:-2], order=1, tolerance=1e-6)
    assert np.median((wrong * truth).sum(axis=0) / (len(truth) - 1)) < 0.9

    table = pd.read_csv(cleaned_raw["motion"], sep="\t")
    assert len(table) == VOLUMES
    turned = Rotation.from_euler("xyz", motion[:, 3:])
    rotations = (turned * turned[VOLUMES // 2].inv()).as_euler("xyz")
    # the wave, 5 % strong and as long as the head, looks a little like motion
    np.testing.assert_allclose(table[["rot_x_rad", "rot_y_rad", "rot_z_rad"]], rotations, atol=8e-3)
    assert np.corrcoef(table["rot_x_rad"], rotations[:, 0])[0, 1] > 0.97
    assert table["framewise_displacement_mm"].iloc[1:].min() > 0.1


def test_a_bad_raw_run(tmp_path, subject):
    anatomy, run, _ = subject
    options = {"source": "raw", "cfg": CFG}
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


def test_slice_timing_reaches_a_raw_run(tmp_path, subject, cleaned_raw):
    """All slices at once change no bit; slices in turn move, those far from the middle most."""
    anatomy, run, _ = subject
    slices = nib.load(run).shape[2]
    timed = CFG.model_copy(update={"slice_timing": True})

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


def test_an_anatomy_that_cannot_be_read(tmp_path):
    (tmp_path / "t1w.nii.gz").write_bytes(gzip.compress(b"no image" * 99))
    with pytest.raises(InputError, match=r"t1w.nii.gz: cannot be read"):
        bold.anatomy(t1w=tmp_path / "t1w.nii.gz", out=tmp_path / "out" / "anatomy", cfg=CFG)
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "t1w.nii.gz")
    with pytest.raises(InputError, match=r"expected a 3-D NIfTI, found the shape \(4, 4, 4, 3\)"):
        bold.anatomy(t1w=tmp_path / "t1w.nii.gz", out=tmp_path / "out" / "anatomy", cfg=CFG)
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.slow
def test_a_raw_subject_against_the_truth(tmp_path):
    """A simulated head: its motion is recovered, and raw runs give the map of the same runs read where they truly lie.

    Three segments of two runs. "cifti" has the same response and noise in a head that does not move, sampled with the
    true geometry: what a CIFTI run of equal noise would hold. "known" is the moving run sampled with the true geometry:
    what no registration can surpass. Its map is not that of "cifti" either, for a moving vertex meets the noise of
    other voxels; the fewer the segments, the more that counts (r 0.84 with one, 0.91 with two, 0.94 with three).
    """
    finer = CFG.registration.model_copy(update={"resolution_mm": 4})
    cfg = CFG.model_copy(update={"trim": {25: (1, 4)}, "polynomial_order": 2, "registration": finer})
    head = scanner.draw_head(5.0, np.random.default_rng(0))
    nib.save(head.t1w, tmp_path / "t1w.nii.gz")
    bold.anatomy(t1w=tmp_path / "t1w.nii.gz", out=tmp_path / "anatomy", cfg=cfg)
    voxels = np.stack([head.sample @ axis for axis in np.indices(head.shape).reshape(3, -1).astype(np.float32)], axis=1)
    vertices = registration.move(
        head.affine, voxels.astype(float)
    )  # where the vertices lie as long as the head is still
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
            places = [registration.move(registration.rigid(p[:3], p[3:], head.centre), vertices) for p in path]
            volumes = np.moveaxis(moving.astype(np.float32), -1, 0)
            known = [registration.sample(v, head.affine, at) for v, at in zip(volumes, places, strict=True)]
            series = (head.sample @ still.reshape(-1, 25).astype(np.float32)).T
            for kind, values in {"known": np.stack(known), "cifti": series}.items():
                cleaned[kind].append(cleaning.standardise(values[1:-4], 2, 1e-6)[0])
        for kind, runs in cleaned.items():
            maps[kind].append(reproducibility.fisher_z(reproducibility.correlate(*runs)))
    mean = {kind: np.mean(z, axis=0) for kind, z in maps.items()}
    seen = np.isfinite(list(mean.values())).all(axis=0)
    assert seen.mean() > 0.98
    alike = {kind: np.corrcoef(mean[kind][seen], mean["cifti"][seen])[0, 1] for kind in ("raw", "known")}
    print("r of the map with that of a still head:", alike)
    assert alike["raw"] > 0.92
    assert alike["raw"] > alike["known"] - 0.01, "registration costs next to nothing"
