"""What sampling is told about each clip: tokens from fMRI or from a caption, and what guidance pushes away from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mindreel.artifacts import load_array
from mindreel.config import Encoder, Sampling
from mindreel.device import this_device
from mindreel.diffusion import objective
from mindreel.errors import InputError
from mindreel.networks.fmri_encoder import FmriEncoder, window_batch
from mindreel.networks.video_unet import VideoUNet

NEIGHBOURS = 5  # volumes; the shuffled control takes no fMRI from so near in the same segment


@dataclass(frozen=True)
class Source:
    """A generator and its conditions; clips are numbered segment by segment, clip = segment * volumes + volume.

    Parameters
    ----------
    unet : the generator
    states : clip numbers (B,) -> conditions (B, L, D) on the device
    negative : (1, L, D), what guidance pushes away from; None: no guidance
    shape : (F, C, h, w) of a clip's latents
    segments, volumes : of the test set
    """

    unet: VideoUNet
    states: Callable[[np.ndarray], torch.Tensor]
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
    cotrained : folder with encoder/ and unet/
    bold, train_bold : test.npy and train.npy, (S, T, V)
    empty : the targets folder of any segment: empty.npy, and the shape of its latents
    control : fmri; shuffled: each clip gets another clip's fMRI (`derangement`); mean: every clip gets the mean fMRI
    """
    device = this_device()
    fmri_encoder = FmriEncoder.from_pretrained(Path(cotrained) / "encoder").to(device).requires_grad_(False)
    unet = VideoUNet.from_pretrained(Path(cotrained) / "unet").to(device).requires_grad_(False)
    null = torch.from_numpy(np.array(load_array(Path(empty) / "empty.npy"), np.float32)).to(device)
    shape = load_array(Path(empty) / "latents.npy").shape[1:]
    _check(fmri_encoder, unet, null, shape, encoder)
    series = load_array(bold)
    segments, volumes = series.shape[:2]
    order = np.arange(segments * volumes)
    if control == "shuffled":
        order = derangement(segments, volumes, NEIGHBOURS, np.random.default_rng(cfg.seed))

    def states(clips: np.ndarray) -> torch.Tensor:
        segment, volume = np.divmod(order[clips], volumes)
        return fmri_encoder(window_batch(series, segment, volume, encoder.window, encoder.shift).to(device))

    kind = cfg.negative
    if control == "mean":
        average = encoded_mean(fmri_encoder, series, encoder.window, device)
        if kind == "test-mean":
            kind = "none"  # away from itself and towards itself is nowhere: the same clips in half the time

        def states(clips: np.ndarray) -> torch.Tensor:
            return average.expand(len(clips), -1, -1)

    negative = negative_condition(kind, fmri_encoder, series, train_bold, null, encoder.window)
    return Source(unet, states, negative, shape, segments, volumes)


def from_captions(generator: Path, targets: list[Path], cfg: Sampling) -> Source:
    """The generator as tuned with captions; the conditions are the test captions' states.

    Guidance, if any, pushes away from the empty caption: there is no fMRI here to take a mean of.

    Parameters
    ----------
    generator : folder of stage generator
    targets : the test segments' folders of stage targets
    """
    device = this_device()
    unet = VideoUNet.from_pretrained(generator).to(device).requires_grad_(False)
    told = objective.Clips(targets, unet)

    def states(clips: np.ndarray) -> torch.Tensor:
        return told.gather(told.states, *np.divmod(clips, told.volumes)).to(device)

    negative = None if cfg.negative == "none" else told.empty[None].to(device)
    return Source(unet, states, negative, told.latents[0].shape[1:], len(targets), told.volumes)


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
    return encoded_mean(fmri_encoder, data, window, null.device)


def encoded_mean(fmri_encoder: FmriEncoder, data: np.ndarray, window: int, device: torch.device) -> torch.Tensor:
    """Mean of fMRI (S, T, V) over the data set in voxel space, repeated over the window, encoded (D6): (1, L, D)."""
    mean = torch.from_numpy(data.mean((0, 1), dtype=np.float64).astype(np.float32))
    return fmri_encoder(mean.expand(1, window, -1).to(device))


def derangement(segments: int, volumes: int, apart: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a permutation of clips by which none keeps its own fMRI, nor one from its neighbourhood.

    Parameters
    ----------
    segments, volumes : clips are segment-major, N = segments * volumes
    apart : volumes of the same segment that count as neighbours, before and after; fewer are if that cannot be had

    Returns
    -------
    (N,) int: clip n gets the fMRI of clip source[n].
    """
    from scipy.optimize import linear_sum_assignment

    clip = np.arange(segments * volumes)
    costs = rng.random((len(clip), len(clip)))
    distance = np.where(clip[:, None] // volumes == clip // volumes, np.abs(clip[:, None] - clip), len(clip))
    for nearest in range(apart, -1, -1):
        source = linear_sum_assignment(costs + len(clip) * (distance <= nearest))[1]
        if np.all(distance[clip, source] > nearest):
            return source
    raise InputError(f"sampling: the shuffled control needs at least 2 clips, found {len(clip)}")


def _check(
    fmri_encoder: FmriEncoder, unet: VideoUNet, null: torch.Tensor, latent_shape: tuple[int, ...], settings: Encoder
) -> None:
    """The parts must fit before anything is sampled."""
    found = (fmri_encoder.config["window"], fmri_encoder.config["tokens"], fmri_encoder.config["token_width"])
    expected = (settings.window, *null.shape)
    if found != expected:
        raise InputError(
            f"sampling: the encoder has (window, tokens, token_width) {found}, expected {expected} from "
            "encoder.window and the empty caption's states; correct section encoder and rerun cotrain"
        )
    if latent_shape[1] != unet.unet.config.in_channels:
        raise InputError(
            f"sampling: latents have {latent_shape[1]} channels, the UNet takes {unet.unet.config.in_channels}; "
            "rerun targets"
        )
