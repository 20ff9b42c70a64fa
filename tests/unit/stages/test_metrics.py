"""Metrics against independent references, and the whole stage on made-up features."""

import re
import shutil
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.color import rgb2gray
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from tiny_networks import save_networks

from mindreel import artifacts, config
from mindreel.errors import InputError
from mindreel.scoring import image_similarity
from mindreel.scoring.scene_cuts import scenes
from mindreel.scoring.summary import chance
from mindreel.sections import Metrics
from mindreel.small_world import drawing
from mindreel.stages import metrics
from mindreel.stages.metrics import clip_pcc, compare, end_point_error, score, top_classes
from mindreel.stages.metrics_folder import folder
from mindreel.video import write_mp4

CFG = Metrics(ways=(2, 10), top_k=1, true_classes=3, trials=100, bootstrap=200, permutations=200, scene_cut=0.1, seed=0)


def smooth(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(0, 256, (shape[0], shape[1] // 8 + 1, shape[2] // 8 + 1, shape[3]), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 8, 1), 8, 2)[:, : shape[1], : shape[2]]


# ------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("shape", [(5, 33, 40, 3), (1, 12, 11, 3), (2, 256, 256, 3)])
def test_pictures_are_compared_as_scikit_image_does(shape):
    rng = np.random.default_rng(0)
    a = smooth(shape, rng)
    b = np.clip(a.astype(int) + rng.integers(-40, 40, shape), 0, 255).astype(np.uint8)
    b[0] = rng.integers(0, 2, shape[1:]) * 255  # extremes
    gauss = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    for x, y in zip(a, b, strict=True):
        expected = (
            structural_similarity(x, y, channel_axis=-1, data_range=255),
            structural_similarity(rgb2gray(x), rgb2gray(y), **gauss),
            peak_signal_noise_ratio(x, y),
            mean_squared_error(x / 255, y / 255),
        )
        np.testing.assert_allclose(image_similarity.compare(x, y), expected, rtol=1e-9, atol=1e-9)
    assert image_similarity.compare(a[0], a[0]) == pytest.approx((1, 1, 100, 0), abs=1e-12)


def test_smallest_pictures_and_extremes_of_ssim():
    white = np.full((7, 9, 3), 255, np.uint8)
    black = np.zeros_like(white)
    expected = structural_similarity(white, black, channel_axis=-1, data_range=255)
    assert image_similarity.ssim_rgb_uniform7(white, black) == pytest.approx(expected, rel=1e-9)


def test_pictures_smaller_than_a_window_are_refused():
    tiny = np.zeros((2, 3, 10, 16, 3), np.uint8)
    with pytest.raises(InputError, match="found pictures of 10 x 16 pixels, expected at least 11 x 11"):
        image_similarity.compare_clips(tiny, tiny, 1)


def test_clips_score_the_mean_of_their_frames_on_any_number_of_workers():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 5, 3, 16, 16, 3), np.uint8)
    one, several = image_similarity.compare_clips(a, b, 1), image_similarity.compare_clips(list(a), list(b), 4)
    for n, name in enumerate(image_similarity.NAMES):
        expected = [
            np.mean([image_similarity.compare(x, y)[n] for x, y in zip(*pair, strict=True)])
            for pair in zip(a, b, strict=True)
        ]
        np.testing.assert_allclose(one[name], expected)
        np.testing.assert_array_equal(one[name], several[name])


# ------------------------------------------------------------------------------------------------ features


def test_top_classes_break_ties_by_index():
    logits = np.array([[1.0, 3.0, 3.0, 2.0], [5.0, 0.0, 0.0, 0.0]], np.float32)
    assert top_classes(logits, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    many = np.round(np.random.default_rng(0).standard_normal((4, 5, 30)), 1).astype(np.float32)
    np.testing.assert_array_equal(top_classes(many, 3), np.argsort(-many, -1, kind="stable")[..., :3])
    assert many.max() < np.inf and many.min() > -np.inf  # not written to


def test_clip_pcc_in_both_definitions():
    still, turning = unit(np.array([[1, 0], [1, 0], [1, 0]])), unit(np.array([[1, 0], [1, 1], [0, 1]]))
    true = np.stack([turning, turning, still])
    made = np.stack([turning, still, still[:, ::-1]])
    found = clip_pcc(made, true)
    np.testing.assert_allclose(found["clip_pcc_adjacent"], [np.sqrt(0.5), 1, 1], rtol=1e-6)
    # the still clip has a cosine of 0.71 with the turning one; the third has 0 with its own
    np.testing.assert_allclose(found["clip_pcc_gated"], [np.sqrt(0.5), 1, 0], rtol=1e-6)


def test_end_point_error_is_the_mean_length_of_the_difference():
    true = np.zeros((2, 3, 2, 4, 5))
    made = true.copy()
    made[0, :, 0], made[0, :, 1] = 3, 4
    made[1, 0, 1, :, :1] = 10
    np.testing.assert_allclose(end_point_error(made, true), [5, 10 / 15])


def test_scenes_of_the_small_world_are_found():
    rng = np.random.default_rng(5)
    board = drawing.storyboard(24, rng)
    frames = np.stack([drawing.clip(scene, 3, 64) for scene in board]).astype(int)
    frames = np.clip(frames + rng.integers(-6, 7, frames.shape), 0, 255).astype(np.uint8)  # as if encoded
    truth = np.cumsum([0] + [a != b for a, b in pairwise(board)])
    np.testing.assert_array_equal(scenes(frames, 0.1), truth)


def test_slow_motion_is_no_cut_but_a_cut_within_a_volume_is_one():
    ramp = np.linspace(0, 255, 8 * 6).astype(np.uint8).reshape(8, 6)  # brightness drifts by 1.0 over 8 volumes
    drift = np.broadcast_to(ramp[:, :, None, None, None], (8, 6, 4, 4, 3))
    assert scenes(drift, 0.1).tolist() == [0] * 8
    cut = np.zeros((4, 6, 4, 4, 3), np.uint8)
    cut[1, 4:] = cut[2:] = 200  # late in volume 1: its middle still belongs to the old scene
    assert scenes(cut, 0.1).tolist() == [0, 0, 1, 1]
    cut[1, 2:] = 200  # early in volume 1
    assert scenes(cut, 0.1).tolist() == [0, 1, 1, 1]


# ------------------------------------------------------------------------------------------------ the stage

ALL = [
    *("ssim_rgb_uniform7", "ssim_gray_gauss", "psnr", "mse"),
    *(
        name
        for kind in ("image", "video")
        for n in (2, 10)
        for name in (f"nway_{kind}_{n}way", f"nway_{kind}_{n}way_sampled", f"nway_top1_{kind}_{n}way")
    ),
    *("clip_pcc_adjacent", "clip_pcc_gated", "clip_cosine_pairwise"),
    *(f"identify_{space}_{what}" for space in ("clip", "latent") for what in ("top1", "top5", "rank")),
    "epe_ilk",
]

ALONE = ["clip_pcc_adjacent", "clip_cosine_pairwise"]  # metrics that never look at the true clip


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def made_up(count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Features of clips of which no two are alike; the frames of a clip are, in CLIP space."""
    shapes = {"image": (6, 24), "video": (24,), "latent": (20,), "flow": (5, 2, 8, 8)}
    found = {name: rng.standard_normal((count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    frames = rng.standard_normal((count, 1, 12)) + 0.3 * rng.standard_normal((count, 6, 12))
    return {**found, "clip": unit(frames)}


def noisy(features: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    found = {name: array + 0.3 * rng.standard_normal(array.shape) for name, array in features.items()}
    frames = features["clip"] + 0.1 * rng.standard_normal(features["clip"].shape)
    return {name: array.astype(np.float32) for name, array in found.items()} | {"clip": unit(frames)}


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    monkeypatch.setattr(metrics, "PAIRS", 60)  # five partners of every clip are enough here


@pytest.fixture
def clips(tmp_path):
    """Two test segments (8 and 4 volumes), a good reconstruction and a shuffled one, with features."""
    rng = np.random.default_rng(0)
    true = smooth((12 * 6, 32, 32, 3), rng).reshape(12, 6, 32, 32, 3)
    good = np.clip(true.astype(int) + rng.integers(-5, 6, true.shape), 0, 255).astype(np.uint8)
    known = made_up(12, rng)
    close = noisy(known, rng)
    arrays = {"test1": true[:8], "test2": true[8:], "fmri": good, "shuffled": np.roll(good, 4, 0)}
    features = {
        "true/test1": {name: array[:8] for name, array in known.items()},
        "true/test2": {name: array[8:] for name, array in known.items()},
        "made/fmri": close,
        "made/shuffled": {name: np.roll(array, 4, 0) for name, array in close.items()},
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    for name, found in features.items():
        for kind, array in found.items():
            artifacts.save_array(tmp_path / name / f"{kind}.npy", array)
    labels = {kind: [f"{kind} {i}" for i in range(24)] for kind in ("image", "video")}
    artifacts.save_json(tmp_path / "true" / "labels.json", labels)
    return tmp_path


def run(clips, cfg=CFG, out="scores"):
    score(
        clips=[clips / "fmri.npy", clips / "shuffled.npy"],
        frames=[clips / "test1.npy", clips / "test2.npy"],
        features=clips / "made",
        true_features=clips / "true",
        out=clips / out,
        cfg=cfg,
    )
    return [pd.read_csv(clips / out / f"{name}.tsv", sep="\t") for name in ("clips", "summary", "classes")]


def true_features(clips, kind):
    return np.concatenate([np.load(clips / "true" / name / f"{kind}.npy") for name in ("test1", "test2")])


def test_score_agrees_with_a_plain_loop(clips):
    table, summary, classes = run(clips)
    true = np.concatenate([np.load(clips / "test1.npy"), np.load(clips / "test2.npy")])

    def accuracy(true_logits, logits, count):  # 2-way top-1: the share of other classes that lose against the true ones
        ids = np.argsort(-true_logits)[:count]
        return np.mean([logits[c] < logits[ids].max() for c in range(24) if c not in ids])

    for condition in ("fmri", "shuffled"):
        made, rows = np.load(clips / f"{condition}.npy"), table[table.condition == condition]
        found = {kind: np.load(clips / "made" / condition / f"{kind}.npy") for kind in ("image", "video", "clip")}
        assert rows["clip"].tolist() == list(range(12))
        pooled = found["clip"].mean(1)
        similarity = np.corrcoef(pooled, true_features(clips, "clip").mean(1))[:12, 12:]
        for clip in (0, 4, 9):
            row = rows.iloc[clip]
            pairs = list(zip(true[clip], made[clip], strict=True))
            expected = np.mean([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs])
            assert row.ssim_rgb_uniform7 == pytest.approx(expected, abs=1e-5)
            image, video = true_features(clips, "image")[clip], true_features(clips, "video")[clip]
            for name, count in (("nway", 3), ("nway_top1", 1)):
                expected = np.mean([accuracy(a, b, count) for a, b in zip(image, found["image"][clip], strict=True)])
                assert row[f"{name}_image_2way"] == pytest.approx(expected, abs=1e-5)
                expected = accuracy(video, found["video"][clip], count)
                assert row[f"{name}_video_2way"] == pytest.approx(expected, abs=1e-5)
            rank = 1 + (similarity[clip] > similarity[clip, clip]).sum()
            assert row.identify_clip_rank == rank and row.identify_clip_top5 == (rank <= 5)
        means = summary[summary.condition == condition].set_index("metric").value
        plain = [name for name in means.index if not name.endswith("_rank")]
        np.testing.assert_allclose(rows[plain].mean(), means[plain], rtol=1e-5, atol=1e-6)
        assert means["identify_latent_rank"] == rows.identify_latent_rank.median()
    assert table.segment.tolist() == (["test1"] * 8 + ["test2"] * 4) * 2
    assert table.volume.tolist() == [*range(8), *range(4)] * 2
    assert table.scene[:12].tolist() == list(range(12))  # independent pictures: every volume is a scene

    of_true = classes[classes.condition == "true"].iloc[2]
    best = np.argsort(-true_features(clips, "image")[2, 3])[:3]
    assert of_true.image == "; ".join(f"image {i}" for i in best)
    assert of_true.video.split("; ")[0] == f"video {true_features(clips, 'video')[2].argmax()}"
    assert classes.condition.unique().tolist() == ["true", "fmri", "shuffled"] and len(classes) == 36


def test_summary_tells_signal_from_shuffled(clips):
    _, summary, _ = run(clips)
    assert list(summary.columns) == [
        "metric", "condition", "value", "sd", "sd_trials", "ci_low", "ci_high", "chance", "mismatched",
        "true", "difference", "difference_ci_low", "difference_ci_high", "p",
    ]  # fmt: skip
    assert summary.metric.unique().tolist() == ALL
    rows = summary.set_index(["metric", "condition"])
    assert (rows.ci_low <= rows.value + 1e-5).all() and (rows.value <= rows.ci_high + 1e-5).all()
    for metric in set(ALL) - {*ALONE, "identify_clip_top1", "identify_latent_top1"}:
        model, control = rows.loc[(metric, "fmri")], rows.loc[(metric, "shuffled")]
        assert np.isnan(model.p) and np.isnan(model.difference)
        assert control.difference_ci_low > 0 and control.p < 0.05, metric  # also where less is better
        sign = -1 if metric in ("mse", "epe_ilk") or metric.endswith("_rank") else 1
        assert control.difference == pytest.approx(sign * (model.value - control.value), rel=1e-3, abs=1e-4)
    assert rows.loc[("ssim_rgb_uniform7", "shuffled")].p == pytest.approx(1 / 201, rel=1e-4)
    assert set(summary.metric[summary.true.notna()]) == set(ALONE)
    for metric in ALONE:  # the reconstructions are nearly the true clips
        assert rows.loc[(metric, "fmri")].true == pytest.approx(rows.loc[(metric, "fmri")].value, abs=0.1)


def test_every_chance_level_is_what_the_shuffled_clips_score(clips):
    _, summary, _ = run(clips)
    rows = summary.set_index(["metric", "condition"])
    assert all(rows.loc[metric].chance.isna().all() for metric in ALONE)
    assert (rows.loc["nway_image_2way"].chance == 0.75).all() and (rows.loc["nway_top1_video_2way"].chance == 0.5).all()
    assert rows.loc[("nway_video_10way_sampled", "fmri")].chance == pytest.approx(3 / 12)
    assert rows.loc[("identify_clip_top5", "fmri")].chance == pytest.approx(5 / 12, rel=1e-5)
    assert rows.loc[("identify_latent_rank", "fmri")].chance == 6.5
    measured = ["ssim_rgb_uniform7", "ssim_gray_gauss", "psnr", "mse", "clip_pcc_gated", "epe_ilk"]
    for metric in measured:
        model, control = rows.loc[(metric, "fmri")], rows.loc[(metric, "shuffled")]
        assert abs(model.chance - control.value) < 0.25 * abs(model.value - control.value), metric
        assert model.mismatched == model.chance
    for metric in ("nway_image_2way", "nway_video_10way_sampled", "nway_top1_image_10way"):
        row = rows.loc[(metric, "fmri")]
        assert abs(row.mismatched - row.chance) < 0.5 * (row.value - row.chance), metric
    assert chance("psnr", 12, CFG) is None


def test_mismatched_scores_are_those_of_clips_of_other_scenes(clips):
    """Clips that always show one class: the closed form's chance is not theirs, the mismatched score is."""
    one = np.zeros((12, 24), np.float32)
    one[:, 5] = 9
    one[:, :5] = np.arange(5)
    np.save(clips / "made/fmri/video.npy", one)
    _, summary, _ = run(clips)
    row = summary.set_index(["metric", "condition"]).loc[("nway_video_2way", "fmri")]
    assert row.mismatched == pytest.approx(row.value, abs=1e-5)  # what is always the same fits any scene as well


def test_deviation_of_trials_is_apart_from_that_of_clips(clips):
    table, summary, _ = run(clips)
    rows = summary[summary.condition == "fmri"].set_index("metric")
    assert rows.sd_trials.notna().sum() == 4  # the sampled ones
    exact, sampled = rows.loc["nway_video_10way"], rows.loc["nway_video_10way_sampled"]
    part = table[table.condition == "fmri"]
    expected = np.sqrt(part.nway_video_10way * (1 - part.nway_video_10way) / 100)
    assert sampled.sd_trials == pytest.approx(expected.mean(), rel=1e-3)
    assert exact.sd == pytest.approx(part.nway_video_10way.std(), rel=1e-4)
    of_frames = part.nway_image_10way_sampled_se  # six frames, each with its own trials
    assert (of_frames <= 0.5 / np.sqrt(600) + 1e-6).all() and of_frames.max() > 0


def test_same_seed_same_numbers_and_top_k_in_the_name(clips):
    first, second = run(clips, out="a"), run(clips, out="b")
    for one, two in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, two)
    table, summary, _ = run(clips, CFG.model_copy(update={"top_k": 5, "ways": (10,)}), out="c")
    assert (table.nway_image_10way_top5 >= first[0].nway_image_10way - 1e-6).all()
    rows = summary.set_index("metric")
    assert (rows.loc["nway_image_10way_top5"].chance > 0.25).all()
    assert rows.loc["nway_top1_image_10way_top5"].chance.tolist() == [0.5, 0.5]


def test_misfits_are_refused(clips):
    with pytest.raises(InputError, match=r"metrics\.ways: found 50, .* at most 22.* 24 classes"):
        run(clips, CFG.model_copy(update={"ways": (2, 50)}))
    with pytest.raises(InputError, match=r"metrics\.ways: found 2, expected more than top_k = 2"):
        run(clips, CFG.model_copy(update={"top_k": 2}))
    short = np.load(clips / "made/fmri/video.npy")[:5]
    np.save(clips / "made/fmri/video.npy", short)
    with pytest.raises(InputError, match=r"fmri: found features of \[5, 12\] clips, expected 12; rerun features"):
        run(clips)
    np.save(clips / "shuffled.npy", np.zeros((8, 6, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"shuffled\.npy: found uint8 \(8, 6, .* expected uint8 \(12, 6,"):
        run(clips)
    assert not (clips / "scores").exists()


# ------------------------------------------------------------------------------------------------ experiments


def scored(root, experiment, subject, values, scene):
    table = pd.DataFrame({"condition": "fmri", "clip": np.arange(len(scene)), "segment": "test1", "scene": scene})
    table["volume"] = table["clip"]
    columns = {"psnr": values, "mse": -values, "nway_image_2way_sampled_se": 0.1}
    control = table.assign(condition="shuffled", psnr=99.0, mse=99.0)
    artifacts.save_table(
        root / experiment / f"sub-{subject}" / "clips.tsv", pd.concat([table.assign(**columns), control])
    )
    return root / experiment / f"sub-{subject}"


def test_experiments_are_tested_against_the_first(tmp_path):
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(20), 3)
    base = {sub: np.repeat(rng.normal(0, 3, 20), 3) + rng.normal(0, 0.1, 60) for sub in (1, 2)}
    folders = [scored(tmp_path, "full", sub, base[sub], scene) for sub in (1, 2)]
    folders += [scored(tmp_path, "same", sub, base[sub] + rng.normal(0, 0.1, 60), scene) for sub in (1, 2)]
    folders += [scored(tmp_path, "better", 2, base[2] + 0.5 + rng.normal(0, 0.1, 60), scene)]
    compare(metrics=folders, out=tmp_path / "comparison.tsv", cfg=CFG)
    table = pd.read_csv(tmp_path / "comparison.tsv", sep="\t").set_index(["metric", "experiment", "subject"])
    assert set(table.index) == {
        (m, e, s) for m in ("psnr", "mse") for e, s in (("same", 1), ("same", 2), ("better", 2))
    }
    assert (table.against == "full").all()
    row = table.loc[("psnr", "better", 2)]
    assert row.difference == pytest.approx(0.5, abs=0.05) and row.value - row.reference == pytest.approx(0.5, abs=0.05)
    assert row.p_paired_holm == pytest.approx(3 * row.p_paired, rel=1e-4) and row.p_paired_holm < 0.05
    assert 0.4 < row.difference_ci_low < row.difference < row.difference_ci_high < 0.6
    assert row.p_t > 0.2  # the unpaired test drowns in the differences between scenes
    error = table.loc[("mse", "better", 2)]
    assert error.difference == pytest.approx(row.difference, rel=1e-4) and error.t == pytest.approx(row.t, rel=1e-4)
    assert table.loc[("psnr", "same", 1)].p_paired > 0.05


def test_distinctness_is_that_of_clips_of_other_scenes_and_is_compared_by_pairs(clips):
    """Reconstructions that all look alike, against those that do not."""
    table, summary, _ = run(clips, out="full/sub-1")
    pooled = np.load(clips / "made/fmri/clip.npy").mean(1)
    cosine = unit(pooled) @ unit(pooled).T
    expected = [np.delete(row, n).mean() for n, row in enumerate(cosine)]  # every clip is a scene of its own
    found = table[table.condition == "fmri"].clip_cosine_pairwise
    np.testing.assert_allclose(found, expected, atol=1e-5)
    rows = summary[summary.metric == "clip_cosine_pairwise"].set_index("condition")
    assert rows.loc["fmri"].ci_low < np.mean(expected) < rows.loc["fmri"].ci_high
    alike = np.load(clips / "made/fmri/clip.npy") + 2 * unit(np.ones(12))
    np.save(clips / "made/fmri/clip.npy", unit(alike))
    run(clips, out="alike/sub-1")
    assert np.load(clips / "alike/sub-1/pairwise.npy").shape == (2, 12, 12)
    compare(metrics=[clips / "full/sub-1", clips / "alike/sub-1"], out=clips / "c.tsv", cfg=CFG)
    row = pd.read_csv(clips / "c.tsv", sep="\t").set_index("metric").loc["clip_cosine_pairwise"]
    assert row.difference_ci_low < row.difference < row.difference_ci_high < -0.2  # positive would be more distinct
    assert row.difference == pytest.approx(row.reference - row.value, abs=1e-5) and np.isnan(row.p_paired_holm)


def test_one_experiment_alone_gives_an_empty_table(tmp_path):
    compare(metrics=[scored(tmp_path, "full", 1, np.ones(4), np.arange(4))], out=tmp_path / "c.tsv", cfg=CFG)
    table = pd.read_csv(tmp_path / "c.tsv", sep="\t")
    assert table.empty and {"metric", "p_t_holm", "p_paired_holm"} <= set(table.columns)


def test_experiments_that_scored_other_clips_are_not_compared(tmp_path):
    folders = [
        scored(tmp_path, "full", 1, np.ones(4), np.arange(4)),
        scored(tmp_path, "b", 1, np.ones(4), [0, 0, 1, 1]),
    ]
    with pytest.raises(InputError, match="b and full scored other clips of sub-1"):
        compare(metrics=folders, out=tmp_path / "c.tsv", cfg=CFG)


# ------------------------------------------------------------------------------------------------ any folder


@pytest.fixture(scope="module")
def small_config(root, tmp_path_factory):
    """A configuration whose N fits the toy classifiers."""
    text = (root / "config.yaml").read_text()
    text = re.sub(r"ways: \[2, 50\]", "ways: [2, 10]", text)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(re.sub(r"bootstrap: \d+", "bootstrap: 100", text))
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Twelve clips and reconstructions (so that natural order matters) as arrays, GIF, MP4, and side by side."""
    tmp_path = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    true = smooth((12 * 4, 32, 32, 3), rng).reshape(12, 4, 32, 32, 3)
    made = np.clip(true.astype(int) + rng.integers(-20, 21, true.shape), 0, 255).astype(np.uint8)
    for kind in ("array", "gif", "mp4", "both", "one"):
        for part in ("pred", "true"):
            (tmp_path / kind / part).mkdir(parents=True)
    for n in range(12):
        for part, clip in (("pred", made[n]), ("true", true[n])):
            np.save(tmp_path / "array" / part / f"clip{n}.npy", clip)
            save_gif(tmp_path / "gif" / part / f"clip{n}.gif", clip)
            write_mp4(tmp_path / "mp4" / part / f"clip{n}.mp4", clip, 3)
        save_gif(tmp_path / "both" / "pred" / f"{n}.gif", np.concatenate([true[n], made[n]], 2))
    np.save(tmp_path / "one" / "pred" / "x.npy", made)
    np.save(tmp_path / "one" / "true" / "x.npy", true)
    return tmp_path


def save_gif(path, clip):
    first, *others = [Image.fromarray(frame) for frame in clip]
    first.save(path, save_all=True, append_images=others, duration=333, loop=0)


def test_any_folder_is_scored(published, small_config, capsys):
    expected = np.load(published / "array/pred/clip3.npy"), np.load(published / "array/true/clip3.npy")
    expected = np.mean([image_similarity.compare(a, b)[0] for a, b in zip(*expected, strict=True)])
    for kind, tolerance in (("array", 1e-5), ("one", 1e-5), ("gif", 0.1), ("mp4", 0.2), ("both", 0.1)):
        true = None if kind == "both" else published / kind / "true"
        folder(pred=published / kind / "pred", true=true, out=published / "out" / kind, config=small_config)
        table = pd.read_csv(published / "out" / kind / "clips.tsv", sep="\t")
        assert len(table) == 12
        assert table.ssim_rgb_uniform7[3] == pytest.approx(expected, abs=tolerance), kind
        summary = pd.read_csv(published / "out" / kind / "summary.tsv", sep="\t")
        assert summary.metric.tolist() == [*ALL[:4], "epe_ilk"]
    assert "ssim_rgb_uniform7" in capsys.readouterr().out


def test_any_folder_is_scored_by_networks_too(published, small_config, tmp_path):
    networks = save_networks(tmp_path / "networks")
    paths = {"pred": published / "one/pred", "true": published / "one/true", "out": published / "scores"}
    folder(**paths, config=small_config, **networks)
    summary = pd.read_csv(published / "scores" / "summary.tsv", sep="\t").set_index("metric")
    assert summary.index.tolist() == ALL
    assert summary.loc["identify_latent_top1"].value > 0.8


def test_folders_that_do_not_correspond_are_refused(published, small_config, tmp_path):
    published = shutil.copytree(published, tmp_path / "published")

    def scored(pred, true):
        folder(pred=published / pred, true=published / true, out=published / "out", config=small_config)

    (published / "gif/true/clip3.gif").rename(published / "gif/true/other.gif")
    with pytest.raises(
        InputError, match=r"12 reconstructions and 12 true clips; without a counterpart .* clip3, other"
    ):
        scored("gif/pred", "gif/true")
    with pytest.raises(InputError, match=r"found no folder"):
        scored("nowhere", "gif/true")
    with pytest.raises(InputError, match=r"found no clips, expected \.npy, \.gif, \.mp4"):
        scored("both/true", "gif/true")
    np.save(published / "array/true/clip3.npy", np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match=r"different shapes .*\(4, 16, 16, 3\), \(4, 32, 32, 3\).* resize"):
        scored("array/pred", "array/true")
    np.save(published / "array/true/clip3.npy", np.zeros((4, 32, 32, 3)))
    with pytest.raises(InputError, match=r"clip3\.npy: found float64 .* expected uint8"):
        scored("array/pred", "array/true")
    (published / "mp4/true/clip3.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match=r"clip3\.mp4: cannot be decoded"):
        scored("mp4/pred", "mp4/true")
    save_gif(published / "both/pred/3.gif", np.zeros((2, 32, 33, 3), np.uint8))
    with pytest.raises(InputError, match=r"odd widths, 3 \(33\)"):
        folder(pred=published / "both/pred", out=published / "out", config=small_config)


def test_the_configuration_has_what_the_stage_reads(root):
    cfg = config.load(root / "config.yaml")
    assert cfg.metrics.ways == (2, 50) and cfg.metrics.permutations >= 1000 and cfg.features.flow_side == 64
