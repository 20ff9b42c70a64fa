"""The small world: short scenes of one coloured object moving over a background.

The demo data set and the micro models of `resources/zoo` are made from it. A scene is four words and three numbers, so
that everything about it (its caption, its classes, what the cortex should respond to) is known exactly. Every motion
runs once per volume (2 s) and starts anew with the next one.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image, ImageDraw

OBJECTS = ("circle", "square", "triangle", "star", "heart", "cross", "fish", "bird", "car", "house", "tree", "boat")
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 220, 50),
    "green": (40, 160, 60),
    "blue": (45, 85, 215),
    "purple": (140, 60, 170),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
BACKGROUNDS = {
    "sky": "in the sky",
    "sea": "on the sea",
    "grass": "on the grass",
    "desert": "in the desert",
    "night": "in the night",
    "brick": "before a brick wall",
}
MOTIONS = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "growing": "growing",
    "spinning": "spinning",
}
# An object is never drawn in a colour that disappears in its background.
UNSEEN = {
    ("blue", "sky"), ("white", "sky"), ("blue", "sea"), ("green", "sea"), ("green", "grass"), ("yellow", "desert"),
    ("orange", "desert"), ("black", "night"), ("blue", "night"), ("purple", "night"), ("red", "brick"),
    ("orange", "brick"),
}  # fmt: skip
CYCLE_S = 2.0  # one motion, start to end
TRAVEL = 0.36  # how far a moving object goes in one cycle, as a share of the picture's width
SUPERSAMPLE = 3  # drawn larger, then scaled down with Lanczos


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes
    ----------
    object, colour, background, motion : str
        Of OBJECTS, COLOURS, BACKGROUNDS, MOTIONS.
    x, y : float
        The object's mean centre, as shares of the picture's width.
    size : float
        The object's half width, as a share of the picture's width.
    """

    object: str
    colour: str
    background: str
    motion: str
    x: float = 0.5
    y: float = 0.5
    size: float = 0.28

    @property
    def caption(self) -> str:
        """The scene in words."""
        return f"a {self.colour} {self.object} {MOTIONS[self.motion]} {BACKGROUNDS[self.background]}"


