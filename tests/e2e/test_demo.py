"""The demo, whole (a quarter of an hour: pytest -m slow): what it shows is what the method is for."""

import numpy as np
import page_checks
import pandas as pd
import pytest
import torch
from checkouts import Checkout

from mindreel.controls import CONDITIONS
from mindreel.networks.masked_autoencoder import MaskedAutoencoder

pytestmark = pytest.mark.slow

SUBJECTS = pytest.mark.parametrize("sub", [1, 2])


@pytest.fixture(scope="module")
def results(root, tmp_path_factory):
    checkout = Checkout(root, tmp_path_factory.mktemp("demo") / "checkout")
    checkout.snakemake("--profile", "workflow/profiles/demo", "--cores", "2")
    return checkout.folder / "results" / "demo"


@SUBJECTS
def test_selected_voxels_truly_respond(results, sub):
    chosen = pd.read_csv(results / "roi" / "mind-video" / f"sub-{sub}" / "voxels.tsv", sep="\t").grayordinate
    responding = np.load(results / "simulate" / "truth" / f"sub-{sub}" / "responding.npy")
    assert len(chosen) > 600 and responding[chosen].mean() > 0.6


@SUBJECTS
@pytest.mark.parametrize("metric", ["ssim_rgb_uniform7", "nway_image_2way", "nway_image_50way", "nway_video_2way"])
def test_reconstructions_beat_the_shuffled_control(results, sub, metric):
    table = pd.read_csv(results / "metrics" / "mind-video" / f"sub-{sub}" / "summary.tsv", sep="\t")
    control = table[(table.metric == metric) & (table.condition == "shuffled")].iloc[0]
    assert control.difference > 0 and control.p < 0.01


def scores(results, sub):
    """summary.tsv by condition and metric, without the sampled twins."""
    table = pd.read_csv(results / "metrics" / "mind-video" / f"sub-{sub}" / "summary.tsv", sep="\t")
    assert list(dict.fromkeys(table.condition)) == list(CONDITIONS)
    return table[~table.metric.str.endswith("_sampled")].set_index(["condition", "metric"])


@SUBJECTS
@pytest.mark.parametrize("control", ["shuffled", "mean", "random"])
def test_controls_that_know_nothing_score_at_chance(results, sub, control):
    """No better than chance: of 18 measures the 95% interval of two may lie above it, none far.

    More may lie below it: of the few hits among 80 clips that chance gives, the bootstrap's interval is too short.
    Chance is what the same clips score against true clips of other scenes, where that was measured: the closed form of
    N-way takes every ranking of the classes for equally likely, which no generator's is. Left out is who comes first of
    80: one hit is expected, and of no hit there is no interval.
    """
    rows = scores(results, sub).loc[control]
    rows = rows.assign(chance=rows.mismatched.fillna(rows.chance))
    rows = rows[rows.chance.notna() & ~rows.index.str.endswith("_top1")]
    assert len(rows) == 18
    lower = rows.index.isin(["mse", "epe_ilk", "identify_clip_rank", "identify_latent_rank"])  # is better
    above = rows[np.where(lower, rows.chance > rows.ci_high, rows.chance < rows.ci_low)]
    assert len(above) <= 2, above
    assert (np.where(lower, -1, 1) * (rows.value - rows.chance) < rows.ci_high - rows.ci_low).all()


@SUBJECTS
@pytest.mark.parametrize("metric", ["ssim_rgb_uniform7", "nway_image_50way", "nway_video_50way", "identify_clip_rank"])
def test_the_ceiling_is_above_the_model(results, sub, metric):
    assert scores(results, sub).loc[("text", metric)].difference_ci_high < 0


@SUBJECTS
def test_retrieved_clips_say_what_was_seen(results, sub):
    retrieved = scores(results, sub).loc["retrieved"]
    for metric in ("ssim_rgb_uniform7", "nway_image_2way", "nway_image_50way", "identify_clip_top5"):
        chance = retrieved.mismatched.fillna(retrieved.chance)[metric]
        assert retrieved.ci_low[metric] > chance, metric


@SUBJECTS
def test_distinctness_is_measured_with_and_without_guidance(results, sub):
    rows = scores(results, sub).xs("clip_cosine_pairwise", level="metric")
    assert rows.loc["mean"].difference_ci_low > 0  # who is told the same of every clip makes clips that look alike
    table = pd.read_csv(results / "metrics" / "comparison.tsv", sep="\t")
    row = table[(table.metric == "clip_cosine_pairwise") & (table.subject == sub)].iloc[0]
    assert row.experiment == "no-adversarial-guidance"
    assert row.difference_ci_low < row.difference < row.difference_ci_high


@SUBJECTS
def test_masked_brain_modelling_beats_the_mean_on_new_data(results, sub):
    """Tuned on training runs, it restores patches of test fMRI with less than two thirds of the mean's error."""
    model = MaskedAutoencoder.from_pretrained(results / "mbm" / "mind-video" / f"sub-{sub}")
    bold = np.load(results / "roi" / "mind-video" / f"sub-{sub}" / "test.npy")
    bold = torch.from_numpy(bold.reshape(-1, bold.shape[2]))
    with torch.no_grad():
        restored, removed = model.reconstruct(bold, 0.2, torch.rand(len(bold), model.config["patches"]))
        assert model.masked_error(bold, restored, removed) < 0.67 * model.masked_error(bold, 0 * restored, removed)


@SUBJECTS
def test_clips_that_contrastive_learning_has_not_seen_are_found(results, sub):
    history = pd.read_csv(results / "contrastive" / "mind-video" / f"sub-{sub}" / "history.tsv", sep="\t")
    last = history.dropna().iloc[-1]
    for name in ("image", "text"):
        assert last[f"{name}_top5"] > 5 * last[f"chance_{name}_top5"]


@SUBJECTS
def test_guidance_experiment_owns_only_what_differs(results, sub):
    assert not (results / "cotrain" / "no-adversarial-guidance").exists()
    assert (results / "metrics" / "no-adversarial-guidance" / f"sub-{sub}").exists()


@page_checks.needs_browser
@page_checks.widths
def test_report_stands_in_a_real_browser(results, tmp_path, width):
    page_checks.check_alone(results / "report" / "index.html", width, results.name, tmp_path)
