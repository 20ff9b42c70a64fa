"""Stage contrastive: pull the fMRI embedding towards CLIP's image and text embeddings (MinD-Video 3.3, Eq. 3)."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mindreel import training
from mindreel.artifacts import atomic, load_array, save_table
from mindreel.config import Contrastive, Encoder
from mindreel.encoder import FmriEncoder, sparsify, window_batch
from mindreel.errors import InputError

LOG_EVERY = 20
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
    *, mbm: Path, bold: Path, targets: list[Path], out: Path, scratch: Path, encoder: Encoder, cfg: Contrastive
) -> None:
    """Train the encoder for windows against frozen CLIP embeddings.

    `mbm` is the subject's tuned model, `bold` its train.npy (S, T, V), `targets` the S segments' folders in that order.
    """
    series = load_array(bold)
    banks = {name: [load_array(Path(folder) / f"{name}.npy") for folder in targets] for name in cfg.modalities}
    images = [load_array(Path(folder) / "image.npy") for folder in targets]
    for name, bank in {"image": images, **banks}.items():
        _check(series, bank, targets, name, encoder.token_width)
    where = training.device()
    torch.manual_seed(cfg.seed)
    model = FmriEncoder.from_mbm(mbm, encoder, series.shape[2], cfg.dropout).to(where).train()
    scale = Scale().to(where)
    optimizer = training.adamw({model: 1.0, scale: 1.0}, cfg.optimizer)
    settings = cfg.model_dump_json(exclude={"optimizer"}) + encoder.model_dump_json()
    settings += training.stamp(mbm, bold, *targets)
    run = training.Run(scratch, {"encoder": model, "scale": scale}, optimizer, cfg.optimizer, settings)
    similar = similar_clips(np.concatenate([bank[:, bank.shape[1] // 2, 0] for bank in images]), cfg.similarity_limit)
    volumes = series.shape[1]
    batch_size = min(cfg.optimizer.batch_size, len(similar))
    for step in run.steps("contrastive"):
        rng = training.step_rng(cfg.seed, step)
        clips = draw_batch(similar, batch_size, rng)  # (B,)
        segment, volume = clips // volumes, clips % volumes
        window = window_batch(series, segment, volume, encoder.window, encoder.shift)
        window = sparsify(window, cfg.sparsify, rng).to(where)  # (B, W, V)
        views = draw_views(banks, segment, volume, cfg.crop_probability, rng)
        views = {name: view.to(where) for name, view in views.items()}  # (B, D)
        ignored = duplicates(similar, clips).to(where)  # (B, B)
        with training.precision(where):
            embedding = model.pool(model(window))  # (B, D)
        embedding = F.normalize(embedding.float(), dim=1)
        losses = [clip_loss(embedding, view, scale(), ignored) for view in views.values()]
        loss = torch.stack(losses).mean()
        training.update(optimizer, loss, cfg.optimizer, step, "contrastive")
        if run.due(step, LOG_EVERY):
            ranks = {name: retrieval_ranks(embedding.detach(), view, ignored) for name, view in views.items()}
            run.log(
                step, loss=loss.item(), lr=optimizer.param_groups[0]["lr"], scale=scale().item(), **_accuracy(ranks)
            )
    with atomic(out) as folder:
        model.save_pretrained(folder)
        save_table(folder / "history.tsv", run.table())
    run.finish()


def similar_clips(embeddings: np.ndarray, limit: float) -> np.ndarray:
    """Which clips are too alike to be each other's negatives.

    Parameters
    ----------
    embeddings : (N, D) float32, L2-normalised.
    limit : cosine above which two clips are alike.

    Returns
    -------
    (N, N) bool; True on the diagonal.
    """
    similar = embeddings @ embeddings.T > limit
    np.fill_diagonal(similar, True)
    return similar


def draw_batch(similar: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw clips of which no two are alike, greedily in random order; once none is left, any others.

    Clips that had to be taken although they are alike are not used as each other's negatives (`duplicates`).

    Parameters
    ----------
    similar : (N, N) bool.

    Returns
    -------
    (count,) int64, all different.
    """
    order = rng.permutation(len(similar))
    free = np.ones(len(similar), bool)
    chosen: list[int] = []
    for clip in order:
        if free[clip]:
            chosen.append(clip)
            free &= ~similar[clip]
        if len(chosen) == count:
            return np.array(chosen)
    rest = order[~np.isin(order, chosen)]
    return np.concatenate([np.array(chosen, np.int64), rest[: count - len(chosen)]])


