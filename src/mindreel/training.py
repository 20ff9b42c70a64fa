"""What the four training loops share: schedule, seeding, optimiser, resume files, history, device.

A step's random numbers depend on (seed, step) only, so that a killed and restarted training sees the same
batches and noise as one that ran through.
"""

import hashlib
import json
import math
import os
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from mindreel.artifacts import atomic
from mindreel.config import Optimizer

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: asked to stop, state saved, run again
HISTORY_ROWS = 500  # about so many rows per training


def device() -> torch.device:
    """The first visible GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(where: torch.device) -> AbstractContextManager:
    """Autocast to bfloat16 on CUDA, nothing on the CPU."""
    return torch.autocast("cuda", torch.bfloat16) if where.type == "cuda" else nullcontext()


def step_rng(seed: int, step: int) -> np.random.Generator:
    """Seed torch and return NumPy's generator, both from (seed, step)."""
    torch_seed, numpy_seed = np.random.SeedSequence((seed, step)).generate_state(2, np.uint64)
    torch.manual_seed(int(torch_seed) >> 1)
    return np.random.default_rng(numpy_seed)


def cosine_lr(step: float, cfg: Optimizer) -> float:
    """Linear warm-up over `cfg.warmup` steps, then half a cosine down to zero at `cfg.steps`."""
    if step < cfg.warmup:
        return cfg.lr * step / cfg.warmup
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * (step - cfg.warmup) / max(1, cfg.steps - cfg.warmup)))


