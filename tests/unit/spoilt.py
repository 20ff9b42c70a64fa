"""A tiny data set for `mindreel check`, and every way to spoil it with what must then be found."""

import gzip
import json
import os
import shutil
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import yaml
from nibabel.cifti2 import BrainModelAxis

from mindreel import cli, config, video
from mindreel.brain import surface
from mindreel.dataset.sheet import Sheet

VOLUMES, TR_S = 8, 2.0
MNI = np.array([[10, 0, 0, -95], [0, 10, 0, -130], [0, 0, 10, -75], [0, 0, 0, 1.0]])
GRID = (20, 24, 20)
PATTERNS = {
    "raw": "sub-{subject}/{segment}_{repeat}.nii.gz",
    "mni": "sub-{subject}/{segment}_{repeat}.nii",
    "cifti": "sub-{subject}/{segment}_{repeat}.dtseries.nii",
    "t1w": "sub-{subject}/t1w.nii.gz",
    "movie": "{segment}.mp4",
}


def rows():
    """Subject 1 in MNI space, subject 2 raw, subject 3 one run of CIFTI: three segments, two repeats."""
    runs = [(sub, seg, rep, source) for sub, source in ((1, "mni"), (2, "raw"))
            for seg in ("seg1", "seg2", "test1") for rep in (1, 2)]  # fmt: skip
    return [
        [sub, seg, "test" if seg == "test1" else "train", rep, VOLUMES, source, ""] for sub, seg, rep, source in runs
    ]


def write(path, series, affine=MNI, tr_s=TR_S, unit="sec"):
    image = nib.Nifti1Image(np.asarray(series, np.int16), affine)
    image.header.set_xyzt_units("mm", unit)
    if series.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    image.set_sform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


class World:
    """A copy of the tiny data set in which one thing is spoilt."""

    def __init__(self, folder, root):
        self.folder, self.data = folder, folder / "data"
        shutil.copy(root / "config.yaml", folder / "config.yaml")
        self.table = pd.DataFrame(
            rows(), columns=["subject", "segment", "split", "repeat", "volumes", "source", "exclude"]
        )
        self.settings = {
            "dataset": "tiny",
            "data": {"sheet": "sheet.tsv", "root": "data", "patterns": PATTERNS, "tr_s": TR_S},
            "bold": {"trim": {VOLUMES: [1, 1]}},
            "experiments": {"mind-video": {"mbm": {"init": "scratch"}}},
            "run": ["mind-video"],
        }

    def run(self, name="sub-1/seg1_1"):
        return self.data / (name + (".nii" if name.startswith("sub-1") else ".nii.gz"))

    def save(self):
        self.table.to_csv("sheet.tsv", sep="\t", index=False)
        Path("tiny.yaml").write_text(yaml.safe_dump(self.settings))

    def check(self, capsys, *options):
        """Exit code, table of findings, all that was printed."""
        self.save()
        code = cli.main(["check", "--configfile", "tiny.yaml", *options])
        printed = capsys.readouterr()
        table = pd.read_csv("results/tiny/check.tsv", sep="\t", keep_default_na=False)
        return code, table, printed.out + printed.err

    def load(self):
        self.save()
        whole = config.load("config.yaml", "tiny.yaml")
        return whole, Sheet(whole)

    def add_cifti(self, axis=None, series=None):
        """Make subject 1's first run a CIFTI file."""
        axis = surface.brain_model_axis() if axis is None else axis
        series = np.random.default_rng(1).normal(size=(VOLUMES, axis.size)) if series is None else series
        self.table.loc[0, "source"] = "cifti"
        surface.save_dtseries(self.data / "sub-1/seg1_1.dtseries.nii", series, TR_S, axis)


def reheader(path, **fields):
    """Change header fields of a NIfTI as they are."""
    image = nib.load(path)
    data = np.asanyarray(image.dataobj).copy()
    for name, value in fields.items():
        image.header[name] = value
    changed = nib.Nifti1Image(data, None, image.header)
    nib.save(changed, path)


# How the data set is spoilt


def missing_run(w):
    w.run().unlink()


def missing_t1w(w):
    (w.data / "sub-2/t1w.nii.gz").unlink()


def missing_movie(w):
    (w.data / "seg2.mp4").unlink()


def missing_sidecar(w):
    w.settings["bold"]["slice_timing"] = True


def no_image(w):
    w.run().write_bytes(b"something else" * 100)


def truncated_gzip(w):
    path = w.run("sub-2/seg1_1")
    path.write_bytes(path.read_bytes()[:-2000])