def duplicates(similar: np.ndarray, clips: np.ndarray) -> torch.Tensor:
    """Pairs of a batch that are alike without being the same: (B, B) bool."""
    alike = torch.from_numpy(similar[np.ix_(clips, clips)])
    return alike.fill_diagonal_(False)


def draw_views(
    banks: dict[str, list[np.ndarray]],
    segment: np.ndarray,
    volume: np.ndarray,
    crop_probability: float,
    rng: np.random.Generator,
) -> dict[str, torch.Tensor]:
    """One random frame per clip; of it, the whole image or a random crop, and any wording of its caption.

    Parameters
    ----------
    banks : per modality and segment (T, F, views, D), view 0 unaltered.
    segment, volume : (B,) int.

    Returns
    -------
    (B, D) float32 per modality.
    """
    frames, batch = next(iter(banks.values()))[0].shape[1], len(segment)
    frame = rng.integers(frames, size=batch)
    chosen = {}
    for name, bank in banks.items():
        views = bank[0].shape[2]
        if name == "image":
            crop = rng.random(batch) < crop_probability
            view = np.where(crop & (views > 1), rng.integers(1, max(2, views), size=batch), 0)
        else:
            view = rng.integers(views, size=batch)
        rows = [bank[s][t, f, v] for s, t, f, v in zip(segment, volume, frame, view, strict=True)]
        chosen[name] = torch.from_numpy(np.stack(rows).astype(np.float32))
    return chosen


def clip_loss(fmri: torch.Tensor, target: torch.Tensor, scale: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
    """CLIP's loss: cross-entropy of scaled similarities, mean of both directions.

    Parameters
    ----------
    fmri, target : (B, D), L2-normalised; row i of one belongs to row i of the other.
    ignored : (B, B) bool, symmetric, pairs that are not counted as negatives.
    """
    logits = (scale * fmri @ target.T).masked_fill(ignored, -torch.inf)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def retrieval_ranks(fmri: torch.Tensor, target: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
    """How many other targets are at least as near to an fMRI embedding as its own: (B,) int64; 0 is a hit."""
    similarity = (fmri @ target.T).masked_fill(ignored, -torch.inf)
    return (similarity >= similarity.diagonal()[:, None]).sum(1) - 1


def _accuracy(ranks: dict[str, torch.Tensor]) -> dict[str, float]:
    count = len(next(iter(ranks.values())))
    scores = {f"{name}_top{k}": (rank < k).float().mean().item() for name, rank in ranks.items() for k in (1, 5)}
    return scores | {f"chance_top{k}": min(1.0, k / count) for k in (1, 5)}


def _check(series: np.ndarray, bank: list[np.ndarray], targets: list[Path], name: str, width: int) -> None:
    """Targets must match the fMRI before anything is trained."""
    segments, volumes, _ = series.shape
    if len(bank) != segments:
        raise InputError(
            f"contrastive: {len(bank)} target folders for {segments} segments of fMRI; "
            "give --targets once per training segment, in the sample sheet's order"
        )
    for folder, array in zip(targets, bank, strict=True):
        if array.shape[0] != volumes or array.shape[-1] != width:
            raise InputError(
                f"{folder}/{name}.npy: shape {array.shape}, expected ({volumes}, frames, views, {width}); "
                "rerun targets, or set encoder.token_width to the width of CLIP's embeddings"
            )
