"""CIFTI headers read without nibabel say what nibabel says."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis

from mindreel.brain import cifti, surface
from mindreel.errors import InputError


@pytest.fixture(scope="module")
def axis():
    """A few vertices of either hemisphere, a volume between them."""
    sides = [BrainModelAxis.from_surface([0, 5, 7 + i], surface.MESH, name=n) for i, n in enumerate(surface.CORTEX)]
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
    told = {name: (part, model.vertex) for name, part, model in axis.iter_structures()}
    assert found.structures == tuple(told)
    for name, surface_ in found.surfaces.items():
        part, vertices = told[name]
        assert surface_.first == part.start and np.array_equal(surface_.vertices, vertices)
        assert surface_.mesh == surface.MESH
    assert set(found.surfaces) == set(surface.CORTEX)


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
