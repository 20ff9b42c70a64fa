"""The report's gallery: which clips are shown, and how they are put into the page."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mindreel.controls import MODEL
from mindreel.reporting.labels import condition_label
from mindreel.reporting.scores import Result, true_clip
from mindreel.scoring import statistics
from mindreel.sections import Report
from mindreel.video import encode_h264

SMALLEST = 160  # pixels: smaller frames are enlarged by a whole factor, for display only
SEAM = 4  # white pixels between two panels
ACROSS = 2  # panels in a row: what was seen and what was made of it, then the controls
OPENING = 6  # clips above the report's text
POSTER = 2  # a still is this much smaller than its film
SEEN = "seen"
KINDS = ("image", "video")  # the classifiers


# ---------------------------------------------------------------------------------------------------- which clips


def cards(
    results: list[Result], true: list[np.ndarray], captions: list[list[str]], cfg: Report, tr_s: float
) -> list[dict]:
    """Make the gallery: `cfg.clips` clips, as many of each experiment and subject, in mixed order (`mixed`).

    Of each the best, worst and median clip by every leading metric, as far as there is room; the others are spread
    evenly over the ranking by the first metric.

    Parameters
    ----------
    true : list of array
        Frames of every test segment, (T, F, H, W, 3) uint8.
    captions : list of list[str]
        Captions of every clip.
    tr_s : float
        Seconds of a volume.
    """
    columns = []
    for result in results:
        placed = ranks(result)
        clips = chosen(result, placed, max(1, cfg.clips // len(results)))
        columns.append([card(result, placed, n, true_clip(true, n), captions[n], cfg, tr_s) for n in clips])
    longest = max(len(column) for column in columns)
    return [column[i] for i in range(longest) for column in columns if i < len(column)]


def opening(results: list[Result], true: list[np.ndarray], captions: list[list[str]], cfg: Report) -> list[dict]:
    """Choose the clips that the page opens with: OPENING of the first experiment, evenly from best to worst.

    Subjects take turns. Each is a film of what was seen (left) and the reconstruction (right).

    Parameters
    ----------
    results : list of Result
        As of `cards`.
    true : list of (T, F, H, W, 3) uint8
        Frames of every test segment.
    captions : list of list of str
        Captions of every clip.
    cfg : Report
        Playing speed.
    """
    first = [result for result in results if result.experiment == results[0].experiment]
    total = len(ranks(first[0]))
    films = []
    for n, rank in enumerate(spread_ranks(total, OPENING)):
        result = first[n % len(first)]
        by_rank = ranks(result)[result.metrics[0]].sort_values().index
        clip = int(by_rank[rank])
        film = grid([true_clip(true, clip), np.asarray(result.arrays[MODEL][clip])])
        films.append(
            {
                "subject": result.subject,
                "caption": captions[clip][0],
                "rank": int(rank) + 1,
                "of": total,
                "width": film.shape[2],
                "height": film.shape[1],
                "video": data_uri(mp4(film, cfg.fps), "video/mp4"),
                "poster": data_uri(still(film[len(film) // 2]), "image/webp"),
            }
        )
    return films


def ranks(result: Result) -> pd.DataFrame:
    """Rank of every clip (rows) by every metric (columns): 1 is the best; equal clips in the movie's order."""
    own = result.clips[result.clips.condition == MODEL].sort_values("clip").set_index("clip")
    metrics = [name for name in result.all_metrics if name in own.columns]
    placed = {
        name: own[name].rank(ascending=statistics.lower_is_better(name), method="first", na_option="bottom")
        for name in metrics
    }
    return pd.DataFrame(placed).astype(int)


