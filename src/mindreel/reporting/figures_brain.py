"""Figures of the cortex: flat maps, inflated views, attention by stage and layer, per network, area and category."""

from collections.abc import Sequence
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mindreel.brain.surface import NETWORKS
from mindreel.reporting import cortex_views
from mindreel.reporting.style import (
    ACCENT,
    COLUMN_IN,
    EDGE_IN,
    GRID,
    HEAD_IN,
    INK,
    MUTED,
    NOTE,
    PAGE_IN,
    PRINT,
    SECOND,
    THIRD,
    colour_bar,
    heading,
    panel,
)

# Those of Yeo's atlas, the palest ones darkened so that they can be seen on white.
_COLOURS = (
    "#9aa3ae", "#781286", "#e0202b", "#4682b4", "#22a988", "#4a9b3c", "#00760e", "#c43afa", "#e884bd",
    "#a9be5c", "#7a8732", "#778cb0", "#e69422", "#87324a", "#0c30ff", "#000082", "#d9bd00", "#cd3e4e",
)  # fmt: skip
NETWORK_COLOURS = dict(zip(NETWORKS, _COLOURS, strict=True))
# Width of a pixel of the views: about a 300th of an inch in print.
PIXEL_MM = {"flat": 0.75, "visual": 0.3, "lateral": 0.6, "medial": 0.6, "posterior": 0.3, "ventral": 0.3}
PANEL_MM = 0.45  # of the same where several fill a page
PANEL_IN = 2.5  # widest flat map of several
SMALL = 5.8  # pt, names of areas
MARKS = (("o", ACCENT), ("s", SECOND), ("^", THIRD), ("D", INK))
DARKER = 0.75  # lightness of cortex without a value beside a diverging map, whose middle is white


def _view(name: str) -> cortex_views.View:
    return cortex_views.view(name, PIXEL_MM[name])


def flat_map(
    values: np.ndarray, *, title: str, label: str, shown: ScalarMappable, grey: str, lightness: float = 1.0
) -> Figure:
    """Draw both flat hemispheres whole and, below, their visual areas with names, one column wide.

    Parameters
    ----------
    values : (59412,) float
        NaN shows the folding in grey.
    label : str
        What the colours mean, with unit.
    shown : ScalarMappable
        Norm and colour map.
    grey : str
        What grey cortex means.
    lightness : float
        Of the grey, at most 1.
    """
    whole, visual = _view("flat"), _view("visual")
    width = COLUMN_IN - 2 * EDGE_IN
    heights = [width * seen.nearest.shape[0] / seen.nearest.shape[1] for seen in (whole, visual)]
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(COLUMN_IN, HEAD_IN + heights[0] + 0.14 + heights[1] + 0.45))
        heading(figure, title)
        top = panel(figure, EDGE_IN, HEAD_IN, width, heights[0])
        cortex_views.draw(top, values, "flat", PIXEL_MM["flat"], shown, lightness=lightness)
        bottom = panel(figure, EDGE_IN, HEAD_IN + heights[0] + 0.14, width, heights[1])
        look: dict[str, Any] = {"areas": cortex_views.VISUAL, "names": SMALL, "lightness": lightness}
        cortex_views.draw(bottom, values, "visual", PIXEL_MM["visual"], shown, **look)
        for place, side in ((0.0, "left"), (1.0, "right")):
            top.text(place, 0.97, side, ha=side, va="top", color=MUTED, fontsize=NOTE, transform=top.transAxes)
        for box in cortex_views.inset(whole):
            top.add_patch(Rectangle(*box, fill=False, edgecolor=MUTED, linewidth=0.5, linestyle=(0, (3, 2))))
        if np.isnan(values).any():
            height = 1 - (HEAD_IN + heights[0] + 0.05) / figure.get_figheight()
            figure.text(0.5, height, f"grey: {grey}", ha="center", va="center", color=MUTED, fontsize=NOTE)
        colour_bar(figure, shown, label, values, figure.get_figheight() - 0.4, 1.9)
    return figure


