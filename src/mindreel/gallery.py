"""The report's gallery: which clips are shown, and how they are put into the page."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SMALLEST = 160  # pixels: smaller frames are enlarged by a whole factor, for display only
SEAM = 4  # white pixels between two panels


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


def side_by_side(panels: list[np.ndarray]) -> np.ndarray:
    """Put clips (F, H, W, 3) uint8 beside each other on white, enlarged if small: (F, h, w, 3) uint8, h and w even."""
    height = panels[0].shape[1]
    factor = -(-SMALLEST // height) if height < SMALLEST else 1
    enlarged = [np.stack([_enlarge(frame, factor) for frame in panel]) for panel in panels]
    seam = np.full((*enlarged[0].shape[:2], SEAM, 3), 255, np.uint8)
    pieces = [piece for panel in enlarged for piece in (panel, seam)][:-1]
    joined = np.concatenate(pieces, axis=2)
    odd = [(0, joined.shape[axis] % 2) for axis in (1, 2)]
    return np.pad(joined, ((0, 0), *odd, (0, 0)), constant_values=255)


def _enlarge(frame: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return frame
    size = (frame.shape[1] * factor, frame.shape[0] * factor)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def mp4(frames: np.ndarray, fps: float) -> bytes:
    """Encode (F, H, W, 3) uint8 as H.264, which every browser plays."""
    from fractions import Fraction

    import av

    buffer = BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": "24", "preset": "slow", "tune": "animation"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def jpeg(frame: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 as JPEG."""
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def webp(path: Path) -> tuple[bytes, int, int]:
    """Re-encode a PNG figure as WebP, a quarter of the size; also its width and height (pixels)."""
    buffer = BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=88, method=4)
        return buffer.getvalue(), *image.size


def data_uri(content: bytes, kind: str) -> str:
    """Put a file into a data: address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
