"""How well the encoder finds the clip that was seen, among clips it has not learned from: logged during training."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from mindreel.device import precision
from mindreel.networks.fmri_encoder import FmriEncoder

AT_ONCE = 64  # windows


def ranks(fmri: torch.Tensor, target: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
    """How many other targets are at least as near to an fMRI embedding as its own: (N,) int64; 0 is a hit.

    Parameters
    ----------
    fmri, target : (N, D)
        L2-normalised; row i of one belongs to row i of the other.
    ignored : (N, N) bool
        Pairs that are not counted.
    """
    similarity = (fmri @ target.T).masked_fill(ignored, -torch.inf)
    return (similarity >= similarity.diagonal()[:, None]).sum(1) - 1


def accuracy(fmri: torch.Tensor, target: torch.Tensor, ignored: torch.Tensor, name: str) -> dict[str, float]:
    """Top-1 and top-5 accuracy of `ranks`, and what a guess would reach: NAME_top1, …, chance_NAME_top5."""
    place, candidates = ranks(fmri, target, ignored), (~ignored).sum(1)
    found = {f"{name}_top{k}": (place < k).float().mean().item() for k in (1, 5)}
    return found | {f"chance_{name}_top{k}": (k / candidates).clamp(max=1).mean().item() for k in (1, 5)}


@torch.no_grad()
def held_out(
    model: FmriEncoder,
    windows: Callable[[np.ndarray], torch.Tensor],
    clips: np.ndarray,
    targets: dict[str, torch.Tensor],
    ignored: dict[str, torch.Tensor],
) -> dict[str, float]:
    """Accuracy by modality (`accuracy`), without dropout; the model is left in training mode.

    Parameters
    ----------
    windows : callable
        A function of clips (n,) int to their fMRI (n, W, V).
    clips : (N,) int
        What is embedded.
    targets : dict
        Per modality (N, D) L2-normalised.
    ignored : dict
        Per modality (N, N) bool, clips too alike to be told apart; False on the diagonal.
    """
    model.eval()
    parts = []
    for start in range(0, len(clips), AT_ONCE):
        window = windows(clips[start : start + AT_ONCE])
        with precision(window.device):
            parts.append(model.pool(model(window)))
    model.train()
    fmri = F.normalize(torch.cat(parts).float(), dim=1)
    scores = [accuracy(fmri, target, ignored[name], name) for name, target in targets.items()]
    return {name: value for score in scores for name, value in score.items()}
