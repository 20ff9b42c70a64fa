import pandas as pd
import pytest

from mindreel import config
from mindreel.dataset.sheet import Sheet
from mindreel.errors import InputError


@pytest.fixture
def make(root, tmp_path):
    base = pd.read_csv(root / "config" / "wen2018.tsv", sep="\t", dtype=str, keep_default_na=False)
    whole = config.load(root / "config.yaml")

    def sheet(change=lambda table: table):
        path = tmp_path / "sheet.tsv"
        change(base.copy()).to_csv(path, sep="\t", index=False)
        return Sheet(whole.model_copy(update={"data": whole.data.model_copy(update={"sheet": str(path)})}))

    return sheet


def test_wen2018_has_every_run_but_the_published_hole(make):
    sheet = make()
    assert sheet.subjects == ["1", "2", "3"]
    assert len(sheet.segments("train")) == 18 and len(sheet.segments("test")) == 5
    assert [len(sheet.runs(s, "train")) for s in "123"] == [36] * 3
    assert [len(sheet.runs(s, "test")) for s in "123"] == [50, 50, 49]
    assert "sub-3/test2_9" not in sheet.names("cifti")


def test_both_run_lengths_leave_240_volumes(make):
    sheet = make()
    assert sheet.volumes("seg1") == sheet.volumes("test1") == sheet.volumes("test2") == 240


def test_files_follow_the_patterns(make):
    sheet = make()
    found = sheet.file(sheet.names("cifti")["sub-1/seg1_2"])
    assert found.endswith("subject1/fmri/seg1/cifti/seg1_2_Atlas.dtseries.nii")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="split"), "no column split"),
        (lambda t: t.replace({"split": {"train": "training"}}), "split is 'training' in line 2"),
        (lambda t: pd.concat([t, t.tail(1)]), "is listed twice"),
        (lambda t: t.replace({"volumes": {"245": "all"}}), "expected digits"),
    ],
)
def test_bad_sheets_say_so(make, change, message):
    with pytest.raises(InputError, match=message):
        make(change)


def test_a_length_without_a_trim_rule(make):
    with pytest.raises(InputError, match=r"seg1 has 300 volumes.*bold\.trim"):
        make(lambda t: t.replace({"volumes": {"245": "300"}})).volumes("seg1")
