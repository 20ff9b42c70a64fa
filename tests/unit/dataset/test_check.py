"""`mindreel check`: each kind of finding on a tiny data set, its exit code; what is kept; what is scrubbed."""

import contextlib
import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import spoilt

from mindreel import sections, video
from mindreel.dataset import check, file_cache, inspection
from mindreel.errors import InputError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for sub, segment, _, repeat, volumes, source, _ in spoilt.rows():
        path = folder / "data" / spoilt.PATTERNS[source].format(subject=sub, segment=segment, repeat=repeat)
        spoilt.write(path, rng.integers(100, 1000, (*spoilt.GRID, volumes)))
    spoilt.write(folder / "data" / "sub-2" / "t1w.nii.gz", rng.integers(0, 1000, spoilt.GRID))
    for segment in ("seg1", "seg2", "test1"):
        picture = np.zeros((16, 16, 3), np.uint8)
        video.write_mp4(folder / "data" / f"{segment}.mp4", [picture] * 24, fps=2)  # 12 s: six volumes
    return folder


@pytest.fixture(scope="module")
def known(original, root):
    """What a first check of the good data set keeps; files that a test leaves alone are then not read again."""
    with contextlib.chdir(original):
        whole, sheet = spoilt.World(original, root).load()
        file_cache.read(check.listed(whole, sheet), Path("check.json"), sample=True)
    return original / "check.json"


