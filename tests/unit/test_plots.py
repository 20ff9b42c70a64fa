"""Flat maps show each vertex's own value; the other figures are written and not blank."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mindreel import plots, surface
from mindreel.errors import InputError


def test_rasterise_gives_each_pixel_the_nearest_corner():
    points = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [99.0, 99.0]])  # the last is in no triangle
    picture = plots.rasterise(points, np.array([[0, 1, 2]]), 1.0)
    assert picture.shape == (11, 11)
    for row in range(11):
        for x in range(11):
            y = 10 - row
            if x + y > 10:
                assert picture[row, x] == -1
            else:
                weights = {0: 1 - (x + y) / 10, 1: x / 10, 2: y / 10}
                assert weights[picture[row, x]] == pytest.approx(max(weights.values()))


def test_rasterise_ignores_triangles_without_area():
    points = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [2.0, 0.0]])
    picture = plots.rasterise(points, np.array([[0, 1, 3], [0, 1, 2]]), 1.0)
    assert set(np.unique(picture)) == {-1, 0, 1, 2}


def test_flat_map_has_left_on_the_left_and_almost_every_vertex():
    picture = plots.flat_map()
    shown = np.unique(picture[picture >= 0])
    assert len(shown) > 0.9 * surface.VERTICES
    columns = np.nonzero(picture >= 0)[1]
    left = picture[picture >= 0] < surface.LEFT
    assert columns[left].max() < columns[~left].min()


def test_paint_puts_values_where_their_vertices_are():
    values = np.random.default_rng(0).normal(size=surface.VERTICES)
    painted, picture = plots.paint(values), plots.flat_map()
    rows, columns = np.nonzero(picture >= 0)
    np.testing.assert_array_equal(painted[rows, columns], values[picture[rows, columns]])
    assert np.isnan(painted[picture < 0]).all()
    with pytest.raises(InputError, match=r"\(59412,\)"):
        plots.paint(values[:-1])


def test_cortex_colours_the_right_pixels(tmp_path):
    """One area in the map's top colour: that colour appears, about as often as the area is large, and on its side."""
    atlas = surface.atlas()
    area = ((atlas.area == "4") & (atlas.hemisphere == "L")).to_numpy()  # motor cortex: no outline, no name on it
    values = np.where(area, 1.0, 0.0)
    plots.cortex(values, tmp_path / "a.png", title="area 4", label="x (unit)", cmap="bwr", limits=(0, 1))
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    map_only = pixels[:, : int(0.85 * pixels.shape[1])]  # the colour bar has the colour too
    red = (map_only[..., 0] > 230) & (map_only[..., 1:] < 40).all(-1)
    blue = (map_only[..., 2] > 230) & (map_only[..., :2] < 40).all(-1)
    picture = plots.flat_map()
    share = np.isin(picture, np.flatnonzero(area)).sum() / (picture >= 0).sum()
    assert red.sum() / (red.sum() + blue.sum()) == pytest.approx(share, rel=0.1)
    assert np.nonzero(red)[1].max() < map_only.shape[1] / 2


def test_nan_vertices_stay_grey(tmp_path):
    values = np.full(surface.VERTICES, np.nan)
    values[: surface.LEFT] = 1.0
    plots.cortex(values, tmp_path / "a.png", title="part", label="x", cmap="bwr", limits=(0, 1))
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    right = pixels[:, int(0.55 * pixels.shape[1]) : int(0.85 * pixels.shape[1])]
    assert np.ptp(right, axis=-1).max() < 40  # greys only: no colour where there is no value
    assert (right < 245).any()


def test_few_values_zoom_in():
    height, width = plots.flat_map().shape
    everything = np.zeros(surface.VERTICES)
    assert plots.frame(everything) == (slice(0, height), slice(0, width))
    visual = np.where(surface.atlas().area == "V1", 1.0, np.nan)
    rows, columns = plots.frame(visual)
    shown = np.isfinite(plots.paint(visual))
    assert shown[rows, columns].sum() > 0.95 * shown.sum()
    assert columns.stop - columns.start < 0.5 * width


def test_limits_leave_out_the_tails():
    values = np.r_[np.linspace(0, 1, 1000), 1e6, np.nan]
    low, high = plots.limits_of(values)
    assert low == pytest.approx(0.01, abs=0.01) and high < 1
    assert plots.limits_of(np.r_[-1.0, 3.0], symmetric=True) == pytest.approx((-2.96, 2.96))
    assert plots.limits_of(np.full(3, 2.0)) == (1.5, 2.5)
    assert plots.limits_of(np.array([np.nan])) == (0.0, 1.0)


def test_running_mean_keeps_a_constant_and_shortens_at_the_ends():
    np.testing.assert_allclose(plots._smooth(np.full(200, 3.0)), 3.0)
    ramp = np.arange(200.0)
    smooth = plots._smooth(ramp)
    np.testing.assert_allclose(smooth[10:-10], ramp[10:-10])
    assert smooth[0] == pytest.approx(np.mean(ramp[:5]))


def test_networks_are_named_by_where_they_are():
    """Yeo's labels carry no names: the visual networks lie at the back, the limbic ones at the bottom."""
    network, place = surface.atlas().network.to_numpy(), surface.coordinates()
    centres = {name: place[network == i].mean(0) for i, name in enumerate(plots.NETWORKS)}
    back = sorted(plots.NETWORKS, key=lambda name: centres[name][1])[:2]
    low = sorted(plots.NETWORKS[1:], key=lambda name: centres[name][2])[:2]
    high = sorted(plots.NETWORKS, key=lambda name: -centres[name][2])[:1]
    assert set(back) == {"VisCent", "VisPeri"} and set(low) == {"LimbicA", "LimbicB"} and high == ["SomMotA"]
    assert len(plots.NETWORK_COLOURS) == len(plots.NETWORKS) == 18


def _colours(path) -> int:
    return len(np.unique(np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3), axis=0))


def test_the_other_figures_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    bars = [(s, n, name, 10, 0.5) for s in ("mbm", "cotrain") for n in (1, 2) for name in ("VisCent", "VisPeri")]
    plots.network_bars(pd.DataFrame(bars, columns=["stage", "layer", "network", "voxels", "share"]), tmp_path / "b.png")
    plots.histogram(rng.normal(size=900), tmp_path / "h.png", title="t", label="t", threshold=2.0, note="kept")
    history = pd.DataFrame({"step": range(60), "loss": rng.random(60), "lr": 1.0, "image_top1": rng.random(60)})
    plots.training_curves({"mbm": history[["step", "loss"]], "contrastive": history}, tmp_path / "t.png")
    moved = pd.DataFrame({"framewise_displacement": np.r_[np.nan, rng.random(20)]})
    plots.motion({"seg1_1": moved, "seg1_2": moved}, tmp_path / "m.png")
    rows = [(m, r, 0.5, 0.4, 0.6, 0.3, np.nan) for m in ("a", "b") for r in ("1", "2")]
    scores = pd.DataFrame(rows, columns=["metric", "row", "value", "low", "high", "control", "chance"])
    plots.scores(scores, tmp_path / "s.svg")
    assert all(_colours(tmp_path / f"{name}.png") > 20 for name in "bhtm")
    assert "<svg" in (tmp_path / "s.svg").read_text()
    assert not list(tmp_path.glob(".*"))
