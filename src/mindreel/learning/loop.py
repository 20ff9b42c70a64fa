"""What the four training loops share: schedule, seeding, optimiser, checks, resume files, history.

A step's random numbers depend on (seed, step) only, so that a killed and restarted training sees the same
batches and noise as one that ran through.

On several processes a training is the same (`mindreel.distributed`).
"""

import hashlib
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from mindreel import distributed
from mindreel.errors import InputError
from mindreel.learning import resume
from mindreel.sections import Optimizer

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: asked to stop, state saved, run again
HISTORY_ROWS = 500  # about so many rows per training


class Rows(Protocol):
    """An array (N, V), or what has rows as one: a memory map, or several that are read as one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, V)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray | slice, /) -> np.ndarray: ...


def room(device: torch.device) -> int:
    """How much of a GPU's memory (bytes) training data may take: a third of what is free; on the CPU none."""
    return torch.cuda.mem_get_info(device)[0] // 3 if device.type == "cuda" else 0


def fetcher(data: Rows, device: torch.device) -> Callable[[np.ndarray], torch.Tensor]:
    """A function that fetches rows (any shape, int) of data (N, V) as float32 (..., V) on the device.

    Data for which there is `room` move to the GPU once; other data stay where they are, memory-mapped.

    Parameters
    ----------
    data : (N, V)
        Any dtype; rows by index.
    device : torch.device
        Where the rows go.
    """
    kind = torch.from_numpy(np.empty(0, data.dtype)).dtype
    if math.prod(data.shape) * kind.itemsize > room(device):
        return lambda rows: torch.from_numpy(data[rows].astype(np.float32)).to(device)
    kept = torch.empty(data.shape, dtype=kind, device=device)
    for start in range(0, len(data), 4096):
        kept[start : start + 4096] = torch.from_numpy(np.array(data[start : start + 4096]))
    return lambda rows: kept[torch.from_numpy(rows).to(device)].float()


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

    Biases and other one-dimensional parameters do not decay, as in Mind-Vis.
    """
    groups = []
    for module, lr_scale in modules.items():
        trained = [p for p in module.parameters() if p.requires_grad]
        groups.append({"params": [p for p in trained if p.ndim > 1], "lr_scale": lr_scale})
        groups.append({"params": [p for p in trained if p.ndim <= 1], "lr_scale": lr_scale, "weight_decay": 0.0})
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=cfg.lr, weight_decay=cfg.weight_decay, betas=cfg.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate, of each module times its own multiple.

    The trainings take the schedule's in the middle of a step, so that neither the first nor the last is zero.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """All that an optimiser trains."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def finite(value: torch.Tensor, name: str, what: str, step: int, samples: np.ndarray | None = None) -> torch.Tensor:
    """Return a loss or a gradient norm, unless it would spoil the weights.

    Parameters
    ----------
    value : () float
        The same in all processes.
    name : str
        What it is.
    what : str
        The training.
    step : int
        Its step.
    samples : (B,) int
        Which samples the batch holds.

    Raises
    ------
    FloatingPointError
        If it is not finite; with the step and the samples, in all processes alike.
    """
    if not torch.isfinite(value):
        batch = "" if samples is None else f" (samples {', '.join(str(sample) for sample in samples)})"
        advice = "look at these samples, lower the learning rate or clip_grad"
        raise FloatingPointError(f"{what}: {name} {value.item()} at step {step}{batch}; {advice}")
    return value


def stamp(*inputs: Path) -> str:
    """When the files or folders a training reads were written: part of the settings of its resume file."""
    return hashlib.sha1(" ".join(str(Path(path).stat().st_mtime_ns) for path in inputs).encode()).hexdigest()


