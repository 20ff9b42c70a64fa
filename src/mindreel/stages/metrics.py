"""Clips to scores: every condition by every metric, with chance, intervals and tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mindreel import artifacts
from mindreel.errors import InputError
from mindreel.scoring import image_similarity, statistics
from mindreel.scoring.scene_cuts import scenes
from mindreel.scoring.summary import metrics_of, nway_names, pairwise_draws, summarise
from mindreel.sections import Metrics

PCC_GATE = 0.6  # Mind-Animator: clips not more similar to the true one than this count as 0
FIRST = (1, 5)  # identification: the own clip is among the first so many
PAIRS = 400  # clips are compared with true clips of other scenes until there are about so many pairs


@dataclass(frozen=True)
class Clips:
    """Clips with what `features` found in them: pictures, N of (F, H, W, 3) uint8, and features, each (N, ...)."""

    pictures: Sequence[np.ndarray]
    features: dict[str, np.ndarray]


def score(
    *,
    clips: list[Path],
    frames: list[Path],
    features: Path,
    true_features: Path,
    out: Path,
    cfg: Metrics,
    workers: int = 1,
) -> None:
    """Score reconstructed clips and their controls against the true frames.

    Metrics, per clip; the mean over its frames where they are per frame (definitions: `measure`):

    - ssim_rgb_uniform7, ssim_gray_gauss, psnr (dB), mse
    - nway_image_{N}way, nway_video_{N}way: expected N-way top-K accuracy of an image classifier on every frame, of a
      video classifier on the clip; any of the `cfg.true_classes` best classes of the true frame or clip counts
    - the same with `_sampled`: `cfg.trials` random trials, as published numbers are made; with `_sampled_se`: the
      standard error of that for this clip
    - nway_top1_image_{N}way, nway_top1_video_{N}way: only the best class of the true frame or clip counts
    - clip_pcc_adjacent, clip_pcc_gated: how much neighbouring frames resemble each other in CLIP space
    - clip_cosine_pairwise: how much reconstructions of different scenes resemble each other in CLIP space
    - identify_clip_top1, _top5, _rank and identify_latent_...: is the own true clip found among all true clips
    - epe_ilk: end-point error of the optical flow (pixels)

    Parameters
    ----------
    clips : list of Path
        (N, F, H, W, 3) uint8 each. The file's stem names the condition; the first is the model, the others
        controls.
    frames : list of Path
        (T, F, H, W, 3) uint8, the true frames of the test segments in order; their T add up to N.
    features : Path
        What stage features made of `clips`.
    true_features : Path
        What it made of `frames`.
    out : Path
        Folder of clips.tsv (condition, clip, segment, volume, scene, one column per metric), summary.tsv (one row
        per metric and condition), classes.tsv (the best classes of the true and reconstructed clips) and
        pairwise.npy (conditions, S, S) float32 (mean cosines of the clips of every two scenes in CLIP space).
    workers : int
        Clips compared at once.
    cfg : Metrics
        Section metrics of the configuration.

    Raises
    ------
    InputError
        If the arrays do not belong together or a classifier has too few classes.
    """
    segments = [artifacts.load_array(path) for path in frames]
    parts = [_features(true_features / path.stem, len(array)) for path, array in zip(frames, segments, strict=True)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    true = Clips([clip for segment in segments for clip in segment], joined)
    made = {
        name: Clips(list(array), _features(features / name, len(array)))
        for name, array in _reconstructions(clips, segments).items()
    }
    index = number([path.stem for path in frames], segments, cfg.scene_cut)
    write(out, made, true, index, artifacts.load_json(true_features / "labels.json"), workers, cfg)


def compare(*, metrics: list[Path], out: Path, cfg: Metrics) -> None:
    """Test experiments against the first one, subject by subject: the ablation table's significance.

    Parameters
    ----------
    metrics : list of Path
        Folders …/{experiment}/sub-{subject} that `score` wrote. The first one's experiment is the reference.
    out : Path
        Table, one row per metric, experiment but the reference, and subject: value, reference (means over clips of
        both), difference (positive: the experiment is better), difference_ci_low, difference_ci_high (95%, paired,
        block bootstrap over scenes), t and p_t (two-sample t-test, as in the papers), p_paired (permutation within
        scenes), and p_t_holm, p_paired_holm: corrected over the rows of the metric. For clip_cosine_pairwise the
        interval draws both clips of every pair; there are no tests of it, since they would take the clips' values
        for independent.
    cfg : Metrics
        Section metrics of the configuration.

    Raises
    ------
    InputError
        If two experiments have scored other clips.
    """
    folders = {(path.parent.name, path.name.removeprefix("sub-")): path for path in metrics}
    tables = {key: _model_clips(path) for key, path in folders.items()}
    against = metrics[0].parent.name
    rng = np.random.default_rng(cfg.seed)
    rows = []
    for (experiment, subject), table in tables.items():
        reference = tables.get((against, subject))
        if experiment == against or reference is None:
            continue
        if not table["scene"].equals(reference["scene"]):
            raise InputError(f"metrics: {experiment} and {against} scored other clips of sub-{subject}; rerun metrics")
        scene = table["scene"].to_numpy()
        weights = statistics.draw_blocks(scene, cfg.bootstrap, np.random.default_rng(cfg.seed))  # changes no other draw
        for metric in (name for name in metrics_of(table.columns) if name in reference):
            a, b = table[metric].to_numpy(float), reference[metric].to_numpy(float)
            sign = -1 if statistics.lower_is_better(metric) else 1
            row: dict[str, Any] = {"metric": metric, "experiment": experiment, "subject": subject, "against": against}
            row |= {"value": a.mean(), "reference": b.mean(), "difference": sign * (a - b).mean()}
            if metric == statistics.PAIRWISE:
                both = np.stack([_between(folders[name, subject]) for name in (experiment, against)])
                drawn = sign * (pairwise_draws(both, scene, weights) @ [1, -1])
                t = p_t = p_paired = np.nan
            else:
                drawn = sign * statistics.weighted_means((a - b)[:, None], weights)[:, 0]
                t, p_t = statistics.two_sample_t(a, b)
                p_paired = statistics.paired_permutation(a - b, scene, cfg.permutations, rng)
            low, high = statistics.interval(drawn)
            row |= {
                "difference_ci_low": low,
                "difference_ci_high": high,
                "t": sign * t,
                "p_t": p_t,
                "p_paired": p_paired,
            }
            rows.append(row)
    columns = ["metric", "experiment", "subject", "against", "value", "reference", "difference"]
    columns += ["difference_ci_low", "difference_ci_high", "t", "p_t", "p_paired"]
    table = pd.DataFrame(rows, columns=columns)
    for p in ("p_t", "p_paired"):
        corrected = [pd.Series(statistics.holm(family), family.index) for _, family in table.groupby("metric")[p]]
        table[f"{p}_holm"] = pd.concat(corrected) if corrected else []
    artifacts.save_table(out, table)


# ---------------------------------------------------------------------------------------------- metrics of a clip


def measure(
    made: Clips,
    true: Clips,
    cfg: Metrics,
    rng: np.random.Generator,
    workers: int,
    scene: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Every metric that the features at hand allow: name to (N,) float; with the scenes (N,) pairwise ones too."""
    columns = image_similarity.compare_clips(made.pictures, true.pictures, workers)
    for kind in ("image", "video"):
        if kind in made.features:
            columns |= _accuracies(kind, made.features[kind], true.features[kind], cfg, rng)
    if "clip" in made.features:
        embedded, known = made.features["clip"], true.features["clip"]
        columns |= clip_pcc(embedded, known) if embedded.shape[1] > 1 else {}
        if scene is not None and scene.min() < scene.max():
            columns[statistics.PAIRWISE] = statistics.pairwise_similarity(embedded.mean(1), scene)
        columns |= _identification("clip", embedded.mean(1), known.mean(1))
    if "latent" in made.features:
        columns |= _identification("latent", made.features["latent"], true.features["latent"])
    if "flow" in made.features:
        columns["epe_ilk"] = end_point_error(made.features["flow"], true.features["flow"])
    return columns


