"""The test fMRI as conditions: the clip's own, and controls that take other fMRI in its place.

A function is named as its condition (`controls.CONDITIONS`). It takes the test fMRI and returns the function from clips
to what their conditions are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mindreel.errors import InputError
from mindreel.networks.fmri_encoder import FmriEncoder, window_batch
from mindreel.sections import Encoder

NEIGHBOURS = 5  # volumes; the shuffled control takes no fMRI from so near in the same segment
States = Callable[[np.ndarray], torch.Tensor]  # clips (B,) int -> conditions (B, L, D) on the device


@dataclass(frozen=True)
class TestFmri:
    """A subject's test fMRI, and the encoder that makes conditions of it.

    Parameters
    ----------
    fmri_encoder : FmriEncoder
        On its device.
    series : (S, T, V) float32
        Clip n is volume n % T of segment n // T.
    settings : Encoder
        Window and shift are used.
    seed : int
        What controls draw depends on.
    device : torch.device
        Where the encoder is.
    """

    fmri_encoder: FmriEncoder
    series: np.ndarray
    settings: Encoder
    seed: int
    device: torch.device

    def encode(self, clips: np.ndarray) -> torch.Tensor:
        """Conditions (B, L, D) of the windows of clips (B,)."""
        segment, volume = np.divmod(clips, self.series.shape[1])
        window = window_batch(self.series, segment, volume, self.settings.window, self.settings.shift)
        return self.fmri_encoder(window.to(self.device))


def fmri(test: TestFmri) -> States:
    """Every clip its own fMRI."""
    return test.encode


def shuffled(test: TestFmri) -> States:
    """Every clip the fMRI of another one, not of a near one (`derangement`)."""
    segments, volumes = test.series.shape[:2]
    order = derangement(segments, volumes, NEIGHBOURS, np.random.default_rng(test.seed))
    return lambda clips: test.encode(order[clips])


def mean(test: TestFmri) -> States:
    """Every clip the mean of the test fMRI."""
    average = encoded_mean(test.fmri_encoder, test.series, test.settings.window, test.device)
    return lambda clips: average.expand(len(clips), -1, -1)


def encoded_mean(fmri_encoder: FmriEncoder, data: np.ndarray, window: int, device: torch.device) -> torch.Tensor:
    """Encode the mean of fMRI (S, T, V) over a data set, repeated over the window: (1, L, D).

    The mean is taken in voxel space, as in MinD-Video's released code, and not over embeddings.
    """
    average = torch.from_numpy(data.mean((0, 1), dtype=np.float64).astype(np.float32))
    return fmri_encoder(average.expand(1, window, -1).to(device))


def derangement(segments: int, volumes: int, apart: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a permutation of clips by which none keeps its own fMRI, nor one from its neighbourhood.

    Parameters
    ----------
    segments, volumes : int
        Clips are numbered segment by segment, N = segments * volumes.
    apart : int
        Volumes of the same segment that count as neighbours, before and after; fewer are if that cannot be had.
    rng : np.random.Generator
        Draws the permutation.

    Returns
    -------
    source : (N,) int
        Clip n gets the fMRI of clip source[n].

    Raises
    ------
    InputError
        If there is only one clip.
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