@pytest.fixture
def world(original, root, tmp_path, monkeypatch):
    shutil.copytree(original / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return spoilt.World(tmp_path, root)


@pytest.fixture
def looked_at(world, known):
    """The world after a check."""
    (world.folder / "scratch/tiny").mkdir(parents=True)
    shutil.copy(known, world.folder / "scratch/tiny/check.json")
    return world


def test_a_good_data_set_has_no_findings(world, capsys):
    code, table, text = world.check(capsys)
    assert code == 0 and table.empty
    assert "no findings in 12 runs" in text and "results/tiny/check.tsv" in text
    assert not (world.folder / "results/tiny/bold").exists()


@pytest.mark.parametrize(
    ("spoil", "severity", "kind", "name", "message"), spoilt.FINDINGS, ids=[f[0].__name__ for f in spoilt.FINDINGS]
)
def test_findings(looked_at, capsys, spoil, severity, kind, name, message):
    spoil(looked_at)
    code, table, text = looked_at.check(capsys)
    found = table[(table.kind == kind) & (table.name == name) & table.message.str.contains(message, regex=False)]
    assert len(found) == 1, table.to_string()
    assert found.severity.item() == severity
    assert code == (1 if severity == "error" else 0)
    assert [path.name for path in Path("results").rglob("*.*")] == ["check.tsv"], "nothing is started"
    assert message in text and "Traceback" not in text
    also = {
        spoil: "grid"
        for spoil in (
            spoilt.swapped,
            spoilt.three_dimensions,
            spoilt.not_in_mni,
            spoilt.singular,
            spoilt.enormous_voxels,
        )
    }
    also[spoilt.train_and_test] = "repeats"
    unrelated = table[(table.kind != kind) & (table.kind != also.get(spoil))]
    assert unrelated.empty, unrelated.to_string()


def test_every_kind_has_a_test():
    assert {kind for _, _, kind, _, _ in spoilt.FINDINGS} == set(sections.CheckKind.__args__)


def test_a_kind_can_be_ignored(world, capsys):
    world.settings["check"] = {"ignore": ["tr", "missing"]}
    spoilt.other_tr(world)
    spoilt.missing_movie(world)
    code, table, _ = world.check(capsys)
    assert code == 0 and table.empty


def test_the_limit_for_values_that_are_not_finite(world, capsys):
    spoilt.not_a_number(world)
    world.settings["check"] = {"nonfinite": 0.4}
    assert world.check(capsys)[0] == 0


def test_excluded_runs_are_not_looked_at(world, capsys):
    path = world.data / "sub-1/test1_3.nii"
    path.write_bytes(b"unusable")
    world.table.loc[len(world.table)] = [1, "test1", "test", 3, spoilt.VOLUMES, "mni", "unusable"]
    assert world.check(capsys)[0] == 0


def test_errors_come_first(world, capsys):
    spoilt.no_tr(world)
    spoilt.missing_movie(world)
    _, table, text = world.check(capsys)
    assert table.severity.tolist() == ["error", "warning"]
    assert "1 error and 1 warning in 12 runs" in text


# --- before the plan ---


def test_before_the_plan_headers_are_enough(world):
    check.before_plan(*world.load())
    spoilt.one_volume_less(world)
    with pytest.raises(
        InputError, match=r"1 error:\n.*sub-1/seg1_1.*7 volumes, the sample sheet says 8(.|\n)*mindreel check"
    ):
        check.before_plan(*world.load())


def test_before_the_plan_no_data_are_read(world, capsys):
    """A run of zeros has a good header; the full check, although it knows the header by now, looks at the data."""
    spoilt.all_zero(world)
    check.before_plan(*world.load())
    code, table, _ = world.check(capsys)
    assert code == 1 and table.kind.tolist() == ["constant"]


def test_before_the_plan_warnings_are_counted(world, capsys):
    spoilt.no_tr(world)
    check.before_plan(*world.load())
    assert "the data set has 1 warning; `mindreel check` lists them" in capsys.readouterr().err


def test_before_the_plan_a_long_list_is_cut(world):
    shutil.rmtree(world.data)
    with pytest.raises(InputError) as error:
        world.table = pd.concat([world.table, world.table.assign(subject=world.table.subject + 2)])
        check.before_plan(*world.load())
    assert str(error.value).count("is missing") == check.SHOWN and "… and 9 more" in str(error.value)


def test_a_second_look_reads_no_file_that_has_not_changed(world, monkeypatch):
    examined = []
    look = inspection.examine
    monkeypatch.setattr(inspection, "examine", lambda item, sample: examined.append(item.name) or look(item, sample))
    whole, sheet = world.load()
    check.before_plan(whole, sheet)
    assert len(examined) == 12 + 1 + 3
    examined.clear()
    check.before_plan(whole, sheet)
    assert examined == []
    spoilt.other_tr(world)
    with pytest.raises(InputError, match=r"TR is 1\.5 s"):
        check.before_plan(whole, sheet)
    assert examined == ["sub-1/seg1_1"]


def test_what_follows_from_kept_facts_follows_the_configuration(world, monkeypatch):
    check.before_plan(*world.load())
    monkeypatch.setattr(inspection, "examine", None)  # nothing is read
    world.settings["data"]["tr_s"] = 1.0
    with pytest.raises(InputError, match=r"header's TR is 2 s, data\.tr_s says 1 s"):
        check.before_plan(*world.load())


def test_a_damaged_cache_is_made_anew(world):
    whole, sheet = world.load()
    check.before_plan(whole, sheet)
    cache = Path("scratch/tiny/check.json")
    for content in ("{", "[]", '{"version": 0, "files": {}}'):
        cache.write_text(content)
        check.before_plan(whole, sheet)
        assert json.loads(cache.read_text())["version"] == file_cache.VERSION


# --- copies without identifying text ---


def test_scrub_writes_clean_copies_and_changes_no_original(world, capsys):
    for spoil in (
        spoilt.name_in_descrip,
        spoilt.patient_in_extension,
        spoilt.person_in_db_name,
        spoilt.patient_in_sidecar,
    ):
        spoil(world)
    spoilt.dicom_extension(world, "sub-2/seg1_2")
    before = {path: path.read_bytes() for path in world.data.rglob("*") if path.is_file()}
    code, table, text = world.check(capsys, "--scrub", "clean")
    assert code == 0 and len(table) == 6 and set(table.kind) == {"identity"}
    assert {path: path.read_bytes() for path in world.data.rglob("*") if path.is_file()} == before
    written = sorted(str(path.relative_to("clean")) for path in Path("clean").rglob("*") if path.is_file())
    assert written == [
        "sub-1/seg1_1.json",
        "sub-1/seg1_1.nii",
        *(f"sub-2/{n}.nii.gz" for n in ("seg1_1", "seg1_2", "t1w")),
    ]
    assert "5 clean copies written to clean" in text
    for name in written[1:]:
        old, new = nib.load(world.data / name), nib.load(f"clean/{name}")
        assert np.array_equal(old.dataobj, new.dataobj) and np.array_equal(old.affine, new.affine)
        assert b"jane" not in (gzip.open if name.endswith("gz") else open)(f"clean/{name}", "rb").read().lower()
    assert json.loads(Path("clean/sub-1/seg1_1.json").read_text()) == {"RepetitionTime": 2.0, "dcm": {}}
    shutil.copytree("clean", "data", dirs_exist_ok=True)
    assert world.check(capsys)[1].empty


def test_scrub_keeps_cifti_readable(world, capsys):
    spoilt.user_in_cifti(world)
    world.check(capsys, "--scrub", "clean")
    old, new = (nib.load(f"{folder}/sub-1/seg1_1.dtseries.nii") for folder in ("data", "clean"))
    assert np.array_equal(old.dataobj, new.dataobj)
    assert old.header.get_axis(1) == new.header.get_axis(1) and old.header.get_axis(0) == new.header.get_axis(0)
    assert "jane" not in Path("clean/sub-1/seg1_1.dtseries.nii").read_bytes().decode("latin-1")
    assert new.header.matrix.metadata["Kind"] == "x"


def test_scrub_into_the_data_is_refused(world, capsys):
    spoilt.name_in_descrip(world)
    before = world.run().read_bytes()
    code, _, text = world.check(capsys, "--scrub", "data")
    assert code == 1 and "is the original; give --scrub another folder" in text
    assert world.run().read_bytes() == before