class Run:
    """The bookkeeping of one training: where it starts, its history, its resume file, its progress bar.

    Usage: `for step in run.steps("mbm"): ...; run.log(step, loss=...)`. A resume file is written every
    `cfg.checkpoint_s` seconds and on SIGTERM, which then ends the process with EXIT_PREEMPTED. The one before it is
    kept: a file that is damaged or of another training (`cfg`, `settings`, shapes) is passed over. Of several processes
    the first one writes, all read, and all stop at the same step.

    The history also goes, as it grows, to TensorBoard events in the folder `tensorboard` beside the resume file. They
    stay when the training is over. One that goes on writes them anew from its history, so that no step is there twice.

    Parameters
    ----------
    modules : dict
        Everything that is trained, by name.
    settings : str
        Whatever else the training depends on; a resume file made under others is not used.
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
        self.modules, self.optimizer, self.cfg = modules, optimizer, cfg
        self.identity = f"{cfg.model_dump_json(exclude={'checkpoint_s'})} {settings}"
        found = resume.load(self.file, modules, optimizer, self.identity) or {"step": 0, "history": []}
        self.start: int = found["step"]
        self.history: list[dict] = found["history"]
        self._check_start()
        self.stopping = False
        self.events = None
        if distributed.rank() == 0:
            resume.remove_partial(self.file)

    def steps(self, what: str) -> Iterator[int]:
        """Yield the steps still to do; save on the way."""
        handler = signal.signal(signal.SIGTERM, self._on_sigterm)
        self._open_events()
        saved = time.monotonic()
        total = self.cfg.steps
        try:
            shown = {"desc": what, "unit": "step", "mininterval": 2, "disable": distributed.rank() > 0}
            self.bar = tqdm(range(self.start, total), initial=self.start, total=total, **shown)
            for step in self.bar:
                yield step
                stopping = self._all_stopping()
                if stopping or time.monotonic() - saved > self.cfg.checkpoint_s:
                    self._save(step + 1)
                    saved = time.monotonic()
                if stopping:
                    raise SystemExit(EXIT_PREEMPTED)
        finally:
            signal.signal(signal.SIGTERM, handler)
            if self.events:
                self.events.close()

    def due(self, step: int, every: int | None = None) -> bool:
        """Whether a step is to be logged: each `every`-th (None: HISTORY_ROWS in all) and the last."""
        every = every or max(1, self.cfg.steps // HISTORY_ROWS)
        return step % every == 0 or step == self.cfg.steps - 1

    def log(self, step: int, **values: float) -> None:
        """Add a row to the history (floats; rows may differ in keys), show it at the bar, with samples per second."""
        self.history.append({"step": step, **values})
        self._to_events(self.history[-1])
        shown = {key: f"{value:.4g}" for key, value in values.items()}
        state = self.bar.format_dict
        if state["elapsed"] > 0:
            rate = (step + 1 - self.start) * self.cfg.batch_size / state["elapsed"]
            shown["samples/s"] = f"{rate:.4g}"
        self.bar.set_postfix(shown, refresh=False)

    def table(self) -> pd.DataFrame:
        """The history as a table, one row per logged step."""
        return pd.DataFrame(self.history)

    def finish(self) -> None:
        """Remove the resume files: the training's artifact is in place."""
        if distributed.rank() == 0:
            resume.remove(self.file)

    def _all_stopping(self) -> bool:
        """Whether any process was asked to stop; the same answer in all of them."""
        return bool(distributed.largest(torch.tensor(float(self.stopping))))

    def _check_start(self) -> None:
        bounds = distributed.largest(torch.tensor([self.start, -self.start]))
        if bounds[0] != -bounds[1]:
            raise InputError(
                f"{self.file}: some processes would go on from step {bounds[0]}, others from {-bounds[1]}; "
                "all must see the same scratch folder: put it on a shared disk, or empty it"
            )

    def _on_sigterm(self, *_: object) -> None:
        self.stopping = True

    def _save(self, step: int) -> None:
        if distributed.rank() == 0:
            state: dict[str, str | int | list] = {"step": step, "identity": self.identity, "history": self.history}
            resume.save(self.file, self.modules, self.optimizer, state)

    def _open_events(self) -> None:
        if distributed.rank() > 0:
            return
        from tensorboardX import SummaryWriter

        folder = self.file.with_name("tensorboard")
        shutil.rmtree(folder, ignore_errors=True)
        self.events = SummaryWriter(str(folder), flush_secs=30)
        for row in self.history:
            self._to_events(row)

    def _to_events(self, row: dict) -> None:
        if self.events:
            for name in row.keys() - {"step"}:
                self.events.add_scalar(name, row[name], row["step"])
