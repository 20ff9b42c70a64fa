"""Figures of a subject's scans: how reproducible the responses are, head motion, temporal signal-to-noise ratio."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mindreel.reporting.style import ACCENT, COLUMN_IN, EDGE_IN, GRID, INK, MUTED, NOTE, PRINT, SECOND, THIRD

LOOK = PRINT | {"figure.constrained_layout.use": True}


def histograms(
    r: np.ndarray,
    t: np.ndarray,
    selected: np.ndarray,
    *,
    title: str,
    t_significant: float,
    t_selected: float,
    freedom: int,
) -> Figure:
    """Draw how r and t are distributed, and the thresholds, one column wide.

    Parameters
    ----------
    r, t : (59412,) float
        NaN: not tested.
    selected : (59412,) bool
    t_significant, t_selected : float
        The smallest t (its size, if the test is two-sided) that is significant, is selected.
    freedom : int
        Degrees of freedom of t.
    """
    two_sided = bool((t[selected] < 0).any())
    strength = np.abs(t) if two_sided else t
    kinds = (
        ("tested", np.isfinite(t), "#c3cad3"),
        ("significant", strength >= t_significant, "#7fb2e5"),
        ("selected", selected, "#0b3c78"),
    )
    labels = ("r between repeats (Pearson, no unit)", f"t of Fisher's z over segments ({freedom} degrees of freedom)")
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(COLUMN_IN, 3.9))
        figure.suptitle(title, x=EDGE_IN / COLUMN_IN, ha="left")
        for axes, values, label, start in zip(figure.subplots(2, 1), (r, t), labels, (0.0, t_significant), strict=True):
            edges = _bins(values[np.isfinite(values)], start)
            for name, inside, colour in kinds:
                axes.hist(values[inside], edges, color=colour, label=f"{name} ({inside.sum():,})", log=True)
            axes.set_xlabel(label)
            axes.set_ylabel("vertices (log scale)")
            axes.set_ylim(bottom=0.7)
        lines = {t_significant: ("--", "significant"), t_selected: ("-", "selected")}
        for threshold, (style, name) in lines.items():
            for sign in (1, -1)[: 1 + two_sided]:
                text = f"{name}: {'|t|' if two_sided else 't'} ≥ {threshold:.2f}" if sign > 0 else None
                axes.axvline(sign * threshold, color="#b8480e", linewidth=1, linestyle=style, label=text)
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=2, columnspacing=1.2)
    return figure


def _bins(values: np.ndarray, start: float, count: int = 60) -> np.ndarray:
    """About `count` equal bins over all values, one of which begins at `start`, so that none holds both its sides."""
    width = (np.ptp(values) or 1.0) / count if values.size else 1.0
    low, high = (values.min(), values.max()) if values.size else (start, start + width)
    return start + width * np.arange(np.floor((low - start) / width), np.ceil((high - start) / width) + 1.5)


def motion(runs: dict[str, pd.DataFrame], *, title: str, limit_mm: float = 0.5) -> Figure:
    """Draw head motion, runs one after another, one column wide.

    Parameters
    ----------
    runs : dict
        By name, a row per volume: trans_x_mm, …, rot_x_rad, …, framewise_displacement_mm.
    limit_mm : float
        Framewise displacement above which a volume counts as moved.
    """
    whole = pd.concat(runs.values(), ignore_index=True)
    ends = np.cumsum([len(table) for table in runs.values()])
    after = ends[:-1] - 0.5
    panels = (
        ("translation (mm)", [(f"trans_{x}_mm", x, 1.0) for x in "xyz"]),
        ("rotation (°)", [(f"rot_{x}_rad", x, np.degrees(1)) for x in "xyz"]),
        ("framewise\ndisplacement (mm)", [("framewise_displacement_mm", "", 1.0)]),
    )
    moved = whole.framewise_displacement_mm > limit_mm
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(COLUMN_IN, 3.8))
        figure.suptitle(title, x=EDGE_IN / COLUMN_IN, ha="left")
        grid = figure.subplots(3, 1, sharex=True)
        for axes, (label, columns) in zip(grid, panels, strict=True):
            for (column, name, factor), colour in zip(columns, (ACCENT, SECOND, THIRD), strict=False):
                series = factor * whole[column].to_numpy(float)
                if column.startswith("framewise"):
                    series[np.insert(ends[:-1], 0, 0)] = np.nan  # a run's first volume has no step
                values = np.insert(series, ends[:-1], np.nan)  # a gap between runs
                place = np.insert(np.arange(len(whole), dtype=float), ends[:-1], after)
                axes.plot(place, values, color=colour, linewidth=0.7, label=name, rasterized=len(whole) > 5000)
            axes.vlines(after, 0, 1, transform=axes.get_xaxis_transform(), color=GRID, linewidth=0.4, zorder=0)
            axes.grid(visible=False)
            axes.set_ylabel(label)
            if len(columns) > 1:
                axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 0.97), borderaxespad=0, handlelength=1.2)
        grid[2].axhline(limit_mm, color=MUTED, linestyle="--", linewidth=0.8)
        note = f"above {limit_mm:g} mm (dashed): {moved.sum():,} of {len(whole):,} volumes ({100 * moved.mean():.1f}%)"
        grid[2].set_title(note, fontsize=NOTE, fontweight="normal", loc="right", pad=2)
        grid[2].set_ylim(0, 1.15 * max(limit_mm, whole.framewise_displacement_mm.max()))
        grid[2].set_xlim(-1, len(whole))
        grid[2].set_xlabel(f"volume ({len(runs)} runs one after another; a line between two)")
        figure.align_ylabels(grid)
    return figure


def run_quality(
    motions: dict[str, pd.DataFrame], tsnr: dict[str, np.ndarray], *, title: str, limit_mm: float = 0.5
) -> Figure:
    """Draw framewise displacement (where there is any) and tSNR of every run, one column wide.

    Parameters
    ----------
    motions : dict
        By run, framewise_displacement_mm.
    tsnr : dict
        By run, (59412,) float, NaN: constant or outside the image.
    """
    panels = []
    if motions:
        panels.append(("framewise\ndisplacement (mm)", {n: m.framewise_displacement_mm for n, m in motions.items()}))
    if tsnr:
        panels.append(("temporal SNR\n(mean / deviation)", tsnr))
    names = list(dict.fromkeys([*tsnr, *motions]))
    few = len(names) <= 40
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(COLUMN_IN, 1.1 + 1.1 * len(panels)))
        figure.suptitle(title, x=EDGE_IN / COLUMN_IN, ha="left")
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (label, values) in zip(grid, panels, strict=True):
            place = [names.index(name) for name in values]
            limits = np.array([np.nanpercentile(v, [5, 25, 50, 75, 95]) for v in values.values()]).T
            axes.vlines(place, limits[0], limits[4], color="#8fb3e0", linewidth=0.8)
            axes.vlines(place, limits[1], limits[3], color=ACCENT, linewidth=3 if few else 1.5)
            axes.plot(place, limits[2], "o", color="white", markeredgecolor=INK, markersize=2.2, markeredgewidth=0.5)
            axes.set_ylabel(label)
            axes.set_ylim(bottom=min(0.0, float(limits.min())))
            axes.grid(axis="x", visible=False)
        note = "dot: median; bar: middle half; line: 5th to 95th percentile"
        if motions:
            grid[0].axhline(limit_mm, color=MUTED, linestyle="--", linewidth=0.8)
            grid[0].set_ylim(top=max(1.2 * limit_mm, grid[0].get_ylim()[1]))
            grid[0].text(-0.5, limit_mm, f"{limit_mm:g} mm", ha="left", va="bottom", color=MUTED, fontsize=6)
        grid[0].set_title(note, fontsize=NOTE, fontweight="normal", pad=3)
        step = 1 if few else -(-len(names) // 40)
        ticks = range(0, len(names), step)
        grid[-1].set_xticks(ticks, [names[i] for i in ticks], rotation=90, fontsize=5.5)
        grid[-1].set_xlim(-0.7, len(names) - 0.3)
        grid[-1].set_xlabel("run (segment, repeat)")
        figure.align_ylabels(grid)
    return figure
