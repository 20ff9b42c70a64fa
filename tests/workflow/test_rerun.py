"""A finished workflow reruns a stage and what follows when its section or its code changes, and not otherwise."""

import re

import pytest
from checkouts import Checkout

DEMO = ("--configfile", "config/demo.yaml", "--rerun-triggers", "mtime", "params", "input")
FOLDERS = re.compile(r"(anatomy|targets/\w+|features/true|/audit|/hcp|/sub-\d+|generator/[\w-]+|report/\w+)$")


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """The demo, as if it had run: every artifact there (empty), every job's parameters on record."""
    checkout = Checkout(root, tmp_path_factory.mktemp("finished") / "checkout")
    summary = checkout.snakemake("--summary", *DEMO)
    outputs = [line.split("\t")[0] for line in summary.splitlines() if line.startswith("results/")]
    for path in outputs:
        file = checkout.folder / path
        if FOLDERS.search(path):
            file.mkdir(parents=True, exist_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    checkout.snakemake("--touch", *DEMO)
    return checkout


@pytest.fixture
def edited(finished):
    """Edit a file of the finished workflow, plan, put the file back."""

    def plan(path, old, new):
        text = (finished.folder / path).read_text()
        finished.edit(path, old, new)
        try:
            table = finished.snakemake("-n", *DEMO)
            return set(re.findall(r"^(\w+) +\d+$", table, re.M)) - {"all", "total"}
        finally:
            (finished.folder / path).write_text(text)

    return plan


def test_nothing_to_do(finished):
    assert "Nothing to be done" in finished.snakemake("-n", *DEMO)


def test_a_comment_reruns_nothing(edited):
    assert edited("src/mindreel/stages/roi.py", "import numpy as np", "import numpy as np  # arrays") == set()


def test_code_reruns_its_stage_and_what_follows(edited):
    found = edited("src/mindreel/stages/sampling.py", "import numpy as np", "import numpy as np\n\nEDITED = 1")
    reported = {"write_tables", "draw_scores", "write_report"}
    looked_at = {"extract_features", "score_clips", "compare_experiments", *reported}
    sampled = {"sample_clips", "sample_captions", "gather_clips", "gather_captioned_clips", "film_clips"}
    assert found == {*sampled, *looked_at}


def test_a_control_more_or_less_is_scored_and_no_clip_made_anew(edited):
    every = "controls: [shuffled, mean, retrieved, random, text, vae]"
    assert {"extract_features", "score_clips"} <= (less := edited("config.yaml", every, "controls: [shuffled, random]"))
    assert not {"sample_clips", "sample_captions", "gather_clips", "make_control", "film_clips"} & less
    more = edited("config/demo.yaml", "sampling: {controls: []}", "sampling: {controls: [random]}")
    assert {"make_control", "extract_features", "score_clips", "compare_experiments"} <= more
    assert not {"sample_clips", "gather_clips", "film_clips"} & more


def test_a_section_reruns_its_stage_and_what_follows(edited):
    found = edited("config/demo.yaml", "guidance_scale: 3.0", "guidance_scale: 4.0")
    assert "sample_clips" in found and "cotrain" not in found


def test_settings_that_only_plan_sampling_change_no_clip(edited):
    found = edited("config.yaml", "overlap: 3", "overlap: 2")
    assert not {"sample_clips", "gather_clips", "film_clips", "score_clips"} & found


def test_a_setting_of_one_subject_plans_that_subject_only(finished):
    path = finished.folder / "config" / "demo.yaml"
    text = path.read_text()
    own = "  mind-video:\n    subjects: {2: {contrastive: {dropout: 0.2}}}\n"
    finished.edit("config/demo.yaml", "  mind-video:\n", own)
    try:
        planned = finished.snakemake("-n", "--printshellcmds", *DEMO)
    finally:
        path.write_text(text)
    commands = [line for line in planned.splitlines() if "-m mindreel" in line]
    of_all = ("mindreel report", "metrics compare")  # what gathers every subject
    commands = [line for line in commands if not any(action in line for action in of_all)]
    assert any("contrastive train" in line for line in commands)
    assert all("sub-2" in line and "sub-1" not in line for line in commands)


def test_an_early_section_reruns_the_chain(edited):
    found = edited("config.yaml", "alpha: 0.01", "alpha: 0.02")
    assert {"select_voxels", "gather_training_voxels", "tune_encoder", "cotrain", "write_report"} <= found
    assert not {"clean_run", "clean_raw_run", "pretrain_encoder", "train_generator", "embed_segment"} & found