def chosen(result: Result, placed: pd.DataFrame, count: int) -> list[int]:
    """Numbers of the clips to show, mixed from best to worst by the first metric."""
    leading, total = [name for name in result.metrics if name in placed.columns], len(placed)
    first = placed[leading[0]]
    extremes = [int(placed.index[placed[name] == rank][0]) for rank in (1, total, (total + 1) // 2) for name in leading]
    extremes = list(dict.fromkeys(extremes))[: count // 2]
    by_rank = first.sort_values().index
    spread = mixed([int(by_rank[rank]) for rank in spread_ranks(total, count)])
    kept = [*extremes, *(clip for clip in spread if clip not in extremes)][:count]
    return mixed(sorted(kept, key=lambda clip: int(first[clip])))


def card(
    result: Result, placed: pd.DataFrame, clip: int, seen: np.ndarray, captions: list[str], cfg: Report, tr_s: float
) -> dict:
    """One clip of the gallery: its film (what was seen, the reconstruction, every control), scores, ranks, classes."""
    panels = {SEEN: seen, **{name: np.asarray(array[clip]) for name, array in result.arrays.items()}}
    film = grid(list(panels.values()))
    rows = result.clips[result.clips["clip"] == clip].set_index("condition")
    row = rows.loc[MODEL]
    classes = result.classes[result.classes["clip"] == clip].set_index("condition")
    return {
        "experiment": result.experiment,
        "subject": result.subject,
        "clip": clip,
        "place": f"{row.segment}, {row.volume * tr_s:g} s",
        "of": len(placed),
        "captions": captions,
        "scores": {name: _number(row[name]) for name in placed.columns},
        "ranks": {name: int(placed.loc[clip, name]) for name in placed.columns},
        "conditions": [_condition(name, result.metrics, rows, classes) for name in panels],
        "width": film.shape[2],
        "height": film.shape[1],
        "first_row": enlargement(seen.shape[1]) * seen.shape[1],
        "rows": -(-len(panels) // ACROSS),
        "video": data_uri(mp4(film, cfg.fps), "video/mp4"),
        "poster": data_uri(still(film[len(film) // 2]), "image/webp"),
    }


def _condition(name: str, metrics: list[str], rows: pd.DataFrame, classes: pd.DataFrame) -> dict:
    """What was seen or a condition: its label, scores by the leading metrics and best classes."""
    label = {SEEN: SEEN, MODEL: "from fMRI"}.get(name) or condition_label(name)
    classifiers = [kind for kind in KINDS if kind in classes.columns]
    best = {kind: classes[kind].get("true" if name == SEEN else name) for kind in classifiers}
    return {
        "label": label,
        "scores": [_number(rows.loc[name, metric]) if name in rows.index else None for metric in metrics],
        "classes": [str(value) if isinstance(value, str) else "–" for value in best.values()],
    }


def _number(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return round(float(value), 6) if np.isfinite(value) else None


def spread_ranks(count: int, shown: int) -> np.ndarray:
    """Ranks of the clips to show, evenly from the best (0) to the worst (count - 1): (min(count, shown),) int."""
    return np.unique(np.linspace(0, count - 1, min(count, shown)).round().astype(int))


def mixed(ranked: list) -> list:
    """Reorder best-to-worst into best, middle, worst, second best, … so that any beginning is a fair sample."""
    low, high = len(ranked) // 3, len(ranked) - len(ranked) // 3
    parts = [ranked[:low], ranked[low:high], ranked[high:][::-1]]
    middle = len(parts[1]) // 2
    parts[1] = parts[1][middle:] + parts[1][:middle]
    longest = max(len(part) for part in parts)
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


# ---------------------------------------------------------------------------------------------------- films


def enlargement(height: int) -> int:
    """By how much frames of this height (pixels) are enlarged, a whole number."""
    return max(1, -(-SMALLEST // height))


def grid(panels: list[np.ndarray]) -> np.ndarray:
    """Put clips (F, H, W, 3) uint8 on white, two in a row, enlarged if small: (F, h, w, 3) uint8, h and w even."""
    factor = enlargement(panels[0].shape[1])
    enlarged = [np.stack([_enlarge(frame, factor) for frame in panel]) for panel in panels]
    frames, height, width, _ = enlarged[0].shape
    rows = -(-len(enlarged) // ACROSS)
    size = [n * length + (n - 1) * SEAM for n, length in ((rows, height), (min(ACROSS, len(enlarged)), width))]
    whole = np.full((frames, *(length + length % 2 for length in size), 3), 255, np.uint8)
    for place, panel in enumerate(enlarged):
        row, column = divmod(place, ACROSS)
        top, left = row * (height + SEAM), column * (width + SEAM)
        whole[:, top : top + height, left : left + width] = panel
    return whole


def _enlarge(frame: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return frame
    size = (frame.shape[1] * factor, frame.shape[0] * factor)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def mp4(frames: np.ndarray, fps: float) -> bytes:
    """Encode (F, H, W, 3) uint8 as H.264, which every browser plays."""
    buffer = BytesIO()
    encode_h264(buffer, frames, fps, {"crf": "27", "preset": "medium", "tune": "animation"}, threads=1)
    return buffer.getvalue()


def still(frame: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 as a smaller WebP."""
    buffer = BytesIO()
    size = (frame.shape[1] // POSTER, frame.shape[0] // POSTER)
    Image.fromarray(frame).resize(size, Image.Resampling.BOX).save(buffer, "WEBP", quality=70)
    return buffer.getvalue()


def webp(path: Path) -> tuple[bytes, int, int]:
    """Re-encode a PNG figure as WebP, a quarter of the size; also its width and height (pixels)."""
    buffer = BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=82, method=4)
        return buffer.getvalue(), *image.size


def data_uri(content: bytes, kind: str) -> str:
    """Put a file into a data: address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def text_uri(text: str, kind: str = "text/plain") -> str:
    """Put a text file into a data: address."""
    return data_uri(text.encode(), f"{kind};charset=utf-8")
