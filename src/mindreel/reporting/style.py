"""How figures for print look and are written: type, colours, sizes, axes placed in inches, colour bars.

A figure has the width of a journal's column or page, in the type size that it is printed at; the report enlarges it.
"""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from mindreel.artifacts import atomic, save_json

INK, MUTED = "#17202c", "#566273"
GRID, ACCENT, SECOND, THIRD = "#dde3ea", "#1d5fbf", "#d2691e", "#16836b"
CYCLE = (ACCENT, SECOND, THIRD, "#8a3ffc", "#b3261e", "#6b7785")
# 89 and 183 mm wide, no letter smaller than 5.5 pt.
COLUMN_IN, PAGE_IN = 3.5, 7.2
EDGE_IN = 0.05  # white around a figure
HEAD_IN = 0.22  # the heading of a figure
NOTE = 6.5  # pt
DPI = 300
RATIO_TICKS = (  # from coarse to fine
    (0.1, 0.2, 0.5, 1, 2, 5, 10),
    (0.33, 0.5, 0.67, 1, 1.5, 2, 3),
    (0.6, 0.8, 1, 1.25, 1.6),
    (0.8, 0.9, 1, 1.1, 1.25),
    (0.9, 0.95, 1, 1.05, 1.1),
)
PRINT = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 7, "text.color": INK,
    "axes.labelcolor": INK, "axes.labelsize": 7, "axes.edgecolor": MUTED, "axes.linewidth": 0.6, "axes.titlesize": 7,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.5, "xtick.color": MUTED,
    "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "legend.frameon": False, "legend.fontsize": 6.5, "figure.facecolor": "white",
    "figure.titlesize": 7.5, "figure.titleweight": "bold", "svg.fonttype": "none", "svg.hashsalt": "mindreel",
}  # fmt: skip


def save_print(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure in its own size as `name`.png (DPI) and `name`.svg (lines and letters stay such)."""
    with atomic(Path(folder) / f"{name}.png") as path:
        figure.savefig(path, dpi=DPI, pil_kwargs={"compress_level": 4})
    with matplotlib.rc_context(PRINT), atomic(Path(folder) / f"{name}.svg") as path:
        figure.savefig(path, dpi=DPI, metadata={"Date": None})  # the same bytes each time


def save_folder(out: Path, figures: dict[str, tuple[Figure, str]], words: str = "") -> None:
    """Write a folder of pictures: figures by name; index.json with their alternative texts and `words`, a summary."""
    with atomic(out) as folder:
        folder.mkdir()
        for name, (figure, _) in figures.items():
            save_print(figure, folder, name)
        listed = [
            {"name": name, "alt": alt, "wide": bool(figure.get_figwidth() > COLUMN_IN)}
            for name, (figure, alt) in figures.items()
        ]
        save_json(folder / "index.json", {"words": words, "figures": listed})


def heading(figure: Figure, title: str) -> None:
    """Write the heading of a figure whose axes are placed in inches."""
    across, down = figure.get_size_inches()
    figure.text(EDGE_IN / across, 1 - 0.05 / down, title, va="top", fontsize=7.5, fontweight="bold")


def panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes by the place of their top left corner, in inches from that of the figure."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def colour_bar(
    figure: Figure, shown: ScalarMappable, label: str, values: np.ndarray, top: float, width: float, middle: float = 0.5
) -> None:
    """Add a colour bar; a pointed end says that there are values beyond it.

    Parameters
    ----------
    values : array
        Those that are shown, NaN where there is none.
    top, width : float
        Inches.
    middle : float
        Where its middle is, as a share of the figure's width.
    """
    beyond = [np.nanmin(values) < shown.norm.vmin, np.nanmax(values) > shown.norm.vmax]
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[int(beyond[0]), int(beyond[1])]
    axes = panel(figure, middle * figure.get_figwidth() - width / 2, top, width, 0.07)
    bar = figure.colorbar(shown, cax=axes, orientation="horizontal", extend=extend, extendfrac=0.04)
    bar.set_label(label, labelpad=2)
    bar.outline.set_linewidth(0.4)
    if isinstance(shown.norm, LogNorm):
        low, high = shown.norm.vmin or 0.0, shown.norm.vmax or np.inf
        inside = [[tick for tick in ticks if low <= tick <= high] for ticks in RATIO_TICKS]
        ticks = next((ticks for ticks in inside if len(ticks) >= 5), inside[-1])
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], minor=False)
        bar.ax.minorticks_off()
    bar.ax.tick_params(pad=1.5)
