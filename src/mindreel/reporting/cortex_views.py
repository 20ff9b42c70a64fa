"""The cortex in pictures: flat maps and inflated views of per-vertex values, with area borders.

A view is prepared once (which triangle each pixel shows, and where in it); every map after that is a weighted sum per
pixel. Within triangles values are interpolated linearly, as Connectome Workbench draws them. Where a vertex has no
value (NaN) one sees the cortex's relief in light greys.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from contourpy import contour_generator
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patheffects import withStroke
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter, label

from mindreel.brain import surface
from mindreel.errors import InputError
from mindreel.reporting.style import INK, MUTED

OUTSIDE, WALL = -1, -2  # instead of a grayordinate: no cortex, medial wall
GAP_MM = 14  # between the hemispheres
FOLDS = 0.5  # how much of the relief shows through colours: sulci are at most 8% darker
SMOOTH_MM = 1.2  # of borders, below the distance of two vertices: takes the zigzag of the mesh away
ROOM_PT = 2.0  # an area with less around its middle is not named
VISUAL = tuple(area for group in surface.HIERARCHY.values() for area in group)
LANDMARKS = ("V1", "V2", "V3", "V4", "MT")
OUTLINED = (*LANDMARKS, "MST", "V3A", "V6", "V8", "FFC")
# What a picture of one hemisphere has to the right and on top, left and right hemisphere; the viewer is across both.
CAMERAS = {
    "lateral": (((0, -1, 0), (0, 0, 1)), ((0, 1, 0), (0, 0, 1))),
    "medial": (((0, 1, 0), (0, 0, 1)), ((0, -1, 0), (0, 0, 1))),
    "ventral": (((-1, 0, 0), (0, 1, 0)), ((-1, 0, 0), (0, 1, 0))),
    "posterior": (((1, 0, 0), (0, 0, 1)), ((1, 0, 0), (0, 0, 1))),
}


Box = tuple[float, float, float, float]


class View(NamedTuple):
    """A picture of the cortex, h x w pixels, row 0 on top."""

    corners: np.ndarray  # (h, w, 3) int32: grayordinates of the triangle seen, OUTSIDE or WALL
    weights: np.ndarray  # (h, w, 3) float32: where in the triangle, sum 1
    nearest: np.ndarray  # (h, w) int32: of the corners
    relief: np.ndarray  # (h, w) float32: cortex without data, dark in sulci, lit from the viewer; NaN outside
    pixel_mm: float
    origins: tuple[Box, ...]  # column and row that show which place (across, up, mm)
    middles: tuple[float, ...]  # column of the middle of every hemisphere shown, from left to right

    @property
    def height_mm(self) -> float:
        """Height of the picture in mm of cortex."""
        return self.nearest.shape[0] * self.pixel_mm

    @property
    def width_mm(self) -> float:
        """Width of the picture in mm of cortex."""
        return self.nearest.shape[1] * self.pixel_mm


def _bounds(points: np.ndarray) -> Box:
    (left, bottom), (right, top) = points[:, :2].min(0), points[:, :2].max(0)
    return float(left), float(right), float(bottom), float(top)


def rasterise(points: np.ndarray, triangles: np.ndarray, pixel_mm: float, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Find for every pixel the triangle nearest to the viewer.

    Parameters
    ----------
    points : (N, 3) float
        Across, up, towards the viewer, mm.
    triangles : (M, 3) int
    box : Box
        Left, right, bottom, top of the picture, mm; the bottom row and the left column of pixels lie on it.

    Returns
    -------
    triangle : (h, w) int32, -1: none; row 0 on top
    weights : (h, w, 3) float32 of the triangle's corners
    """
    left, right, bottom, top = box
    width, height = (int(np.ceil(length / pixel_mm)) + 1 for length in (right - left, top - bottom))
    corners = ((points[:, :2] - [left, bottom]) / pixel_mm)[triangles]  # (M, 3, 2), pixels
    (x0, y0), (x1, y1), (x2, y2) = (corners[:, i].T for i in range(3))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    low = np.clip(np.ceil(corners.min(1) - 1e-6), 0, [width, height]).astype(np.int64)
    high = np.clip(np.floor(corners.max(1) + 1e-6) + 1, 0, [width, height]).astype(np.int64)
    extent = np.maximum(high - low, 0)
    number = np.where(area != 0, extent.prod(1), 0)
    owner = np.repeat(np.arange(len(triangles)), number)  # one entry per pixel of every triangle's bounding box
    within = np.arange(len(owner)) - np.repeat(np.cumsum(number) - number, number)
    x, y = low[owner, 0] + within % extent[owner, 0], low[owner, 1] + within // extent[owner, 0]
    b1 = ((x - x0[owner]) * (y2 - y0)[owner] - (x2 - x0)[owner] * (y - y0[owner])) / area[owner]
    b2 = ((x1 - x0)[owner] * (y - y0[owner]) - (x - x0[owner]) * (y1 - y0)[owner]) / area[owner]
    weights = np.stack([1 - b1 - b2, b1, b2], 1).astype(np.float32)
    hit = np.flatnonzero(weights.min(1) >= -1e-4)
    depth = points[triangles, 2].mean(1)
    hit = hit[np.argsort(depth[owner[hit]], kind="stable")]  # the last to be written is the nearest
    triangle = np.full((height, width), -1, np.int32)
    corner_weights = np.full((height, width, 3), 1 / 3, np.float32)
    rows, columns = height - 1 - y[hit], x[hit]
    triangle[rows, columns] = owner[hit]
    corner_weights[rows, columns] = np.clip(weights[hit], 0, 1)
    return triangle, corner_weights


