"""Clips to scores: SSIM and N-way accuracy of every condition, with chance, intervals and controls."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mindreel import artifacts, statistics
from mindreel.config import Metrics
from mindreel.errors import InputError
from mindreel.pretrained import frozen, processor
from mindreel.training import device

SSIM_WINDOW = 7  # scikit-image's default


def score(
    *, clips: list[Path], frames: list[Path], image_classifier: Path, video_classifier: Path, out: Path, cfg: Metrics
) -> None:
    """Score reconstructed clips and their controls against the true frames.

    Metrics, per clip; the mean over its frames where they are per frame:

    - ssim_rgb_uniform7: structural similarity, uniform 7 x 7 window, 8-bit RGB (scikit-image's defaults)
    - nway_image_{N}way, nway_video_{N}way: expected N-way top-K accuracy of an image classifier on every frame, of a
      video classifier on the clip. True are its `cfg.true_classes` best classes for the true frame or clip; any of
      them counts. K is in the name (`_top5`) unless it is 1.
    - the same with `_sampled`: `cfg.trials` random trials, as published numbers are made

    Parameters
    ----------
    clips
        (N, F, H, W, 3) uint8 each. The file's stem names the condition; the first is the model, the others controls.
    frames
        (T, F, H, W, 3) uint8, the true frames of the test segments in order; their T add up to N.
    image_classifier
        Folder of a ViTForImageClassification.
    video_classifier
        Folder of a VideoMAEForVideoClassification.
    out
        Folder of clips.tsv (condition, clip, segment, volume, scene, one column per metric), summary.tsv (one row per
        metric and condition) and classes.tsv (the best classes of the true and reconstructed clips).

    Raises
    ------
    InputError
        If the arrays do not belong together or a classifier has too few classes.
    """
    true = [artifacts.load_array(path) for path in frames]
    made = _reconstructions(clips, true)
    classifiers = {
        "image": _image_classifier(image_classifier, cfg),
        "video": _video_classifier(video_classifier, cfg),
    }
    index = _index(frames, true, cfg.scene_cut)
    rng = np.random.default_rng(cfg.seed)
    true_top = {
        kind: np.concatenate([top_classes(classifier.logits(segment), cfg.true_classes) for segment in true])
        for kind, classifier in classifiers.items()
    }
    tables, classes = [], [_classes("true", true_top, classifiers)]
    for condition, array in made.items():
        columns, top = {"ssim_rgb_uniform7": _ssim_of(array, true)}, {}
        for kind, classifier in classifiers.items():
            logits = classifier.logits(array)
            columns |= _accuracies(kind, logits, true_top[kind], cfg, rng)
            top[kind] = top_classes(logits, cfg.true_classes)
        tables.append(pd.concat([index.assign(condition=condition), pd.DataFrame(columns)], axis=1))
        classes.append(_classes(condition, top, classifiers))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "condition", table.pop("condition"))
    with artifacts.atomic(out) as folder:
        artifacts.save_table(folder / "clips.tsv", table)
        artifacts.save_table(folder / "summary.tsv", summarise(table, cfg, rng))
        artifacts.save_table(folder / "classes.tsv", pd.concat(classes, ignore_index=True))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of two pictures, as scikit-image's `structural_similarity` with its defaults.

    With means u, sample variances v and covariance c in each window (uniform, 7 x 7, only windows that lie inside),

        SSIM = (2 ua ub + C1) (2 c + C2) / ((ua^2 + ub^2 + C1) (va + vb + C2)),
        C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2,

    averaged over windows and colours (Wang et al. 2004). The window sums are whole numbers, so they are exact.

    Parameters
    ----------
    a, b : (H, W, C) uint8
        H and W at least 7.
    """
    n = SSIM_WINDOW**2
    c1, c2 = (0.01 * 255 * n) ** 2, (0.03 * 255) ** 2 * n * (n - 1)
    a, b = a.astype(np.int32), b.astype(np.int32)
    # sums over windows: n times a mean, n (n - 1) times a variance
    sum_a, sum_b, squares, products = (window_sums(x).astype(float) for x in (a, b, a * a + b * b, a * b))
    means = sum_a * sum_b
    mean_squares = sum_a**2 + sum_b**2
    similarity = (2 * means + c1) * (2 * (n * products - means) + c2)
    similarity /= (mean_squares + c1) * (n * squares - mean_squares + c2)
    return float(similarity.mean())


def window_sums(picture: np.ndarray) -> np.ndarray:
    """Sums over all 7 x 7 windows that lie inside: (H, W, C) int32 to (H - 6, W - 6, C) int32."""
    for _ in range(2):
        two = picture[:-1] + picture[1:]
        four = two[:-2] + two[2:]
        picture = (four[:-3] + two[4:-1] + picture[6:]).swapaxes(0, 1)  # rows 0..3, 4..5, 6
    return picture


def scenes(frames: np.ndarray, cut: float) -> np.ndarray:
    """Number the scenes of a segment.

    Volume t begins a new scene if both differences from volume t - 1 (mean absolute, of pictures from 0 to 1) exceed
    `cut`: that of the two volumes' middle frames, and the largest one between neighbouring frames on the way from
    one middle to the other. So neither smooth motion (large first, small second difference) nor a motion that starts
    anew with every volume (small first, large second) counts as a cut.

    Parameters
    ----------
    frames : (T, F, H, W, 3) uint8

    Returns
    -------
    scene : (T,) int
        From 0, ascending.
    """
    middle, begins = frames.shape[1] // 2, [False]
    for before, after in pairwise(frames):
        way = np.concatenate([before[middle:], after[: middle + 1]]).astype(np.int16)
        steps = np.abs(np.diff(way, axis=0)).mean((1, 2, 3))
        direct = np.abs(way[-1] - way[0]).mean()
        begins.append(min(direct, steps.max()) / 255 > cut)
    return np.cumsum(begins)


def top_classes(logits: np.ndarray, count: int) -> np.ndarray:
    """The best classes, best first: (..., C) float32 to (..., count) int; the lower index wins a tie."""
    return np.argsort(-logits, axis=-1, kind="stable")[..., :count]


def summarise(table: pd.DataFrame, cfg: Metrics, rng: np.random.Generator) -> pd.DataFrame:
    """Means over clips with their uncertainty.

    Parameters
    ----------
    table
        clips.tsv; its first condition is the model.

    Returns
    -------
    summary
        metric, condition, value, sd (over clips), ci_low, ci_high (95%, block bootstrap over scenes), chance, and for
        the controls the model minus the control: difference, difference_ci_low, difference_ci_high, p (one-sided).
    """
    metrics = list(table.columns[table.columns.get_loc("scene") + 1 :])
    conditions = list(dict.fromkeys(table["condition"]))
    # (N, conditions, metrics)
    values = np.stack([table.loc[table.condition == c, metrics].to_numpy() for c in conditions], 1)
    blocks = table.loc[table.condition == conditions[0], "scene"].to_numpy()
    means = statistics.block_bootstrap(values.reshape(len(values), -1), blocks, cfg.bootstrap, rng)
    means = means.reshape(cfg.bootstrap, *values.shape[1:])
    low, high = statistics.interval(means)
    differences = means[:, :1] - means
    difference_low, difference_high = statistics.interval(differences)
    p = statistics.one_sided_p(differences)
    value, sd = values.mean(0), values.std(0, ddof=1)
    rows = [
        {
            "metric": metric,
            "condition": condition,
            "value": value[c, m],
            "sd": sd[c, m],
            "ci_low": low[c, m],
            "ci_high": high[c, m],
            "chance": _chance(metric, cfg),
            "difference": value[0, m] - value[c, m] if c else np.nan,
            "difference_ci_low": difference_low[c, m] if c else np.nan,
            "difference_ci_high": difference_high[c, m] if c else np.nan,
            "p": p[c, m] if c else np.nan,
        }
        for m, metric in enumerate(metrics)
        for c, condition in enumerate(conditions)
    ]
    return pd.DataFrame(rows)


def _names(kind: str, ways: int, cfg: Metrics) -> tuple[str, str]:
    """A metric's name and that of its sampled twin."""
    name = f"nway_{kind}_{ways}way" + (f"_top{cfg.top_k}" if cfg.top_k > 1 else "")
    return name, f"{name}_sampled"


def _chance(metric: str, cfg: Metrics) -> float:
    for ways in cfg.ways:
        if metric in (*_names("image", ways, cfg), *_names("video", ways, cfg)):
            return statistics.nway_chance(cfg.true_classes, ways, cfg.top_k)
    return np.nan


def _accuracies(
    kind: str, logits: np.ndarray, true: np.ndarray, cfg: Metrics, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Both accuracies for every N, per clip, from logits (N, C) or (N, F, C) and true classes (N, K) or (N, F, K)."""
    candidates = logits.shape[-1] - cfg.true_classes
    beaten_by = statistics.beating(logits.reshape(-1, logits.shape[-1]), true.reshape(-1, cfg.true_classes))
    columns = {}
    for ways in cfg.ways:
        name, sampled = _names(kind, ways, cfg)
        exact = statistics.nway_accuracy(beaten_by, candidates, ways, cfg.top_k)
        drawn = statistics.nway_sampled(beaten_by, candidates, ways, cfg.top_k, cfg.trials, rng)
        columns |= {name: exact.reshape(len(logits), -1).mean(1), sampled: drawn.reshape(len(logits), -1).mean(1)}
    return columns


def _ssim_of(array: np.ndarray, true: list[np.ndarray]) -> np.ndarray:
    """SSIM per clip (N,): the mean over its frames. One picture at a time stays in the processor's cache."""
    pairs = zip(array, (clip for segment in true for clip in segment), strict=True)
    rows = tqdm(pairs, total=len(array), desc="SSIM", mininterval=2)
    return np.array([np.mean([ssim(a, b) for a, b in zip(*pair, strict=True)]) for pair in rows])


@dataclass(frozen=True)
class Classifier:
    """Names of the classes, and the function from clips (N, F, H, W, 3) uint8 to logits (..., C) float32."""

    labels: list[str]
    logits: Callable[[np.ndarray], np.ndarray]


def _image_classifier(folder: Path, cfg: Metrics) -> Classifier:
    """Every frame by itself: logits (N, F, C)."""
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    prepare = processor(ViTImageProcessorPil, folder, "image_classifier")
    model = frozen(ViTForImageClassification, folder, "image_classifier")

    def pixels(clips: np.ndarray) -> torch.Tensor:
        return prepare(list(clips.reshape(-1, *clips.shape[2:])), return_tensors="pt")["pixel_values"]

    def logits(clips: np.ndarray) -> np.ndarray:
        rows = _batched(model, pixels, clips, cfg, "image classifier")
        return rows.reshape(*clips.shape[:2], -1)

    return Classifier(_labels(model, folder, cfg), logits)


def _video_classifier(folder: Path, cfg: Metrics) -> Classifier:
    """Whole clips: logits (N, C). The F frames are repeated evenly to the number that the model takes."""
    from transformers import VideoMAEForVideoClassification, VideoMAEImageProcessorPil

    prepare = processor(VideoMAEImageProcessorPil, folder, "video_classifier")
    model = frozen(VideoMAEForVideoClassification, folder, "video_classifier")

    def pixels(clips: np.ndarray) -> torch.Tensor:
        chosen = nearest_frames(clips.shape[1], model.config.num_frames)
        return prepare([list(clip[chosen]) for clip in clips], return_tensors="pt")["pixel_values"]

    return Classifier(
        _labels(model, folder, cfg), lambda clips: _batched(model, pixels, clips, cfg, "video classifier")
    )


def nearest_frames(frames: int, wanted: int) -> np.ndarray:
    """For each of `wanted` moments, evenly spread over a clip, the frame shown then: (wanted,) int."""
    return ((np.arange(wanted) + 0.5) * frames / wanted).astype(int)


@torch.inference_mode()
def _batched(model: torch.nn.Module, pixels: Callable, clips: np.ndarray, cfg: Metrics, name: str) -> np.ndarray:
    starts = range(0, len(clips), cfg.batch_size)
    batches = (clips[start : start + cfg.batch_size] for start in tqdm(starts, desc=name, mininterval=2))
    return np.concatenate([model(pixels(batch).to(device())).logits.float().cpu().numpy() for batch in batches])


def _labels(model: torch.nn.Module, folder: Path, cfg: Metrics) -> list[str]:
    """Names of the classes, having made sure that there are enough for every N."""
    count = model.config.num_labels
    most = count - cfg.true_classes + 1
    for ways in cfg.ways:
        if not cfg.top_k < ways <= most:
            raise InputError(
                f"metrics.ways: found {ways}, expected more than top_k = {cfg.top_k} and at most {most}, because "
                f"{folder} has {count} classes, {cfg.true_classes} of which are true; change metrics.ways or "
                "metrics.true_classes"
            )
    return [str(model.config.id2label[i]) for i in range(count)]


def _reconstructions(clips: list[Path], true: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Open the reconstructions, checked against the true frames; condition to (N, F, H, W, 3) uint8."""
    expected = (sum(map(len, true)), *true[0].shape[1:])
    made = {path.stem: artifacts.load_array(path) for path in clips}
    if len(made) < len(clips):
        raise InputError(f"clips: found two files of one name among {', '.join(map(str, clips))}; rename one")
    for path, array in zip(clips, made.values(), strict=True):
        if array.shape != expected or array.dtype != np.uint8:
            raise InputError(
                f"{path}: found {array.dtype} {array.shape}, expected uint8 {expected} like the true frames; "
                "delete it and rerun sampling with the same stimuli"
            )
    return made


def _index(frames: list[Path], true: list[np.ndarray], cut: float) -> pd.DataFrame:
    """One row per clip: clip, segment (name), volume, scene; a scene never spans two segments."""
    parts, offset = [], 0
    for path, segment in zip(frames, true, strict=True):
        scene = scenes(segment, cut) + offset
        parts.append(pd.DataFrame({"segment": path.stem, "volume": np.arange(len(segment)), "scene": scene}))
        offset = scene[-1] + 1
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "clip", np.arange(len(table)))
    return table


def _classes(condition: str, top: dict[str, np.ndarray], classifiers: dict[str, Classifier]) -> pd.DataFrame:
    """Names of the best classes per clip, best first: of the middle frame (image) and of the clip (video)."""

    def names(kind: str, rows: np.ndarray) -> list[str]:
        return ["; ".join(classifiers[kind].labels[i] for i in row) for row in rows]

    middle = top["image"][:, top["image"].shape[1] // 2]
    columns = {"condition": condition, "clip": np.arange(len(middle))}
    return pd.DataFrame({**columns, "image": names("image", middle), "video": names("video", top["video"])})
