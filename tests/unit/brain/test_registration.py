import numpy as np
import phantom
import pytest

from mindreel.brain import registration
from mindreel.errors import InputError

CENTRE = np.array([0.0, -18.0, 8.0])


@pytest.fixture(scope="module")
def moving_head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six noisy volumes of a moving head on an oblique 6 mm grid, the affine, and the true transforms (reference 2)."""
    rng = np.random.default_rng(1)
    shape, affine = phantom.grid(6.0, tilt=-0.15)
    motion = rng.normal(size=(6, 6)) * ([1.0] * 3 + [0.02] * 3)
    matrices = [registration.rigid(step[:3], step[3:], CENTRE) for step in motion]
    volumes = [phantom.scan("epi", shape, affine, matrix) + rng.normal(size=shape) * 5 for matrix in matrices]
    truth = np.stack([matrix @ np.linalg.inv(matrices[2]) for matrix in matrices])
    return np.stack(volumes, axis=-1).astype(np.float32), affine, truth


def distance_mm(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square distance between what two transforms make of points throughout the head."""
    points = CENTRE + np.random.default_rng(0).uniform(-60, 60, (200, 3))
    moved = registration.move(one, points) - registration.move(other, points)
    return float(np.sqrt(np.square(moved).sum(axis=1).mean()))


def test_parameters_undo_rigid(rng):
    translation, rotation, centre = rng.normal(size=3) * 5, rng.normal(size=3) * 0.3, rng.normal(size=3) * 50
    matrix = registration.rigid(translation, rotation, centre)
    np.testing.assert_allclose(registration.parameters(matrix, centre), [*translation, *rotation], atol=1e-9)
    np.testing.assert_allclose(registration.move(matrix, centre), centre + translation, atol=1e-9)


def test_sampling_is_exact_on_a_linear_image_and_nan_outside(rng):
    shape, affine = phantom.grid(6.0, tilt=0.3)
    slope = np.array([0.3, -0.2, 0.5])
    volume = (registration.move(affine, np.indices(shape).reshape(3, -1).T) @ slope).reshape(shape)
    points = CENTRE + rng.uniform(-50, 50, (100, 3))
    np.testing.assert_allclose(registration.sample(volume, affine, points), points @ slope, rtol=1e-4, atol=1e-3)
    assert np.isnan(registration.sample(volume, affine, np.array([[500.0, 0, 0]]))).all()
    assert registration.inside(shape, affine, np.array([CENTRE, [500.0, 0, 0]])) == 0.5


def test_realign_recovers_known_motion(moving_head):
    series, affine, truth = moving_head
    found, _ = registration.realign(series, affine, reference=2)
    errors = [distance_mm(a, b) for a, b in zip(found, truth, strict=True)]
    moved = [distance_mm(np.eye(4), b) for b in truth]
    assert max(errors) < 0.15, errors
    assert max(moved) > 2, "the test needs motion to recover"
    np.testing.assert_allclose(found[2], np.eye(4), atol=1e-5)


def test_realign_is_nearer_to_the_truth_than_the_preset_of_ants(moving_head, tmp_path):
    series, affine, truth = moving_head
    found, _ = registration.realign(series[..., :3], affine, reference=2)
    images = [registration.to_ants(series[..., t], affine) for t in range(3)]
    for t in range(2):
        preset = registration.ants().registration(images[2], images[t], "BOLDRigid", outprefix=f"{tmp_path}/{t}_")
        theirs = registration.read_matrix(preset["fwdtransforms"][-1])
        assert distance_mm(found[t], truth[t]) < distance_mm(theirs, truth[t])