@cache
def _grayordinates() -> tuple[np.ndarray, np.ndarray]:
    """The grayordinate of every vertex of the left and the right mesh, medial wall: WALL."""
    sides = []
    for values in surface.on_mesh(np.arange(surface.VERTICES, dtype=float), WALL):
        sides.append(values.astype(np.int32))
    return sides[0], sides[1]


def _half(side: int, points: np.ndarray, triangles: np.ndarray, pixel_mm: float, box: Box | None = None) -> View:
    box = box or _bounds(points[np.unique(triangles)])
    triangle, weights = rasterise(points, triangles, pixel_mm, box)
    seen = triangle >= 0
    corners = np.where(seen[..., None], _grayordinates()[side][triangles[triangle]], OUTSIDE)
    edges = points[triangles[:, 1:]] - points[triangles[:, :1]]
    normal = np.cross(edges[:, 0], edges[:, 1])
    facing = np.abs(normal[:, 2]) / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
    count = np.bincount(triangles.ravel(), minlength=len(points))
    lit = np.bincount(triangles.ravel(), np.repeat(facing, 3), minlength=len(points)) / np.maximum(count, 1)
    light = (lit.astype(np.float32)[triangles[triangle]] * weights).sum(-1)
    relief = (_greys()[corners] * weights).sum(-1) * (0.55 + 0.45 * light)  # flat: all light
    nearest = np.take_along_axis(corners, weights.argmax(-1)[..., None], -1)[..., 0]
    height, width = seen.shape
    origin = (0.0, height - 1.0, box[0], box[2])
    return View(corners, weights, nearest, relief, pixel_mm, (origin,), ((width - 1) / 2,))


def _beside(views: Sequence[View], gap_mm: float) -> View:
    """Put views beside each other, their middles on one height."""
    height = max(view.nearest.shape[0] for view in views)
    gap = round(gap_mm / views[0].pixel_mm)
    parts: list[list[np.ndarray]] = []
    origins: list[Box] = []
    middles: list[float] = []
    start = 0
    for view in views:
        above = (height - view.nearest.shape[0]) // 2
        pad = ((above, height - view.nearest.shape[0] - above), (0, gap))
        fields = zip(view[:4], (OUTSIDE, 1 / 3, OUTSIDE, np.nan), strict=True)
        parts.append([np.pad(a, pad + ((0, 0),) * (a.ndim - 2), constant_values=fill) for a, fill in fields])
        origins += [(column + start, row + above, across, up) for column, row, across, up in view.origins]
        middles += [start + middle for middle in view.middles]
        start += view.nearest.shape[1] + gap
    joined = (np.concatenate(part, axis=1)[:, : start - gap] for part in zip(*parts, strict=True))
    corners, weights, nearest, relief = joined
    return View(corners, weights, nearest, relief, views[0].pixel_mm, tuple(origins), tuple(middles))


