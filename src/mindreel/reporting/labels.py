"""Numbers and names for people: metrics, conditions, experiments, p values."""

import numpy as np

from mindreel.config import Config
from mindreel.controls import CONDITIONS
from mindreel.errors import InputError
from mindreel.plan.experiments import PLANNED, owner

LEADING = ("ssim_rgb", "nway_image", "nway_video")  # the papers' metrics; all others stand below them
# What guidance pushes away from: its name for people, how it relates to the test set, what that means.
NEGATIVES = {
    "test-mean": (
        "mean of the test fMRI",
        "transductive",
        "Uses test data: the mean of all test fMRI is known to every reconstruction, as published by MinD-Video.",
    ),
    "train-mean": (
        "mean of the training fMRI",
        "inductive",
        "Uses no test data: a single test volume can be reconstructed alone.",
    ),
    "null-condition": ("the empty caption", "inductive", "Uses no test data: ordinary classifier-free guidance."),
    "none": ("nothing: no guidance", "inductive", "Uses no test data."),
}
TITLES = {
    "psnr": "PSNR (dB)",
    "mse": "mean squared error",
    "clip_pcc_adjacent": "CLIP-pcc, neighbouring frames",
    "clip_pcc_gated": "CLIP-pcc, 0 if unlike the true clip",
    "identify_clip_top1": "clip identified (CLIP), first",
    "identify_clip_top5": "clip identified (CLIP), among five",
    "identify_clip_rank": "clip identified (CLIP), median rank",
    "identify_latent_top1": "clip identified (latents), first",
    "identify_latent_top5": "clip identified (latents), among five",
    "identify_latent_rank": "clip identified (latents), median rank",
    "clip_cosine_pairwise": "likeness of clips of different scenes (CLIP cosine)",
    "epe_ilk": "flow end-point error (pixels)",
}


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: three decimals, thousands for large ones, a dash for none; text as it is."""
    if isinstance(value, str):
        return value
    if value is None or not np.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference for people: its sign always shown."""
    text = number(value, digits)
    return text if text[0] in "−–" else f"+{text}"


def duration(seconds: float) -> str:
    """A time for people: 4.1 s, 3 min 20 s, 2 h 5 min."""
    if not np.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def memory(mib: float) -> str:
    """Memory for people: 310 MiB, 1.4 GiB."""
    if not np.isfinite(mib):
        return "–"
    return f"{mib:.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def p_text(p: float) -> str:
    """A p value for people."""
    if not np.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def leads(metric: str) -> bool:
    """Whether a metric is one of the papers', and not the sampled twin of one."""
    return metric.startswith(LEADING) and not metric.endswith("_sampled")


def metric_title(name: str) -> str:
    """A metric's name for people: nway_image_50way_top5 -> image 50-way, top 5."""
    words = name.split("_")
    if words[0] == "ssim":
        return f"SSIM ({', '.join(w.upper() if w == 'rgb' else w for w in words[1:])})" if words[1:] else "SSIM"
    if words[0] == "nway":
        single = words[1] == "top1"
        words = words[1:] if single else words
        extra = [w.replace("top", "top ") for w in words[3:]] + ["one true class"] * single
        return ", ".join([f"{words[1]} {words[2].replace('way', '-way')}", *extra])
    return TITLES.get(name, name.replace("_", " "))


def condition_label(name: str) -> str:
    """A condition in a few words; its own name if it is none of ours."""
    return CONDITIONS[name].label if name in CONDITIONS else name.replace("_", " ")


def describe(config: Config, name: str) -> dict:
    """An experiment for people: its base, what differs, its negative condition, whose clips it shows."""
    if name not in config.experiments:
        raise InputError(f"report: no experiment {name!r} in the configuration; has {', '.join(config.experiments)}")
    own, base = config.experiments[name].model_dump(), config.bases[name]
    theirs = config.experiments[base].model_dump() if base else own
    negative = own["sampling"]["negative"]
    title, kind, meaning = NEGATIVES[negative]
    shared = owner(config, name, "metrics")
    return {
        "name": name,
        "base": base,
        "differences": _differences(theirs, own),
        "negative": title,
        "kind": kind,
        "meaning": meaning,
        "uses_test": negative == "test-mean",
        "shared": shared if shared != name else None,
    }


def _differences(theirs: dict, own: dict, path: str = "") -> list[str]:
    lines = []
    for key, value in own.items():
        if isinstance(value, dict):
            lines += _differences(theirs.get(key) or {}, value, f"{path}{key}.")
        elif value != theirs.get(key) and key not in PLANNED.get(path.removesuffix("."), ()):
            lines.append(f"{path}{key}: {theirs.get(key)} → {value}")
    return lines
