"""Integrated gradients: which voxels an encoder's answer rests on, as a second opinion beside attention.

Raw attention says where a layer looks, not what its look is used for (Jain and Wallace 2019). Integrated gradients
(Sundararajan, Taly and Yan 2017, Eq. 1; computed by captum) share out a difference of the model's output: between the
fMRI of a clip and a baseline, here the mean fMRI. The output is the cosine between the pooled embedding of the window
and the CLIP image embedding of the clip that was shown.
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mindreel.device import precision, this_device
from mindreel.networks.fmri_encoder import FmriEncoder, window_batch


def integrated_gradients(
    model: FmriEncoder,
    series: np.ndarray,
    targets: np.ndarray,
    window: int,
    shift: int,
    steps: int,
    batch_size: int,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Attribute every clip's cosine with its own CLIP embedding to voxels.

    A GPU computes as in training, in bfloat16; on the demo's encoders that changes no rank (Spearman above 0.9999).

    Parameters
    ----------
    series : (S, T, V) float32
        Their mean over segments and volumes is the baseline of every volume of a window.
    targets : (S T, E) float32
        CLIP embeddings of the clips; E is the encoder's token width.
    window, shift : int
        Of the encoder, as in `windows`.
    steps : int
        Points of the Gauss-Legendre rule from the baseline to the clip.

    Returns
    -------
    attributions : (S T, W, V) float32; over W and V they sum to the difference of the two cosines
    table : a row per clip: cosine, baseline (the cosine of the mean fMRI), error (what the sum lacks)
    """
    from captum.attr import IntegratedGradients

    device = this_device()
    model = model.to(device).eval().requires_grad_(False)
    mean = torch.from_numpy(np.asarray(series.mean((0, 1), dtype=np.float64), np.float32)).to(device)

    def cosine(bold: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cosine_similarity(model.pool(model(bold)), target, dim=1)

    method = IntegratedGradients(cosine)
    segment, volume = (index.ravel() for index in np.indices(series.shape[:2]))
    parts, rows = [], []
    for start in range(0, len(segment), batch_size):
        part = slice(start, start + batch_size)
        bold = window_batch(series, segment[part], volume[part], window, shift).to(device)
        target = torch.from_numpy(np.asarray(targets[part], np.float32)).to(device)
        baseline = mean.expand_as(bold)
        with precision(device):
            found = method.attribute(
                bold, baseline, additional_forward_args=(target,), n_steps=steps, internal_batch_size=len(bold)
            )
        with torch.inference_mode(), precision(device):
            ends = torch.stack([cosine(bold, target), cosine(baseline, target)], 1).double().cpu().numpy()
        parts.append(found.float().cpu().numpy())
        rows.append(np.c_[ends, ends[:, 0] - ends[:, 1] - parts[-1].sum((1, 2), dtype=np.float64)])
    return np.concatenate(parts), pd.DataFrame(np.concatenate(rows), columns=["cosine", "baseline", "error"])


def agreement(first: np.ndarray, second: np.ndarray, groups: dict[str, np.ndarray | None]) -> pd.DataFrame:
    """Rank correlation of two maps over voxels and over the means of groups of voxels.

    Means, not sums: two sums over the same groups agree because some groups are large.

    Parameters
    ----------
    first, second : (V,) float
    groups : dict
        What the correlation is over -> (V,) the group of every voxel; None: every voxel by itself.

    Returns
    -------
    table : over, number (of voxels or groups), spearman (NaN for fewer than three, or where a map is constant).
        Without p: neighbouring voxels are not independent.
    """
    rows = []
    for over, group in groups.items():
        pair = pd.DataFrame({"first": first, "second": second}, dtype=float)
        pair = pair if group is None else pair.groupby(np.asarray(group)).mean()
        ranks = pair.rank()
        known = len(pair) >= 3 and ranks.nunique().min() > 1
        rows.append((over, len(pair), ranks["first"].corr(ranks["second"]) if known else np.nan))
    return pd.DataFrame(rows, columns=["over", "number", "spearman"])