def clip_pcc(made: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """CLIP-pcc in its two published definitions, of CLIP image embeddings (N, F, E) of norm 1: (N,) each.

    - clip_pcc_adjacent: mean cosine of neighbouring frames of the reconstruction (NeuroClips, Gong et al. 2024, after
      Tune-A-Video's frame consistency). It never looks at the true clip: a still picture has 1.
    - clip_pcc_gated: the same, but 0 for a clip whose video embedding has a cosine of at most 0.6 with the true one's
      (Mind-Animator, Lu et al. 2025). There it is ViFi-CLIP's video embedding, the mean over frames of a CLIP tuned on
      videos; here it is the mean over frames of the CLIP that is configured.

    Despite the name neither is a Pearson correlation.
    """
    adjacent = (made[:, 1:] * made[:, :-1]).sum(2).mean(1)
    a, b = made.mean(1), true.mean(1)
    alike = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return {"clip_pcc_adjacent": adjacent, "clip_pcc_gated": np.where(alike > PCC_GATE, adjacent, 0.0)}


def end_point_error(made: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Mean distance (pixels) between the flow vectors of two clips: (N, F - 1, 2, h, w) each to (N,) float.

    0 for the same motion everywhere; a still picture scores the mean speed of the true clip.
    """
    return np.linalg.norm(np.asarray(made) - np.asarray(true), axis=2).mean((1, 2, 3))


def _identification(space: str, made: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    ranks = statistics.identification_ranks(made, true)
    hits = {f"identify_{space}_top{first}": (ranks <= first).astype(float) for first in FIRST}
    return {**hits, f"identify_{space}_rank": ranks.astype(float)}


def _accuracies(
    kind: str, logits: np.ndarray, true: np.ndarray, cfg: Metrics, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """All accuracies for every N, per clip, from logits of reconstructed and true clips, (N, C) or (N, F, C)."""
    flat, count = logits.reshape(-1, logits.shape[-1]), len(logits)
    best = top_classes(true.reshape(flat.shape), cfg.true_classes)
    beaten_by, beaten_first = statistics.beating(flat, best), statistics.beating(flat, best[:, :1])
    candidates = flat.shape[1] - cfg.true_classes
    columns: dict[str, np.ndarray] = {}
    for ways in cfg.ways:
        name, sampled, first = nway_names(kind, ways, cfg)
        exact = statistics.nway_accuracy(beaten_by, candidates, ways, cfg.top_k).reshape(count, -1)
        drawn = statistics.nway_sampled(beaten_by, candidates, ways, cfg.top_k, cfg.trials, rng).reshape(count, -1)
        errors = statistics.sampling_error(exact, cfg.trials)
        single = statistics.nway_accuracy(beaten_first, flat.shape[1] - 1, ways, cfg.top_k).reshape(count, -1)
        columns |= {name: exact.mean(1), sampled: drawn.mean(1), first: single.mean(1)}
        columns[f"{sampled}_se"] = np.sqrt((errors**2).sum(1)) / errors.shape[1]
    return columns


def top_classes(logits: np.ndarray, count: int) -> np.ndarray:
    """The best classes, best first: (..., C) float32 to (..., count) int; the lower index wins a tie."""
    left = np.array(logits)
    best = np.empty((*left.shape[:-1], count), int)
    for place in range(count):
        best[..., place] = left.argmax(-1)
        np.put_along_axis(left, best[..., place, None], -np.inf, -1)
    return best


def against_others(made: Clips, true: Clips, partner: np.ndarray, cfg: Metrics, workers: int) -> dict[str, float]:
    """Scores of the reconstructions against true clips of other scenes: metric to mean over the pairs.

    partner : (K, N) int, numbers of true clips. Of every pair of clips one frame is compared as a picture, drawn at
    random: so there are more pairs for the same work.
    """
    if not len(partner):
        return {}
    rng = np.random.default_rng(cfg.seed)  # its own, so that this changes no other number
    clip, partner = np.tile(np.arange(partner.shape[1]), len(partner)), partner.ravel()
    frame = rng.integers(len(made.pictures[0]), size=len(clip))
    pictures = [made.pictures[n][f : f + 1] for n, f in zip(clip, frame, strict=True)]
    shown = [true.pictures[n][f : f + 1] for n, f in zip(partner, frame, strict=True)]
    columns = image_similarity.compare_clips(pictures, shown, workers, "other scenes")
    mine = {name: array[clip] for name, array in made.features.items()}
    others = {name: array[partner] for name, array in true.features.items()}
    for kind in ("image", "video"):
        if kind in mine:
            columns |= _accuracies(kind, mine[kind], others[kind], cfg, rng)
    if "clip" in mine and mine["clip"].shape[1] > 1:
        columns["clip_pcc_gated"] = clip_pcc(mine["clip"], others["clip"])["clip_pcc_gated"]
    if "flow" in mine:
        columns["epe_ilk"] = end_point_error(mine["flow"], others["flow"])
    return {name: float(column.mean()) for name, column in columns.items()}


# ---------------------------------------------------------------------------------------------- tables


def write(
    out: Path,
    made: dict[str, Clips],
    true: Clips,
    index: pd.DataFrame,
    labels: dict[str, list[str]],
    workers: int,
    cfg: Metrics,
) -> None:
    """Score every condition of `made` against `true` and write the tables; `index` has a row per clip (`number`)."""
    _check_ways(labels, cfg)
    rng = np.random.default_rng(cfg.seed)
    scene = index["scene"].to_numpy()
    others = np.random.default_rng([cfg.seed, len(scene)])  # not the draw that may have made the shuffled control
    drawn = [statistics.mismatched(scene, others) for _ in range(-(-PAIRS // len(scene)))]
    partner = np.array([row for row in drawn if row is not None])
    tables, classes = [], [_classes("true", true, labels, cfg)]
    mismatched: dict[tuple[str, str], float] = {}
    for condition, clips in made.items():
        columns = measure(clips, true, cfg, rng, workers, scene)
        tables.append(pd.concat([index.assign(condition=condition), pd.DataFrame(columns)], axis=1))
        classes.append(_classes(condition, clips, labels, cfg))
        found = against_others(clips, true, partner, cfg, workers)
        mismatched |= {(metric, condition): value for metric, value in found.items()}
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "condition", table.pop("condition"))
    with artifacts.atomic(out) as folder:
        artifacts.save_table(folder / "clips.tsv", table)
        between = None
        if statistics.PAIRWISE in table:
            spaces = [clips.features["clip"].mean(1) for clips in made.values()]
            between = np.stack([statistics.between_scenes(space, scene) for space in spaces])
            artifacts.save_array(folder / "pairwise.npy", between.astype(np.float32))
        summary = summarise(table, cfg, rng, mismatched, between, _alone(true, scene))
        artifacts.save_table(folder / "summary.tsv", summary)
        artifacts.save_table(folder / "classes.tsv", pd.concat(classes, ignore_index=True))


def _alone(true: Clips, scene: np.ndarray) -> dict[str, float]:
    """What the true clips score in the metrics that look at one set of clips only."""
    if "clip" not in true.features:
        return {}
    embedded = true.features["clip"]
    found = {}
    if embedded.shape[1] > 1:
        found["clip_pcc_adjacent"] = clip_pcc(embedded, embedded)["clip_pcc_adjacent"].mean()
    if scene.min() < scene.max():
        found[statistics.PAIRWISE] = statistics.pairwise_similarity(embedded.mean(1), scene).mean()
    return found


def _features(folder: Path, clips: int) -> dict[str, np.ndarray]:
    """Open what stage features made of an array of so many clips."""
    found = {path.stem: artifacts.load_array(path) for path in sorted(folder.glob("*.npy"))}
    if not found or any(len(array) != clips for array in found.values()):
        lengths = sorted({len(array) for array in found.values()})
        raise InputError(f"{folder}: found features of {lengths or 'no'} clips, expected {clips}; rerun features")
    return found


def _check_ways(labels: dict[str, list[str]], cfg: Metrics) -> None:
    """Make sure that there are enough classes for every N."""
    for kind, names in labels.items():
        most = len(names) - cfg.true_classes + 1
        for ways in cfg.ways:
            if not cfg.top_k < ways <= most:
                raise InputError(
                    f"metrics.ways: found {ways}, expected more than top_k = {cfg.top_k} and at most {most}, because "
                    f"the {kind} classifier has {len(names)} classes, {cfg.true_classes} of which are true; change "
                    "metrics.ways or metrics.true_classes"
                )


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


def number(names: list[str], true: list[np.ndarray], cut: float) -> pd.DataFrame:
    """One row per clip: clip, segment (name), volume, scene; a scene never spans two segments."""
    parts, offset = [], 0
    for name, segment in zip(names, true, strict=True):
        scene = scenes(segment, cut) + offset
        parts.append(pd.DataFrame({"segment": name, "volume": np.arange(len(segment)), "scene": scene}))
        offset = scene[-1] + 1
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "clip", np.arange(len(table)))
    return table


def _classes(condition: str, clips: Clips, labels: dict[str, list[str]], cfg: Metrics) -> pd.DataFrame:
    """Names of the best classes per clip, best first: of the middle frame (image) and of the clip (video)."""
    columns = {"condition": condition, "clip": np.arange(len(clips.pictures))}
    for kind, names in labels.items():
        logits = clips.features[kind]
        rows = top_classes(logits[:, logits.shape[1] // 2] if logits.ndim == 3 else logits, cfg.true_classes)
        columns[kind] = ["; ".join(names[i] for i in row) for row in rows]
    return pd.DataFrame(columns)


def _model_clips(folder: Path) -> pd.DataFrame:
    """The rows of clips.tsv that belong to the model, its first condition."""
    table = artifacts.load_table(folder / "clips.tsv")
    return table[table.condition == table.condition.iloc[0]].reset_index(drop=True)


def _between(folder: Path) -> np.ndarray:
    """The model's mean cosines between scenes: (S, S)."""
    return artifacts.load_array(folder / "pairwise.npy")[0]
