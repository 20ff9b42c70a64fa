"""What a video generator has to offer, and where one comes from.

Stages, objective and sampler know generators by this contract only. To use another network, write a class that keeps
it, and return it from `make_generator` and `load_generator` (docs/adding.md).
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from mindreel.networks.video_unet import VideoUNet, inflate
from mindreel.sections import Generator


@runtime_checkable
class VideoGenerator(Protocol):
    """A network that predicts the noise in a clip's latents; in all else a `torch.nn.Module`."""

    @property
    def latent_channels(self) -> int:
        """C of the latents (B, F, C, h, w) that it takes."""
        ...

    @property
    def condition_width(self) -> int:
        """D of the conditions (B, L, D) that it takes; any number of tokens L."""
        ...

    def __call__(self, latents: torch.Tensor, timesteps: torch.Tensor | int, states: torch.Tensor) -> torch.Tensor:
        """Predict the noise, or what the scheduler's `prediction_type` says.

        Parameters
        ----------
        latents : (B, F, C, h, w) float
            Noisy, as the scheduler scales them.
        timesteps : int or (B,) int
            Int or (B,) int Of the noise schedule.
        states : (B, L, D) float
            The condition of each clip.

        Returns
        -------
        (B, F, C, h, w) float
        """
        ...

    def train_only(self, parts: tuple[str, ...]) -> None:
        """Freeze all but the parts of these names (`generator.trained`, `cotrain.trained`)."""
        ...

    def trained(self) -> nn.Module:
        """The parts that `train_only` left trainable, shared with this network: what a resume file holds."""
        ...

    def save_memory(self) -> None:
        """Keep few activations in training, and compute them again in the backward pass."""
        ...

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder that `load_generator` reads."""
        ...


def make_generator(model: Path, cfg: Generator) -> VideoUNet:
    """Make the generator that is tuned with captions, from a pretrained image or video model.

    Parameters
    ----------
    model : Path
        Folder in Stable Diffusion's layout; read is unet/, which may also be one released with MinD-Video.
    cfg : Generator
        How it becomes a video generator.

    Returns
    -------
    VideoGenerator
        New weights (the temporal attention's) are drawn from torch's seeded state.
    """
    return inflate(Path(model) / "unet", cfg.attention, cfg.norm_over, cfg.frame_positions)


def load_generator(folder: Path) -> VideoUNet:
    """Read a generator that stage generator or cotrain saved: a VideoGenerator, float32, on the CPU."""
    return VideoUNet.from_pretrained(folder)
