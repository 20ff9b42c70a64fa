"""The report's figures: scores and training curves, drawn as for a paper; other stages' pictures put into the page."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mindreel.artifacts import load_json, load_table
from mindreel.controls import MODEL
from mindreel.reporting import gallery
from mindreel.reporting.labels import condition_label, metric_title
from mindreel.reporting.scores import Result
from mindreel.reporting.style import ACCENT, CYCLE, INK, MUTED, PAGE_IN, PRINT

TRAININGS = ("mbm", "contrastive", "generator", "cotrain")
LOOK = PRINT | {"figure.constrained_layout.use": True}
MARKS = ("D", "s", "^", "v", "P", "X")
MARK_COLOURS = ("#d2691e", "#16836b", "#8a3ffc", "#b3261e", "#6b7785", "#8a6d00")
OF_STEPS = ("step", "lr", "scale")  # columns of a history that are no curves


# ---------------------------------------------------------------------------------------------------- drawing


def scores(results: list[Result]) -> tuple[Figure, str]:
    """Draw a panel per leading metric: value and interval of every result, its controls, chance as a bar."""
    metrics = results[0].metrics
    several = len({r.experiment for r in results}) > 1
    names = [f"{r.experiment}, subject {r.subject}" if several else f"subject {r.subject}" for r in results]
    controls = list(dict.fromkeys(c for r in results for c in r.conditions if c != MODEL))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    place = np.arange(len(results))
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(PAGE_IN, (0.55 + 0.17 * len(results)) * lines + 0.3))
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axes, metric in zip(grid.flat, metrics, strict=False):
            tables = [r.summary[r.summary.metric == metric].set_index("condition") for r in results]
            own = pd.DataFrame([table.loc[MODEL] for table in tables])
            axes.vlines(own.chance, place - 0.36, place + 0.36, color=INK, linewidth=1, label="chance", zorder=1)
            axes.hlines(place, own.ci_low, own.ci_high, color=ACCENT, linewidth=2.2, alpha=0.4)
            axes.plot(own.value, place, "o", color=ACCENT, markersize=4.2, label="from fMRI, 95% interval", zorder=4)
            for control, mark, colour in zip(controls, MARKS, MARK_COLOURS, strict=False):
                values = [table.value.get(control, np.nan) for table in tables]
                look = {"color": colour, "markersize": 3.4, "markerfacecolor": "white", "markeredgewidth": 0.9}
                axes.plot(values, place, mark, label=condition_label(control), zorder=3, **look)
            axes.set_yticks(place, names)
            axes.set_ylim(len(results) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.margins(x=0.1)
            axes.set_title(metric_title(metric), pad=3)
        for axes in grid.flat[len(metrics) :]:
            axes.set_axis_off()
        _legend(figure, grid.flat[0])
    words = ", ".join(["chance", *map(condition_label, controls)])
    return (
        figure,
        f"Scores of every subject by the papers' metrics, with 95% intervals, beside {words}; in numbers below.",
    )


def training(histories: dict[str, pd.DataFrame]) -> tuple[Figure, str] | None:
    """Draw the loss of every training over its steps: faint as logged, strong a running mean."""
    histories = {title: table for title, table in histories.items() if len(table)}
    if not histories:
        return None
    panels = {}
    for title, table in histories.items():
        losses = [n for n in table.columns if n not in OF_STEPS and "_top" not in n and not n.startswith("chance")]
        panels[title] = (table, losses)
    figure = _panels(panels, "loss")
    last = "; ".join(f"{title}: {int(table.step.iloc[-1]) + 1} steps" for title, table in histories.items())
    return figure, f"Training curves of the losses. {last}."


def retrieval(histories: dict[str, pd.DataFrame]) -> tuple[Figure, str] | None:
    """Draw how often a training finds the right picture or caption among others, over its steps, with chance."""
    panels, found = {}, []
    for title, table in histories.items():
        rates = [n for n in table.columns if "_top" in n and not n.startswith("chance") and table[n].notna().any()]
        if rates:
            chances = [n for n in table.columns if n.startswith("chance")]
            panels[title] = (table, rates + chances)
            last = table[rates].ffill().iloc[-1]
            found.append(f"{title}: " + ", ".join(f"{_rate_title(n)} {100 * last[n]:.0f}%" for n in rates))
    if not panels:
        return None
    figure = _panels(panels, "share found", rates=True)
    return figure, f"Retrieval during training, and its chance. At the end: {'; '.join(found)}."


def _panels(panels: dict[str, tuple[pd.DataFrame, list[str]]], label: str, rates: bool = False) -> Figure:
    """A panel per training, three in a row."""
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(PAGE_IN, 1.55 * lines + 0.35))
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes, (title, (table, names)) in zip(grid.flat, panels.items(), strict=False):
            axes.set_title(title, pad=3)
            axes.set_xlabel("step", labelpad=1)
            axes.set_ylabel(names[0] if len(names) == 1 else label)
            (_rates if rates else _losses)(axes, table, names)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        if rates:
            _legend(figure, *grid.flat[: len(panels)])
    return figure


def _losses(axes: Axes, table: pd.DataFrame, names: list[str]) -> None:
    for colour, name in zip(CYCLE, names, strict=False):
        part = table[["step", name]].dropna()
        axes.plot(part.step, part[name], color=colour, alpha=0.22, linewidth=0.5)
        axes.plot(part.step, smooth(part[name].to_numpy(float)), color=colour, linewidth=1.1, label=name)
    if len(names) > 1:
        axes.legend(loc="upper right")


def _rates(axes: Axes, table: pd.DataFrame, names: list[str]) -> None:
    """Colour: what is looked for; solid: first, dashed: among five; grey: chance."""
    kinds = dict.fromkeys(name.rpartition("_top")[0] for name in names if not name.startswith("chance"))
    colours = dict(zip(kinds, CYCLE, strict=False))
    for name in names:
        part = table[["step", name]].dropna()
        kind, _, first = name.rpartition("_top")
        look: dict[str, Any] = {"color": colours.get(kind, MUTED), "linewidth": 1.1 if kind in colours else 0.7}
        axes.plot(part.step, part[name], "-" if first == "1" else "--", label=_rate_title(name), **look)
    axes.set_ylim(-0.03, 1.03)


def _rate_title(name: str) -> str:
    """A column of a history for people: image_top1 -> image, first; chance_image_top5 -> chance, among 5."""
    kind, _, first = name.rpartition("_top")
    kind = "chance" if kind.startswith("chance") else kind.replace("_", " ")
    return f"{kind}, {'first' if first == '1' else f'among {first}'}"


def _legend(figure: Figure, *all_axes: Axes) -> None:
    """One legend for all panels, above them."""
    shown: dict = {}
    for axes in all_axes:
        for mark, text in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(text, mark)
    figure.legend(shown.values(), shown.keys(), loc="outside upper left", ncols=min(4, len(shown)), columnspacing=1.4)


def smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a twenty-fifth of the curve (N,), shorter at its ends: (N,) float64."""
    width = max(1, len(values) // 50)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    place = np.arange(len(values))
    low, high = np.maximum(place - width, 0), np.minimum(place + width + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def training_title(path: Path) -> str:
    """Name a training by its history's path: …/mbm/mind-video/sub-1/history.tsv -> mbm, mind-video, sub-1."""
    parts = path.parent.parts
    first = next((i for i, part in enumerate(parts) if part in TRAININGS), max(0, len(parts) - 2))
    return ", ".join(parts[first:])


# ---------------------------------------------------------------------------------------------------- into the page


def picture(path: Path, alt: str) -> dict:
    """A figure for the page: data address, size (pixels), alternative text."""
    content, width, height = gallery.webp(path)
    return {"src": gallery.data_uri(content, "image/webp"), "width": width, "height": height, "alt": alt}


def pictures(folder: Path) -> dict:
    """A folder of pictures: its words, and figures, each as `picture` with its name and whether it is wide."""
    index = load_json(folder / "index.json")
    return {
        "words": index["words"],
        "figures": [
            {**picture(folder / f"{f['name']}.png", f["alt"]), "wide": f["wide"], "name": f["name"]}
            for f in index["figures"]
        ],
    }


def of_stage(folders: list[Path], stage: str) -> list[dict]:
    """All pictures of a stage, …/pictures/{stage}/…: experiment, subject, words, figures; in the given order."""
    found = []
    for folder in folders:
        below = [i for i in range(1, len(folder.parts)) if folder.parts[i - 1 : i + 1] == ("pictures", stage)]
        if below:
            place = folder.parts[below[-1] + 1 :]
            named = {"subject": place[-1].removeprefix("sub-"), "experiment": place[0] if len(place) > 1 else ""}
            found.append(named | pictures(folder))
    return [entry for entry in found if entry["figures"]]


def samples(folders: list[Path]) -> list[dict]:
    """The sample sheet of every generator, enlarged if small."""
    found = []
    for folder in folders:
        path = folder / "samples.png"
        if path.exists():
            alt = (
                f"Sample sheet of the generator of {folder.name}: four training clips, six frames each, and below each "
                "what the generator draws from the clip's caption."
            )
            found.append(picture(path, alt) | {"experiment": folder.name})
    return found


def selection_counts(folder: Path, experiment: str, subject: str) -> dict:
    """The voxel selection of a subject in numbers."""
    voxels, summary = load_table(folder / "voxels.tsv"), load_json(folder / "summary.json")
    groups = voxels.groupby("group", sort=False).size() if len(voxels) else pd.Series(dtype=int)
    counts = {key: value for key, value in summary.items() if type(value) is int}
    return {"experiment": experiment, "subject": subject, **counts, **{str(k): int(v) for k, v in groups.items()}}
