"""Scores of clips to a summary: means with intervals, chance levels, controls."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mindreel.scoring import statistics
from mindreel.sections import Metrics

INDEX = ("condition", "clip", "segment", "volume", "scene")  # columns of clips.tsv that are no metrics


def metrics_of(columns: Iterable[str]) -> list[str]:
    """The columns of clips.tsv that are metrics: not the index, not the sampling errors."""
    return [name for name in columns if name not in INDEX and not name.endswith("_se")]


def nway_names(kind: str, ways: int, cfg: Metrics) -> tuple[str, str, str]:
    """A metric's name, that of its sampled twin, and that of the one with a single true class."""
    size = f"{kind}_{ways}way" + (f"_top{cfg.top_k}" if cfg.top_k > 1 else "")
    return f"nway_{size}", f"nway_{size}_sampled", f"nway_top1_{size}"


def summarise(
    table: pd.DataFrame,
    cfg: Metrics,
    rng: np.random.Generator,
    mismatched: dict[tuple[str, str], float] | None = None,
    between: np.ndarray | None = None,
    of_true: dict[str, float] | None = None,
) -> pd.DataFrame:
    """Means (of ranks: medians) over clips with their uncertainty.

    Parameters
    ----------
    table : pd.DataFrame
        clips.tsv; its first condition is the model.
    mismatched : dict
        (metric, condition) to the score of the same clips against true clips of other scenes.
    between : (conditions, S, S)
        Mean cosines of the clips of different scenes (`statistics.between_scenes`), for the interval of
        clip_cosine_pairwise.
    of_true : dict
        Metric to what the true clips score, for metrics that look at one set of clips only.

    Returns
    -------
    summary
        metric, condition, value, sd (over clips), sd_trials (of sampled accuracies: the mean over clips of the
        standard error that their trials alone make, which is what published deviations are; sd holds both),
        ci_low, ci_high (95%, block bootstrap over scenes), chance (see `chance`), mismatched, true (see `of_true`), and
        for the controls the model's advantage over the control, positive if the model is better: difference,
        difference_ci_low, difference_ci_high, p (one-sided).
    """
    metrics = metrics_of(table.columns)
    conditions = list(dict.fromkeys(table["condition"]))
    parts = [table[table.condition == condition] for condition in conditions]
    values = np.stack([part[metrics].to_numpy(float) for part in parts], 1)  # (N, conditions, metrics)
    weights = statistics.draw_blocks(parts[0]["scene"].to_numpy(), cfg.bootstrap, rng)
    everyone = np.ones((1, len(values)), int)
    rows = []
    for m, metric in enumerate(metrics):
        middle = statistics.weighted_medians if statistics.is_median(metric) else statistics.weighted_means
        value, drawn = middle(values[:, :, m], everyone)[0], middle(values[:, :, m], weights)  # (B, conditions)
        if metric == statistics.PAIRWISE and between is not None:
            drawn = pairwise_draws(between, parts[0]["scene"].to_numpy(), weights)
        sign = -1 if statistics.lower_is_better(metric) else 1
        low, high = statistics.interval(drawn)
        differences = sign * (drawn[:, :1] - drawn)
        difference_low, difference_high = statistics.interval(differences)
        p = statistics.one_sided_p(differences)
        for c, (condition, part) in enumerate(zip(conditions, parts, strict=True)):
            closed, measured = chance(metric, len(values), cfg), (mismatched or {}).get((metric, condition), np.nan)
            rows.append(
                {
                    "metric": metric,
                    "condition": condition,
                    "value": value[c],
                    "sd": values[:, c, m].std(ddof=1) if len(values) > 1 else np.nan,
                    "sd_trials": part[f"{metric}_se"].mean() if f"{metric}_se" in part else np.nan,
                    "ci_low": low[c],
                    "ci_high": high[c],
                    "chance": measured if closed is None else closed,
                    "mismatched": measured,
                    "true": (of_true or {}).get(metric, np.nan),
                    "difference": sign * (value[0] - value[c]) if c else np.nan,
                    "difference_ci_low": difference_low[c] if c else np.nan,
                    "difference_ci_high": difference_high[c] if c else np.nan,
                    "p": p[c] if c else np.nan,
                }
            )
    return pd.DataFrame(rows)


def pairwise_draws(between: np.ndarray, scene: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Bootstrap means (B, conditions) of the pairwise similarity, from cosines between scenes (conditions, S, S).

    scene : (N,) int; weights : (B, N) int, how often each clip was drawn (`statistics.draw_blocks`).
    """
    _, first, sizes = np.unique(scene, return_index=True, return_counts=True)
    return np.stack([statistics.pairwise_means(cosine, sizes, weights[:, first]) for cosine in between], 1)


def chance(metric: str, clips: int, cfg: Metrics) -> float | None:
    """Chance level of a metric: what clips that say nothing about the true ones would score; None: no closed form.

    - N-way, any of c true classes: 1 - C(N-1, K) / C(N-1+c, K), which is c / (N-1+c) for K = 1 (3 / (N+2) for the top
      three) and K / N for a single true class (`statistics.nway_chance`). It takes every ranking of the classes for
      equally likely. Clips that show other things than the true ones, but always the same few, score less; clips that
      prefer the test set's frequent classes score more. What these clips score by that is in `mismatched`.
    - identification among n clips: all ranks are equally likely, so first / n, and a median rank of (n + 1) / 2. Clips
      of one scene resemble each other, but to a reconstruction that says nothing they are n clips like any others.
    - SSIM, PSNR, MSE, end-point error, gated CLIP-pcc: depends on the pictures, so it is measured: the same
      reconstructions against true clips of other scenes (`statistics.mismatched`).
    - clip_pcc_adjacent, clip_cosine_pairwise: none (NaN), since they never look at the true clip.
    """
    for kind in ("image", "video"):
        for ways in cfg.ways:
            name, sampled, first = nway_names(kind, ways, cfg)
            if metric in (name, sampled):
                return statistics.nway_chance(cfg.true_classes, ways, cfg.top_k)
            if metric == first:
                return statistics.nway_chance(1, ways, cfg.top_k)
    if metric.startswith("identify_"):
        if statistics.is_median(metric):
            return statistics.rank_chance(clips)
        return statistics.identification_chance(clips, int(metric.rpartition("_top")[2]))
    return None