def inflated(values: np.ndarray, *, title: str, label: str, shown: ScalarMappable, lightness: float = 1.0) -> Figure:
    """Draw both inflated hemispheres from four sides, one column wide; the parameters are those of `flat_map`."""
    width = COLUMN_IN - 2 * EDGE_IN
    rows = [("lateral", "medial"), ("posterior", "ventral")]
    views = [[_view(name) for name in row] for row in rows]
    gap = 0.12
    heights, widths = [], []
    for row in views:
        across_mm = sum(seen.width_mm for seen in row)
        widths.append([(width - gap) * seen.width_mm / across_mm for seen in row])
        heights.append((width - gap) * max(seen.height_mm for seen in row) / across_mm)
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(COLUMN_IN, HEAD_IN + sum(heights) + 2 * 0.28 + 0.42))
        heading(figure, title)
        start = HEAD_IN
        for names, across, height in zip(rows, widths, heights, strict=True):
            left = EDGE_IN
            for name, wide in zip(names, across, strict=True):
                axes = panel(figure, left, start, wide, height)
                look: dict[str, Any] = {"areas": cortex_views.OUTLINED, "lightness": lightness}
                look["names"] = SMALL if name in ("posterior", "ventral") else None
                cortex_views.draw(axes, values, name, PIXEL_MM[name], shown, **look)
                _sides(axes, name, _view(name))
                left += wide + gap
            start += height + 0.28
        colour_bar(figure, shown, label, values, start + 0.02, 1.9)
    return figure


def _sides(axes: Axes, name: str, seen: cortex_views.View) -> None:
    """Name a view, and its hemispheres."""
    look: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": NOTE}
    for column, side in zip(seen.middles, "RL" if name == "ventral" else "LR", strict=True):
        axes.text(column, seen.nearest.shape[0] * 1.01, side, color=MUTED, **look)
    place = (np.mean(seen.middles), seen.nearest.shape[0] * 1.01)
    axes.annotate(name, place, (0, -8), textcoords="offset points", annotation_clip=False, **look)


def flat_panels(
    panels: Sequence[Sequence[tuple[str, np.ndarray]]],
    *,
    title: str,
    label: str,
    shown: ScalarMappable,
    rows: Sequence[str] = (),
    lightness: float = 1.0,
) -> Figure:
    """Draw many flat maps of the visual areas, a page wide.

    Parameters
    ----------
    panels : list of Sequence[tuple[str, array]]
        Rows of heading (may be empty) and (59412,) float, NaN: not selected.
    rows : list of str
        Names of the rows.
    title, label, shown, lightness : str
        As in `flat_map`.
    """
    seen = cortex_views.view("visual", PANEL_MM)
    name_in, gap, columns = (0.18 if rows else 0.0), 0.08, max(map(len, panels))
    width = min(PANEL_IN, (PAGE_IN - 2 * EDGE_IN - name_in - gap * (columns - 1)) / columns)
    height = width * seen.nearest.shape[0] / seen.nearest.shape[1]
    start = (PAGE_IN - columns * (width + gap) + gap + name_in) / 2
    above = [0.2 if any(text for text, _ in row) else 0.06 for row in panels]
    values = np.stack([value for row in panels for _, value in row])
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(PAGE_IN, HEAD_IN + sum(above) + len(panels) * height + 0.46))
        heading(figure, title)
        top = HEAD_IN
        for i, row in enumerate(panels):
            top += above[i]
            if rows:
                place = ((start - 0.12) / PAGE_IN, 1 - (top + height / 2) / figure.get_figheight())
                figure.text(*place, rows[i], rotation=90, ha="center", va="center", fontweight="bold")
            for j, (text, value) in enumerate(row):
                axes = panel(figure, start + j * (width + gap), top, width, height)
                named = SMALL - 0.3 if i == j == 0 else None
                look: dict[str, Any] = {"areas": cortex_views.OUTLINED, "names": named, "lightness": lightness}
                cortex_views.draw(axes, value, "visual", PANEL_MM, shown, **look)
                axes.set_title(text, loc="center", pad=3)
                if i == j == 0:
                    for edge, side in ((0.0, "left"), (1.0, "right")):
                        words: dict[str, Any] = {"ha": side, "va": "bottom", "color": MUTED, "fontsize": NOTE}
                        axes.text(edge, 1.01, side, transform=axes.transAxes, **words)
            top += height
        colour_bar(figure, shown, label, values, figure.get_figheight() - 0.38, 2.6)
    return figure


