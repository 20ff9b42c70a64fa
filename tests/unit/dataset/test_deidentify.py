"""What identifies a person, and what only looks like it."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from mindreel.dataset import deidentify
from mindreel.errors import InputError


def image(path, version=nib.Nifti1Image, **fields):
    made = version(np.zeros((2, 2, 2), np.int16), np.eye(4))
    for name, value in fields.items():
        made.header[name] = value
    made.to_filename(path)
    return path


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "FSL5.0",
            "6.0.4:b0d4f8d2",
            "TE=30;Time=123059.000;phase=1",
            "?TR:2000.000 TE:30",
            "Statistical Parametric Mapping",
        ),
        *(
            "spm - 3D normalized",
            "SPM{T_[25.0]} - contrast 1",
            "NIFTI-1 Image",
            "ConnDenseSeries",
            "Philips Medical Systems",
        ),
    ],
)
def test_what_software_writes_is_no_hint(tmp_path, text):
    assert deidentify.identifying(image(tmp_path / "a.nii", descrip=text.encode())) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Müller^Jürgen", "a name as in DICOM (M*****^J*****)"),
        ("Smith, John", "a name (S****, J***)"),
        ("scan of Anna Schmidt", "a name (A*** S******)"),
        ("19800312", "a date (1*******)"),
        ("12.03.1980", "a date (1*.0*.1***)"),
        ("12-Mar-1980", "a date (1*-M**-1***)"),
        ("March 12, 1980", "a date (M**** 1*, 1***)"),
        ("Patient ID: 12345", "a patient field"),
        ("DOB=x1", "a patient field"),
        ("jane@uni.example", "an e-mail address (j***@u**.e******)"),
        ("/Users/jane/x", "a user's home folder (/U****/j***)"),
    ],
)
def test_what_identifies_is_named_and_masked(tmp_path, text, what):
    for name, version in (("a.nii", nib.Nifti1Image), ("b.nii.gz", nib.Nifti2Image)):
        (found,) = deidentify.identifying(image(tmp_path / name, version, descrip=text.encode()))
        assert found.startswith("descrip: ") and what in found
        assert text not in found


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"PatientName": "Doe", "PatientPosition": "HFS", "EchoTime": 0.03}, ["PatientName"]),
        ({"PatientID": 7, "PatientSex": "anonymous", "OperatorsName": ""}, ["PatientID"]),
        ({"AcquisitionDateTime": "2019-05-03T10:00:00"}, ["AcquisitionDateTime"]),
        ({"global": {"const": {"ReferringPhysicianName": ["Dr X", "n/a"]}}}, ["global.const.ReferringPhysicianName"]),
        ({"SeriesInstanceUID": "1.2.3"}, ["SeriesInstanceUID"]),
        ({"InstitutionName": "A", "SliceTiming": [0.0, 1.0], "ImageType": ["ORIGINAL", "M"], "x": None}, []),
    ],
)
def test_sidecars(tmp_path, content, keys):
    path, out = tmp_path / "a.json", tmp_path / "out" / "a.json"
    path.write_text(json.dumps(content))
    assert [hint.split(":")[0] for hint in deidentify.identifying(path)] == keys
    deidentify.scrub(path, out)
    assert deidentify.identifying(out) == []
    clean = json.loads(out.read_text())
    untouched = {key: value for key, value in content.items() if key not in keys and key != "global"}
    assert {key: value for key, value in clean.items() if key != "global"} == untouched


def test_a_copy_differs_in_the_blanked_bytes_only(tmp_path):
    path = image(tmp_path / "a.nii", descrip=b"DOE^JANE", scl_slope=2.5)
    assert len(deidentify.scrub(path, tmp_path / "b.nii")) == 1
    old, new = path.read_bytes(), (tmp_path / "b.nii").read_bytes()
    assert old[:148] == new[:148] and new[148:228] == b"\0" * 80 and old[228:] == new[228:]


def test_a_big_endian_header_is_read(tmp_path):
    made = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4), nib.Nifti1Header(endianness=">"))
    made.header["descrip"] = b"DOE^JANE"
    made.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"born 1980-03-12"))
    made.to_filename(tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    assert len(deidentify.identifying(tmp_path / "a.nii")) == 2
    deidentify.scrub(tmp_path / "a.nii", tmp_path / "b.nii")
    assert b"1980" not in (tmp_path / "b.nii").read_bytes()


@pytest.mark.parametrize(("name", "content"), [("a.nii", b"short"), ("b.nii.gz", b"no gzip at all"), ("c.mgz", b"")])
def test_what_is_no_nifti_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"expected .nii or .nii.gz"):
        deidentify.identifying(tmp_path / name)


def test_a_broken_copy_leaves_nothing(tmp_path):
    """A compressed file that ends too early: no half copy."""
    path = image(tmp_path / "a.nii.gz", descrip=b"DOE^JANE")
    whole = gzip.decompress(path.read_bytes()) + np.random.default_rng(0).bytes(100000)
    path.write_bytes(gzip.compress(whole)[:-5000])
    with pytest.raises(EOFError):
        deidentify.scrub(path, tmp_path / "out" / "a.nii.gz")
    assert list((tmp_path / "out").iterdir()) == []