@cache
def view(name: str, pixel_mm: float) -> View:
    """Both hemispheres side by side.

    Parameters
    ----------
    name : str
        "flat": both flat maps, whole; "visual": the visual areas of the flat maps and around them; or the inflated
        hemispheres from a side of CAMERAS. Left is left but in "ventral", which is seen from below, front on top.
    """
    if name in ("flat", "visual"):
        boxes = [visual_box(side) if name == "visual" else None for side in (0, 1)]
        return _beside([_half(side, *flat_mesh(side), pixel_mm, boxes[side]) for side in (0, 1)], GAP_MM)
    halves = []
    for side in (0, 1):
        points, triangles = surface.mesh("inflated")[side]
        across, up = (np.array(axis, float) for axis in CAMERAS[name][side])
        turned = np.asarray(points, float) @ np.stack([across, up, np.cross(across, up)], 1)
        halves.append(_half(side, turned, np.asarray(triangles), pixel_mm))
    return _beside(halves[::-1] if name == "ventral" else halves, 4)


def flat_mesh(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A flat hemisphere (0: left, 1: right), seen from outside: (32492, 3) across, up, 0 (mm) and its triangles."""
    points, triangles = surface.mesh("flat")[side]
    return np.asarray(points, float)[:, [1, 2, 0]], np.asarray(triangles)


def visual_box(side: int, margin_mm: float = 12) -> Box:
    """Left, right, bottom, top (mm) of the visual areas on a flat hemisphere, with a margin where there is cortex."""
    atlas = surface.atlas()
    visual = atlas.vertex[(atlas.hemisphere == "LR"[side]) & (atlas.group != "rest")].to_numpy()
    points, triangles = flat_mesh(side)
    inner, outer = _bounds(points[np.intersect1d(visual, triangles)]), _bounds(points[np.unique(triangles)])
    left, bottom = (max(inner[i] - margin_mm, outer[i]) for i in (0, 2))
    right, top = (min(inner[i] + margin_mm, outer[i]) for i in (1, 3))
    return left, right, bottom, top


def paint(values: np.ndarray, seen: View) -> np.ndarray:
    """Put (59412,) values on a view: (h, w) float, NaN outside the cortex and where the nearest vertex has no value."""
    if np.shape(values) != (surface.VERTICES,):
        raise InputError(f"brain map: found values of shape {np.shape(values)}, expected ({surface.VERTICES},)")
    extended = np.append(np.asarray(values, np.float32), np.full(2, np.nan, np.float32))  # WALL, OUTSIDE: from the end
    at_corners, weights = extended[seen.corners], seen.weights
    known = np.isfinite(at_corners)
    if not known.all():
        at_corners, weights = np.where(known, at_corners, 0), np.where(known, weights, 0)
    with np.errstate(invalid="ignore"):
        mean = np.einsum("hwc,hwc->hw", at_corners, weights) / weights.sum(-1)
    mean[~np.isfinite(extended[seen.nearest])] = np.nan
    return mean


@cache
def _greys() -> np.ndarray:
    """Mean sulcal depth as greys, then those of WALL and OUTSIDE: (59412 + 2,) float32."""
    depth = surface.sulcal_depth()
    grey = 0.855 + 0.075 * np.tanh(1.6 * depth / np.std(depth))
    return np.append(grey, [0.95, np.nan]).astype(np.float32)


def _lowest(shown: ScalarMappable) -> float:
    """The value of the first colour."""
    assert isinstance(shown.norm.vmin, float)  # `scale` sets it
    return shown.norm.vmin


def picture(values: np.ndarray, seen: View, shown: ScalarMappable, lightness: float = 1.0) -> np.ndarray:
    """Colour (59412,) values over the relief: (h, w, 4) uint8, transparent outside the cortex."""
    painted = paint(values, seen)
    empty, inside = np.isnan(painted), np.isfinite(seen.relief)
    colours = shown.to_rgba(np.where(empty, _lowest(shown), painted), bytes=True)
    grey = 255 * seen.relief * np.where(seen.nearest == WALL, 1, lightness)
    shade = np.where(empty, grey, FOLDS * seen.relief / 0.93 + 1 - FOLDS)
    shade = np.nan_to_num(shade)[..., None]
    colours[..., :3] = np.where(empty[..., None], shade, colours[..., :3] * shade)
    colours[..., 3] = 255 * inside
    return colours


def borders(areas: tuple[str, ...], seen: View) -> list[np.ndarray]:
    """The borders of areas as smooth lines of (n, 2) pixels; where the cortex was cut there is none."""
    lines = []
    for _, row, column, inside, cortex in _regions(areas, seen):
        sigma = SMOOTH_MM / seen.pixel_mm
        share = gaussian_filter(inside.astype(np.float32), sigma)
        share /= np.maximum(gaussian_filter(cortex.astype(np.float32), sigma), 1e-6)
        found = contour_generator(z=np.ma.masked_array(share, ~cortex)).lines(0.5)
        lines += [line + np.array([column, row]) for line in found]
    return lines


def _regions(areas: tuple[str, ...], seen: View) -> Iterator[tuple[str, int, int, np.ndarray, np.ndarray]]:
    """Cut a part of the picture around every area of each hemisphere.

    Yields the area's name, the first row and column of the part, which of its pixels are the area's, which are cortex.
    """
    atlas = surface.atlas()
    number = atlas.area.map({area: 1 + i for i, area in enumerate(areas)}).fillna(0).to_numpy(int)
    number = np.where(number > 0, number + len(areas) * (atlas.hemisphere == "R"), 0)
    nearest = seen.nearest
    numbered = np.append(number, [0, 0])[nearest]
    margin = int(np.ceil(4 * SMOOTH_MM / seen.pixel_mm))
    for index, found in enumerate(find_objects(numbered)):
        if found is not None:
            rows, columns = (slice(max(s.start - margin, 0), s.stop + margin) for s in found)
            inside, cortex = numbered[rows, columns] == index + 1, nearest[rows, columns] != OUTSIDE
            yield areas[index % len(areas)], rows.start, columns.start, inside, cortex


def places(areas: tuple[str, ...], seen: View) -> list[tuple[str, float, float, float]]:
    """Where the names of areas stand: name, column, row, and how far from the area's border that is (pixels).

    An area that is seen in several parts has a name in every part that is at least a quarter of it.
    """
    found = []
    for name, row, column, inside, _ in _regions(areas, seen):
        parts, count = label(inside)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        for part in np.flatnonzero(sizes >= 0.25 * sizes.sum()):
            depth = distance_transform_edt(np.pad(parts == part + 1, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            found.append((name, float(column + x), float(row + y), float(depth.max())))
    return found


@cache
def _lines(name: str, pixel_mm: float, areas: tuple[str, ...]) -> tuple[list, list, list]:
    """Borders, places of names and outline of a view, the same for every map."""
    seen = view(name, pixel_mm)
    cortex = gaussian_filter(np.pad((seen.nearest != OUTSIDE).astype(np.float32), 2), 0.7)
    outline = [np.asarray(line) - 2 for line in contour_generator(z=cortex).lines(0.5)]
    return borders(areas, seen), places(areas, seen), outline


def spread(boxes: np.ndarray, rounds: int = 200) -> np.ndarray:
    """Push boxes apart until none overlaps: (n, 4) centre x, centre y, width, height -> (n, 2) centres."""
    centres, half = boxes[:, :2].copy(), boxes[:, 2:] / 2
    for _ in range(rounds):
        apart = centres[:, None] - centres[None]
        overlap = half[:, None] + half[None] - np.abs(apart)
        both = (overlap > 1e-9).all(-1) & ~np.eye(len(boxes), dtype=bool)
        if not both.any():
            break
        axis = overlap.argmin(-1)  # the way out is the shorter one
        away = np.where(np.take_along_axis(apart, axis[..., None], -1)[..., 0] >= 0, 1.0, -1.0)
        away = np.where((apart == 0).all(-1), np.sign(np.arange(len(boxes))[:, None] - np.arange(len(boxes))), away)
        push = np.where(both, 0.26 * away * overlap.min(-1), 0.0)
        for i in (0, 1):
            centres[:, i] += np.where(axis == i, push, 0.0).sum(1)
    return centres


def draw(
    axes: Axes,
    values: np.ndarray,
    name: str,
    pixel_mm: float,
    shown: ScalarMappable,
    *,
    areas: tuple[str, ...] = LANDMARKS,
    names: float | None = None,
    lightness: float = 1.0,
) -> None:
    """Draw (59412,) values on a `view`.

    Parameters
    ----------
    shown : ScalarMappable
        Norm and colour map.
    areas : tuple of str
        Whose borders are drawn.
    names : float
        Font size of the areas' names, pt; None: no names.
    lightness : float
        Of cortex without a value, at most 1.
    """
    seen = view(name, pixel_mm)
    lines, labels, outline = _lines(name, pixel_mm, areas)
    axes.imshow(picture(values, seen, shown, lightness), interpolation="antialiased")
    axes.add_collection(LineCollection(outline, colors=MUTED, linewidths=0.4))
    axes.add_collection(LineCollection(lines, colors="white", linewidths=1.1, alpha=0.5))  # to be seen on dark colours
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.5, capstyle="round"))
    axes.set_axis_off()
    if names:
        _write(axes, labels, names)


def _write(axes: Axes, labels: list[tuple[str, float, float, float]], size: float) -> None:
    """Write areas' names unless an area is too small; one that made room and left its area has a line to it."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes of a figure
    columns = figure.get_figwidth() * axes.get_position().width * 72  # pt
    per_pt = abs(np.subtract(*axes.get_xlim())) / columns
    labels = [found for found in labels if found[3] >= ROOM_PT * per_pt]
    sizes = [(per_pt * (0.7 * size * len(name) + 0.5), per_pt * 1.05 * size) for name, *_ in labels]
    boxes = np.array([(x, y, *size) for (_, x, y, _), size in zip(labels, sizes, strict=True)])
    halo = [withStroke(linewidth=1.3, foreground="white", alpha=0.9)]
    for (name, x, y, room), (at_x, at_y) in zip(labels, spread(boxes) if labels else (), strict=True):
        if np.hypot(at_x - x, at_y - y) > room:
            axes.plot([x, at_x], [y, at_y], color=INK, linewidth=0.4)
        axes.text(at_x, at_y, name, ha="center", va="center_baseline", fontsize=size, color=INK, path_effects=halo)


def scale(values: np.ndarray, *, cmap: str, centre: float | None = 0.0) -> ScalarMappable:
    """Colours for the finite values.

    Parameters
    ----------
    centre : float
        The middle of a diverging map, which then ends at the 99.9th percentile of the distance from it; None: a
        sequential map from the 1st to the 99th percentile.
    """
    finite = np.asarray(values, float)[np.isfinite(values)]
    if not finite.size:
        return ScalarMappable(Normalize(0, 1), colormaps[cmap])
    if centre is None:
        low, high = np.percentile(finite, [1, 99])
    else:
        far = np.percentile(np.abs(finite - centre), 99.9)
        low, high = centre - far, centre + far
    return ScalarMappable(Normalize(*((low, high) if high > low else (low - 0.5, low + 0.5))), colormaps[cmap])


def ratio_scale(values: np.ndarray) -> ScalarMappable:
    """Colours for positive ratios: 1 in the middle, twice as far from it as half; ends at the 99th percentile."""
    finite = np.asarray(values, float)[np.isfinite(values)]
    far = max(1.1, float(np.exp(np.percentile(np.abs(np.log(finite)), 99)))) if finite.size else 2.0
    return ScalarMappable(LogNorm(1 / far, far), colormaps["PuOr_r"])


def inset(whole: View) -> list[tuple[tuple[float, float], float, float]]:
    """Where the view "visual" lies in the view "flat": corner (column, row), width and height in pixels, per side."""
    boxes = []
    for side, (column, row, across, up) in enumerate(whole.origins):
        left, right, bottom, top = (length / whole.pixel_mm for length in visual_box(side))
        corner = (column + left - across / whole.pixel_mm, row - top + up / whole.pixel_mm)
        boxes.append((corner, right - left, top - bottom))
    return boxes