def attention_flat(maps: dict[tuple[str, str], np.ndarray], *, title: str, label: str) -> Figure:
    """Draw flat maps of the visual areas for every stage (rows) and layer (columns).

    Parameters
    ----------
    maps : (59412,) float
        By stage and layer; attention relative to its mean, so that 1 is even; NaN: not selected.
    """
    rows, columns = (list(dict.fromkeys(key[i] for key in maps)) for i in (0, 1))
    panels = [[("" if i else column, maps[row, column]) for column in columns] for i, row in enumerate(rows)]
    shown = cortex_views.ratio_scale(np.stack(list(maps.values())))
    return flat_panels(panels, title=title, label=label, shown=shown, rows=rows, lightness=DARKER)


def ranks_flat(maps: dict[tuple[str, str], np.ndarray], *, title: str, label: str) -> Figure:
    """Draw flat maps of the rank of every voxel, what Spearman's correlation compares; rows and columns by key."""
    rows, columns = (list(dict.fromkeys(key[i] for key in maps)) for i in (0, 1))
    ranked = {key: (100 * pd.Series(value).rank(pct=True)).to_numpy() for key, value in maps.items()}
    panels = [[("" if i else column, ranked[row, column]) for column in columns] for i, row in enumerate(rows)]
    shown = ScalarMappable(Normalize(0, 100), colormaps["viridis"])
    return flat_panels(panels, title=title, label=label, shown=shown, rows=rows)


def ratios_flat(maps: dict[str, np.ndarray], *, title: str, label: str, columns: int = 3) -> Figure:
    """Draw flat maps of ratios (59412,) by name, so many side by side."""
    named = list(maps.items())
    panels = [named[i : i + columns] for i in range(0, len(named), columns)]
    shown = cortex_views.ratio_scale(np.stack(list(maps.values())))
    return flat_panels(panels, title=title, label=label, shown=shown, lightness=DARKER)


def attention_inflated(maps: dict[str, np.ndarray], *, title: str, label: str) -> Figure:
    """Draw inflated views, a page wide, a row for every stage: (59412,) relative attention each."""
    names = ("lateral", "medial", "posterior", "ventral")
    views = [cortex_views.view(name, PANEL_MM) for name in names]
    name_in, gap = 0.18, 0.1
    across = PAGE_IN - 2 * EDGE_IN - name_in - gap * (len(names) - 1)
    per_mm = across / sum(seen.width_mm for seen in views)
    height = per_mm * max(seen.height_mm for seen in views)
    values = np.stack(list(maps.values()))
    shown = cortex_views.ratio_scale(values)
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(PAGE_IN, HEAD_IN + len(maps) * (height + 0.02) + 0.26 + 0.42))
        heading(figure, title)
        for i, (row, painted) in enumerate(maps.items()):
            top, left = HEAD_IN + i * (height + 0.02), EDGE_IN + name_in
            place = (EDGE_IN / PAGE_IN, 1 - (top + height / 2) / figure.get_figheight())
            figure.text(*place, row, rotation=90, va="center", fontweight="bold")
            for name, seen in zip(names, views, strict=True):
                wide = per_mm * seen.width_mm
                axes = panel(figure, left, top, wide, height)
                cortex_views.draw(axes, painted, name, PANEL_MM, shown, areas=cortex_views.OUTLINED, lightness=DARKER)
                if i == len(maps) - 1:
                    _sides(axes, name, seen)
                left += wide + gap
        colour_bar(figure, shown, label, values, figure.get_figheight() - 0.38, 2.6)
    return figure


