"""CIFTI files read without nibabel say what nibabel says."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis

from mindreel.brain import cifti, surface
from mindreel.errors import InputError


@pytest.fixture(scope="module")
def axis():
    """A few vertices of either hemisphere, a volume between them."""
    sides = [
        BrainModelAxis.from_surface([0, 5, 7 + i], surface.MESH, name=n) for i, n in enumerate(surface.HEMISPHERES)
    ]
    return (
        sides[1] + BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), name="thalamus_left", affine=np.eye(4)) + sides[0]
    )


def save(path, series, axes, **fields):
    image = Cifti2Image(series, header=axes)
    for name, value in fields.items():
        image.nifti_header[name] = value
    image.to_filename(path)
    return path


@pytest.mark.parametrize("swapped", [False, True], ids=["time first", "time last"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_a_series_is_read_as_nibabel_reads_it(tmp_path, rng, axis, swapped, dtype):
    series = (100 * rng.normal(size=(6, axis.size))).astype(dtype)
    axes = (SeriesAxis(0, 0.72, 6), axis)
    made = Cifti2Image(series.T, header=axes[::-1]) if swapped else Cifti2Image(series, header=axes)
    made.update_headers()
    made.set_data_dtype(dtype)
    made.to_filename(tmp_path / "a.dtseries.nii")
    found = cifti.open_series(tmp_path / "a.dtseries.nii")
    image = nib.load(tmp_path / "a.dtseries.nii")
    assert found.shape == (6, axis.size) and found.time == int(swapped)
    assert found.tr_s == pytest.approx(0.72)
    assert found.offset == image.dataobj.offset
    expected = np.asarray(image.dataobj, np.float32)
    expected = expected.T if swapped else expected
    assert np.array_equal(found.read(0, axis.size), expected)
    assert np.array_equal(found.read(2, 5), expected[:, 2:5])
    models = {name: (part, model.vertex) for name, part, model in axis.iter_structures()}
    assert found.structures == tuple(models)
    for name, structure in found.surfaces.items():
        part, vertices = models[name]
        assert structure.first == part.start and np.array_equal(structure.vertices, vertices)
        assert structure.mesh == surface.MESH
    assert set(found.surfaces) == set(surface.HEMISPHERES)


def test_a_scaled_series_is_scaled(tmp_path, axis):
    path = save(tmp_path / "a.dtseries.nii", np.full((2, axis.size), 3, np.float32), (SeriesAxis(0, 1, 2), axis))
    content = bytearray(path.read_bytes())
    content[176:192] = np.array([2.0, 10.0]).tobytes()
    path.write_bytes(content)
    assert (cifti.open_series(path).read(0, 4) == 16).all()


@pytest.mark.parametrize(("unit", "step", "tr_s"), [("second", 2.0, 2.0), ("hertz", 0.5, 0.0), ("second", 0.0, 0.0)])
def test_tr_of_a_series(tmp_path, axis, unit, step, tr_s):
    path = save(tmp_path / "a.dtseries.nii", np.zeros((2, axis.size)), (SeriesAxis(0, step, 2, unit=unit), axis))
    assert cifti.open_series(path).tr_s == tr_s


@pytest.mark.parametrize(
    ("unit", "step", "tr_s"),
    [("sec", 1.5, 1.5), ("msec", 1500, 1.5), ("usec", 1.5e6, 1.5), ("hz", 2, 0), ("unknown", 2, 2), ("unknown", 1, 0)],
)
def test_tr_of_an_image(tmp_path, unit, step, tr_s):
    image = nib.Nifti1Image(np.zeros((2, 2, 2, 2), np.int16), np.eye(4))
    image.header.set_xyzt_units("mm", unit)
    image.header.set_zooms((1, 1, 1, step))
    image.to_filename(tmp_path / "a.nii")
    assert cifti.image_tr(cifti.open_image(tmp_path / "a.nii")) == pytest.approx(tr_s)


def test_other_image_formats_are_named(tmp_path):
    nib.MGHImage(np.zeros((2, 2, 2), np.float32), np.eye(4)).to_filename(tmp_path / "a.mgz")
    with pytest.raises(InputError, match="expected a NIfTI, found MGHImage"):
        cifti.open_image(tmp_path / "a.mgz")


def test_damaged_xml_is_named(tmp_path, axis):
    path = save(tmp_path / "a.dtseries.nii", np.zeros((2, axis.size)), (SeriesAxis(0, 1, 2), axis))
    path.write_bytes(path.read_bytes().replace(b"<Matrix>", b"<Mitrax>"))
    with pytest.raises(InputError, match="cannot be read: mismatched tag"):
        cifti.open_series(path)


@pytest.mark.parametrize("damage", ["BrainStructure", "SurfaceNumberOfVertices", "IndexOffset"])
def test_a_structure_that_says_too_little_is_named(tmp_path, axis, damage):
    path = save(tmp_path / "a.dtseries.nii", np.zeros((2, axis.size)), (SeriesAxis(0, 1, 2), axis))
    path.write_bytes(path.read_bytes().replace(damage.encode(), damage[::-1].encode()))
    with pytest.raises(InputError, match=f"cannot be read: '{damage}'; fetch it again"):
        cifti.open_series(path)


def test_maps_are_no_series_but_have_a_surface(tmp_path, rng):
    values = rng.normal(size=surface.VERTICES).astype(np.float32)
    surface.save_dscalar(tmp_path / "a.dscalar.nii", {"one": values})
    with pytest.raises(InputError, match=r"expected a dense CIFTI time series .*its axes are SCALARS x BRAIN_MODELS"):
        cifti.open_series(tmp_path / "a.dscalar.nii")
    assert np.array_equal(cifti.read_surface(tmp_path / "a.dscalar.nii"), values[None])


def test_the_surface_is_found_by_the_axis_of_the_file(tmp_path, rng):
    """Subcortex first and hemispheres swapped: the cortex comes out in order all the same."""
    axis = surface.brain_model_axis()
    left, right = axis[: surface.LEFT], axis[surface.LEFT :]
    voxels = BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), name="thalamus_left", affine=np.eye(4))
    values = rng.normal(size=(3, 8 + surface.VERTICES)).astype(np.float32)
    save(tmp_path / "a.dtseries.nii", values, (SeriesAxis(0, 2.0, 3), voxels + right + left))
    rights = 8 + surface.VERTICES - surface.LEFT
    expected = np.concatenate([values[:, rights:], values[:, 8:rights]], 1)
    np.testing.assert_array_equal(cifti.read_surface(tmp_path / "a.dtseries.nii"), expected)


def test_a_file_without_cortex_says_what_it_has(tmp_path):
    voxels = BrainModelAxis.from_mask(np.ones((2, 2, 2), bool), name="thalamus_left", affine=np.eye(4))
    save(tmp_path / "a.dtseries.nii", np.zeros((2, 8), np.float32), (SeriesAxis(0, 2.0, 2), voxels))
    with pytest.raises(
        InputError, match=r"a\.dtseries\.nii: has no CIFTI_STRUCTURE_CORTEX_LEFT, only CIFTI_STRUCTURE_THALAMUS_LEFT"
    ):
        cifti.read_surface(tmp_path / "a.dtseries.nii")


def test_a_truncated_file_says_so(tmp_path):
    path = tmp_path / "a.dscalar.nii"
    surface.save_dscalar(path, {"one": np.ones(surface.VERTICES)})
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"a\.dscalar\.nii: cannot be read whole: .*fetch it again"):
        cifti.read_surface(path)
