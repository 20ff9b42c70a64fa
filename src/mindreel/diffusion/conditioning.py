"""What sampling is told about each clip: tokens from fMRI or from a caption, and what guidance pushes away from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mindreel.artifacts import load_array
from mindreel.device import this_device
from mindreel.diffusion import fmri_controls, objective
from mindreel.diffusion.video_generator import VideoGenerator, load_generator
from mindreel.errors import InputError
from mindreel.networks.fmri_encoder import FmriEncoder
from mindreel.sections import Encoder, Sampling


@dataclass(frozen=True)
class Source:
    """A generator and its conditions; clips are numbered segment by segment, clip = segment * volumes + volume.

    Parameters
    ----------
    generator : VideoGenerator
        On its device.
    states : fmri_controls.States
        Clip numbers (B,) -> conditions (B, L, D) on the device.
    negative : (1, L, D)
        What guidance pushes away from; None: no guidance.
    shape : (F, C, h, w)
        Of a clip's latents.
    segments, volumes : int
        Of the test set.
    """

    generator: VideoGenerator
    states: fmri_controls.States
    negative: torch.Tensor | None
    shape: tuple[int, ...]
    segments: int
    volumes: int


def from_fmri(
    cotrained: Path, bold: Path, train_bold: Path, empty: Path, encoder: Encoder, cfg: Sampling, control: str = "fmri"
) -> Source:
    """Co-trained encoder and generator; the conditions are encoded windows of the test fMRI.

    Parameters
    ----------
    cotrained : Path
        Folder with encoder/ and unet/.
    bold, train_bold : Path
        test.npy and train.npy, (S, T, V).
    empty : Path
        The targets folder of any segment: empty.npy, and the shape of its latents.
    encoder : Encoder
        Window and shift.
    cfg : Sampling
        The negative condition, and the seed of what a control draws.
    control : str
        What takes the fMRI's place: a function of `fmri_controls`.
    """
    device = this_device()
    fmri_encoder = FmriEncoder.from_pretrained(Path(cotrained) / "encoder").to(device).requires_grad_(False)
    generator = load_generator(Path(cotrained) / "unet").to(device).requires_grad_(False)
    null = torch.from_numpy(np.array(load_array(Path(empty) / "empty.npy"), np.float32)).to(device)
    shape = load_array(Path(empty) / "latents.npy").shape[1:]
    _check(fmri_encoder, generator, null, shape, encoder)
    series = load_array(bold)
    test = fmri_controls.TestFmri(fmri_encoder, series, encoder, cfg.seed, device)
    states = getattr(fmri_controls, control)(test)
    kind = cfg.negative
    if control == "mean" and kind == "test-mean":
        kind = "none"  # away from itself and towards itself is nowhere: the same clips in half the time
    negative = negative_condition(kind, fmri_encoder, series, train_bold, null, encoder.window)
    segments, volumes = series.shape[:2]
    return Source(generator, states, negative, shape, segments, volumes)


def from_captions(generator: Path, targets: list[Path], cfg: Sampling) -> Source:
    """The generator as tuned with captions; the conditions are the test captions' states.

    Guidance, if any, pushes away from the empty caption: there is no fMRI here to take a mean of.

    Parameters
    ----------
    generator : Path
        Folder of stage generator.
    targets : list of Path
        The test segments' folders of stage targets.
    """
    device = this_device()
    network = load_generator(generator).to(device).requires_grad_(False)
    captions = objective.Clips(targets, network)

    def states(clips: np.ndarray) -> torch.Tensor:
        return captions.gather(captions.states, *np.divmod(clips, captions.volumes)).to(device)

    negative = None if cfg.negative == "none" else captions.empty[None].to(device)
    return Source(network, states, negative, captions.latents[0].shape[1:], len(targets), captions.volumes)


def negative_condition(
    kind: str, fmri_encoder: FmriEncoder, series: np.ndarray, train_bold: Path, null: torch.Tensor, window: int
) -> torch.Tensor | None:
    """What guidance pushes away from (`sampling.negative`): (1, L, D), or None for no guidance."""
    if kind == "none":
        return None
    if kind == "null-condition":
        return null[None]
    data = series if kind == "test-mean" else load_array(train_bold)
    if data.shape[2] != series.shape[2]:
        raise InputError(f"{train_bold}: found {data.shape[2]} voxels, expected the {series.shape[2]} of the test fMRI")
    return fmri_controls.encoded_mean(fmri_encoder, data, window, null.device)


def _check(
    fmri_encoder: FmriEncoder,
    generator: VideoGenerator,
    null: torch.Tensor,
    latent_shape: tuple[int, ...],
    settings: Encoder,
) -> None:
    """The parts must fit before anything is sampled."""
    found = (fmri_encoder.config["window"], fmri_encoder.config["tokens"], fmri_encoder.config["token_width"])
    expected = (settings.window, *null.shape)
    if found != expected:
        raise InputError(
            f"sampling: the encoder has (window, tokens, token_width) {found}, expected {expected} from "
            "encoder.window and the empty caption's states; correct section encoder and rerun cotrain"
        )
    if latent_shape[1] != generator.latent_channels:
        raise InputError(
            f"sampling: latents have {latent_shape[1]} channels, the generator takes {generator.latent_channels}; "
            "rerun targets"
        )
