"""What tuning and sampling of the video generator share: training clips, noise, the objective, guidance.

paper                                    here
epsilon_theta(z_t, c), its training      objective
min-SNR-gamma (Hang 2023)                min_snr_weights
adversarial guidance (MinD-Video Eq. 6)  guide
dependent noise (NeuroCine)              clip_noise
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch.nn import functional as F

from mindreel import distributed
from mindreel.artifacts import load_array
from mindreel.diffusion.video_generator import VideoGenerator
from mindreel.errors import InputError

Prediction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # as `VideoGenerator.__call__`
PREDICTIONS = ("epsilon", "v_prediction", "sample")
HINT = "rerun targets, or correct fetch.stable_diffusion"


class Clips:
    """Latents and caption states of segments, memory-mapped; clip n is volume n % T of segment n // T.

    Parameters
    ----------
    folders : list of Path
        One folder of stage targets per segment.
    generator : VideoGenerator
        What they must fit.

    Raises
    ------
    InputError
        If latents or states do not fit the generator or one another.
    """

    def __init__(self, folders: list[Path], generator: VideoGenerator):
        self.latents = [load_array(Path(folder) / "latents.npy") for folder in folders]  # (T, F, C, h, w) each
        self.states = [load_array(Path(folder) / "states.npy") for folder in folders]  # (T, L, D) each
        self.empty = torch.from_numpy(np.array(load_array(Path(folders[0]) / "empty.npy"), np.float32))  # (L, D)
        self.volumes = len(self.latents[0])
        shape = self.latents[0].shape
        for folder, latents, states in zip(folders, self.latents, self.states, strict=True):
            if latents.shape != shape or latents.ndim != 5 or latents.shape[2] != generator.latent_channels:
                expected = f"(volumes, frames, {generator.latent_channels}, height, width), the same in all segments"
                raise InputError(f"{folder}/latents.npy: found shape {latents.shape}, expected {expected}; {HINT}")
            wanted = (self.volumes, len(self.empty), generator.condition_width)
            if states.shape != wanted:
                raise InputError(f"{folder}/states.npy: found shape {states.shape}, expected {wanted}; {HINT}")

    def __len__(self) -> int:
        return len(self.latents) * self.volumes

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw clips, all different where there are enough: segment (B,) and volume (B,) int."""
        chosen = rng.choice(len(self), count, replace=count > len(self))
        return chosen // self.volumes, chosen % self.volumes

    def gather(self, arrays: list[np.ndarray], segment: np.ndarray, volume: np.ndarray) -> torch.Tensor:
        """Rows of `latents` or `states`: (B, ...) float32."""
        rows = [arrays[s][v] for s, v in zip(segment, volume, strict=True)]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def load_scheduler(model: Path, kind: type[SchedulerMixin]) -> SchedulerMixin:
    """Make a scheduler with the noise schedule of a Stable Diffusion folder, whatever class wrote it."""
    if not (Path(model) / "scheduler" / "scheduler_config.json").exists():
        raise InputError(f"{model}: no scheduler/scheduler_config.json; correct fetch.stable_diffusion")
    scheduler = kind.from_pretrained(model, subfolder="scheduler")
    if (found := scheduler.config.get("prediction_type")) not in PREDICTIONS:
        raise InputError(
            f"{model}/scheduler: found prediction_type {found!r}, expected one of "
            f"{', '.join(PREDICTIONS)}; correct fetch.stable_diffusion"
        )
    return scheduler


def training_scheduler(model: Path) -> DDPMScheduler:
    """Make the scheduler that adds noise in training."""
    return load_scheduler(model, DDPMScheduler)


