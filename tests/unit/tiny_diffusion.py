"""A Stable Diffusion folder, targets, fMRI and an encoder at toy size, with random weights of the real classes."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from mindreel.networks.fmri_encoder import FmriEncoder
from mindreel.sections import Encoder, Optimizer

FRAMES, CHANNELS, SIDE, TOKENS, WIDTH, VOXELS = 6, 4, 8, 5, 12, 40
ENCODER = Encoder(window=2, shift=1, tokens=TOKENS, token_width=WIDTH)


def optimizer(steps: int, lr: float = 1e-3, batch_size: int = 4) -> Optimizer:
    """Constant-ish training settings."""
    return Optimizer(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        warmup=0,
        weight_decay=0.0,
        betas=(0.9, 0.99),
        clip_grad=1.0,
        checkpoint_s=1000,
    )


def stock_unet(seed: int = 0) -> UNet2DConditionModel:
    """A UNet with attention at both levels, every parameter random (a fresh one predicts zero)."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return unet.eval()


def scheduler(**changes: object) -> DDIMScheduler:
    """Stable Diffusion 1.5's."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        **changes,
    )


def stable_diffusion(folder: Path) -> Path:
    """unet/, vae/ (a factor of 2) and scheduler/."""
    stock_unet().save_pretrained(folder / "unet")
    scheduler().save_pretrained(folder / "scheduler")
    torch.manual_seed(0)
    vae = AutoencoderKL(
        latent_channels=CHANNELS,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    vae.save_pretrained(folder / "vae")
    return folder


def targets(folder: Path, segments: int, volumes: int) -> list[Path]:
    """Random latents and states."""
    rng = np.random.default_rng(1)
    empty = rng.standard_normal((TOKENS, WIDTH)).astype(np.float16)
    folders = [folder / f"seg{number}" for number in range(1, segments + 1)]
    for segment in folders:
        segment.mkdir(parents=True)
        latents = rng.standard_normal((volumes, FRAMES, CHANNELS, SIDE, SIDE))
        np.save(segment / "latents.npy", latents.astype(np.float16))
        np.save(segment / "states.npy", rng.standard_normal((volumes, TOKENS, WIDTH)).astype(np.float16))
        np.save(segment / "empty.npy", empty)
    return folders


def bold(path: Path, segments: int, volumes: int, seed: int = 2, mean: float = 0.0) -> Path:
    """Random fMRI (S, T, V)."""
    rng = np.random.default_rng(seed)
    np.save(path, rng.normal(mean, 1, (segments, volumes, VOXELS)).astype(np.float32))
    return path


def encoder(folder: Path) -> Path:
    """A random fMRI encoder."""
    torch.manual_seed(3)
    size = {"voxels": VOXELS, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "mlp_ratio": 1.0}
    FmriEncoder(**size, window=2, tokens=TOKENS, token_width=WIDTH, dropout=0.1).save_pretrained(folder)
    return folder
