"""The workflow runs from anywhere: a folder with any name, another workflow that imports it, a plain `snakemake`."""

import hashlib
import shutil
from pathlib import Path

import pytest
from checkouts import Checkout

DEMO = ("--configfile", "config/demo.yaml")
FRAMES = "results/demo/stimuli/test1.npy"


@pytest.mark.parametrize("name", ["a space", "it's", "$(touch PWNED)", "a;touch PWNED;b", '"double"'])
def test_a_folder_may_have_any_name(root, tmp_path, name):
    """And the package of this very folder is the one that runs."""
    checkout = Checkout(root, tmp_path / name / "checkout")
    checkout.edit("src/mindreel/stages/stimuli.py", "def extract(", 'print("of this checkout")\n\n\ndef extract(')
    checkout.snakemake(*DEMO, "--", FRAMES)
    assert (checkout.folder / FRAMES).exists()
    assert "of this checkout" in (checkout.folder / "logs" / "demo" / "stimuli" / "test1.log").read_text()
    assert not list(tmp_path.rglob("PWNED"))


def test_a_name_in_the_sheet_runs_nothing(checkout):
    checkout.edit("config/demo.tsv", "\n2\t", "\n2;touch PWNED;\t")
    told = checkout.snakemake(*DEMO, "--", "results/demo/stimuli/test1.npy", check=False)
    assert "2;touch PWNED;" in told and "letters, digits" in told
    assert not list(checkout.folder.rglob("PWNED"))


def test_a_plain_call_finds_the_default_profile(checkout):
    assert "workflow specific profile profiles/default for" in checkout.snakemake(*DEMO, "-n")
    both = "workflow/profiles/demo and workflow specific profile profiles/default for"
    assert both in checkout.snakemake("--profile", "workflow/profiles/demo", "-n")


def test_another_workflow_may_import_this_one(checkout, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "Snakefile").write_text(
        f'configfile: "{checkout.folder}/config.yaml"\n'
        f'configfile: "{checkout.folder}/config/demo.yaml"\n'
        f'module mindreel:\n    snakefile: "{checkout.folder}/Snakefile"\n    config: config\n\n'
        "use rule * from mindreel\n"
    )
    here, checkout.folder = checkout.folder, elsewhere
    told = checkout.snakemake("-n", "--printshellcmds")
    assert "write_report" in told and f"{here}/config/demo.tsv" in told
    checkout.snakemake("--", FRAMES)
    assert (elsewhere / FRAMES).exists()


def test_a_data_set_is_fetched_and_nothing_that_is_there_is_touched(checkout, tmp_path):
    for name in ("subject1/fmri/seg1.txt", "stimuli/seg1.txt"):
        file = tmp_path / "video_fmri_dataset" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    archive = shutil.make_archive(str(tmp_path / "data"), "tar", tmp_path, "video_fmri_dataset")
    sha256 = hashlib.sha256(Path(archive).read_bytes()).hexdigest()
    (checkout.folder / "mine.yaml").write_text(
        f"fetch: {{dataset_url: 'file://{archive}', dataset_sha256: {sha256}}}\n"
        "data: {root: my data/video_fmri_dataset}\n"
    )
    job = ("--configfile", "mine.yaml", "--", "results/wen2018/fetch/dataset.txt")
    checkout.snakemake(*job)
    there = checkout.folder / "my data" / "video_fmri_dataset" / "subject1" / "fmri" / "seg1.txt"
    assert there.read_text() == "subject1/fmri/seg1.txt"
    there.write_text("mine")
    (checkout.folder / "results/wen2018/fetch/dataset.txt").unlink()
    with open(checkout.folder / "mine.yaml", "a") as overlay:
        overlay.write("check: {ignore: [missing]}\n")
    checkout.snakemake(*job)
    assert there.read_text() == "mine"
