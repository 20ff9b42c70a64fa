"""From noise to clips: the sampling loop that the generator's sample sheet and stage sampling share.

paper                                    here
adversarial guidance (MinD-Video Eq. 6)  predict
any diffusers scheduler, by name         make_scheduler, denoise
(segment movies, not the papers')         overlapping_windows
"""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin

from mindreel.device import precision
from mindreel.diffusion import objective
from mindreel.diffusion.conditioning import Source
from mindreel.errors import InputError
from mindreel.networks.pretrained import frozen
from mindreel.sections import Sampling

DECODED = 48  # frames decoded at once

Prediction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # latents (B, F, C, h, w), timestep -> the same shape


def make_scheduler(model: Path, name: str) -> SchedulerMixin:
    """Any diffusers scheduler by class name, with the noise schedule of a Stable Diffusion folder.

    Raises
    ------
    InputError
        If there is none of this name, or it is not one that leads from noise to latents by a schedule of betas
        (flow matching, discrete tokens, ...).
    """
    kind, advice = (
        getattr(diffusers, name, None),
        "expected for example "
        + ", ".join(
            (
                "DDIMScheduler",
                "DPMSolverMultistepScheduler",
                "UniPCMultistepScheduler",
                "EulerAncestralDiscreteScheduler",
            )
        ),
    )
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise InputError(f"sampling.scheduler: diffusers has no scheduler {name!r}; {advice}")
    settings = inspect.signature(kind).parameters
    steps = list(inspect.signature(kind.step).parameters.values())[1:] if hasattr(kind, "step") else []
    needed = [p.name for p in steps if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if not {"beta_schedule", "prediction_type"} <= set(settings) or needed != ["model_output", "timestep", "sample"]:
        raise InputError(f"sampling.scheduler: {name} does not fit Stable Diffusion's noise schedule; {advice}")
    try:
        return objective.load_scheduler(model, kind)
    except (TypeError, ValueError) as error:
        raise InputError(f"sampling.scheduler: {name} refuses {model}/scheduler ({error}); {advice}") from error


def load_vae(model: Path) -> AutoencoderKL:
    """The decoder of a Stable Diffusion folder, frozen, float32, on the device."""
    return frozen(AutoencoderKL, Path(model) / "vae", "stable_diffusion").to(memory_format=torch.channels_last)


def clip_generator(seed: int, subject: str, clip: int, sample_number: int = 1) -> torch.Generator:
    """Make the generator of a clip's own noise (CPU).

    What it yields depends on these four only: not on the clips that share the batch, the job or the run.

    Parameters
    ----------
    subject : str
        The subject's name; "" where there is none.
    clip : int
        Its number among all test clips.
    sample_number : int
        1 for the first sample of the clip, 2 for the second, ...
    """
    entropy = (seed, int(clip), sample_number, *subject.encode())
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def make_clips(
    source: Source,
    vae: AutoencoderKL,
    scheduler: SchedulerMixin,
    clips: np.ndarray,
    subject: str,
    sample_number: int,
    cfg: Sampling,
) -> np.ndarray:
    """Sample clips by their numbers (B,): frames (B, F, H, W, 3) uint8."""
    noise = [clip_generator(cfg.seed, subject, clip, sample_number) for clip in clips]
    with torch.inference_mode():
        positive = source.states(clips)

        def prediction(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return predict(source.generator, latents, timestep, positive, source.negative, cfg.guidance_scale)

        latents = denoise(prediction, scheduler, source.shape, noise, cfg, positive.device)
        return decode(vae, latents)


def predict(
    generator: objective.Prediction,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """One guided prediction; both conditions go through the UNet in one forward, the negative first as in diffusers.

    Parameters
    ----------
    latents : (B, F, C, h, w)
        Scaled as the scheduler asks.
    positive : (B, L, D)
    negative : (1, L, D)
        None: no guidance, and half the work.
    scale : float
        Guidance scale.

    Returns
    -------
    (B, F, C, h, w) float32
    """
    with precision(latents.device):
        if negative is None:
            return generator(latents, timestep, positive).float()
        states = torch.cat([negative.expand_as(positive), positive])
        both = generator(torch.cat([latents, latents]), timestep, states)
    return objective.guide(both.float(), scale)


def denoise(
    prediction: Prediction,
    scheduler: SchedulerMixin,
    shape: tuple[int, ...],
    generators: list[torch.Generator],
    cfg: Sampling,
    device: torch.device,
) -> torch.Tensor:
    """Sample latents.

    Parameters
    ----------
    prediction : Prediction
        What the UNet says of latents at a timestep, guided.
    shape : (F, C, h, w)
        Of one clip.
    generators : list of Generator
        One per clip, on the CPU (`clip_generator`).
    cfg : Sampling
        Steps, eta and noise_beta are used.

    Returns
    -------
    (B, F, C, h, w) float32
    """

    def draw() -> torch.Tensor:
        noise = [objective.clip_noise((1, *shape), cfg.noise_beta, generator) for generator in generators]
        return torch.cat(noise).to(device)

    scheduler.set_timesteps(cfg.steps, device=device)  # also forgets the previous batch
    accepted = inspect.signature(scheduler.step).parameters
    options: dict[str, Any] = {"eta": cfg.eta} if "eta" in accepted else {}
    dependent = "variance_noise" in accepted and cfg.eta > 0
    if "generator" in accepted and not dependent:
        options["generator"] = generators
    latents = draw() * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        guided = prediction(scheduler.scale_model_input(latents, timestep), timestep)
        if dependent:
            options["variance_noise"] = draw()
        latents = scheduler.step(guided, timestep, latents, **options).prev_sample
    return latents


def overlapping_windows(
    generator: objective.Prediction,
    positive: torch.Tensor,
    negative: torch.Tensor | None,
    scale: float,
    overlap: int,
    batch_size: int,
    remembered: Callable[[int, Callable[[], torch.Tensor]], torch.Tensor] = lambda _, make: make(),
) -> Prediction:
    """Predict successive clips as one movie: by overlapping windows of a clip's length, blended in latent space.

    At every step each window is predicted by itself, and where windows overlap their predictions are averaged with
    weights that rise towards a window's middle. A window's condition is interpolated linearly between those of the
    volumes it lies between. With overlap 0 the windows are the clips: the movie is cut at every volume.

    Parameters
    ----------
    positive : (T, L, D)
        The conditions of T successive volumes.
    negative : (1, L, D)
        Or None.
    overlap : int
        Frames that neighbouring windows share, 0 to F - 1.
    batch_size : int
        Windows predicted at once.
    remembered : callable
        Is given, for each batch in turn, the number of windows and what predicts them; returns the prediction.

    Returns
    -------
    A prediction for latents (T, F, C, h, w), as `denoise` asks.
    """

    def prediction(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        volumes, frames = latents.shape[:2]
        movie = latents.flatten(0, 1)  # (T F, C, h, w)
        starts = window_starts(volumes, frames, overlap)
        weight = tent(frames).to(movie)
        total, weights = torch.zeros_like(movie), movie.new_zeros(len(movie))
        for batch in starts.split(batch_size):
            place = batch[:, None] + torch.arange(frames)  # (B, F)
            whole, share = batch // frames, (batch % frames / frames).to(positive)[:, None, None]
            after = (whole + 1).clamp(max=volumes - 1)
            states = torch.lerp(positive[whole], positive[after], share)
            one = partial(predict, generator, movie[place], timestep, states, negative, scale)
            made = remembered(len(batch), one).to(movie.device)
            place = place.flatten().to(movie.device)
            total.index_add_(0, place, (made * weight[:, None, None, None]).flatten(0, 1))
            weights.index_add_(0, place, weight.repeat(len(batch)))
        return (total / weights[:, None, None, None]).unflatten(0, (volumes, frames))

    return prediction


def window_starts(volumes: int, frames: int, overlap: int) -> torch.Tensor:
    """First frame of every window over T volumes of F frames: F - overlap apart, the last one at the very end."""
    last = (volumes - 1) * frames
    return torch.tensor([*range(0, last, frames - overlap), last])


def tent(frames: int) -> torch.Tensor:
    """Weights (F,) of a window's frames: 1 at its ends, rising by 1 per frame towards the middle."""
    rising = torch.arange(1, frames + 1)
    return torch.minimum(rising, rising.flip(0)).float()


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> np.ndarray:
    """Latents (B, F, C, h, w) -> frames (B, F, H, W, 3) uint8, rounded and clipped."""
    scaled = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last) / vae.config.scaling_factor
    frames = torch.cat([_pixels(vae.decode(part).sample) for part in scaled.split(DECODED)])
    return frames.permute(0, 2, 3, 1).unflatten(0, latents.shape[:2]).numpy()


def _pixels(decoded: torch.Tensor) -> torch.Tensor:
    """From -1 to 1 -> 0 to 255, uint8, on the CPU."""
    return ((decoded + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8).cpu()
