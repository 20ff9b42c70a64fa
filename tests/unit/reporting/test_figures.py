"""Figures: nothing clipped, units on every axis, thresholds and limits where they belong."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from mindreel.brain import surface
from mindreel.reporting import cortex_views, figures_brain, figures_scan, style

PIXEL = 1.0  # mm: coarser than in print; where things stand does not depend on it


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figures_brain, "PIXEL_MM", dict.fromkeys(figures_brain.PIXEL_MM, PIXEL))
    monkeypatch.setattr(figures_brain, "PANEL_MM", PIXEL)
    monkeypatch.setattr(style, "DPI", 100)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def r(rng):
    """Correlations: high in visual areas, noise elsewhere; some vertices were not tested."""
    visual = (surface.atlas().group != "rest").to_numpy()
    values = np.where(visual, rng.uniform(0.2, 0.8, surface.VERTICES), rng.normal(0, 0.05, surface.VERTICES))
    values[::50] = np.nan
    return values


@pytest.fixture(scope="module")
def motions(rng):
    names = [*(f"trans_{x}_mm" for x in "xyz"), *(f"rot_{x}_rad" for x in "xyz"), "framewise_displacement_mm"]
    tables = {}
    for run in ("seg1_1", "seg1_2", "seg2_1"):
        values = np.c_[rng.normal(0, 0.3, (20, 3)), rng.normal(0, 0.01, (20, 3)), rng.gamma(2, 0.2, 20)]
        tables[run] = pd.DataFrame(values, columns=names)
    return tables


def agreement_of(rng):
    kinds = {"voxels": 4500, "patches": 280, "networks": 17, "areas": 60}
    rows = [
        (s, n, over, k, rng.uniform(-1, 1))
        for s in ("contrastive", "cotrain")
        for n in ("layer 1", "layer 24")
        for over, k in kinds.items()
    ]
    table = pd.DataFrame(rows, columns=["stage", "layer", "over", "number", "spearman"])
    rows = [(s, "layer 24", f"VMV{i}", *rng.uniform(0.4, 3, 2)) for s in ("contrastive", "cotrain") for i in range(16)]
    areas = pd.DataFrame(rows, columns=["stage", "layer", "part", "attention", "gradients"])
    return figures_brain.agreement(table, areas, title="Subject 1")


def figure_of(name, r, motions, rng):
    shown = cortex_views.scale(r, cmap="RdBu_r")
    if name == "flat":
        return figures_brain.flat_map(r, title="Reproducibility", label="r (no unit)", shown=shown, grey="not tested")
    if name == "inflated":
        return figures_brain.inflated(r, title="Reproducibility", label="r (no unit)", shown=shown)
    if name == "histograms":
        look = {"t_significant": 5.0, "t_selected": 8.0, "freedom": 11, "title": "Subject 1"}
        return figures_scan.histograms(r, 12 * r, 12 * r >= 8, **look)
    if name == "motion":
        return figures_scan.motion(motions, title="Subject 1")
    if name == "runs":
        return figures_scan.run_quality(
            motions, {run: rng.gamma(9, 8, 500) for run in (*motions, "seg9_1")}, title="Subject 1"
        )
    ratio = np.where(r > 0.3, 2 * r, np.nan)
    if name == "attention":
        maps = {(s, f"layer {n}"): ratio for s in ("mbm", "cotrain") for n in (1, 2)}
        return figures_brain.attention_flat(maps, title="Subject 1", label="ratio")
    if name == "ranks":
        return figures_brain.ranks_flat(
            {("cotrain", f"layer {n}"): ratio for n in (1, 2)}, title="Subject 1", label="%"
        )
    if name == "categories":
        return figures_brain.ratios_flat({f"category {n}": ratio for n in range(4)}, title="Subject 1", label="ratio")
    if name == "attention_inflated":
        return figures_brain.attention_inflated(
            {"mbm": ratio, "cotrain": 1.5 * ratio}, title="Subject 1", label="ratio"
        )
    if name == "agreement":
        return agreement_of(rng)
    if name == "category_areas":
        table = pd.DataFrame(
            rng.uniform(0.5, 2, (16, 6)), [f"V{i}" for i in range(16)], [f"buildings ({i})" for i in range(6)]
        )
        return figures_brain.area_ratios({"attention": table, "gradients": table}, title="Subject 1", label="ratio")
    rows = [(s, n, p, 10, v) for s in ("mbm", "cotrain") for n in (1, 2) for p, v in (("VisCent", 0.7), ("V1", 0.3))]
    table = pd.DataFrame(rows, columns=["stage", "layer", "part", "voxels", "share"])
    return figures_brain.share_bars(table, title="Subject 1", colours=figures_brain.NETWORK_COLOURS, unit="network")


@pytest.mark.parametrize(
    ("name", "words", "width"),
    [
        ("flat", ["r (no unit)", "grey: not tested", "left", "right", "V1", "MT", "FFC"], style.COLUMN_IN),
        ("inflated", ["r (no unit)", "lateral", "medial", "posterior", "ventral", "V1"], style.COLUMN_IN),
        ("histograms", ["r between repeats (Pearson, no unit)", "11 degrees of freedom", "t ≥ 8.00"], style.COLUMN_IN),
        ("motion", ["translation (mm)", "rotation (°)", "displacement (mm)", "3 runs"], style.COLUMN_IN),
        ("runs", ["displacement (mm)", "mean / deviation", "seg9_1"], style.COLUMN_IN),
        ("attention", ["ratio", "mbm", "cotrain", "layer 2", "V1"], style.PAGE_IN),
        ("ranks", ["%", "cotrain", "layer 2", "left", "right"], style.PAGE_IN),
        ("categories", ["ratio", "category 3"], style.PAGE_IN),
        ("attention_inflated", ["ratio", "mbm", "ventral"], style.PAGE_IN),
        ("agreement", ["Spearman, no unit", "voxels (4,500)", "VMV15", "(ratio)", "layer 24"], style.PAGE_IN),
        ("category_areas", ["ratio", "V15", "buildings (5)", "gradients"], style.PAGE_IN),
        ("bars", ["share of the attention per network (%)", "VisCent"], style.PAGE_IN),
    ],
)
def test_figures_have_units_and_nothing_is_clipped(name, words, width, r, motions, rng, tmp_path):
    """Every letter lies within the paper, none is smaller than 5.5 pt, and the SVG has the words as text."""
    figure = figure_of(name, r, motions, rng)
    style.save_print(figure, tmp_path, "a")
    assert figure.get_figwidth() == width
    drawn = figure.get_tightbbox()  # inches; of everything that is drawn
    assert min(drawn.x0, drawn.y0) >= 0 and drawn.x1 <= width and drawn.y1 <= figure.get_figheight()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    assert min(text.get_fontsize() for text in texts) >= 5.5
    image = Image.open(tmp_path / "a.png")
    assert image.width == round(100 * width)
    edge = np.asarray(image.convert("L"))
    assert min(edge[0].min(), edge[-1].min(), edge[:, 0].min(), edge[:, -1].min()) > 250  # nothing runs off the paper
    said = " ".join(text.get_text().replace("\n", " ") for text in texts)
    assert all(word in said for word in words), said
    svg = (tmp_path / "a.svg").read_text()
    assert re.search(r">[^<]*(no unit|ratio|mm|degrees|%)[^<]*</text>|>[^<]*(no unit|ratio|\(mm\))", svg)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg"]


def test_an_svg_is_the_same_each_time(motions, tmp_path):
    for name in ("a", "b"):
        style.save_print(figures_scan.motion(motions, title="Subject 1"), tmp_path, name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_colour_bars_are_pointed_only_where_values_go_on(r):
    shown = cortex_views.scale(np.array([-1.0, 1.0]), cmap="RdBu_r")
    for top, pointed in ((0.5, False), (2.0, True)):
        figure = figures_brain.flat_map(top * r / np.nanmax(r), title="", label="", shown=shown, grey="")
        assert (figure.axes[-1]._colorbar.extend == "max") == pointed


def test_bins_begin_at_the_threshold():
    values = np.random.default_rng(1).normal(size=1000)
    edges = figures_scan._bins(values, 1.234)
    assert np.abs(edges - 1.234).min() < 1e-12
    assert edges[0] <= values.min() and edges[-1] >= values.max() and 59 < len(edges) < 65
    assert len(figures_scan._bins(np.array([]), 3.0)) >= 2


def test_histogram_counts_are_those_of_the_sets(r):
    t = 12 * r
    figure = figures_scan.histograms(r, t, t >= 8, t_significant=5.0, t_selected=8.0, freedom=11, title="")
    below = figure.axes[1]
    counts = [sum(bar.get_height() for bar in bars) for bars in below.containers]
    assert counts == [np.isfinite(t).sum(), (t >= 5).sum(), (t >= 8).sum()]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    names = ("tested", "significant", "selected")
    assert words[:3] == [f"{name} ({count:,.0f})" for name, count in zip(names, counts, strict=True)]
    lines = {tuple(line.get_xdata()) for line in below.lines}
    assert lines == {(5.0, 5.0), (8.0, 8.0)}


def test_a_two_sided_test_has_two_thresholds(r):
    t = np.where(np.arange(surface.VERTICES) % 2, 12, -12) * r
    figure = figures_scan.histograms(r, t, np.abs(t) >= 8, t_significant=5.0, t_selected=8.0, freedom=11, title="")
    assert {line.get_xdata()[0] for line in figure.axes[1].lines} == {5.0, -5.0, 8.0, -8.0}
    words = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert "|t| ≥ 5.00" in words


def test_motion_is_in_degrees_and_counts_moved_volumes(motions):
    figure = figures_scan.motion(motions, title="", limit_mm=0.5)
    drawn = figure.axes[1].lines[0].get_ydata()
    joined = np.concatenate([table.rot_x_rad for table in motions.values()])
    np.testing.assert_allclose(drawn[np.isfinite(drawn)], np.degrees(joined))
    assert np.isnan(drawn).sum() == 2  # between three runs
    steps = figure.axes[2].lines[0].get_ydata()
    assert np.isfinite(steps).sum() == 3 * 19  # a run's first volume has no step
    above = sum((table.framewise_displacement_mm > 0.5).sum() for table in motions.values())
    assert f"{above} of 60 volumes" in figure.axes[2].get_title(loc="right")


def test_runs_without_motion_have_tsnr_alone(rng):
    values = {"seg1_1": rng.gamma(9, 8, 500), "seg1_2": np.r_[np.nan, rng.gamma(9, 8, 499)]}
    figure = figures_scan.run_quality({}, values, title="")
    assert len(figure.axes) == 1
    bars = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    low, high = np.nanpercentile(values["seg1_2"], [5, 95])
    np.testing.assert_allclose(bars[0].get_segments()[1][:, 1], [low, high])


def test_networks_are_named_by_where_they_are():
    """Yeo's labels carry no names: the visual networks lie at the back, the limbic ones at the bottom."""
    network, place = surface.atlas().network.to_numpy(), surface.coordinates()
    centres = {name: place[network == i].mean(0) for i, name in enumerate(surface.NETWORKS)}
    back = sorted(surface.NETWORKS, key=lambda name: centres[name][1])[:2]
    low = sorted(surface.NETWORKS[1:], key=lambda name: centres[name][2])[:2]
    high = sorted(surface.NETWORKS, key=lambda name: -centres[name][2])[:1]
    assert set(back) == {"VisCent", "VisPeri"} and set(low) == {"LimbicA", "LimbicB"} and high == ["SomMotA"]
    assert len(figures_brain.NETWORK_COLOURS) == 18


