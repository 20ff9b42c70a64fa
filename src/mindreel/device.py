"""Which device this process computes on, and in which precision."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from mindreel import distributed


def this_device() -> torch.device:
    """The GPU of this process, else the CPU; under a launcher it joins the other processes."""
    cuda = torch.cuda.is_available()
    if distributed.world_size() == 1:
        return torch.device("cuda" if cuda else "cpu")
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(own)
    distributed.join(cuda)
    return own


def precision(device: torch.device, kind: str = "auto") -> AbstractContextManager:
    """What forward and backward passes compute in (as `cotrain.precision`); weights stay float32.

    Parameters
    ----------
    kind : str
        "float32", "bfloat16" (autocast), or "auto": bfloat16 on a GPU, float32 without.
    """
    if kind == "auto":
        kind = "bfloat16" if device.type == "cuda" else "float32"
    return torch.autocast(device.type, torch.bfloat16) if kind == "bfloat16" else nullcontext()
