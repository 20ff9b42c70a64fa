"""The plan: what would run, from empty files, without running anything."""

import re

import pytest

from mindreel import config
from mindreel.sheet import Sheet

DEMO = ("--configfile", "config/demo.yaml")


def planned(text):
    """Rule -> number of jobs, from a dry run's job table."""
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+) +(\d+)$", text, re.M) if m[1] != "total"}


def commands(text):
    """Every command of a dry run with --printshellcmds, as "stage action"."""
    return {" ".join(m) for m in re.findall(r"python -m mindreel (\w+) (\w+)", text)}


@pytest.fixture
def full(checkout):
    """The papers' configuration with a data set of empty files."""
    sheet = Sheet(config.load(checkout.folder / "config.yaml"))
    sheet_files = [sheet.file(run) for run in sheet.names("raw", "mni", "cifti").values()]
    checkout.touch(*sheet_files, *(sheet.path("movie", segment=s) for s in sheet.segments()))
    checkout.touch("resources/hcp/100307/rfMRI_REST1_LR_Atlas_MSMAll_hp2000_clean.dtseries.nii")
    return checkout


def test_demo_plan(checkout):
    found = planned(checkout.snakemake("-n", *DEMO))
    assert found["clean_raw_run"] == found["clean_run"] == 32
    assert found["select_voxels"] == found["train_contrastive"] == found["cotrain"] == 2
    assert found["train_generator"] == found["pretrain_encoder"] == 1
    assert found["sample_clips"] == 8  # two subjects x two experiments x (fMRI, shuffled fMRI)
    assert "fetch_model" not in found


def test_full_plan(full):
    found = planned(full.snakemake("-n"))
    assert found["clean_run"] == 3 * 36 + 2 * 50 + 49
    assert found["fetch_model"] == 5
    assert found["cotrain"] == 3 and found["sample_clips"] == 3 * 3 * 2
    assert not any(rule.startswith("simulate") for rule in found)


def test_one_subjects_metrics_can_be_asked_for(full):
    found = planned(full.snakemake("-n", "results/wen2018/metrics/mind-video/sub-1"))
    assert found["cotrain"] == found["select_voxels"] == 1
    assert found["clean_run"] == 36 + 50


def test_no_training_sees_a_test_artifact(full):
    """Everything upstream of every trained model, listed: no file of a test segment is among it."""
    trained = [f"results/wen2018/cotrain/{name}/sub-{sub}" for name in ("mind-video", "window-3") for sub in (1, 2, 3)]
    text = full.snakemake("-n", "--printshellcmds", *trained)
    assert commands(text) == {
        *(
            "fetch model",
            "stimuli extract",
            "captions describe",
            "targets embed",
            "bold clean",
            "roi select",
            "roi train",
        ),
        *("hcp segments", "mbm pretrain", "mbm tune", "contrastive train", "generator train", "cotrain train"),
    }
    seen = [line for line in text.splitlines() if re.search(r"\btest\d|test\.npy", line)]
    assert not seen, "test artifacts upstream of training:\n" + "\n".join(seen)


def test_a_missing_run_stops_before_anything_starts(full):
    missing = "resources/wen2018/video_fmri_dataset/subject2/fmri/seg3/cifti/seg3_2_Atlas.dtseries.nii"
    (full.folder / missing).unlink()
    text = full.snakemake("-n", check=False)
    assert f"{missing} is missing: get it" in text and "column exclude of config/wen2018.tsv" in text


def test_a_misspelt_key_stops_with_one_message(checkout):
    checkout.edit("config.yaml", "alpha: 0.01", "alhpa: 0.01")
    text = checkout.snakemake("-n", *DEMO, check=False)
    assert "experiments.mind-video.roi.alhpa: unknown key" in text
    assert "experiments.mind-video.roi.alpha: missing" in text
    assert "Traceback" not in text


def test_a_subject_can_be_left_out(full):
    """A sheet without a subject plans without it: a data set is its sheet."""
    path = full.folder / "config" / "wen2018.tsv"
    path.write_text("".join(line for line in path.open() if not line.startswith("2\t")))
    assert planned(full.snakemake("-n"))["cotrain"] == 2
