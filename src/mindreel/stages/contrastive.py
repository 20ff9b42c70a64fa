"""Stage contrastive: pull the fMRI embedding towards CLIP's image and text embeddings.

paper                                                            here
L_CLIP(f, i), L_CLIP(f, t) (MinD-Video 3.3, Eq. 3)               clip_loss
spatial masking, temporal interpolation (NeuroCine 3.1.2, Eq. 1) mask, interpolate
L_spa, L_tem, L_emb (NeuroCine 3.1.3, Eq. 2 and 3)               objective
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from mindreel import distributed
from mindreel.artifacts import atomic, save_table
from mindreel.device import precision, this_device
from mindreel.errors import InputError
from mindreel.learning import loop, retrieval
from mindreel.learning.contrastive_pairs import Pairs, draw_batch, draw_views, duplicates, held_out_targets, open_pairs
from mindreel.networks.fmri_encoder import FmriEncoder, sparsify
from mindreel.sections import Contrastive, Encoder, SelfContrast

LOOKS = 25  # so often held-out clips are looked for
FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0  # CLIP's


class Scale(nn.Module):
    """The learned scaling factor epsilon of Eq. 3, in log space."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))

    def forward(self) -> torch.Tensor:
        """A positive scalar, at most CLIP's bound."""
        return self.log.exp().clamp(max=LARGEST_SCALE)