def test_realign_gives_the_same_bits_twice(moving_head):
    series, affine, _ = moving_head
    first, second = (registration.realign(series, affine, reference=2)[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_realign_ignores_intensity_scale(moving_head):
    series, affine, truth = moving_head
    scaled = series * np.array([1.0, 1.3, 1, 1, 0.8, 1], np.float32)
    found, _ = registration.realign(scaled, affine, reference=2)
    assert max(distance_mm(a, b) for a, b in zip(found, truth, strict=True)) < 0.15


def test_realign_works_where_the_head_leaves_the_field_of_view(moving_head):
    series, affine, truth = moving_head
    cut = affine.copy()
    cut[:3, 3] = registration.move(affine, np.array([0, 0, 9]))  # the lowest slices were not scanned
    found, _ = registration.realign(series[:, :, 9:], cut, reference=2)
    assert max(distance_mm(a, b) for a, b in zip(found, truth, strict=True)) < 0.3


def test_realign_says_what_is_wrong(moving_head):
    series, affine, _ = moving_head
    with pytest.raises(InputError, match=r"volume 0 shows no head"):
        registration.realign(np.zeros_like(series), affine, reference=0)
    empty = series.copy()
    empty[..., 3] = 0
    with pytest.raises(InputError, match="volume 3 holds no signal where the head is in volume 2; exclude the run"):
        registration.realign(empty, affine, reference=2)
    gone = np.zeros_like(series)
    gone[..., 2] = series[..., 2]
    gone[:10, ..., :2] = series[-10:, ..., 2:3]  # half of the head has left through the wall
    gone[-10:, ..., 3:] = series[:10, ..., 2:3]
    with pytest.raises(InputError, match=r"volume 0: only \d+% of the head is in the field of view"):
        registration.realign(gone, affine, reference=2)


def test_motion_table_by_hand():
    steps = [np.zeros(6), np.array([0.1, 0, 0, 0, 0, 0]), np.array([0.1, -0.2, 0, 0.002, 0, 0])]
    table = registration.motion_table(np.stack([registration.rigid(s[:3], s[3:], CENTRE) for s in steps]), CENTRE)
    np.testing.assert_allclose(table["framewise_displacement_mm"], [0, 0.1, 0.2 + 50 * 0.002], atol=1e-9)
    np.testing.assert_allclose(table[["trans_y_mm", "rot_x_rad"]].iloc[2], [-0.2, 0.002], atol=1e-9)
    columns = "trans_x_mm trans_y_mm trans_z_mm rot_x_rad rot_y_rad rot_z_rad framewise_displacement_mm"
    assert list(table) == columns.split()


def test_mean_volume_is_sharper_than_the_average_of_moved_volumes(moving_head):
    series, affine, truth = moving_head
    mean = registration.mean_volume(series, affine, truth)
    inner = (slice(4, -4),) * 3
    reference = series[..., 2][inner].ravel()
    assert (
        np.corrcoef(mean[inner].ravel(), reference)[0, 1] > np.corrcoef(series.mean(-1)[inner].ravel(), reference)[0, 1]
    )


def test_ants_images_keep_an_oblique_affine(rng):
    shape, affine = phantom.grid(20.0, tilt=0.4)
    volume = rng.normal(size=shape).astype(np.float32)
    back, found = registration.from_ants(registration.to_ants(volume, affine))
    np.testing.assert_allclose(found, affine, atol=1e-9)
    assert np.array_equal(back, volume)
    sheared = affine @ np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with pytest.raises(InputError, match="sheared"):
        registration.to_ants(volume, sheared)


def test_point_transforms_lead_from_fixed_to_moving(tmp_path, rng):
    """A known transform file: its points, its matrix and the image that ANTs itself resamples all agree."""
    library = registration.ants()
    known = registration.rigid(np.array([4.0, -7, 3]), np.array([0.1, -0.2, 0.15]), CENTRE) @ np.diag([1.1, 0.95, 1, 1])
    lps = registration.FLIP @ known @ registration.FLIP
    transform = library.create_ants_transform(
        "AffineTransform", dimension=3, matrix=lps[:3, :3], translation=lps[:3, 3]
    )
    path = str(tmp_path / "known.mat")
    library.write_transform(transform, path)
    points = CENTRE + rng.uniform(-40, 40, (50, 3))
    np.testing.assert_allclose(registration.read_matrix(path), known, atol=1e-4)
    np.testing.assert_allclose(registration.move_through([path], points), registration.move(known, points), atol=1e-3)

    shape, affine = phantom.grid(6.0, tilt=0.2)
    moving = phantom.scan("t1w", shape, affine, np.eye(4))
    fixed_shape, fixed_affine = phantom.grid(9.0, tilt=-0.1)
    fixed = registration.to_ants(np.zeros(fixed_shape), fixed_affine)
    theirs = library.apply_transforms(fixed, registration.to_ants(moving, affine), [path]).numpy()
    centres = registration.move(fixed_affine, np.indices(fixed_shape).reshape(3, -1).T)
    ours = registration.sample(moving, affine, registration.move(known, centres)).reshape(fixed_shape)
    seen = np.isfinite(ours)
    np.testing.assert_allclose(ours[seen], theirs[seen], atol=0.5)  # intensities up to 1000


def test_rigid_alignment_across_contrasts():
    place = registration.rigid(np.array([5.0, 3, -6]), np.array([0.05, -0.04, 0.06]), CENTRE)
    t1w, epi = phantom.grid(5.0, tilt=0.1), phantom.grid(6.0, tilt=-0.1, margin_mm=10)
    fixed = registration.to_ants(phantom.scan("t1w", *t1w, np.eye(4)), t1w[1])
    moving = registration.to_ants(phantom.scan("epi", *epi, place), epi[1])
    found = registration.align_rigid(fixed, moving)
    assert distance_mm(found, place) < 1.0
    assert np.array_equal(found, registration.align_rigid(fixed, moving)), "the same images give the same transform"
