"""Stage cotrain: tune encoder and generator together on a subject's fMRI-video pairs (MinD-Video 3.4)."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from mindreel import distributed
from mindreel.artifacts import atomic, load_array, save_table
from mindreel.device import precision, this_device
from mindreel.diffusion import objective
from mindreel.diffusion.video_generator import load_generator
from mindreel.errors import InputError
from mindreel.learning import loop
from mindreel.networks.fmri_encoder import FmriEncoder, sparsify, window_batch
from mindreel.sections import Cotrain, Encoder


def train(
    *,
    encoder: Path,
    generator: Path,
    model: Path,
    bold: Path,
    targets: list[Path],
    out: Path,
    scratch: Path,
    encoder_settings: Encoder,
    cfg: Cotrain,
) -> None:
    """Train the whole encoder and parts of the generator; the fMRI tokens take the place of the text's.

    Parameters
    ----------
    encoder : Path
        Folder of stage contrastive.
    generator : Path
        Folder of stage generator.
    model : Path
        Folder in Stable Diffusion's layout; read is scheduler/.
    bold : Path
        The subject's train.npy, (S, T, V) float32.
    targets : list of Path
        Folders of stage targets of the S rows, in that order.
    out : Path
        Folder: encoder/, unet/, history.tsv.
    scratch : Path
        Folder of the resume file.
    encoder_settings : Encoder
        Section encoder of the experiment.
    cfg : Cotrain
        Section cotrain of the experiment.
    """
    device, window = this_device(), (encoder_settings.window, encoder_settings.shift)
    scheduler = objective.training_scheduler(model)
    series = load_array(bold)
    fmri_encoder, video_generator = FmriEncoder.from_pretrained(encoder), load_generator(generator)
    clips = objective.Clips(targets, video_generator)
    _check(series, clips, fmri_encoder, encoder_settings)
    fmri_encoder.to(device)  # its dropout belongs to contrastive learning (MV supplement B) and stays off here
    video_generator.to(device).train_only(cfg.trained)
    if cfg.gradient_checkpointing:
        fmri_encoder.gradient_checkpointing = True
        video_generator.save_memory()
    optimizer = loop.adamw({fmri_encoder: cfg.encoder_lr_scale, video_generator: 1.0}, cfg.optimizer)
    settings = cfg.model_dump_json() + encoder_settings.model_dump_json()
    settings += loop.stamp(encoder, generator, bold, *targets)
    run = loop.Run(
        scratch, {"encoder": fmri_encoder, "unet": video_generator.trained()}, optimizer, cfg.optimizer, settings
    )
    empty = clips.empty.to(device)
    rows, encode, denoise = (
        distributed.share(cfg.optimizer.batch_size),
        distributed.parallel(fmri_encoder),
        distributed.parallel(video_generator),
    )
    for step in run.steps("cotrain"):
        rng = loop.step_rng(cfg.seed, step)
        loop.set_lr(optimizer, loop.cosine_lr(step + 0.5, cfg.optimizer))
        segment, volume = clips.draw(cfg.optimizer.batch_size, rng)  # (B,)
        seen = sparsify(window_batch(series, segment, volume, *window), cfg.sparsify, rng)  # (B, W, V)
        seen = forget(seen, cfg.mean_dropout, rng)[rows].to(device)
        latents = clips.gather(clips.latents, segment[rows], volume[rows]).to(device)  # (B / processes, F, C, h, w)
        with precision(device, cfg.precision):
            tokens = objective.replace_some(encode(seen), empty, cfg.condition_dropout, rng)  # (B / processes, L, D)
            loss = objective.objective(denoise, scheduler, latents, tokens, cfg.noise_beta)
        chosen = segment * clips.volumes + volume
        whole = loop.finite(distributed.average(loss), "loss", "cotrain", step, chosen)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(loop.weights(optimizer), cfg.optimizer.clip_grad)
        loop.finite(norm, "gradient norm", "cotrain", step, chosen)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.due(step):
            run.log(step, loss=whole.item(), lr=optimizer.param_groups[-1]["lr"])
    if distributed.rank() == 0:
        with atomic(out) as folder:
            fmri_encoder.save_pretrained(folder / "encoder")
            video_generator.save_pretrained(folder / "unet")
            save_table(folder / "history.tsv", run.table())
    run.finish()


def forget(bold: torch.Tensor, probability: float, rng: np.random.Generator) -> torch.Tensor:
    """Replace some windows by the mean fMRI: zeros, since stage roi gives every voxel mean 0 over the training data.

    From it the UNet learns to make any clip, as it does from the empty caption. Guidance away from a condition that it
    takes for the sight of one clip would push all others away from that clip.

    Parameters
    ----------
    bold : (B, W, V)
    """
    kept = torch.from_numpy(rng.random(len(bold)) >= probability)
    return bold * kept[:, None, None]


def _check(series: np.ndarray, clips: objective.Clips, fmri_encoder: FmriEncoder, settings: Encoder) -> None:
    """fMRI, targets and models must fit before anything is trained."""
    if series.shape[:2] != (len(clips.latents), clips.volumes):
        raise InputError(
            f"cotrain: found fMRI of (segments, volumes) {series.shape[:2]} and targets of "
            f"{(len(clips.latents), clips.volumes)}; "
            "give --targets once per training segment, in the sample sheet's order"
        )
    found = (
        fmri_encoder.config["voxels"],
        fmri_encoder.config["window"],
        fmri_encoder.config["tokens"],
        fmri_encoder.config["token_width"],
    )
    expected = (series.shape[2], settings.window, *clips.empty.shape)
    if found != expected:
        raise InputError(
            f"cotrain: the encoder has (voxels, window, tokens, token_width) {found}, expected {expected} from "
            "the fMRI, encoder.window and the empty caption's states; correct section encoder and rerun contrastive"
        )
