"""Stage mbm: masked brain modelling (MinD-Video 3.3), pretrained on HCP, then tuned on the subject.

DC-MAE (Sun 2023, NeuroCine's pretraining) is a variant: `double_contrast` adds two contrastive losses.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from mindreel import distributed
from mindreel.artifacts import atomic, load_array, save_table
from mindreel.brain.hcp_windows import Windows, open_windows
from mindreel.device import precision, this_device
from mindreel.errors import InputError
from mindreel.learning import loop
from mindreel.networks.masked_autoencoder import MaskedAutoencoder
from mindreel.sections import DoubleContrast, Mbm, Pretrain


def pretrain(*, segments: Path, out: Path, scratch: Path, cfg: Pretrain) -> None:
    """Train a masked autoencoder on HCP.

    Parameters
    ----------
    segments : Path
        Folder of stage hcp.
    out : Path
        Folder of the model, and history.tsv.
    scratch : Path
        Folder of the resume file.
    cfg : Pretrain
        Section pretrain of the experiment.
    """
    bold = open_windows(segments)  # (N, V)
    torch.manual_seed(cfg.seed)
    model = MaskedAutoencoder.from_config(cfg, bold.shape[1])
    model.gradient_checkpointing = cfg.gradient_checkpointing
    settings = _settings(cfg, Path(segments) / "runs.tsv")
    _fit(model, bold, out, scratch, cfg, settings, "mbm pretrain", cfg.compile)


def tune(
    *, bold: Path, out: Path, scratch: Path, cfg: Mbm, sizes: Pretrain | None = None, pretrained: Path | None = None
) -> None:
    """Tune the masked autoencoder on a subject's training volumes, from the weights that `cfg.init` names, if at all.

    Parameters
    ----------
    bold : Path
        The subject's train.npy, (S, T, V) float32.
    out : Path
        Folder of the model, and history.tsv.
    scratch : Path
        Folder of the resume file.
    cfg : Mbm
        Section mbm of the experiment.
    sizes : Pretrain
        Section pretrain of the experiment: the model's sizes where there is no `pretrained`.
    pretrained : Path
        Folder of the masked autoencoder to start from; the model has its sizes.

    Raises
    ------
    InputError
        If `pretrained` and `cfg.init` contradict each other.
    """
    series = load_array(bold)
    anew = cfg.init in ("scratch", "none")
    if anew == (pretrained is not None) or (anew and sizes is None):
        raise InputError(
            f"mbm tune: mbm.init is {cfg.init!r}, and --pretrained is {pretrained}: scratch and none need --sizes and "
            "take no --pretrained, hcp and a folder need it; change mbm.init or the options"
        )
    torch.manual_seed(cfg.seed)
    if pretrained is None:
        assert sizes is not None  # checked above
        model = MaskedAutoencoder.from_config(sizes, series.shape[2])
    else:
        model, adapted = MaskedAutoencoder.from_pretrained(pretrained).for_voxels(series.shape[2])
        for note in adapted:
            print(f"{pretrained}: adapted: {note}")
    if cfg.init == "none":
        with atomic(out) as folder:
            model.save_pretrained(folder)
            save_table(folder / "history.tsv", pd.DataFrame(columns=["step", "loss", "lr"]))
        return
    settings = _settings(cfg, bold, *([pretrained] if pretrained else []))
    _fit(model, series.reshape(-1, series.shape[2]), out, scratch, cfg, settings, "mbm tune")


def mix(bold: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    """Replace a share of a batch by interpolations of random pairs of it.

    Parameters
    ----------
    bold : (B, V)
    share : float
        The first round(share B) samples become a x_i + (1 - a) x_j, i != j, a uniform in [0, 1].

    Returns
    -------
    (B, V), a copy.
    """
    batch = len(bold)
    count = round(share * batch) if batch > 1 else 0
    first = rng.integers(batch, size=count)
    second = (first + rng.integers(1, max(2, batch), size=count)) % batch
    weight = torch.from_numpy(rng.random((count, 1), np.float32)).to(bold)
    return torch.cat([weight * bold[first] + (1 - weight) * bold[second], bold[count:]])


class DoubleContrastive(nn.Module):
    """DC-MAE's loss: the masked error of a first reconstruction, and its contrast with a second and with the original.

    As in the released code the first reconstruction is the query of both contrasts, and the masked error is its own.
    """

    def __init__(self, model: MaskedAutoencoder, cfg: DoubleContrast):
        super().__init__()
        self.model, self.cfg = model, cfg

    def forward(self, bold: torch.Tensor, mask_ratio: float, noise: torch.Tensor) -> torch.Tensor:
        """A scalar.

        Parameters
        ----------
        bold : (B, V)
            This process's rows; negatives are all other samples of the global batch.
        noise : (B, 2, P)
            See `MaskedAutoencoder.reconstruct`: one row per mask.
        """
        both, removed = self.model.reconstruct(bold.repeat(2, 1), mask_ratio, noise.transpose(0, 1).flatten(0, 1))
        first, second = both.float().chunk(2)  # (B, P, patch size)
        views = [(view * self.model.real).flatten(1) for view in (first, second, self.model.patches(bold))]
        with torch.autocast(bold.device.type, enabled=False):  # similarities over a small temperature
            restored, other, original = (distributed.gather(F.normalize(view.float(), dim=1)) for view in views)
            cross = contrast(restored, other, self.cfg.temperature)
            itself = contrast(restored, original, self.cfg.temperature)
        masked = self.model.masked_error(bold, first, removed[: len(bold)])
        return self.cfg.masked_weight * masked + self.cfg.cross_weight * cross + self.cfg.self_weight * itself


def contrast(query: torch.Tensor, key: torch.Tensor, temperature: float) -> torch.Tensor:
    """InfoNCE: - mean_i log softmax_j(q_i k_j / temperature) at j = i, rows (B, D) of unit length."""
    return F.cross_entropy(query @ key.T / temperature, torch.arange(len(query), device=query.device))


def _settings(cfg: Pretrain | Mbm, *inputs: Path) -> str:
    return cfg.model_dump_json(exclude={"optimizer", "gradient_checkpointing", "compile"}) + loop.stamp(*inputs)


def _fit(
    model: MaskedAutoencoder,
    bold: np.ndarray | Windows,
    out: Path,
    scratch: Path,
    cfg: Pretrain | Mbm,
    settings: str,
    what: str,
    compiled: bool = False,
) -> None:
    """The loop: bold (N, V) -> a model folder."""
    device = this_device()
    model.to(device).train()
    optimizer = loop.adamw({model: 1.0}, cfg.optimizer)
    run = loop.Run(scratch, {"model": model}, optimizer, cfg.optimizer, settings)
    objective: Callable[..., torch.Tensor]
    if cfg.double_contrast is None:
        objective, masks = distributed.parallel(model), [model.config["patches"]]
    else:
        both = DoubleContrastive(model, cfg.double_contrast)
        objective, masks = distributed.parallel(both), [2, model.config["patches"]]
    objective = torch.compile(objective) if compiled else objective
    batch_size = min(cfg.optimizer.batch_size, len(bold))
    rows, fetch = distributed.share(batch_size), loop.fetcher(bold, device)
    for step in run.steps(what):
        rng = loop.step_rng(cfg.seed, step)
        loop.set_lr(optimizer, loop.cosine_lr(step + 0.5, cfg.optimizer))
        samples = rng.choice(len(bold), batch_size, replace=False)
        batch = mix(fetch(samples), cfg.mix_share, rng)  # (B, V)
        noise = torch.rand(batch_size, *masks, device=device)  # (B, [2,] P)
        with precision(device):
            loss = objective(batch[rows], cfg.mask_ratio, noise[rows])
        whole = loop.finite(distributed.average(loss), "loss", what, step, samples)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(loop.weights(optimizer), cfg.optimizer.clip_grad)
        loop.finite(norm, "gradient norm", what, step, samples)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if run.due(step):
            run.log(step, loss=whole.item(), lr=optimizer.param_groups[0]["lr"])
    if distributed.rank() == 0:
        with atomic(out) as folder:
            model.save_pretrained(folder)
            save_table(folder / "history.tsv", run.table())
    run.finish()
