"""What frozen networks see in clips: class logits, CLIP embeddings, latents; and the motion between frames."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mindreel.device import this_device
from mindreel.networks.pretrained import frozen, processor
from mindreel.sections import Features


@dataclass(frozen=True)
class Network:
    """Names of its classes (none for an encoder), and the function from clips (N, F, H, W, 3) uint8 to features."""

    labels: list[str]
    features: Callable[[np.ndarray], np.ndarray]


def networks(
    image_classifier: Path | None,
    video_classifier: Path | None,
    clip: Path | None,
    diffusion: Path | None,
    cfg: Features,
) -> dict[str, Network]:
    """Load those networks that are given, by the name of what they tell: image, video, clip, latent."""
    loaders = {
        "image": (_image_classifier, image_classifier),
        "video": (_video_classifier, video_classifier),
        "clip": (_clip, clip),
        "latent": (_latents, diffusion),
    }
    return {name: load(folder, cfg) for name, (load, folder) in loaders.items() if folder is not None}


def describe(clips: np.ndarray, found: dict[str, Network], cfg: Features) -> dict[str, np.ndarray]:
    """All features of clips (N, F, H, W, 3) uint8, by name; flow only if there are two frames."""
    features = {name: network.features(clips) for name, network in found.items()}
    if clips.shape[1] > 1:
        features["flow"] = flow(clips, cfg.flow_side)
    return features


def flow(clips: np.ndarray, side: int) -> np.ndarray:
    """Dense optical flow from each frame to the next: iterative Lucas-Kanade (scikit-image's `optical_flow_ilk`).

    Parameters
    ----------
    clips : (N, F, H, W, 3) uint8
    side : int
        Height (pixels) to which the grey pictures are averaged first; smaller pictures stay as they are.

    Returns
    -------
    flow : (N, F - 1, 2, h, w) float32
        How far things move, downwards and to the right, in pixels of the clips as given.
    """
    from skimage.registration import optical_flow_ilk

    height, width = clips.shape[2:4]
    factor = max(1.0, height / side)
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    found = np.empty((len(clips), clips.shape[1] - 1, 2, *size), np.float32)
    for n, frames in enumerate(tqdm(clips, desc="optical flow", mininterval=2)):
        grey = [_grey(frame, size) for frame in frames]
        for i in range(len(grey) - 1):
            # three warps find what ten do on pictures this small
            found[n, i] = optical_flow_ilk(grey[i], grey[i + 1], num_warp=3, dtype=np.float32)
    return found * np.array([height / size[0], width / size[1]], np.float32)[:, None, None]


def _grey(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Luminance from 0 to 1, averaged to (h, w) float32."""
    from PIL import Image

    grey = Image.fromarray(np.ascontiguousarray(frame)).convert("F")
    if size != frame.shape[:2]:
        grey = grey.resize((size[1], size[0]), Image.Resampling.BOX)
    return np.asarray(grey) / np.float32(255)


def _image_classifier(folder: Path, cfg: Features) -> Network:
    """Every frame by itself: logits (N, F, C)."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    # Pillow's resizing everywhere: with torchvision installed the other backend would give slightly other scores
    prepare = processor(AutoImageProcessor, folder, "image_classifier", backend="pil")
    model = frozen(AutoModelForImageClassification, folder, "image_classifier")

    def logits(clips: np.ndarray) -> torch.Tensor:
        return model(_per_frame(prepare, clips)).logits.unflatten(0, clips.shape[:2])

    return Network(_labels(model), _batched(logits, cfg.batch_size, "image classifier"))


def _video_classifier(folder: Path, cfg: Features) -> Network:
    """Whole clips: logits (N, C). The F frames are repeated evenly to the number that the model takes."""
    from transformers import VideoMAEForVideoClassification, VideoMAEImageProcessorPil

    prepare = processor(VideoMAEImageProcessorPil, folder, "video_classifier")
    model = frozen(VideoMAEForVideoClassification, folder, "video_classifier")

    def logits(clips: np.ndarray) -> torch.Tensor:
        chosen = nearest_frames(clips.shape[1], model.config.num_frames)
        pixels = prepare([list(clip[chosen]) for clip in clips], return_tensors="pt")["pixel_values"]
        return model(pixels.to(this_device())).logits

    return Network(_labels(model), _batched(logits, cfg.batch_size, "video classifier"))


def _clip(folder: Path, cfg: Features) -> Network:
    """Every frame by itself: image embeddings of norm 1, (N, F, E)."""
    from transformers import CLIPImageProcessorPil, CLIPModel

    prepare = processor(CLIPImageProcessorPil, folder, "clip")
    model = frozen(CLIPModel, folder, "clip")

    def embeddings(clips: np.ndarray) -> torch.Tensor:
        found = model.get_image_features(pixel_values=_per_frame(prepare, clips)).pooler_output
        return torch.nn.functional.normalize(found.float(), dim=-1).unflatten(0, clips.shape[:2])

    return Network([], _batched(embeddings, cfg.batch_size, "CLIP"))


def _latents(folder: Path, cfg: Features) -> Network:
    """The middle frame's posterior mean, flattened: (N, D)."""
    from diffusers import AutoencoderKL

    vae = frozen(AutoencoderKL, folder / "vae", "stable_diffusion")

    def latents(clips: np.ndarray) -> torch.Tensor:
        middle = torch.from_numpy(np.array(clips[:, clips.shape[1] // 2])).to(this_device())
        return vae.encode(middle.permute(0, 3, 1, 2).float().div(127.5).sub(1)).latent_dist.mode().flatten(1)

    return Network([], _batched(latents, cfg.batch_size, "latents"))


def nearest_frames(frames: int, wanted: int) -> np.ndarray:
    """For each of `wanted` moments, evenly spread over a clip, the frame shown then: (wanted,) int."""
    return ((np.arange(wanted) + 0.5) * frames / wanted).astype(int)


def _per_frame(prepare: Callable, clips: np.ndarray) -> torch.Tensor:
    frames = list(np.ascontiguousarray(clips).reshape(-1, *clips.shape[2:]))
    return prepare(frames, return_tensors="pt")["pixel_values"].to(this_device())


def _batched(function: Callable, size: int, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The function of a batch of clips as one of all clips: float32 arrays."""

    @torch.inference_mode()
    def run(clips: np.ndarray) -> np.ndarray:
        starts = tqdm(range(0, len(clips), size), desc=name, mininterval=2)
        return np.concatenate([function(clips[start : start + size]).float().cpu().numpy() for start in starts])

    return run


def _labels(model: Any) -> list[str]:
    return [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