def clip_noise(
    shape: tuple[int, ...], beta: float, generator: torch.Generator | None = None, device: torch.device | None = None
) -> torch.Tensor:
    """Draw noise that the frames of a clip share in part (NeuroCine's dependent prior noise).

    eps_j = sqrt(beta) eps_shared + sqrt(1 - beta) eps_j', so that every value has variance 1 and the same place of
    two frames correlation beta. The order of draws does not depend on beta.

    Parameters
    ----------
    shape : (B, F, C, h, w)
    beta : float
        Shared part of the variance, 0 to 1.

    Returns
    -------
    (B, F, C, h, w) float32
    """
    own = torch.randn(shape, generator=generator, device=device)
    if beta == 0:
        return own
    shared = torch.randn((shape[0], 1, *shape[2:]), generator=generator, device=device)
    return beta**0.5 * shared + (1 - beta) ** 0.5 * own


def replace_some(
    states: torch.Tensor, empty: torch.Tensor, probability: float, rng: np.random.Generator
) -> torch.Tensor:
    """Replace the condition of some clips by the empty caption's, so that guidance has something to push away from.

    Parameters
    ----------
    states : (B, L, D)
        This process's clips.
    empty : (L, D)

    Returns
    -------
    (B, L, D)
    """
    replaced = distributed.own_rows(lambda count: torch.from_numpy(rng.random(count) < probability), len(states))
    replaced = replaced.to(states.device)
    return torch.where(replaced[:, None, None], empty, states)


def min_snr_weights(scheduler: DDPMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights of the loss at timesteps, so that those of little noise do not outweigh the others (Hang 2023, Eq. 8).

    With the signal-to-noise ratio s = alpha / (1 - alpha): min(s, gamma) for the error of the predicted clip, which is
    min(s, gamma) / s for that of the noise and min(s, gamma) / (s + 1) for that of v.

    Parameters
    ----------
    timesteps : (B,) int

    Returns
    -------
    (B,) float32
    """
    alpha = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    ratio = alpha / (1 - alpha)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (gamma / ratio).clamp(max=1)  # also where nothing of the signal is left
        case "v_prediction":
            return ratio.clamp(max=gamma) / (ratio + 1)
        case _:
            return ratio.clamp(max=gamma)


def objective(
    predict: Prediction,
    scheduler: DDPMScheduler,
    latents: torch.Tensor,
    states: torch.Tensor,
    noise_beta: float,
    min_snr_gamma: float | None = None,
) -> torch.Tensor:
    """Mean squared error of the prediction at random timesteps; noise and timesteps from torch's seeded state.

    Parameters
    ----------
    latents : (B, F, C, h, w) float32
        This process's clips.
    states : (B, L, D)
    min_snr_gamma : float
        Weigh timesteps by `min_snr_weights`; None: all alike.

    Returns
    -------
    () float32
    """
    batch, *shape = latents.shape
    device, last = latents.device, scheduler.config.num_train_timesteps
    noise = distributed.own_rows(lambda count: clip_noise((count, *shape), noise_beta, device=device), batch)
    timesteps = distributed.own_rows(lambda count: torch.randint(last, (count,), device=device), batch)
    predicted = predict(scheduler.add_noise(latents, noise, timesteps), timesteps, states)
    match scheduler.config.prediction_type:
        case "epsilon":
            wanted = noise
        case "v_prediction":
            wanted = scheduler.get_velocity(latents, noise, timesteps)
        case "sample":
            wanted = latents
    if min_snr_gamma is None:
        return F.mse_loss(predicted.float(), wanted)
    errors = (predicted.float() - wanted).square().flatten(1).mean(1)
    return (errors * min_snr_weights(scheduler, timesteps, min_snr_gamma)).mean()


def guide(prediction: torch.Tensor, scale: float) -> torch.Tensor:
    """Combine the two predictions of one forward: negative + scale (positive - negative) (Eq. 6).

    Parameters
    ----------
    prediction : (2 B, ...)
        The negative condition's first.

    Returns
    -------
    (B, ...)
    """
    negative, positive = prediction.chunk(2)
    return torch.lerp(negative, positive, scale)