def truncated_plain(w):
    w.run().write_bytes(w.run().read_bytes()[:-2000])


def broken_movie(w):
    (w.data / "seg1.mp4").write_bytes(b"no movie" * 50)


def three_dimensions(w):
    write(w.run(), np.ones(GRID))


def swapped(w):
    write(w.run(), np.random.default_rng(0).integers(1, 9, (VOLUMES, *GRID)))


def flat_t1w(w):
    write(w.data / "sub-2/t1w.nii.gz", np.ones((20, 20, 1)))


def a_mask_for_cifti(w):
    w.table.loc[0, "source"] = "cifti"
    shutil.copy(w.run(), w.data / "sub-1/seg1_1.dtseries.nii")


def one_volume_less(w):
    write(w.run(), np.random.default_rng(0).integers(1, 9, (*GRID, VOLUMES - 1)))


def no_trim_rule(w):
    w.settings["bold"]["trim"] = {9: [1, 1]}


def unequal_lengths(w):
    write(w.run(), np.random.default_rng(0).integers(1, 9, (*GRID, 10)))
    w.table.loc[0, "volumes"] = 10
    w.settings["bold"]["trim"] = {VOLUMES: [1, 1], 10: [1, 1]}
    video.write_mp4(w.data / "seg1.mp4", [np.zeros((16, 16, 3), np.uint8)] * 32, fps=2)


def other_tr(w):
    write(w.run(), np.random.default_rng(0).integers(1, 9, (*GRID, VOLUMES)), tr_s=1.5)


def no_tr(w):
    write(w.run(), np.random.default_rng(0).integers(1, 9, (*GRID, VOLUMES)), tr_s=1, unit="unknown")


def tr_in_ms(w):
    write(w.run(), np.random.default_rng(0).integers(1, 9, (*GRID, VOLUMES)), tr_s=2000)


def other_tr_in_sidecar(w):
    (w.data / "sub-1/seg1_1.json").write_text('{"RepetitionTime": 0.8}')


def broken_sidecar(w):
    (w.data / "sub-1/seg1_1.json").write_text("{")


def singular(w):
    reheader(w.run(), srow_x=[0, 0, 0, 0], sform_code=1)


def not_in_mni(w):
    write(w.run(), np.random.default_rng(0).integers(1, 9, (*GRID, VOLUMES)), affine=np.diag([10.0, 10, 10, 1]))


def enormous_voxels(w):
    affine = MNI.copy()
    affine[:3, :3] *= 2
    affine[:3, 3] -= 100
    write(w.run(), np.random.default_rng(0).integers(1, 9, (*GRID, VOLUMES)), affine=affine)


def no_affine(w):
    reheader(w.run("sub-2/seg1_1"), sform_code=0, qform_code=0)


def other_grid(w):
    write(w.run("sub-2/seg1_1"), np.random.default_rng(0).integers(1, 9, (24, 24, 20, VOLUMES)))


def without_right_cortex(w):
    (_, _, left), _ = surface.brain_model_axis().iter_structures()
    w.add_cifti(left)


def finer_mesh(w):
    vertices = np.arange(1000)
    sides = [BrainModelAxis.from_surface(vertices, 163842, name=name) for name in surface.HEMISPHERES]
    w.add_cifti(sides[0] + sides[1])


def not_a_number(w, value=np.nan, every=4):
    series = np.random.default_rng(0).normal(size=(*GRID, VOLUMES)).astype(np.float32)
    series[::every] = value
    image = nib.Nifti1Image(series, MNI)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((10, 10, 10, TR_S))
    nib.save(image, w.run())


def infinite(w):
    not_a_number(w, np.inf, 1)


def all_zero(w):
    write(w.run(), np.zeros((*GRID, VOLUMES)))


def static(w):
    one = np.random.default_rng(0).integers(1, 9, (*GRID, 1))
    write(w.run(), np.repeat(one, VOLUMES, axis=3))


def empty_volumes(w):
    series = np.random.default_rng(0).normal(size=(VOLUMES, surface.VERTICES))
    series[[2, 3]] = 0
    w.add_cifti(series=series)


def copied_run(w):
    """The same data with another header, compressed or not: subject 2's run in place of subject 1's."""
    image = nib.load(w.run("sub-2/seg2_2"))
    write(w.run(), np.asarray(image.dataobj))
    reheader(w.run(), descrip=b"new")