def share_bars(table: pd.DataFrame, *, title: str, colours: dict[str, str], unit: str) -> Figure:
    """Draw bars of the attention that parts of the cortex receive, a page wide, a panel per stage (row) and layer.

    As MinD-Video's figure of attention per Yeo-17 network.

    Parameters
    ----------
    table : pd.DataFrame
        Stage, layer, part (name), voxels, share; the tick on a bar is the part's share of the voxels,
        which is what attention spread evenly would give. Parts come in the table's order.
    colours : dict
        By name; others are blue.
    unit : str
        What a part is, for the axis.
    """
    stages, layers = list(dict.fromkeys(table.stage)), list(dict.fromkeys(table.layer))
    rows, columns = (len(stages), len(layers)) if len(layers) > 1 else (1, len(stages))
    names = list(dict.fromkeys(table.part))
    place = np.arange(len(names))
    with matplotlib.rc_context(PRINT | {"figure.constrained_layout.use": True}):
        figure = Figure(figsize=(PAGE_IN, 0.55 + (0.34 + 0.125 * len(names)) * rows))
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (stage, layer) in zip(grid.flat, [(s, n) for s in stages for n in layers], strict=True):
            part = table[(table.stage == stage) & (table.layer == layer)].set_index("part").reindex(names)
            axes.barh(place, 100 * part.share, color=[colours.get(name, ACCENT) for name in names], height=0.74)
            even = 100 * part.voxels / part.voxels.sum()
            axes.plot(even, place, "|", color="white", markersize=6, markeredgewidth=1.8)
            axes.plot(even, place, "|", color=INK, markersize=6, markeredgewidth=1)
            axes.set_yticks(place, names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.set_title(f"{stage}, {layer}", pad=3)
        figure.suptitle(title, x=EDGE_IN / PAGE_IN, ha="left")
        figure.supxlabel(f"share of the attention per {unit} (%); tick: its share of the voxels (%)", fontsize=7)
    return figure


def agreement(table: pd.DataFrame, areas: pd.DataFrame, *, title: str) -> Figure:
    """Draw how far attention and integrated gradients agree, a page wide.

    On the left the rank correlations of every stage and layer, on the right both measures per area, a panel per stage.

    Parameters
    ----------
    table : pd.DataFrame
        Stage, layer, over, number, spearman.
    areas : pd.DataFrame
        Stage, layer, part (name), attention, gradients: means over a part's voxels divided by those
        over all voxels, of one layer per stage; parts come in the table's order.
    """
    rows, stages = list(dict.fromkeys(zip(table.stage, table.layer, strict=True))), list(dict.fromkeys(areas.stage))
    names, kinds = list(dict.fromkeys(areas.part)), list(dict.fromkeys(table.over))
    apart = dict(zip(kinds, 0.14 * (np.arange(len(kinds)) - (len(kinds) - 1) / 2), strict=True))
    left, first, gap = 1.3, 1.75, 0.12
    height = max(1.6, 0.125 * max(len(names), 4 * len(rows)))
    start = left + first + 0.55
    width = (PAGE_IN - start - gap * (len(stages) - 1) - 0.1) / len(stages)
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(PAGE_IN, HEAD_IN + 0.2 + height + 0.82))
        heading(figure, title)
        axes = panel(figure, left, HEAD_IN + 0.2, first, height)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for (over, part), (mark, colour) in zip(table.groupby("over", sort=False), MARKS, strict=False):
            at = [rows.index(row) + apart[over] for row in zip(part.stage, part.layer, strict=True)]
            counts = sorted(set(part.number))
            axes.plot(part.spearman, at, mark, color=colour, markersize=4, label=f"{over} ({counts[-1]:,})")
        axes.set_yticks(range(len(rows)), [f"{stage}, {layer}" for stage, layer in rows])
        axes.set(xlim=(-1.05, 1.05), ylim=(len(rows) - 0.5, -0.5), xticks=(-1, -0.5, 0, 0.5, 1))
        axes.hlines(np.arange(1, len(rows)) - 0.5, *axes.get_xlim(), color=GRID, linewidth=0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("rank correlation of attention with\nintegrated gradients (Spearman, no unit)")
        axes.set_title("by stage and layer", pad=3)
        figure.legend(
            *axes.get_legend_handles_labels(), loc="lower left", ncols=2, bbox_to_anchor=(left / PAGE_IN - 0.02, 0),
            borderaxespad=0.2, columnspacing=1, handletextpad=0.2,
        )  # fmt: skip
        measures = (("attention", "o", ACCENT, ACCENT), ("gradients", "D", SECOND, "white"))
        far = max(
            2.05, 1.15 * float(np.exp(np.nanmax(np.abs(np.log(areas[["attention", "gradients"]].to_numpy(float))))))
        )
        for i, (stage, part) in enumerate(areas.groupby("stage", sort=False)):
            axes = panel(figure, start + i * (width + gap), HEAD_IN + 0.2, width, height)
            part, at_rows = part.set_index("part").reindex(names), np.arange(len(names))
            axes.axvline(1, color=MUTED, linewidth=0.8)
            pair = part[["attention", "gradients"]]
            axes.hlines(at_rows, pair.min(axis=1), pair.max(axis=1), color=MUTED, linewidth=0.6)
            for name, mark, colour, inside in measures:
                marker: dict[str, Any] = {"markerfacecolor": inside, "markersize": 3.6, "markeredgewidth": 0.9}
                label = name if name == "attention" else f"integrated {name}"
                axes.plot(part[name], at_rows, mark, label=label, color=colour, **marker)
            axes.set(xscale="log", xlim=(1 / far, far), ylim=(len(names) - 0.4, -0.6))
            axes.xaxis.set_major_locator(FixedLocator([t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10) if 1 / far <= t <= far]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_yticks(at_rows, names if i == 0 else [])
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.set_title(f"{stage}, {part.layer.iloc[0]}", pad=3)
            axes.set_xlabel("mean over the area /\nmean over all voxels (ratio)")
        figure.legend(
            *axes.get_legend_handles_labels(), loc="lower left", ncols=2, bbox_to_anchor=(start / PAGE_IN - 0.02, 0),
            borderaxespad=0.2, columnspacing=1, handletextpad=0.2,
        )  # fmt: skip
    return figure


def area_ratios(tables: dict[str, pd.DataFrame], *, title: str, label: str) -> Figure:
    """Draw ratios per area (rows) and category (columns) as coloured fields, a panel with its own colours per table.

    Parameters
    ----------
    tables : dict
        By heading, float, index: areas, columns: categories.
    """
    rows, columns = next(iter(tables.values())).shape
    left, gap = 0.55, 0.7
    width = min(2.7, (PAGE_IN - 2 * left - gap * (len(tables) - 1)) / len(tables))
    start = (PAGE_IN - len(tables) * width - (len(tables) - 1) * gap + 0.3) / 2
    height = 0.13 * rows
    with matplotlib.rc_context(PRINT):
        figure = Figure(figsize=(PAGE_IN, HEAD_IN + 0.2 + height + 0.95))
        heading(figure, title)
        for i, (name, table) in enumerate(tables.items()):
            values = table.to_numpy(float)
            shown = cortex_views.ratio_scale(values)
            axes = panel(figure, start + i * (width + gap), HEAD_IN + 0.2, width, height)
            axes.imshow(
                values, norm=cast(Normalize, shown.norm), cmap=shown.cmap, aspect="auto", interpolation="nearest"
            )
            axes.set_yticks(range(rows), table.index)
            axes.set_xticks(range(columns), table.columns, rotation=30, ha="right", rotation_mode="anchor")
            axes.tick_params(length=0)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.set_xticks(np.arange(1, columns) - 0.5, minor=True)
            axes.set_yticks(np.arange(1, rows) - 0.5, minor=True)
            axes.tick_params(which="minor", length=0)
            axes.grid(which="minor", color="white", linewidth=0.8)
            axes.set_axisbelow(False)
            axes.set_title(name, pad=3)
            middle = (start + i * (width + gap) + width / 2) / PAGE_IN
            colour_bar(figure, shown, label, values, figure.get_figheight() - 0.38, 2.0, middle)
    return figure
