"""Views of the cortex: every pixel shows the vertex that lies there, borders lie where labels change."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from mindreel.brain import surface
from mindreel.errors import InputError
from mindreel.reporting import cortex_views

PIXEL = 1.0


def triangle(points):
    return cortex_views.rasterise(np.array(points, float), np.array([[0, 1, 2]]), 1.0, (0.0, 10.0, 0.0, 10.0))


def test_rasterise_weights_are_barycentric():
    found, weights = triangle([[0, 0, 0], [10, 0, 0], [0, 10, 0]])
    assert found.shape == (11, 11)
    for row, column in np.ndindex(11, 11):
        x, y = column, 10 - row
        if x + y > 10:
            assert found[row, column] == -1
        else:
            np.testing.assert_allclose(weights[row, column], [1 - (x + y) / 10, x / 10, y / 10], atol=1e-6)


def test_rasterise_shows_what_is_nearest_to_the_viewer():
    points = np.array([[0, 0, z] for z in (1.0, 5.0)] * 3) + np.repeat([[0, 0, 0], [9, 0, 0], [0, 9, 0]], 2, axis=0)
    far, near = np.array([0, 2, 4]), np.array([1, 3, 5])
    for triangles, front in (([far, near], 1), ([near, far], 0)):
        found, _ = cortex_views.rasterise(points, np.array(triangles), 1.0, (0.0, 9.0, 0.0, 9.0))
        assert set(np.unique(found)) == {-1, front}


def test_rasterise_cuts_at_the_box_and_ignores_triangles_without_area():
    points = np.array([[-50.0, -50, 0], [50, -50, 0], [0, 50, 0], [0, 0, 0]])
    found, _ = cortex_views.rasterise(points, np.array([[0, 1, 2], [0, 3, 3]]), 1.0, (-2.0, 2.0, -3.0, 3.0))
    assert found.shape == (7, 5) and (found == 0).all()


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["flat", "visual"])
def test_values_land_where_their_vertices_lie(name, axis):
    """Give every vertex its place on the map as value: then every pixel shows its own place."""
    atlas, seen = surface.atlas(), cortex_views.view(name, PIXEL)
    values = np.zeros(surface.VERTICES)
    for side in (0, 1):
        own = atlas[atlas.hemisphere == "LR"[side]]
        values[own.grayordinate] = cortex_views.flat_mesh(side)[0][own.vertex, axis]
    painted = cortex_views.paint(values, seen)
    rows, columns = np.nonzero((seen.corners >= 0).all(-1))
    for side, (column, row, across, up) in enumerate(seen.origins):
        own = (seen.nearest[rows, columns] < surface.LEFT) == (side == 0)
        expected = (across + PIXEL * (columns - column), up + PIXEL * (row - rows))[axis]
        np.testing.assert_allclose(painted[rows, columns][own], expected[own], atol=0.02)
    assert len(rows) > 0.9 * (seen.nearest >= 0).sum()


def test_left_is_left_on_flat_maps():
    seen = cortex_views.view("flat", PIXEL)
    cortex = seen.nearest >= 0
    columns, left = np.nonzero(cortex)[1], seen.nearest[cortex] < surface.LEFT
    assert columns[left].max() < columns[~left].min()
    assert len(np.unique(seen.nearest[cortex])) > 0.9 * surface.VERTICES


@pytest.mark.parametrize(
    ("camera", "axis", "sign", "left_first"),
    [("posterior", 1, -1, True), ("ventral", 2, -1, False)],
)
def test_cameras_look_from_where_they_say(camera, axis, sign, left_first):
    """What is seen lies on that side of what is not; hemispheres stand as they do from there."""
    seen, place = cortex_views.view(camera, PIXEL), surface.coordinates()
    shown = np.unique(seen.nearest[seen.nearest >= 0])
    hidden = np.setdiff1d(np.arange(surface.VERTICES), shown)
    assert sign * (place[shown, axis].mean() - place[hidden, axis].mean()) > 5
    rows, columns = np.nonzero(seen.nearest >= 0)
    left = seen.nearest[rows, columns] < surface.LEFT
    assert (columns[left].mean() < columns[~left].mean()) == left_first
    if camera == "ventral":  # front on top: what is further to the front has the smaller row
        assert np.corrcoef(rows, place[seen.nearest[rows, columns], 1])[0, 1] < -0.9


@pytest.mark.parametrize("camera", ["lateral", "medial"])
def test_the_side_and_the_middle_are_told_apart(camera):
    seen = cortex_views.view(camera, PIXEL)
    insula = np.isin(seen.nearest, surface.atlas().query("area in ['V1', 'RSC']").grayordinate).sum()
    lateral = np.isin(seen.nearest, surface.atlas().query("area in ['A1', 'MT', '44']").grayordinate).sum()
    assert (insula > 5 * lateral) == (camera == "medial")
    middle = seen.nearest.shape[1] // 2
    cortex = seen.nearest >= 0
    assert (seen.nearest[:, :middle][cortex[:, :middle]] < surface.LEFT).mean() > 0.99


def test_paint_leaves_out_what_has_no_value():
    seen = cortex_views.view("visual", PIXEL)
    values = np.where(surface.atlas().area == "V1", 2.0, np.nan)
    painted = cortex_views.paint(values, seen)
    v1 = np.isin(seen.nearest, np.flatnonzero(np.isfinite(values)))
    np.testing.assert_array_equal(np.isfinite(painted), v1)
    np.testing.assert_allclose(painted[v1], 2.0, rtol=1e-6)  # not mixed with the missing neighbours
    with pytest.raises(InputError, match=r"\(59412,\)"):
        cortex_views.paint(values[:-1], seen)


def test_picture_colours_values_and_greys_the_rest():
    seen = cortex_views.view("visual", PIXEL)
    area = (surface.atlas().area == "V2").to_numpy()
    shown = cortex_views.scale(np.array([-1.0, 1.0]), cmap="RdBu_r")
    pixels = cortex_views.picture(np.where(area, 1.0, np.nan), seen, shown).astype(int)
    coloured = np.isin(seen.nearest, np.flatnonzero(area))
    red = pixels[..., 0] - pixels[..., 1:3].max(-1)
    assert (red[coloured] > 60).all()
    assert (np.ptp(pixels[..., :3], axis=-1)[~coloured] == 0).all()
    np.testing.assert_array_equal(pixels[..., 3] == 255, seen.nearest != cortex_views.OUTSIDE)


def test_the_relief_hardly_changes_colours():
    seen = cortex_views.view("visual", PIXEL)
    pixels = cortex_views.picture(
        np.ones(surface.VERTICES), seen, cortex_views.scale(np.array([-1.0, 1.0]), cmap="RdBu_r")
    )
    colour = pixels[seen.nearest >= 0][:, 0].astype(float)
    assert 0.9 < colour.min() / colour.max() < 1


def test_sulci_are_darker_than_gyri():
    """The fundus of the central sulcus (3a) and the insula against the crown of the postcentral gyrus (1)."""
    grey, area = cortex_views._greys()[: surface.VERTICES], surface.atlas().area
    assert max(grey[area == "3a"].mean(), grey[area == "PoI1"].mean()) < grey[area == "1"].mean() - 0.04


def test_borders_lie_where_labels_change():
    seen = cortex_views.view("visual", PIXEL)
    area = np.append(surface.atlas().area.to_numpy(object), ["", ""])[seen.nearest]
    lines = np.concatenate(cortex_views.borders(("V1", "MT"), seen))
    inside = np.isin(area, ["V1", "MT"])
    cortex = seen.nearest != cortex_views.OUTSIDE
    edge = np.zeros_like(inside)
    for axis in (0, 1):
        first, second = (np.take(a, range(a.shape[axis] - 1), axis) for a in (area, np.roll(area, -1, axis)))
        both = np.take(cortex, range(cortex.shape[axis] - 1), axis)
        changed = (first != second) & (np.isin(first, ["V1", "MT"]) | np.isin(second, ["V1", "MT"])) & both
        edge[tuple(slice(0, n) for n in changed.shape)] |= changed
    rows, columns = np.nonzero(edge)
    distance, _ = cKDTree(np.stack([columns + 0.5, rows + 0.5], 1)).query(lines)
    assert np.quantile(distance, 0.95) < 2.5  # pixels of 1 mm; vertices are 2 mm apart
    reached, _ = cKDTree(lines).query(np.stack([columns, rows], 1)[cortex_inner(cortex)[rows, columns]])
    assert np.quantile(reached, 0.95) < 4


def cortex_inner(cortex):
    from scipy.ndimage import binary_erosion

    return binary_erosion(cortex, iterations=4)


def test_names_stand_in_their_areas():
    seen = cortex_views.view("visual", PIXEL)
    found = cortex_views.places(cortex_views.VISUAL, seen)
    area = surface.atlas().area
    for name, x, y, _ in found:
        assert area[seen.nearest[round(y), round(x)]] == name
    sides = {(name, bool(seen.nearest[round(y), round(x)] < surface.LEFT)) for name, x, y, _ in found}
    assert sides == {(name, side) for name in cortex_views.VISUAL for side in (True, False)}


def test_spread_parts_boxes_and_leaves_free_ones():
    boxes = np.array([[0, 0, 4, 2], [1, 0.5, 4, 2], [1, 0.5, 4, 2], [50, 50, 4, 2]], float)
    centres = cortex_views.spread(boxes)
    np.testing.assert_array_equal(centres[3], [50, 50])
    for i in range(3):
        for j in range(i):
            apart = np.abs(centres[i] - centres[j]) - (boxes[i, 2:] + boxes[j, 2:]) / 2
            assert apart.max() > -1e-6
    assert np.abs(centres - boxes[:, :2]).max() < 8


def test_diverging_scales_are_centred():
    shown = cortex_views.scale(np.r_[np.linspace(-0.1, 0.8, 1000), np.nan], cmap="RdBu_r")
    assert shown.norm.vmin == -shown.norm.vmax and shown.norm.vmax == pytest.approx(0.8, abs=0.01)
    assert cortex_views.ratio_scale(np.array([0.5, 1.0, 3.0])).norm(1.0) == pytest.approx(0.5)
    sequential = cortex_views.scale(np.linspace(2, 4, 101), cmap="viridis", centre=None)
    assert (sequential.norm.vmin, sequential.norm.vmax) == pytest.approx((2.02, 3.98))
    assert np.isfinite(cortex_views.scale(np.array([np.nan]), cmap="viridis").norm.vmax)
    assert cortex_views.scale(np.zeros(3), cmap="viridis").norm.vmax > 0


def test_the_enlarged_part_is_where_the_box_says():
    whole, part = cortex_views.view("flat", PIXEL), cortex_views.view("visual", PIXEL)
    for side, ((x, y), width, height) in enumerate(cortex_views.inset(whole)):
        cut = whole.nearest[round(y) : round(y + height), round(x) : round(x + width)]
        own = cut[(cut >= 0) & ((cut < surface.LEFT) == (side == 0))]
        shown = part.nearest[(part.nearest >= 0) & ((part.nearest < surface.LEFT) == (side == 0))]
        assert len(np.intersect1d(own, shown)) > 0.95 * len(np.union1d(own, shown))
