"""Clips of the small world that the micro models learn from, and their pixels as networks take them."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from mindreel.small_world import drawing

SIDE = 64  # pixels
FPS = 3.0
FRAMES = 6  # of a clip
Channels = tuple[float, float, float]
CLIP_MEAN: Channels = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Channels = (0.26862954, 0.26130258, 0.27577711)
HALF_MEAN: Channels = (0.5, 0.5, 0.5)
HALF_STD: Channels = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Clips:
    """Clips of the small world.

    Attributes
    ----------
    frames : ndarray of shape (N, F, H, W, 3), uint8
        Pixels.
    scenes : list of Scene
        What the N clips show.
    """

    frames: np.ndarray
    scenes: list[drawing.Scene]

    @property
    def captions(self) -> list[str]:
        """The caption of each clip."""
        return [scene.caption for scene in self.scenes]


def render_clips(count: int, seed: int) -> Clips:
    """Render `count` random scenes, FRAMES frames each."""
    rng = np.random.default_rng(seed)
    scenes = [drawing.random_scene(rng) for _ in range(count)]
    frames = np.stack([drawing.clip(s, FPS, SIDE) for s in tqdm(scenes, desc="drawing clips", leave=False)])
    return Clips(frames, scenes)


def to_pixels(frames: np.ndarray) -> torch.Tensor:
    """Scale (N, H, W, 3) uint8 frames to (N, 3, H, W) float32 in [-1, 1]."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    return pixels.div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def normalise(pixels: torch.Tensor, mean: Channels, std: Channels) -> torch.Tensor:
    """Turn pixels in [-1, 1] into what a model's image processor makes of the same picture: (..., 3, H, W)."""
    centre, scale = (torch.tensor(values).reshape(3, 1, 1) for values in (mean, std))
    return ((pixels + 1) / 2 - centre) / scale


def random_frames(clips: Clips, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, np.ndarray]:
    """Draw frames of random clips.

    Returns
    -------
    pixels : Tensor of shape (count, 3, H, W), float32
        In [-1, 1].
    clip : ndarray of shape (count,), int
        The clip that each frame is from.
    """
    clip = rng.integers(len(clips.frames), size=count)
    return to_pixels(clips.frames[clip, rng.integers(FRAMES, size=count)]), clip
