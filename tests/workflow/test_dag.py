"""The plan: what would run, from empty files, without running anything."""

import re

import pytest

from mindreel import config
from mindreel.dataset.sheet import Sheet

DEMO = ("--configfile", "config/demo.yaml")


def planned(text):
    """Rule -> number of jobs, from a dry run's job table."""
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+) +(\d+)$", text, re.M) if m[1] != "total"}


def commands(text):
    """Every command of a dry run with --printshellcmds, as "stage action"."""
    return {" ".join(m) for m in re.findall(r"-m mindreel (\w+) ([\w-]+)", text)}


@pytest.fixture
def full(checkout):
    """The papers' configuration with a data set of empty files, which the check before the plan lets pass."""
    checkout.edit("config.yaml", "ignore: []", "ignore: [unreadable]")
    sheet = Sheet(config.load(checkout.folder / "config.yaml"))
    sheet_files = [sheet.file(run) for run in sheet.names("raw", "mni", "cifti").values()]
    checkout.touch(*sheet_files, *(sheet.path("movie", segment=s) for s in sheet.segments()))
    for subject in (100307, 100408):
        for direction in ("LR", "RL"):
            name = f"rfMRI_REST1_{direction}_Atlas_MSMAll_hp2000_clean.dtseries.nii"
            checkout.touch(f"resources/hcp/{subject}/{name}")
    return checkout


def test_demo_plan(checkout):
    found = planned(checkout.snakemake("-n", *DEMO))
    assert found["clean_raw_run"] == found["clean_run"] == 32
    assert found["select_voxels"] == found["train_contrastive"] == found["cotrain"] == 2
    assert found["train_generator"] == found["pretrain_encoder"] == 1
    assert found["sample_clips"] == 2 * (3 + 1)  # per subject fMRI, shuffled, mean; the ablation has no controls
    assert found["make_control"] == 2 * 2 and found["make_common_control"] == found["sample_captions"] == 1
    assert "fetch_model" not in found


def test_full_plan(full):
    found = planned(full.snakemake("-n"))
    assert found["clean_run"] == 3 * 36 + 2 * 50 + 49
    assert found["fetch_model"] == 5
    assert found["segment_hcp_subject"] == 2 and found["gather_hcp_segments"] == 1
    assert found["cotrain"] == 3 and found["gather_clips"] == 3 * 3 * 3  # fMRI, shuffled, mean
    assert found["make_control"] == 2 * 3 * 3 and found["make_common_control"] == 1
    assert found["gather_captioned_clips"] == 1  # no subject and no negative condition has a say in them
    assert found["sample_captions"] == 5
    assert found["sample_clips"] == 5 * found["gather_clips"]  # a test segment each
    assert not any(rule.startswith("simulate") for rule in found)


def test_further_samples_captions_and_segment_movies_are_planned_when_asked_for(checkout):
    folder = "results/demo/sampling/mind-video"
    found = planned(
        checkout.snakemake("-n", *DEMO, "--", f"{folder}/text_2.npy", f"{folder}/sub-1/segment_movie/test1.mp4")
    )
    assert found["sample_captions"] == found["gather_captioned_clips"] == found["sample_segment_movie"] == 1
    assert "sample_clips" not in found
    checkout.edit("config.yaml", "samples: 1", "samples: 3")
    found = planned(checkout.snakemake("-n", *DEMO))
    assert found["sample_clips"] == found["gather_clips"] == 8 + 2 * 2 * 2 and found["sample_captions"] == 1


def test_conditions_are_scored_in_the_order_of_the_list(checkout):
    """One list for sampling, features and metrics; a subject may have its own."""
    checkout.edit("config.yaml", "controls: [shuffled, mean, retrieved, random, text, vae]", "controls: [text, random]")
    checkout.edit(
        "config/demo.yaml", "  mind-video:\n", "  mind-video:\n    subjects: {2: {sampling: {controls: []}}}\n"
    )
    wanted = [f"results/demo/metrics/mind-video/sub-{sub}" for sub in (1, 2)]
    text = checkout.snakemake("-n", "--printshellcmds", *DEMO, "--", *wanted)
    for action in ("features extract", "metrics score"):
        made = {
            s: re.search(rf"{action} --clips ((?:\S*sub-{s}/fmri\S*)(?: \S*sampling\S*)*)", text)[1] for s in (1, 2)
        }
        folder = "results/demo/sampling/mind-video"
        assert made[1].split() == [f"{folder}/sub-1/fmri.npy", f"{folder}/text.npy", f"{folder}/sub-1/random.npy"]
        assert made[2].split() == [f"{folder}/sub-2/fmri.npy"]
    found = planned(text)
    assert found["sample_clips"] == 2 and found["make_control"] == 1


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
        *(
            "hcp segments",
            "hcp gather",
            "mbm pretrain",
            "mbm tune",
            "contrastive train",
            "generator train",
            "cotrain train",
        ),
    }
    seen = [line for line in text.splitlines() if re.search(r"\btest\d|test\.npy", line)]
    assert not seen, "test artifacts upstream of training:\n" + "\n".join(seen)


def test_a_missing_run_stops_before_anything_starts(full):
    missing = "resources/wen2018/video_fmri_dataset/subject2/fmri/seg3/cifti/seg3_2_Atlas.dtseries.nii"
    (full.folder / missing).unlink()
    text = full.snakemake("-n", check=False)
    assert f"{missing} is missing: get it" in text and "column exclude of config/wen2018.tsv" in text


def test_an_unreadable_run_stops_before_anything_starts(full):
    full.edit("config.yaml", "ignore: [unreadable]", "ignore: []")
    text = full.snakemake("-n", check=False)
    assert "seg3_2_Atlas.dtseries.nii" in text and "… and 260 more" in text
    assert "mindreel: the data set has 280 errors" in text and "unreadable" in text and "Traceback" not in text


def test_without_hcp_runs_the_plan_stops(full):
    for path in full.folder.glob("resources/hcp/*/*.nii"):
        path.unlink()
    text = full.snakemake("-n", check=False)
    assert "no HCP run matches resources/hcp/{subject}/*.dtseries.nii: get some, correct hcp.pattern" in text


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


def test_stacked_repeats_meet_their_targets_run_by_run_and_sidecars_are_inputs(checkout):
    """And a TR that `check.ignore` names is no error in `bold` either."""
    checkout.edit("config.yaml", "repeats: average", "repeats: stack")
    checkout.edit("config.yaml", "slice_timing: false", "slice_timing: true")
    text = checkout.snakemake(
        "-n", "--printshellcmds", *DEMO, "--", "results/demo/roi/mind-video/sub-1/lag.tsv", check=False
    )
    assert "seg1/raw/seg1_1.json" in text, "the small world has no sidecars: the plan misses them"
    checkout.edit("config.yaml", "slice_timing: true", "slice_timing: false")
    checkout.edit("config.yaml", "  ignore: []", "  ignore: [tr]")
    text = checkout.snakemake("-n", "--printshellcmds", *DEMO, "--", "lag")
    assert "--header-tr ignore" in text and "--header-tr check" not in text
    (command,) = (line for line in text.splitlines() if "mindreel roi lag" in line and "/sub-1/" in line)
    rows = re.findall(r"results/demo/targets/(seg\d+)", command)
    assert rows[:4] == ["seg1", "seg1", "seg2", "seg2"] and len(rows) == 24