KINDS = tuple(k for k in product(OBJECTS, COLOURS, BACKGROUNDS, MOTIONS) if (k[1], k[2]) not in UNSEEN)
IMAGE_CLASSES = tuple(f"{colour} {thing}" for thing, colour in product(OBJECTS, COLOURS))
VIDEO_CLASSES = tuple(f"{thing} {MOTIONS[motion]}" for thing, motion in product(OBJECTS, MOTIONS))


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: every combination of words equally likely, position and size jittered a little."""
    kind = KINDS[rng.integers(len(KINDS))]
    x, y = rng.uniform(0.47, 0.53, 2)
    return Scene(*kind, x=float(x), y=float(y), size=float(rng.uniform(0.26, 0.30)))


def _unit(points: list[tuple[float, float]]) -> np.ndarray:
    return np.array(points, float)


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """Corners of a regular polygon or, with `inner` < 1, of a star; the first one points up."""
    count = corners if inner == 1.0 else 2 * corners
    angle = np.arange(count) * 2 * np.pi / count - np.pi / 2
    radius = np.where(np.arange(count) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2], 1) / 16


def _ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], 1)


def _box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return _unit([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


# Each object: polygons within [-1, 1]^2 and the paint of each: "colour", "dark" (details) or "light".
# Every object has a detail off its centre, which shows that it spins.
SHAPES: dict[str, list[tuple[str, np.ndarray]]] = {
    "circle": [("colour", _ellipse(0, 0, 0.95, 0.95)), ("light", _ellipse(-0.35, -0.4, 0.25, 0.25))],
    "square": [("colour", _box(-0.85, -0.85, 0.85, 0.85)), ("light", _box(-0.6, -0.6, -0.15, -0.15))],
    "triangle": [("colour", _regular(3) * 1.1 + [0, 0.2]), ("light", _ellipse(0, -0.25, 0.18, 0.18))],
    "star": [("colour", _regular(5, 0.42) * 1.1), ("light", _ellipse(0, -0.5, 0.15, 0.15))],
    "heart": [("colour", _heart()), ("light", _ellipse(-0.5, -0.35, 0.2, 0.2))],
    "cross": [
        ("colour", _box(-0.32, -1, 0.32, 1)),
        ("colour", _box(-1, -0.32, 1, 0.32)),
        ("light", _ellipse(0, -0.7, 0.17, 0.17)),
    ],
    "fish": [
        ("colour", _ellipse(-0.2, 0, 0.8, 0.5)),
        ("colour", _unit([(0.4, 0), (1, -0.6), (1, 0.6)])),
        ("light", _ellipse(-0.6, -0.12, 0.17, 0.17)),
        ("dark", _ellipse(-0.62, -0.12, 0.08, 0.08)),
    ],
    "bird": [
        ("colour", _ellipse(0.05, 0.3, 0.6, 0.4)),
        ("colour", _ellipse(-0.55, -0.1, 0.32, 0.32)),
        ("colour", _unit([(-0.2, 0.2), (0.9, -0.95), (0.55, 0.35)])),
        ("dark", _unit([(-0.82, -0.2), (-1.1, 0.0), (-0.8, 0.05)])),
        ("light", _ellipse(-0.6, -0.18, 0.1, 0.1)),
    ],
    "car": [
        ("colour", _box(-1, -0.1, 1, 0.45)),
        ("colour", _unit([(-0.65, -0.1), (-0.35, -0.6), (0.35, -0.6), (0.65, -0.1)])),
        ("light", _unit([(-0.42, -0.12), (-0.25, -0.45), (0.0, -0.45), (0.0, -0.12)])),
        ("dark", _ellipse(-0.55, 0.48, 0.26, 0.26)),
        ("dark", _ellipse(0.55, 0.48, 0.26, 0.26)),
    ],
    "house": [
        ("colour", _box(-0.75, -0.15, 0.75, 0.9)),
        ("dark", _unit([(-1, -0.15), (0, -1), (1, -0.15)])),
        ("light", _box(-0.5, 0.1, -0.1, 0.5)),
        ("dark", _box(0.15, 0.3, 0.5, 0.9)),
    ],
    "tree": [
        ("dark", _box(-0.16, 0.2, 0.16, 1)),
        ("colour", _ellipse(0, -0.55, 0.5, 0.45)),
        ("colour", _ellipse(-0.4, -0.05, 0.5, 0.42)),
        ("colour", _ellipse(0.4, -0.05, 0.5, 0.42)),
    ],
    "boat": [
        ("colour", _unit([(-1, 0.3), (1, 0.3), (0.6, 0.85), (-0.6, 0.85)])),
        ("dark", _box(-0.06, -1, 0.06, 0.3)),
        ("light", _unit([(0.12, -0.95), (0.12, 0.15), (0.8, 0.15)])),
        ("colour", _unit([(-0.12, -0.7), (-0.12, 0.15), (-0.65, 0.15)])),
    ],
}


def _background(name: str, side: int) -> Image.Image:
    """Paint a background; always the same picture, so that its texture says nothing about the scene."""
    y, x = np.mgrid[0:side, 0:side] / side
    if name == "sky":
        rgb = _blend(y, (95, 165, 235), (190, 225, 250))
        for cx, cy, r in ((0.2, 0.22, 0.13), (0.75, 0.35, 0.15), (0.35, 0.8, 0.12)):
            cloud = np.exp(-(((x - cx) / (1.6 * r)) ** 2 + ((y - cy) / (0.7 * r)) ** 2) * 1.5)[..., None]
            rgb = rgb * (1 - cloud) + 255 * cloud
    elif name == "sea":
        rgb = (
            _blend(y, (20, 120, 150), (10, 60, 110))
            + 22 * np.sin(2 * np.pi * (5 * y + 0.12 * np.sin(4 * np.pi * x)))[..., None]
        )
    elif name == "grass":
        rgb = _blend(y, (120, 190, 80), (60, 130, 45)) + 18 * np.sin(2 * np.pi * (5 * x + 0.3 * y))[..., None]
    elif name == "desert":
        dune = np.sin(2 * np.pi * (2.0 * y + 0.25 * np.sin(2 * np.pi * x)))[..., None]
        rgb = _blend(y, (238, 205, 145), (215, 165, 95)) + 16 * dune
    elif name == "night":
        rgb = _blend(y, (12, 12, 40), (35, 30, 80))
        for cx, cy in (
            (0.12, 0.15),
            (0.4, 0.1),
            (0.82, 0.2),
            (0.15, 0.55),
            (0.9, 0.6),
            (0.25, 0.88),
            (0.7, 0.85),
            (0.6, 0.08),
        ):
            star = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 0.014**2))[..., None]
            rgb = rgb * (1 - star) + 255 * star
    elif name == "brick":
        row = np.floor(y * 5)
        mortar = (np.abs(y * 5 - row) < 0.12) | (np.abs((x * 3 + 0.5 * (row % 2)) % 1.0) < 0.06)
        rgb = np.where(mortar[..., None], (205, 190, 175), (150, 75, 55)).astype(float)
    else:
        raise ValueError(f"background: found {name!r}, expected one of {', '.join(BACKGROUNDS)}")
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


def _blend(y: np.ndarray, top: tuple, bottom: tuple) -> np.ndarray:
    return np.array(top, float) * (1 - y[..., None]) + np.array(bottom, float) * y[..., None]


_canvases: dict[tuple[str, int], Image.Image] = {}


def pose(scene: Scene, time_s: float) -> tuple[float, float, float, float]:
    """Say where the object is: x, y, half width (shares of the width) and angle (rad), `time_s` after the start."""
    phase = (time_s % CYCLE_S) / CYCLE_S - 0.5
    dx = {"left": -TRAVEL, "right": TRAVEL}.get(scene.motion, 0.0) * phase
    dy = {"up": -TRAVEL, "down": TRAVEL}.get(scene.motion, 0.0) * phase
    size = scene.size * (1 + 0.9 * phase if scene.motion == "growing" else 1.0)
    return scene.x + dx, scene.y + dy, size, np.pi * phase if scene.motion == "spinning" else 0.0


def _motion_lines(motion: str, x: float, y: float, size: float) -> list[np.ndarray]:
    """Make lines by which a still shows the motion: a trail, rays or arcs; (points, 2) each."""
    if motion in ("left", "right", "up", "down"):
        lines = [np.array([(1.1, off), (1.45, off)]) for off in (-0.5, 0.0, 0.5)]  # behind an object that moves left
        turn = {"left": (1, 0), "right": (-1, 0), "up": (0, 1), "down": (0, -1)}[motion]
        axes = np.array([turn, (turn[1], turn[0])], float)
        lines = [line @ axes for line in lines]
    elif motion == "growing":
        lines = [np.array([(0.95, 0.95), (1.2, 1.2)]) * [sx, sy] for sx in (-1, 1) for sy in (-1, 1)]
    else:
        arc = np.deg2rad(np.linspace(-35, 35, 9))
        lines = [1.3 * np.stack([np.cos(arc + start), np.sin(arc + start)], 1) for start in (0, np.pi)]
    return [line * size + [x, y] for line in lines]


def draw(scene: Scene, time_s: float, side: int) -> np.ndarray:
    """Draw the scene at one moment.

    Parameters
    ----------
    scene : Scene
        What to draw.
    time_s : float
        Seconds after the scene's start.
    side : int
        Side of the picture (pixels).

    Returns
    -------
    frame : ndarray of shape (side, side, 3), uint8
        RGB.
    """
    big = side * SUPERSAMPLE
    key = (scene.background, big)
    if key not in _canvases:
        _canvases[key] = _background(*key)
    image = _canvases[key].copy()
    pen = ImageDraw.Draw(image)
    x, y, size, angle = pose(scene, time_s)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    colour = COLOURS[scene.colour]
    paint = {
        "colour": colour,
        "dark": (45, 40, 40) if scene.colour != "black" else (120, 120, 120),
        "light": (250, 250, 235) if scene.colour != "white" else (120, 160, 200),
    }
    edge = (30, 30, 30) if scene.background != "night" and scene.colour != "black" else (225, 225, 225)
    for line in _motion_lines(scene.motion, x, y, size):
        pen.line([tuple(p) for p in line * big], fill=edge, width=2 * SUPERSAMPLE)
    outlines = [(name, (polygon @ turn * size + [x, y]) * big) for name, polygon in SHAPES[scene.object]]
    for _, polygon in outlines:
        closed = [tuple(p) for p in polygon] + [tuple(polygon[0])]
        pen.line(closed, fill=edge, width=2 * SUPERSAMPLE, joint="curve")
    for name, polygon in outlines:
        pen.polygon([tuple(p) for p in polygon], fill=paint[name])
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def clip(scene: Scene, fps: float, side: int, seconds: float = CYCLE_S) -> np.ndarray:
    """Draw a scene from its start; frame i shows the middle of its 1 / fps interval.

    Parameters
    ----------
    scene : Scene
        What to draw.
    fps : float
        Frames per second.
    side : int
        Side of the picture (pixels).
    seconds : float
        Length of the clip.

    Returns
    -------
    frames : ndarray of shape (F, side, side, 3), uint8
        RGB.
    """
    times = (np.arange(round(seconds * fps)) + 0.5) / fps
    return np.stack([draw(scene, t, side) for t in times])


def storyboard(volumes: int, rng: np.random.Generator, shortest: int = 2, longest: int = 4) -> list[Scene]:
    """Draw a movie's scenes; two in a row share neither object nor background, so that every cut can be seen.

    Parameters
    ----------
    volumes : int
        Length of the movie (volumes).
    rng : Generator
        Source of the random numbers.
    shortest, longest : int
        Length of a scene (volumes).

    Returns
    -------
    scenes : list of Scene
        One entry per volume.
    """
    scenes: list[Scene] = []
    while len(scenes) < volumes:
        scene = random_scene(rng)
        if scenes and (scene.object == scenes[-1].object or scene.background == scenes[-1].background):
            continue
        scenes += [scene] * int(rng.integers(shortest, longest + 1))
    return scenes[:volumes]