def test_ranks_are_percentiles_of_the_known_voxels(r):
    figure = figures_brain.ranks_flat({("cotrain", "layer 1"): r}, title="", label="")
    known = np.flatnonzero(np.isfinite(r))
    percent = np.full(len(r), np.nan)
    percent[known[np.argsort(r[known])]] = 100 * (1 + np.arange(len(known))) / len(known)
    seen, shown = cortex_views.view("visual", PIXEL), ScalarMappable(Normalize(0, 100), colormaps["viridis"])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), cortex_views.picture(percent, seen, shown))


def test_agreement_shows_the_tables_values(rng):
    figure = agreement_of(rng)
    again = agreement_of(np.random.default_rng(0))
    first = figure.axes[0]
    marks = {line.get_label(): line for line in first.lines if "(" in str(line.get_label())}
    assert list(marks) == ["voxels (4,500)", "patches (280)", "networks (17)", "areas (60)"]
    for line in marks.values():
        assert len(line.get_xdata()) == 4 and np.abs(line.get_xdata()).max() <= 1
        assert [round(y) for y in line.get_ydata()] == [0, 1, 2, 3]  # each in its row
    assert len(again.axes) == 3 and len(figure.axes[1].lines[1].get_xdata()) == 16


@pytest.mark.parametrize("far", [8.0, 2.5, 1.7, 1.3, 1.11])
def test_colour_bars_of_ratios_have_ticks_around_one(far):
    figure = Figure(figsize=(3, 1))
    shown = ScalarMappable(LogNorm(1 / far, far), colormaps["PuOr_r"])
    style.colour_bar(figure, shown, "ratio", np.array([1.0]), 0.5, 2.0)
    ticks = figure.axes[0]._colorbar.get_ticks()
    assert 1 in ticks and 4 <= len(ticks) <= 7
    np.testing.assert_allclose(np.sort(1 / ticks), ticks, rtol=0.12)  # as far to both sides