def train(
    *,
    mbm: Path,
    bold: Path,
    targets: list[Path],
    frames: list[Path],
    out: Path,
    scratch: Path,
    encoder: Encoder,
    cfg: Contrastive,
) -> None:
    """Train the encoder for windows against frozen CLIP embeddings.

    Parameters
    ----------
    mbm : Path
        Folder of the subject's tuned masked autoencoder.
    bold : Path
        The subject's train.npy, (S, T, V) float32.
    targets : list of Path
        Folders of stage targets of the S rows, in that order.
    frames : list of Path
        Their movies, (T, F, H, W, 3) uint8, of which only the scene cuts count.
    out : Path
        Folder of the encoder, and history.tsv.
    scratch : Path
        Folder of the resume file.
    encoder : Encoder
        Section encoder of the experiment.
    cfg : Contrastive
        Section contrastive of the experiment.
    """
    if cfg.self_contrast and cfg.self_contrast.interpolate_weight and encoder.window < 2:
        raise InputError(
            f"contrastive.self_contrast: volumes are interpolated from others of a window, found encoder.window "
            f"{encoder.window}; make it 2 or more, or interpolate_weight 0"
        )
    device = this_device()
    pairs = open_pairs(bold, targets, frames, encoder, cfg, device)
    torch.manual_seed(cfg.seed)
    model = FmriEncoder.from_mbm(mbm, encoder, pairs.voxels, cfg.dropout).to(device).train()
    model.head.dropout = distributed.Dropout(cfg.dropout)
    scale = Scale().to(device)
    optimizer = loop.adamw({model: 1.0, scale: 1.0}, cfg.optimizer)
    settings = cfg.model_dump_json(exclude={"optimizer"}) + encoder.model_dump_json()
    settings += loop.stamp(mbm, bold, *targets, *frames)
    run = loop.Run(scratch, {"encoder": model, "scale": scale}, optimizer, cfg.optimizer, settings)
    batch_size = min(cfg.optimizer.batch_size, len(pairs.learned))
    rows, parallel, factor = distributed.share(batch_size), distributed.parallel(model), distributed.parallel(scale)
    for step in run.steps("contrastive"):
        rng = loop.step_rng(cfg.seed, step)
        loop.set_lr(optimizer, loop.cosine_lr(step + 0.5, cfg.optimizer))
        clips = draw_batch(pairs.similar, pairs.learned, batch_size, rng)  # (B,)
        window = sparsify(pairs.windows(clips), cfg.sparsify, rng)[rows]  # (B / processes, W, V)
        seen = pairs.embeddings(draw_views(clips, pairs.views, cfg.crop_probability, rng))  # (B, D) each
        ignored = duplicates(pairs.similar, clips).to(device)  # (B, B)
        with precision(device):
            embedding = model.pool(embed(parallel, window, cfg.self_contrast))
        embedding = distributed.gather(F.normalize(embedding.float(), dim=1))  # (B or 3 B, D)
        loss = objective(embedding, seen, factor(), ignored, cfg.self_contrast)
        whole = loop.finite(distributed.average(loss), "loss", "contrastive", step, clips)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(loop.weights(optimizer), cfg.optimizer.clip_grad)
        loop.finite(norm, "gradient norm", "contrastive", step, clips)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        look = len(pairs.held_out) > 0 and run.due(step, max(1, cfg.optimizer.steps // LOOKS))
        if run.due(step) or look:
            values = {"loss": whole.item(), "lr": optimizer.param_groups[0]["lr"], "scale": scale().item()}
            if look and distributed.rank() == 0:  # the others need not look
                values |= look_for_held_out(model, pairs, cfg.similarity_limit, device)
            run.log(step, **values)
    if distributed.rank() == 0:
        with atomic(out) as folder:
            model.save_pretrained(folder)
            save_table(folder / "history.tsv", run.table())
    run.finish()


def clip_loss(fmri: torch.Tensor, target: torch.Tensor, scale: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
    """CLIP's loss: cross-entropy of scaled similarities, mean of both directions.

    Parameters
    ----------
    fmri, target : (B, D)
        L2-normalised; row i of one belongs to row i of the other.
    ignored : (B, B) bool
        Symmetric, pairs that are not counted as negatives.
    """
    logits = (scale * fmri @ target.T).masked_fill(ignored, -torch.inf)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def objective(
    fmri: torch.Tensor,
    targets: dict[str, torch.Tensor],
    scale: torch.Tensor,
    ignored: torch.Tensor,
    cfg: SelfContrast | None,
) -> torch.Tensor:
    """The mean of the modalities' losses (MinD-Video); with self-contrast their sum, and its own losses (NeuroCine).

    Parameters
    ----------
    fmri : (B, D)
        With self-contrast (3 B, D): every window, then masked, then interpolated.
    targets : (B, D)
        Per modality.
    ignored : tensor
        See `clip_loss`.
    """
    if cfg is None:
        return torch.stack([clip_loss(fmri, target, scale, ignored) for target in targets.values()]).mean()
    window, masked, interpolated = fmri.unflatten(0, (-1, 3)).unbind(1)
    met = torch.stack([clip_loss(window, target, scale, ignored) for target in targets.values()]).sum()
    spatial, temporal = (clip_loss(window, other, scale, ignored) for other in (masked, interpolated))
    return met + cfg.mask_weight * spatial + cfg.interpolate_weight * temporal


def embed(model: nn.Module, window: torch.Tensor, cfg: SelfContrast | None) -> torch.Tensor:
    """Tokens of windows (B, W, V): (B, L, D), with self-contrast (3 B, L, D), see `objective`."""
    if cfg is None:
        return model(window)

    def change(embedded: torch.Tensor) -> torch.Tensor:
        as_is, first, second = embedded.unflatten(0, (-1, 3)).unbind(1)
        changed = (as_is, mask(first, cfg.mask_share), interpolate(second, cfg.interpolate_share))
        return torch.stack(changed, 1).flatten(0, 1)

    return model(window.repeat_interleave(3, dim=0), change)


def mask(embedded: torch.Tensor, share: float) -> torch.Tensor:
    """Spatial masking: int(share D) values of every patch's embedding become zero.

    Others in each sample, the same in all volumes of its window.

    Parameters
    ----------
    embedded : (B, W, P, D)
        This process's rows.
    """
    _, _, patches, width = embedded.shape
    order = distributed.own_rows(
        lambda count: torch.rand(count, patches, width, device=embedded.device).argsort(-1), len(embedded)
    )
    return embedded * (order >= int(share * width))[:, None]


def interpolate(embedded: torch.Tensor, share: float) -> torch.Tensor:
    """Temporal interpolation: random volumes of a window become sum over j != i of (1 - |i - j| / W) v_j.

    Parameters
    ----------
    embedded : (B, W, P, D)
        This process's rows.
    share : float
        Share W volumes of a window are replaced, rounded at random where that is no whole number (1/3 of two
        volumes is one of them in two thirds of the windows).
    """
    window = embedded.shape[1]
    drawn = distributed.own_rows(lambda n: torch.rand(n, window + 1, device=embedded.device), len(embedded))
    order, count = drawn[:, 1:].argsort(1), (share * window + drawn[:, :1]).floor()
    place = torch.arange(window, device=embedded.device)
    weight = 1 - (place[:, None] - place).abs() / window - torch.eye(window, device=embedded.device)
    others = torch.einsum("ij,bjpd->bipd", weight.to(embedded.dtype), embedded)
    return torch.where((order < count)[:, :, None, None], others, embedded)


def look_for_held_out(model: FmriEncoder, pairs: Pairs, limit: float, device: torch.device) -> dict[str, float]:
    """Retrieval among the held-out clips, by image and by caption; alike ones are not told apart."""
    targets, ignored = held_out_targets(pairs, limit, device)
    return retrieval.held_out(model, pairs.windows, pairs.held_out, targets, ignored)