def linked_run(w):
    w.run("sub-1/seg1_2").unlink()
    os.link(w.run("sub-1/seg1_1"), w.run("sub-1/seg1_2"))


def one_segment_repeats(w):
    w.table.loc[(w.table.subject == 1) & (w.table.segment == "seg2") & (w.table.repeat == 2), "exclude"] = "motion"


def a_test_run_less(w):
    w.table = w.table[(w.table.subject != 1) | (w.table.segment != "test1")]


def three_segments_one_single(w):
    for sub, letter in ((1, "mni"), (2, "raw")):
        for repeat in (1, 2)[: 2 if sub == 2 else 1]:
            path = w.data / PATTERNS[letter].format(subject=sub, segment="seg3", repeat=repeat)
            write(path, np.random.default_rng(10 * sub + repeat).integers(1, 900, (*GRID, VOLUMES)))
            w.table.loc[len(w.table)] = [sub, "seg3", "train", repeat, VOLUMES, letter, ""]
    shutil.copy(w.data / "seg1.mp4", w.data / "seg3.mp4")


def train_and_test(w):
    w.table.loc[1, "split"] = "test"


def short_movie(w):
    video.write_mp4(w.data / "seg1.mp4", [np.zeros((16, 16, 3), np.uint8)] * 12, fps=2)


def no_hcp(w):
    w.settings["experiments"]["mind-video"]["mbm"]["init"] = "hcp"


def name_in_descrip(w):
    reheader(w.run(), descrip=b"DOE^JANE 3.5 mm")


def date_in_aux_file(w):
    reheader(w.run("sub-2/seg1_1"), aux_file=b"born 1980-03-12")


def person_in_db_name(w):
    reheader(w.data / "sub-2/t1w.nii.gz", db_name=b"Jane Miller")


def extended(path, code, content):
    image = nib.load(path)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj).copy(), None, image.header)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(code, content))
    nib.save(image, path)


def patient_in_extension(w):
    extended(w.run("sub-2/seg1_1"), 6, b"converted; PatientName: Jane")


def dicom_extension(w, name="sub-2/seg1_1"):
    path = w.run(name)
    extended(path, 44, b"Jane")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[356:360] = struct.pack("<i", 2)  # nibabel writes DICOM extensions with pydicom only
    path.write_bytes(gzip.compress(bytes(content)))


def patient_in_sidecar(w):
    content = {"RepetitionTime": 2.0, "PatientName": "Doe^Jane", "dcm": {"PatientBirthDate": "19800312"}}
    (w.data / "sub-1/seg1_1.json").write_text(json.dumps(content))


def user_in_cifti(w):
    w.add_cifti()
    path = w.data / "sub-1/seg1_1.dtseries.nii"
    image = nib.load(path, mmap=False)
    image.header.matrix.metadata = nib.cifti2.Cifti2MetaData(
        {"WorkingDirectory": "/home/jane.miller/study", "Kind": "x"}
    )
    nib.save(image, path)


def name_in_gzip(w):
    path = w.run("sub-2/seg1_1")
    content = gzip.decompress(path.read_bytes())
    with open(path, "wb") as raw, gzip.GzipFile("doe^jane.nii", "wb", fileobj=raw) as file:
        file.write(content)


