"""The micro classifiers: what is on a frame, and what moves how in a clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from mindreel.small_world import drawing
from mindreel.small_world.micro_clips import (
    FRAMES,
    HALF_MEAN,
    HALF_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIDE,
    Clips,
    normalise,
    random_frames,
    render_clips,
    to_pixels,
)
from mindreel.small_world.micro_training import fit

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

WIDTH = 128  # of their layers


def train_image_classifier(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train a ViT to name object and colour of a frame.

    Parameters
    ----------
    out : Path
        Folder of the zoo; the model goes to `image-classifier` in it.
    seed : int
        Of the weights and the training clips; held-out clips have the next one.
    steps : int
        Steps of training.

    Returns
    -------
    quality : dict
        `accuracy` on held-out frames, and the number of `classes`.
    """
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    names = drawing.IMAGE_CLASSES
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
            patch_size=8, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        )
    )  # fmt: skip

    def batch(clips: Clips, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, clip = random_frames(clips, rng, count)
        labels = [names.index(f"{clips.scenes[i].colour} {clips.scenes[i].object}") for i in clip]
        return normalise(pixels, HALF_MEAN, HALF_STD), torch.tensor(labels)

    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _train_classifier(model, batch, processor, out / "image-classifier", seed, steps, 64)


def train_video_classifier(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train VideoMAE to name object and motion of a clip.

    Parameters
    ----------
    out : Path
        Folder of the zoo; the model goes to `video-classifier` in it.
    seed : int
        Of the weights and the training clips; held-out clips have the next one.
    steps : int
        Steps of training.

    Returns
    -------
    quality : dict
        `accuracy` on held-out clips, and the number of `classes`.
    """
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessorPil

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    names = drawing.VIDEO_CLASSES
    model = VideoMAEForVideoClassification(
        VideoMAEConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
            patch_size=16, num_frames=FRAMES, tubelet_size=2, id2label=dict(enumerate(names)),
            label2id={n: i for i, n in enumerate(names)},
        )
    )  # fmt: skip

    def batch(clips: Clips, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        clip = rng.integers(len(clips.frames), size=count)
        pixels = to_pixels(clips.frames[clip].reshape(-1, SIDE, SIDE, 3)).reshape(count, FRAMES, 3, SIDE, SIDE)
        labels = [names.index(f"{clips.scenes[i].object} {drawing.MOTIONS[clips.scenes[i].motion]}") for i in clip]
        return normalise(pixels, IMAGENET_MEAN, IMAGENET_STD), torch.tensor(labels)

    processor = VideoMAEImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD),
    )  # fmt: skip
    return _train_classifier(model, batch, processor, out / "video-classifier", seed, steps, 48)


def _train_classifier(
    model: PreTrainedModel,
    batch: Callable[[Clips, int], tuple[torch.Tensor, torch.Tensor]],
    processor: BaseImageProcessor,
    folder: Path,
    seed: int,
    steps: int,
    size: int,
) -> dict[str, float]:
    """Train on batches of `size` pixels and labels, judge on 500 held-out ones, save to a folder."""
    data = render_clips(4000, seed)

    def loss_of(step: int) -> torch.Tensor:
        pixels, labels = batch(data, size)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixel_values=pixels).logits
        return F.cross_entropy(logits.float(), labels)

    fit(model, loss_of, steps, 1.5e-3, folder.name)
    model.eval()
    with torch.no_grad():
        pixels, labels = batch(render_clips(500, seed + 1), 500)
        accuracy = (model(pixel_values=pixels).logits.argmax(1) == labels).float().mean().item()
    for part in (model.half(), processor):
        part.save_pretrained(folder)
    return {"accuracy": accuracy, "classes": model.config.num_labels}
