"""Metrics against independent references, and the whole stage with classifiers at toy size."""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from skimage.metrics import structural_similarity
from transformers import (
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from mindreel import world
from mindreel.config import Metrics
from mindreel.errors import InputError
from mindreel.metrics import nearest_frames, scenes, score, ssim, top_classes
from mindreel.statistics import beating, block_bootstrap, nway_accuracy, nway_chance, nway_sampled, one_sided_p

FIXTURE = Path(__file__).parents[1] / "data" / "n_way_top_k_acc" / "data.npz"
CFG = Metrics(ways=(2, 10), top_k=1, true_classes=3, trials=100, bootstrap=200, scene_cut=0.1, batch_size=8, seed=0)


def smooth(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(0, 256, (shape[0], shape[1] // 8 + 1, shape[2] // 8 + 1, shape[3]), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 8, 1), 8, 2)[:, : shape[1], : shape[2]]


@pytest.mark.parametrize("shape", [(5, 33, 40, 3), (1, 7, 7, 3), (2, 256, 256, 3)])
def test_ssim_is_that_of_scikit_image(shape):
    rng = np.random.default_rng(0)
    a = smooth(shape, rng)
    b = np.clip(a.astype(int) + rng.integers(-40, 40, shape), 0, 255).astype(np.uint8)
    b[0] = rng.integers(0, 2, shape[1:]) * 255  # extremes
    expected = [structural_similarity(x, y, channel_axis=-1, data_range=255) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose([ssim(x, y) for x, y in zip(a, b, strict=True)], expected, rtol=0, atol=1e-12)
    assert ssim(a[0], a[0]) == pytest.approx(1, abs=1e-12)


def test_ssim_of_extremes():
    white = np.full((40, 40, 3), 255, np.uint8)
    black = np.zeros_like(white)
    expected = structural_similarity(white, black, channel_axis=-1, data_range=255)
    assert ssim(white, black) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", range(9))
def test_released_sampling_is_what_the_closed_form_averages(case):
    """The released function's draws, judged by `beating`, give its accuracy; the closed form is their expectation."""
    with np.load(FIXTURE) as data:
        p, ids, args, picks, accuracy = (data[f"c{case}/{k}"] for k in ("p", "ids", "args", "picks", "acc"))
        ties_win = data[f"c{case}/ties_win"]
    ways, trials, top_k, _ = args
    best = p[ids].max()
    released = ((p[picks] >= best).sum(1) < top_k).mean()  # ties count against the true classes
    assert released == accuracy
    beaten_by = beating(p[None], ids[None])
    candidates = len(p) - len(ids)
    assert beaten_by[0] == sum(p[c] >= best for c in range(len(p)) if c not in ids)
    expected = nway_accuracy(beaten_by, candidates, ways, top_k)[0]
    assert binomtest(round(float(accuracy) * trials), trials, min(1, max(0, expected))).pvalue > 0.001
    if case in (6, 7):  # heavily tied: ties in favour would be far off
        assert binomtest(round(float(ties_win) * trials), trials, expected).pvalue < 1e-6


def test_closed_form_against_every_possible_draw():
    logits = np.array([[0.3, 2.0, 1.0, 1.5, 1.5, -1.0, 4.0]], np.float32)
    true = np.array([[0, 3]])  # best 1.5; of the candidates 1, 2, 4, 5, 6 those with 2.0, 1.5 (a tie) and 4.0 beat it
    beaten_by = beating(logits, true)
    assert beaten_by.tolist() == [3]
    for ways in range(2, 6):
        for top_k in range(1, ways):
            draws = list(combinations([1, 2, 4, 5, 6], ways - 1))
            expected = np.mean([sum(logits[0, c] >= 1.5 for c in draw) < top_k for draw in draws])
            np.testing.assert_allclose(nway_accuracy(beaten_by, 5, ways, top_k), [expected], rtol=1e-12, atol=1e-12)


def test_sampled_protocol_converges_to_the_closed_form():
    beaten_by = np.array([0, 1, 5, 40, 97])
    for ways, top_k in ((2, 1), (50, 1), (50, 5)):
        exact = nway_accuracy(beaten_by, 97, ways, top_k)
        sampled = nway_sampled(beaten_by, 97, ways, top_k, 20_000, np.random.default_rng(0))
        np.testing.assert_allclose(sampled, exact, atol=0.015)
        assert sampled[0] == exact[0] == 1.0
    few = nway_sampled(beaten_by, 97, 50, 1, 100, np.random.default_rng(1))
    np.testing.assert_array_equal(few * 100, np.rint(few * 100))


def test_half_precision_is_not_needed_to_rank():
    logits = np.array([[10.0, 10.0001, 0.0]], np.float32)
    assert beating(logits, np.array([[1]])).tolist() == [0]
    assert beating(logits.astype(np.float16), np.array([[1]])).tolist() == [1]  # the tie that float32 avoids


def test_chance_is_what_random_logits_reach():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((200_000, 60)).astype(np.float32)
    true = np.broadcast_to([3, 4, 50], (len(logits), 3))
    beaten_by = beating(logits, true)
    for ways, top_k in ((2, 1), (50, 1), (50, 5)):
        reached = nway_accuracy(beaten_by, 57, ways, top_k).mean()
        assert reached == pytest.approx(nway_chance(3, ways, top_k), abs=0.002)
    assert nway_chance(3, 2, 1) == pytest.approx(0.75)
    assert nway_chance(3, 50, 1) == pytest.approx(3 / 52)


def test_top_classes_break_ties_by_index():
    logits = np.array([[1.0, 3.0, 3.0, 2.0], [5.0, 0.0, 0.0, 0.0]], np.float32)
    assert top_classes(logits, 3).tolist() == [[1, 2, 3], [0, 1, 2]]


def test_bootstrap_deviation_is_that_of_the_block_means():
    rng = np.random.default_rng(0)
    level = rng.standard_normal(200)
    blocks = np.repeat(np.arange(200), 5)
    values = np.stack([level[blocks], level[blocks] + 1], 1)  # clips of a block are copies
    means = block_bootstrap(values, blocks, 4000, rng)
    assert means.shape == (4000, 2)
    assert means[:, 0].mean() == pytest.approx(level.mean(), abs=0.01)
    assert means[:, 0].std() == pytest.approx(level.std() / np.sqrt(200), rel=0.05)  # not / sqrt(1000)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1)  # columns share the draws


def test_bootstrap_weights_blocks_by_their_length():
    values, blocks = np.array([[0.0], [1.0], [1.0], [1.0]]), np.array([7, 9, 9, 9])
    means = block_bootstrap(values, blocks, 2000, np.random.default_rng(0))[:, 0]
    assert set(np.round(means, 6)) == {0.0, 0.75, 1.0}


def test_one_sided_p_counts_what_contradicts():
    differences = np.array([[1.0, -1], [2, -1], [0, -1], [3, -1]])
    np.testing.assert_allclose(one_sided_p(differences), [2 / 5, 1.0])


def test_scenes_of_the_small_world_are_found():
    rng = np.random.default_rng(5)
    board = world.storyboard(24, rng)
    frames = np.stack([world.clip(scene, 3, 64) for scene in board]).astype(int)
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


def test_frames_are_spread_evenly_over_those_a_model_takes():
    assert nearest_frames(6, 6).tolist() == list(range(6))
    chosen = nearest_frames(6, 16)
    assert np.bincount(chosen).tolist() == [3, 2, 3, 3, 2, 3] and (np.diff(chosen) >= 0).all()
    assert nearest_frames(6, 2).tolist() == [1, 4]


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Folders of a random image and a random video classifier of 24 classes."""
    folder = tmp_path_factory.mktemp("classifiers")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = {"id2label": {i: f"class {i}" for i in range(24)}, "label2id": {f"class {i}": i for i in range(24)}}
    wide = {"image_size": 32, "initializer_range": 0.5, **size, **names}
    ViTForImageClassification(ViTConfig(patch_size=16, **wide)).save_pretrained(folder / "image")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "image")
    video = VideoMAEConfig(patch_size=16, num_frames=16, tubelet_size=2, **wide)
    VideoMAEForVideoClassification(video).save_pretrained(folder / "video")
    prepare = VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    prepare.save_pretrained(folder / "video")
    return folder


@pytest.fixture
def clips(tmp_path):
    """Two test segments (5 and 4 volumes), a good reconstruction and a shuffled one."""
    rng = np.random.default_rng(0)
    true = smooth((9 * 6, 32, 32, 3), rng).reshape(9, 6, 32, 32, 3)
    np.save(tmp_path / "test1.npy", true[:5])
    np.save(tmp_path / "test2.npy", true[5:])
    good = np.clip(true.astype(int) + rng.integers(-5, 6, true.shape), 0, 255).astype(np.uint8)
    np.save(tmp_path / "fmri.npy", good)
    np.save(tmp_path / "shuffled.npy", np.roll(good, 4, 0))
    return tmp_path


def run(clips, classifiers, cfg=CFG, out="scores"):
    score(
        clips=[clips / "fmri.npy", clips / "shuffled.npy"],
        frames=[clips / "test1.npy", clips / "test2.npy"],
        image_classifier=classifiers / "image",
        video_classifier=classifiers / "video",
        out=clips / out,
        cfg=cfg,
    )
    return [pd.read_csv(clips / out / f"{name}.tsv", sep="\t") for name in ("clips", "summary", "classes")]


def test_score_agrees_with_a_plain_loop(clips, classifiers):
    table, summary, classes = run(clips, classifiers)
    true = np.concatenate([np.load(clips / "test1.npy"), np.load(clips / "test2.npy")])
    image = ViTForImageClassification.from_pretrained(classifiers / "image").eval()
    video = VideoMAEForVideoClassification.from_pretrained(classifiers / "video").eval()
    prepare_image = ViTImageProcessorPil.from_pretrained(classifiers / "image")
    prepare_video = VideoMAEImageProcessorPil.from_pretrained(classifiers / "video")

    @torch.no_grad()
    def of_frame(frame):
        return image(**prepare_image(frame, return_tensors="pt")).logits[0].numpy()

    @torch.no_grad()
    def of_clip(clip):
        frames = [clip[int((i + 0.5) * 6 / 16)] for i in range(16)]
        return video(**prepare_video(frames, return_tensors="pt")).logits[0].numpy()

    def accuracy(true_logits, logits):  # 2-way top-1: the share of other classes that lose against the best of three
        ids = np.argsort(-true_logits)[:3]
        return np.mean([logits[c] < logits[ids].max() for c in range(24) if c not in ids])

    for condition in ("fmri", "shuffled"):
        made, rows = np.load(clips / f"{condition}.npy"), table[table.condition == condition]
        assert rows["clip"].tolist() == list(range(9))
        for clip in (0, 4, 7):
            row = rows.iloc[clip]
            pairs = list(zip(true[clip], made[clip], strict=True))
            expected = np.mean([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs])
            assert row.ssim_rgb_uniform7 == pytest.approx(expected, abs=1e-5)
            expected = np.mean([accuracy(of_frame(a), of_frame(b)) for a, b in pairs])
            assert row.nway_image_2way == pytest.approx(expected, abs=1e-5)
            assert row.nway_video_2way == pytest.approx(accuracy(of_clip(true[clip]), of_clip(made[clip])), abs=1e-5)
        means = summary[summary.condition == condition].set_index("metric").value
        np.testing.assert_allclose(rows[means.index].mean(), means, atol=1e-5)
    assert table.segment.tolist() == (["test1"] * 5 + ["test2"] * 4) * 2
    assert table.volume.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3] * 2
    assert table.scene[:9].tolist() == list(range(9))  # independent pictures: every volume is a scene

    of_true = classes[classes.condition == "true"].iloc[2]
    best = np.argsort(-of_frame(true[2, 3]))[:3]
    assert of_true.image == "; ".join(f"class {i}" for i in best)
    assert of_true.video.split("; ")[0] == f"class {of_clip(true[2]).argmax()}"
    assert classes.condition.unique().tolist() == ["true", "fmri", "shuffled"] and len(classes) == 27


def test_summary_tells_signal_from_shuffled(clips, classifiers):
    _, summary, _ = run(clips, classifiers)
    assert list(summary.columns) == [
        "metric", "condition", "value", "sd", "ci_low", "ci_high", "chance", "difference", "difference_ci_low",
        "difference_ci_high", "p",
    ]  # fmt: skip
    assert summary.metric.unique().tolist() == [
        "ssim_rgb_uniform7",
        *(f"nway_{kind}_{n}way{s}" for kind in ("image", "video") for n in (2, 10) for s in ("", "_sampled")),
    ]
    rows = summary.set_index(["metric", "condition"])
    assert (rows.ci_low <= rows.value + 1e-6).all() and (rows.value <= rows.ci_high + 1e-6).all()
    assert rows.loc["ssim_rgb_uniform7"].chance.isna().all()
    assert (rows.loc["nway_image_2way"].chance == 0.75).all()
    assert rows.loc[("nway_video_10way_sampled", "fmri")].chance == pytest.approx(3 / 12)
    model, control = rows.loc[("ssim_rgb_uniform7", "fmri")], rows.loc[("ssim_rgb_uniform7", "shuffled")]
    assert np.isnan(model.p) and np.isnan(model.difference)
    assert control.p == pytest.approx(1 / 201, rel=1e-4) and control.difference_ci_low > 0
    assert control.difference == pytest.approx(model.value - control.value, abs=1e-5)


def test_same_seed_same_numbers_and_top_k_in_the_name(clips, classifiers):
    first, second = run(clips, classifiers, out="a"), run(clips, classifiers, out="b")
    for one, two in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, two)
    table, summary, _ = run(clips, classifiers, CFG.model_copy(update={"top_k": 5, "ways": (10,)}), out="c")
    assert (table.nway_image_10way_top5 >= first[0].nway_image_10way).all()
    assert (summary.set_index("metric").loc["nway_image_10way_top5"].chance > 0.25).all()


def test_misfits_are_refused(clips, classifiers):
    with pytest.raises(InputError, match=r"metrics\.ways: found 50, .* at most 22.* 24 classes"):
        run(clips, classifiers, CFG.model_copy(update={"ways": (2, 50)}))
    with pytest.raises(InputError, match=r"metrics\.ways: found 2, expected more than top_k = 2"):
        run(clips, classifiers, CFG.model_copy(update={"top_k": 2}))
    np.save(clips / "shuffled.npy", np.zeros((8, 6, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"shuffled\.npy: found uint8 \(8, 6, .* expected uint8 \(9, 6,"):
        run(clips, classifiers)
    assert not (clips / "scores").exists()