def adamw(modules: dict[nn.Module, float], cfg: Optimizer) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of modules, each with a multiple of the learning rate.

    Biases and other one-dimensional parameters do not decay (E5).
    """
    groups = []
    for module, lr_scale in modules.items():
        trained = [p for p in module.parameters() if p.requires_grad]
        groups.append({"params": [p for p in trained if p.ndim > 1], "lr_scale": lr_scale})
        groups.append({"params": [p for p in trained if p.ndim <= 1], "lr_scale": lr_scale, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=cfg.lr, weight_decay=cfg.weight_decay, betas=cfg.betas, fused=True)


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor, cfg: Optimizer, step: int, what: str) -> None:
    """Backward, clip, step. A loss or gradient that is not finite stops the training before it spoils the weights.

    The learning rate is the schedule's in the middle of the step, so that neither the first nor the last is zero.
    """
    advice = "lower the learning rate or clip_grad"
    if not torch.isfinite(loss):
        raise FloatingPointError(f"{what}: loss {loss.item()} at step {step}; {advice}")
    for group in optimizer.param_groups:
        group["lr"] = cosine_lr(step + 0.5, cfg) * group["lr_scale"]
    loss.backward()
    norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], cfg.clip_grad)
    if not torch.isfinite(norm):
        raise FloatingPointError(f"{what}: gradient norm {norm.item()} at step {step}; {advice}")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def stamp(*inputs: Path) -> str:
    """When the files or folders a training reads were written: part of the settings of its resume file."""
    return hashlib.sha1(" ".join(str(Path(path).stat().st_mtime_ns) for path in inputs).encode()).hexdigest()


class Run:
    """The bookkeeping of one training: where it starts, its history, its resume file, its progress bar.

    Usage: `for step in run.steps("mbm"): ...; run.log(step, loss=...)`. A resume file is written every
    `cfg.checkpoint_s` seconds and on SIGTERM, which then ends the process with EXIT_PREEMPTED. The one before it is
    kept: a file that is damaged or of another training (`cfg`, `settings`, shapes) is passed over.

    Parameters
    ----------
    modules : everything that is trained, by name.
    settings : whatever else the training depends on; a resume file made under others is not used.
    """

    def __init__(
        self,
        scratch: Path,
        modules: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        cfg: Optimizer,
        settings: str = "",
    ):
        self.file = Path(scratch) / "resume.safetensors"
        self.previous = self.file.with_name("resume-previous.safetensors")
        self.modules, self.optimizer, self.cfg = modules, optimizer, cfg
        self.identity = f"{cfg.model_dump_json(exclude={'checkpoint_s'})} {settings}"
        self.history: list[dict] = []
        self.start = self._load()
        self.stopping = False

    def steps(self, what: str) -> Iterator[int]:
        """Yield the steps still to do; save on the way."""
        handler = signal.signal(signal.SIGTERM, self._on_sigterm)
        saved = time.monotonic()
        total = self.cfg.steps
        try:
            self.bar = tqdm(range(self.start, total), desc=what, initial=self.start, total=total, mininterval=2)
            for step in self.bar:
                yield step
                if self.stopping or time.monotonic() - saved > self.cfg.checkpoint_s:
                    self._save(step + 1)
                    saved = time.monotonic()
                if self.stopping:
                    raise SystemExit(EXIT_PREEMPTED)
        finally:
            signal.signal(signal.SIGTERM, handler)

    def due(self, step: int, every: int | None = None) -> bool:
        """Whether a step is to be logged: each `every`-th (None: HISTORY_ROWS in all) and the last."""
        every = every or max(1, self.cfg.steps // HISTORY_ROWS)
        return step % every == 0 or step == self.cfg.steps - 1

    def log(self, step: int, **values: float) -> None:
        """Add a row to the history (floats) and show it at the bar."""
        self.history.append({"step": step, **values})
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=False)

    def table(self) -> pd.DataFrame:
        """The history as a table, one row per logged step."""
        return pd.DataFrame(self.history)

    def finish(self) -> None:
        """Remove the resume files: the training's artifact is in place."""
        self.file.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)

    def _on_sigterm(self, *_: object) -> None:
        self.stopping = True

    def _save(self, step: int) -> None:
        tensors = {f"{name}.{key}": value for name, m in self.modules.items() for key, value in m.state_dict().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in entry.items()}
        # one copy each: tied tensors share memory, which the format refuses
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        metadata = {"step": str(step), "identity": self.identity, "history": json.dumps(self.history)}
        with atomic(self.file) as path:
            save_file(tensors, path, metadata | {"checksum": _checksum(tensors)})
            if self.file.exists():
                os.replace(self.file, self.previous)

    def _load(self) -> int:
        for file in (self.file, self.previous):
            if file.exists():
                try:
                    return self._restore(*_read(file))
                except _Unusable as error:
                    print(f"{file}: {error}; passed over", file=sys.stderr)
        return 0

    def _restore(self, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> int:
        if metadata["identity"] != self.identity:
            raise _Unusable("of a training with other settings")
        states = {
            name: {key: tensors.get(f"{name}.{key}") for key in module.state_dict()}
            for name, module in self.modules.items()
        }
        for name, module in self.modules.items():
            for key, value in module.state_dict().items():
                if states[name][key] is None or states[name][key].shape != value.shape:
                    raise _Unusable(f"does not hold {name}.{key} of shape {tuple(value.shape)}")
        for name, module in self.modules.items():
            module.load_state_dict(states[name])
        state = self.optimizer.state_dict()
        count = sum(len(group["params"]) for group in state["param_groups"])
        state["state"] = {
            index: {key: tensors[f"optimizer.{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index in range(count)
            if f"optimizer.{index}.step" in tensors
        }
        self.optimizer.load_state_dict(state)
        self.history = json.loads(metadata["history"])
        return int(metadata["step"])


class _Unusable(Exception):
    """Why a resume file is passed over."""


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    value = 0
    for key in sorted(tensors):
        value = zlib.crc32(tensors[key].reshape(-1).view(torch.uint8).numpy(), value)
    return str(value)


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _Unusable(f"half-written ({error})") from error
    if metadata.get("checksum") != _checksum(tensors):
        raise _Unusable("damaged (its checksum differs)")
    return tensors, metadata
