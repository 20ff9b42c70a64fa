"""Stage generator: inflate Stable Diffusion to video and tune its attention with captions (MinD-Video 3.4)."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import nn

from mindreel import distributed
from mindreel.artifacts import atomic, save_table
from mindreel.device import precision, this_device
from mindreel.diffusion import objective, sampler
from mindreel.diffusion.video_generator import VideoGenerator, make_generator
from mindreel.learning import loop
from mindreel.sections import Generator, Sampling

SHEET_CLIPS = 4  # of the sample sheet, spread over the training clips
SHEET = {"scheduler": "DPMSolverMultistepScheduler", "steps": 15, "guidance_scale": 5.0}  # enough to look at


def train(*, model: Path, targets: list[Path], out: Path, scratch: Path, cfg: Generator) -> None:
    """Tune the video generator on the training segments' latents and captions.

    Parameters
    ----------
    model : Path
        Folder in Stable Diffusion's layout: unet/ (which may also be a released MinD-Video one), scheduler/, vae/.
    targets : list of Path
        Folders of stage targets of the training segments.
    out : Path
        Folder of the generator, history.tsv, and samples.png: a few training clips as the VAE shows them, and below
        each what the tuned generator makes of its caption.
    scratch : Path
        Folder of the resume file.
    cfg : Generator
        Section generator of the experiment.
    """
    device = this_device()
    scheduler = objective.training_scheduler(model)
    vae = sampler.load_vae(model)
    torch.manual_seed(cfg.seed)  # of the new temporal attention
    video_generator = make_generator(model, cfg)
    clips = objective.Clips(targets, video_generator)
    video_generator.to(device).train_only(cfg.trained)
    optimizer = loop.adamw({video_generator: 1.0}, cfg.optimizer)
    settings = cfg.model_dump_json() + loop.stamp(model, *targets)
    run = loop.Run(scratch, {"unet": video_generator.trained()}, optimizer, cfg.optimizer, settings)
    empty = clips.empty.to(device)
    rows, parallel = distributed.share(cfg.optimizer.batch_size), distributed.parallel(video_generator)
    for step in run.steps("generator"):
        rng = loop.step_rng(cfg.seed, step)
        loop.set_lr(optimizer, loop.cosine_lr(step + 0.5, cfg.optimizer))
        segment, volume = clips.draw(cfg.optimizer.batch_size, rng)  # (B,)
        latents = clips.gather(clips.latents, segment[rows], volume[rows]).to(device)  # (B / processes, F, C, h, w)
        states = clips.gather(clips.states, segment[rows], volume[rows]).to(device)  # (B / processes, L, D)
        states = objective.replace_some(states, empty, cfg.condition_dropout, rng)
        with precision(device):
            loss = objective.objective(parallel, scheduler, latents, states, cfg.noise_beta, cfg.min_snr_gamma)
        chosen = segment * clips.volumes + volume
        whole = loop.finite(distributed.average(loss), "loss", "generator", step, chosen)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(loop.weights(optimizer), cfg.optimizer.clip_grad)
        loop.finite(norm, "gradient norm", "generator", step, chosen)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.due(step):
            run.log(step, loss=whole.item(), lr=optimizer.param_groups[0]["lr"])
    if distributed.rank() == 0:
        with atomic(out) as folder:
            video_generator.save_pretrained(folder)
            save_table(folder / "history.tsv", run.table())
            Image.fromarray(sample_sheet(video_generator, vae, model, clips, cfg)).save(folder / "samples.png")
    run.finish()


@torch.inference_mode()
def sample_sheet(
    video_generator: VideoGenerator, vae: AutoencoderKL, model: Path, clips: objective.Clips, cfg: Generator
) -> np.ndarray:
    """Draw a few training clips and, below each, a sample from its caption: (2 clips H, F W, 3) uint8, frames in a row.

    The true clips went through the VAE, so that what differs between two rows is the generator's.
    """
    device = this_device()
    chosen = np.linspace(0, len(clips) - 1, min(SHEET_CLIPS, len(clips))).astype(int)
    place = np.divmod(chosen, clips.volumes)
    true = clips.gather(clips.latents, *place).to(device)  # (B, F, C, h, w)
    states, empty = clips.gather(clips.states, *place).to(device), clips.empty[None].to(device)
    settings = Sampling(
        **SHEET, eta=0, negative="null-condition", noise_beta=cfg.noise_beta, batch_size=len(chosen), seed=cfg.seed
    )

    def prediction(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return sampler.predict(video_generator, latents, timestep, states, empty, settings.guidance_scale)

    noise = [sampler.clip_generator(cfg.seed, "", clip) for clip in chosen]
    scheduler = sampler.make_scheduler(model, settings.scheduler)
    made = sampler.denoise(prediction, scheduler, tuple(true.shape[1:]), noise, settings, device)
    rows = np.stack([sampler.decode(vae, true), sampler.decode(vae, made)], 1)  # (B, 2, F, H, W, 3)
    return np.concatenate([np.concatenate(row, 1) for row in rows.reshape(-1, *rows.shape[2:])])
