"""Stage mbm: masked brain modelling (MinD-Video 3.3), pretrained on HCP, then tuned on the subject."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mindreel import training
from mindreel.artifacts import atomic, load_array, save_table
from mindreel.config import Mbm, Optimizer
from mindreel.encoder import MaskedAutoencoder
from mindreel.errors import InputError
from mindreel.weights import load_strictly


def pretrain(*, segments: Path, out: Path, scratch: Path, cfg: Mbm) -> None:
    """Train a masked autoencoder on the HCP segments of the folder `segments`."""
    bold = load_array(Path(segments) / "segments.npy")  # (N, V)
    torch.manual_seed(cfg.seed)
    model = MaskedAutoencoder.from_config(cfg, bold.shape[1])
    settings = _settings(cfg, Path(segments) / "segments.npy")
    _fit(model, bold, out, scratch, cfg, cfg.pretrain, settings, "mbm pretrain")


def tune(*, bold: Path, out: Path, scratch: Path, cfg: Mbm, pretrained: Path | None = None) -> None:
    """Tune on the subject's training volumes (S, T, V); `cfg.init` says from which weights, or whether at all."""
    series = load_array(bold)
    if (cfg.init == "hcp") != (pretrained is not None):
        raise InputError(
            f"mbm tune: mbm.init is {cfg.init!r}, and --pretrained is {pretrained}: hcp needs the folder of "
            "`mbm pretrain`, scratch and none take none; change mbm.init or the option"
        )
    torch.manual_seed(cfg.seed)
    model = MaskedAutoencoder.from_config(cfg, series.shape[2])
    if pretrained is not None:
        _start_from(model, pretrained)
    if cfg.init == "none":
        with atomic(out) as folder:
            model.save_pretrained(folder)
            save_table(folder / "history.tsv", pd.DataFrame(columns=["step", "loss", "lr"]))
        return
    settings = _settings(cfg, bold, *([pretrained] if pretrained else []))
    _fit(model, series.reshape(-1, series.shape[2]), out, scratch, cfg, cfg.tune, settings, "mbm tune")


def mix(bold: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    """Replace a share of a batch by interpolations of random pairs of it.

    Parameters
    ----------
    bold : (B, V).
    share : the first round(share B) samples become a x_i + (1 - a) x_j, i != j, a uniform in [0, 1].

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


def _start_from(model: MaskedAutoencoder, folder: Path) -> None:
    """Load pretrained weights; positions are those of the model's own patches."""
    source = MaskedAutoencoder.from_pretrained(folder)
    state = source.state_dict()
    if source.config["patches"] != model.config["patches"]:
        state |= {key: value for key, value in model.state_dict().items() if key.endswith("positions")}
    load_strictly(model, state, str(folder))


def _settings(cfg: Mbm, *inputs: Path) -> str:
    return cfg.model_dump_json(exclude={"pretrain", "tune"}) + training.stamp(*inputs)


def _fit(
    model: MaskedAutoencoder,
    bold: np.ndarray,
    out: Path,
    scratch: Path,
    cfg: Mbm,
    optimization: Optimizer,
    settings: str,
    what: str,
) -> None:
    """The loop: bold (N, V) -> a model folder."""
    where = training.device()
    model.to(where).train()
    optimizer = training.adamw({model: 1.0}, optimization)
    run = training.Run(scratch, {"model": model}, optimizer, optimization, settings)
    batch_size = min(optimization.batch_size, len(bold))
    for step in run.steps(what):
        rng = training.step_rng(cfg.seed, step)
        rows = rng.choice(len(bold), batch_size, replace=False)
        batch = torch.from_numpy(bold[rows].astype(np.float32)).to(where)  # (B, V)
        batch = mix(batch, cfg.mix_share, rng)
        with training.precision(where):
            loss = model(batch, cfg.mask_ratio)
        training.update(optimizer, loss, optimization, step, what)
        if run.due(step):
            run.log(step, loss=loss.item(), lr=optimizer.param_groups[0]["lr"])
    with atomic(out) as folder:
        model.save_pretrained(folder)
        save_table(folder / "history.tsv", run.table())
    run.finish()