FINDINGS = [
    (missing_run, "error", "missing", "sub-1/seg1_1", "seg1_1.nii is missing: get it, correct data.root"),
    (missing_t1w, "error", "missing", "sub-2", "t1w.nii.gz is missing"),
    (missing_movie, "error", "missing", "seg2", "seg2.mp4 is missing"),
    (missing_sidecar, "error", "missing", "sub-2/test1_2", "test1_2.json is missing"),
    (no_image, "error", "unreadable", "sub-1/seg1_1", "cannot be read"),
    (truncated_gzip, "error", "unreadable", "sub-2/seg1_1", "it is truncated: fetch it again"),
    (truncated_plain, "error", "unreadable", "sub-1/seg1_1", "bytes, its header announces"),
    (broken_movie, "error", "unreadable", "seg1", "cannot be opened as a movie"),
    (three_dimensions, "error", "format", "sub-1/seg1_1", "expected a 4-D NIfTI, found the shape (20, 24, 20)"),
    (swapped, "error", "format", "sub-1/seg1_1", "its dimensions are swapped; write it again with time as the last"),
    (flat_t1w, "error", "format", "sub-2", "expected a 3-D image, found the shape (20, 20, 1)"),
    (a_mask_for_cifti, "error", "unreadable", "sub-1/seg1_1", "expected a dense CIFTI time series"),
    (one_volume_less, "error", "length", "sub-1/seg1_1", "7 volumes, the sample sheet says 8"),
    (no_trim_rule, "error", "length", "seg1", "8 volumes, but bold.trim only has rules for 9, 245, 246; add 8 there"),
    (unequal_lengths, "error", "length", "train", "keep different lengths after bold.trim: 7 of 6, 1 of 8 volumes"),
    (other_tr, "error", "tr", "sub-1/seg1_1", "its header's TR is 1.5 s, data.tr_s says 2 s"),
    (no_tr, "warning", "tr", "sub-1/seg1_1", "its header says no TR; data.tr_s (2 s) is used"),
    (tr_in_ms, "warning", "tr", "sub-1/seg1_1", "its header's TR is 2000 s; taken for milliseconds"),
    (other_tr_in_sidecar, "error", "tr", "sub-1/seg1_1", "RepetitionTime is 0.8 s, data.tr_s says 2 s"),
    (broken_sidecar, "warning", "unreadable", "sub-1/seg1_1", "cannot be read as JSON"),
    (singular, "error", "affine", "sub-1/seg1_1", "its affine gives voxels no volume"),
    (not_in_mni, "error", "affine", "sub-1/seg1_1", "of the cortex lies within its grid, expected 95% or more"),
    (enormous_voxels, "warning", "affine", "sub-1/seg1_1", "its voxels are 20 x 20 x 20 mm, expected 0.3 to 10 mm"),
    (no_affine, "warning", "affine", "sub-2/seg1_1", "sets neither qform nor sform"),
    (other_grid, "warning", "grid", "sub-2/seg1_1", "its grid is 24 x 24 x 20 (10, 10, 10 mm); 5 of sub-2's 6 raw"),
    (without_right_cortex, "error", "cortex", "sub-1/seg1_1", "has no CIFTI_STRUCTURE_CORTEX_RIGHT"),
    (finer_mesh, "error", "cortex", "sub-1/seg1_1", "1000 vertices of a mesh of 163842, expected 29696 of 32492"),
    (not_a_number, "error", "nonfinite", "sub-1/seg1_1", "not finite, check.nonfinite allows 5.0%"),
    (infinite, "error", "nonfinite", "sub-1/seg1_1", "100.0% of the values looked at are not finite"),
    (all_zero, "error", "constant", "sub-1/seg1_1", "all values looked at are 0"),
    (static, "error", "constant", "sub-1/seg1_1", "its values do not change over time"),
    (empty_volumes, "error", "constant", "sub-1/seg1_1", "2 volumes hold no signal"),
    (copied_run, "error", "duplicate", "sub-2/seg2_2", "holds the same data as sub-1/seg1_1"),
    (linked_run, "error", "duplicate", "sub-1/seg1_2", "is the same file as sub-1/seg1_1"),
    (one_segment_repeats, "error", "repeats", "sub-1", "1 training segments with two repeats or more"),
    (a_test_run_less, "warning", "repeats", "sub-1", "no run of test1, which other subjects have"),
    (three_segments_one_single, "warning", "repeats", "sub-1", "one repeat only of seg3"),
    (train_and_test, "error", "split", "seg1", "seg1 is listed as train and as test"),
    (short_movie, "error", "movie", "seg1", "6.0 s long, the volumes that are kept last 12.0 s"),
    (no_hcp, "error", "missing", "hcp", "no HCP run matches resources/hcp/{subject}/*.dtseries.nii"),
    (name_in_descrip, "warning", "identity", "sub-1/seg1_1", "descrip: a name as in DICOM (D**^J***)"),
    (date_in_aux_file, "warning", "identity", "sub-2/seg1_1", "aux_file: a date (1***-0*-1*)"),
    (person_in_db_name, "warning", "identity", "sub-2", "db_name: a name (J*** M*****)"),
    (patient_in_extension, "warning", "identity", "sub-2/seg1_1", "extension of code 6: a patient field"),
    (dicom_extension, "warning", "identity", "sub-2/seg1_1", "extension: a DICOM header"),
    (patient_in_sidecar, "warning", "identity", "sub-1/seg1_1", "PatientName: a patient field (D**^J***)"),
    (user_in_cifti, "warning", "identity", "sub-1/seg1_1", "CIFTI metadata WorkingDirectory: a user's home folder"),
    (name_in_gzip, "warning", "identity", "sub-2/seg1_1", "file name within the gzip: a name as in DICOM"),
]  # fmt: skip
