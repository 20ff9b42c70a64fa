"""Stage generator: inflate Stable Diffusion to video and tune its attention with captions (MinD-Video 3.4)."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from mindreel import denoising, diffusion, training
from mindreel.artifacts import atomic, save_table
from mindreel.config import Generator, Sampling
from mindreel.unet import VideoUNet, inflate

SHEET_CLIPS = 4  # of the sample sheet, spread over the training clips
SHEET = {"scheduler": "DPMSolverMultistepScheduler", "steps": 15, "guidance_scale": 5.0}  # enough to look at


def train(*, model: Path, targets: list[Path], out: Path, scratch: Path, cfg: Generator) -> None:
    """Tune the inflated UNet on the training segments' cached latents and caption states.

    `model` is a Stable Diffusion folder (unet/, scheduler/, vae/) whose unet/ may also be a released MinD-Video one,
    `targets` the training segments' folders, `out` becomes a folder: the video UNet, history.tsv, and samples.png:
    a few training clips as the VAE shows them, and below each what the tuned UNet makes of its caption.
    """
    where = training.device()
    scheduler = diffusion.training_scheduler(model)
    vae = denoising.load_vae(model)
    torch.manual_seed(cfg.seed)  # of the new temporal attention
    unet = inflate(model / "unet", cfg.attention, cfg.norm_over, cfg.frame_positions)
    clips = diffusion.Clips(targets, unet)
    unet.to(where).train_only(cfg.trained)
    optimizer = training.adamw({unet: 1.0}, cfg.optimizer)
    settings = cfg.model_dump_json() + training.stamp(model, *targets)
    run = training.Run(scratch, {"unet": unet.trained()}, optimizer, cfg.optimizer, settings)
    empty = clips.empty.to(where)
    mine, parallel = training.share(cfg.optimizer.batch_size), training.parallel(unet)
    for step in run.steps("generator"):
        rng = training.step_rng(cfg.seed, step)
        segment, volume = clips.draw(cfg.optimizer.batch_size, rng)  # (B,)
        latents = clips.gather(clips.latents, segment[mine], volume[mine]).to(where)  # (B / processes, F, C, h, w)
        states = clips.gather(clips.states, segment[mine], volume[mine]).to(where)  # (B / processes, L, D)
        states = diffusion.replace_some(states, empty, cfg.condition_dropout, rng)
        with training.precision(where):
            loss = diffusion.objective(parallel, scheduler, latents, states, cfg.noise_beta, cfg.min_snr_gamma)
        loss = training.update(optimizer, loss, cfg.optimizer, step, "generator", segment * clips.volumes + volume)
        if run.due(step):
            run.log(step, loss=loss.item(), lr=optimizer.param_groups[0]["lr"])
    if training.number() == 0:
        with atomic(out) as folder:
            unet.save_pretrained(folder)
            save_table(folder / "history.tsv", run.table())
            Image.fromarray(sample_sheet(unet, vae, model, clips, cfg)).save(folder / "samples.png")
    run.finish()


@torch.inference_mode()
def sample_sheet(
    unet: VideoUNet, vae: AutoencoderKL, model: Path, clips: diffusion.Clips, cfg: Generator
) -> np.ndarray:
    """Draw a few training clips and, below each, a sample from its caption: (2 clips H, F W, 3) uint8, frames in a row.

    The true clips went through the VAE, so that what differs between two rows is the generator's.
    """
    where = training.device()
    chosen = np.linspace(0, len(clips) - 1, min(SHEET_CLIPS, len(clips))).astype(int)
    place = np.divmod(chosen, clips.volumes)
    true = clips.gather(clips.latents, *place).to(where)  # (B, F, C, h, w)
    states, empty = clips.gather(clips.states, *place).to(where), clips.empty[None].to(where)
    settings = Sampling(
        **SHEET, eta=0, negative="null-condition", noise_beta=cfg.noise_beta, batch_size=len(chosen), seed=cfg.seed
    )

    def prediction(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return denoising.predict(unet, latents, timestep, states, empty, settings.guidance_scale)

    noise = [denoising.clip_generator(cfg.seed, "", clip) for clip in chosen]
    scheduler = denoising.make_scheduler(model, settings.scheduler)
    made = denoising.denoise(prediction, scheduler, tuple(true.shape[1:]), noise, settings, where)
    rows = np.stack([denoising.decode(vae, true), denoising.decode(vae, made)], 1)  # (B, 2, F, H, W, 3)
    return np.concatenate([np.concatenate(row, 1) for row in rows.reshape(-1, *rows.shape[2:])])
