"""The micro autoencoder: 64 x 64 pixels to 8 x 8 x 8 latents and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from mindreel.small_world.micro_clips import FRAMES, SIDE, Clips, render_clips, to_pixels
from mindreel.small_world.micro_training import fit

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

LATENT_CHANNELS = 8
LATENT_SIDE = SIDE // 8


def train_vae(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train the autoencoder on single frames: L1, structural similarity and a small KL divergence.

    Parameters
    ----------
    out : Path
        Folder of the zoo; the VAE goes to `stable-diffusion/vae` in it.
    seed : int
        Of the weights and the training clips; held-out clips have the next one.
    steps : int
        Steps of training; from the middle on the encoder stays as it is.

    Returns
    -------
    quality : dict
        `ssim_rgb_uniform7` and `l1` of held-out frames.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = render_clips(4000, seed).frames.reshape(-1, SIDE, SIDE, 3)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=SIDE,
    ).to(memory_format=torch.channels_last)
    freeze_at = steps // 2  # from there on only the decoder learns

    def loss_of(step: int) -> torch.Tensor:
        pixels = to_pixels(data[rng.integers(len(data), size=24)])
        with torch.autocast("cpu", torch.bfloat16):
            if step < freeze_at:
                posterior = vae.encode(pixels).latent_dist
                latents, kl = posterior.sample(), posterior.kl().mean()
            else:
                with torch.no_grad():
                    latents, kl = vae.encode(pixels).latent_dist.mode(), torch.zeros(())
            decoded = vae.decode(latents).sample.float()
        return F.l1_loss(decoded, pixels) + 0.25 * (1 - ssim_uniform7(decoded, pixels)) + 1e-6 * kl.float()

    fit(vae, loss_of, steps, 1.5e-3, "vae")
    held_out = to_pixels(render_clips(64, seed + 1).frames[:, ::3].reshape(-1, SIDE, SIDE, 3))
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(held_out).latent_dist.mode()
        vae.register_to_config(scaling_factor=float(1 / latents.std()))
        decoded = vae.decode(latents).sample.clamp(-1, 1)
    quality = {"ssim_rgb_uniform7": ssim_uniform7(decoded, held_out).item(), "l1": F.l1_loss(decoded, held_out).item()}
    vae.half().save_pretrained(out / "stable-diffusion" / "vae")
    return quality


def ssim_uniform7(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean SSIM (Wang et al. 2004) of pictures (N, C, H, W) in [-1, 1], uniform 7 x 7 window: a scalar."""
    mean_a, mean_b = F.avg_pool2d(a, 7, 1), F.avg_pool2d(b, 7, 1)
    var_a = F.avg_pool2d(a * a, 7, 1) - mean_a**2
    var_b = F.avg_pool2d(b * b, 7, 1) - mean_b**2
    cov = F.avg_pool2d(a * b, 7, 1) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    score = ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return score.mean()


@torch.no_grad()
def latents_of(vae: AutoencoderKL, clips: Clips) -> torch.Tensor:
    """Encode N clips: (N, F, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE) float32, scaled to unit variance."""
    frames = clips.frames.reshape(-1, SIDE, SIDE, 3)
    parts = [vae.encode(to_pixels(frames[i : i + 96])).latent_dist.mode() for i in range(0, len(frames), 96)]
    scaled = torch.cat(parts).mul(vae.config.scaling_factor)
    return scaled.reshape(-1, FRAMES, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
