"""The whole workflow, run for real on the smallest world: raw NIfTI and CIFTI to the report."""

import gzip
import shutil

import av
import numpy as np
import page_checks
import pandas as pd
import pytest
from checkouts import Checkout

from mindreel.controls import CONDITIONS

pytestmark = pytest.mark.e2e

TEST = (
    "--configfile",
    "config/demo.yaml",
    "config/test.yaml",
    "--cores",
    "2",
    "--rerun-triggers",
    "mtime",
    "params",
    "input",
)
RESULTS = "results/test"


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """A checkout in which everything has been made."""
    checkout = Checkout(root, tmp_path_factory.mktemp("e2e") / "checkout")
    checkout.snakemake(*TEST)
    return checkout


@pytest.fixture
def results(made):
    return made.folder / RESULTS


def test_a_second_run_does_nothing(made):
    assert "Nothing to be done" in made.snakemake(*TEST)


def test_report_is_whole_and_needs_no_network(results):
    text = (results / "report" / "index.html").read_text()
    assert 'src="http' not in text and 'href="http' not in text.replace('href="https://doi.org', "")
    assert "<video" in text and "data:video/mp4;base64" in text


@page_checks.needs_browser
@page_checks.widths
def test_report_stands_in_a_real_browser(results, tmp_path, width):
    page_checks.check_alone(results / "report" / "index.html", width, results.name, tmp_path)


@pytest.mark.parametrize("sub", [1, 2])
def test_clips_have_the_shape_of_the_true_frames(results, sub):
    true = np.load(results / "stimuli" / "test1.npy", mmap_mode="r")
    folder = results / "sampling" / "mind-video"
    of_subject = [folder / f"sub-{sub}" / f"{name}.npy" for name in ("fmri", "shuffled", "mean", "retrieved", "random")]
    for path in (*of_subject, folder / "text.npy"):
        clips = np.load(path, mmap_mode="r")
        assert clips.shape == true.shape and clips.dtype == np.uint8
        assert clips.std() > 5  # a picture, not a uniform grey


def test_further_samples_and_a_whole_segment_are_sampled_when_asked_for(made, results):
    folder = f"{RESULTS}/sampling/mind-video/sub-1"
    made.snakemake(*TEST, "--", f"{folder}/fmri_2.npy", f"{folder}/segment_movie/test1.mp4")
    true = np.load(results / "stimuli" / "test1.npy", mmap_mode="r")
    first, second, told = (np.load(made.folder / folder / f"{name}.npy") for name in ("fmri", "fmri_2", "../text"))
    assert first.shape == second.shape == told.shape == true.shape
    assert not (np.array_equal(first, second) or np.array_equal(first, told))
    with av.open(str(made.folder / folder / "segment_movie" / "test1.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(shown) == true.shape[0] * true.shape[1]
    assert np.abs(shown[0][:, : true.shape[3]].astype(int) - true[0, 0]).mean() < 10  # what was seen, on the left


@pytest.mark.parametrize("sub", [1, 2])
def test_selected_voxels_respond(results, sub):
    """Even here most of what is selected truly responds; the truth is what simulate planted."""
    chosen = pd.read_csv(results / "roi" / "mind-video" / f"sub-{sub}" / "voxels.tsv", sep="\t").grayordinate
    responding = np.load(results / "simulate" / "truth" / f"sub-{sub}" / "responding.npy")
    assert responding[chosen].mean() > 3 * responding.mean()


def test_borrowed_clips_are_training_clips(results):
    known = {clip.tobytes() for path in (results / "stimuli").glob("seg*.npy") for clip in np.load(path)}
    for name in ("retrieved", "random"):
        assert {clip.tobytes() for clip in np.load(results / "sampling/mind-video/sub-1" / f"{name}.npy")} <= known


def test_every_metric_stands_beside_its_controls(results):
    table = pd.read_csv(results / "metrics" / "mind-video" / "sub-1" / "summary.tsv", sep="\t")
    for metric in ("ssim_rgb_uniform7", "nway_image_2way", "nway_video_50way"):
        assert table[table.metric == metric].condition.tolist() == list(CONDITIONS)
    two_way = table[(table.metric == "nway_image_2way") & (table.condition == "fmri")]
    assert two_way.chance.item() == pytest.approx(0.75)


def test_a_deleted_artifact_is_restored_bit_for_bit(made, results):
    path = results / "roi" / "mind-video" / "sub-2" / "train.npy"
    before = path.read_bytes()
    path.unlink()
    made.snakemake(*TEST, "--", str(path.relative_to(made.folder)))
    assert path.read_bytes() == before


def test_training_again_gives_the_same_weights(made, results):
    folder = results / "mbm" / "mind-video" / "sub-2"
    before = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(folder)
    made.snakemake(*TEST, "--", str(folder.relative_to(made.folder)))
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_truncated_run_names_the_file_and_the_remedy(made, results):
    run = results / "simulate" / "video_fmri_dataset" / "subject1" / "fmri" / "seg1" / "raw" / "seg1_1.nii.gz"
    whole = run.read_bytes()
    with gzip.open(run) as file:
        assert len(file.read()) > len(whole)
    run.write_bytes(whole[: len(whole) // 2])
    try:
        text = made.snakemake(*TEST, "--show-failed-logs", "--", f"{RESULTS}/bold/sub-1/seg1_1.npy", check=False)
    finally:
        run.write_bytes(whole)
    assert "mindreel bold:" in text and "seg1_1.nii.gz" in text and "truncated" in text
    assert not list((results / "bold" / "sub-1").glob(".*seg1_1*"))  # no partial artifact


def test_a_movie_that_does_not_decode_names_the_file(made, results):
    movie = results / "simulate" / "video_fmri_dataset" / "stimuli" / "seg2.mp4"
    whole = movie.read_bytes()
    movie.write_bytes(b"not a movie" * 100)
    try:
        text = made.snakemake(*TEST, "--show-failed-logs", "--", f"{RESULTS}/stimuli/seg2.npy", check=False)
    finally:
        movie.write_bytes(whole)
    assert "mindreel stimuli:" in text and "seg2.mp4" in text
