"""Resume files: the state of a training in one safetensors file, with a checksum, the file before it kept."""

import json
import os
import sys
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mindreel.artifacts import atomic


class Unusable(Exception):
    """Why a resume file is passed over."""


def previous(file: Path) -> Path:
    """Where the file before `file` is kept."""
    return file.with_name(f"{file.stem}-previous{file.suffix}")


def save(
    file: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, metadata: dict[str, str | int | list]
) -> None:
    """Write the weights of modules, AdamW's state, and metadata that JSON can hold; atomically."""
    tensors = {f"{name}.{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in entry.items()}
    # one copy each: tied tensors share memory, which the format refuses
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    with atomic(file) as path:
        save_file(tensors, path, {"content": json.dumps(metadata), "checksum": _checksum(tensors)})
        if file.exists():
            os.replace(file, previous(file))


def load(file: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, identity: str) -> dict | None:
    """Restore from the file, or from the one before it, what `save` wrote; None if neither can be used.

    A file that is damaged, of another training (metadata `identity`) or of other shapes is passed over.
    """
    for candidate in (file, previous(file)):
        if candidate.exists():
            try:
                return _restore(*_read(candidate), modules, optimizer, identity)
            except Unusable as error:
                print(f"{candidate}: {error}; passed over", file=sys.stderr)
    return None


def remove(file: Path) -> None:
    """Remove the file and the one before it."""
    file.unlink(missing_ok=True)
    previous(file).unlink(missing_ok=True)


def remove_partial(file: Path) -> None:
    """Remove what a process that was killed during `save` left half-written."""
    for pattern in (f".*.{file.name}", ".tmp??????"):  # the temporary names of `atomic` and of safetensors
        for partial in file.parent.glob(pattern):
            partial.unlink(missing_ok=True)


def _restore(
    tensors: dict[str, torch.Tensor],
    metadata: dict,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    identity: str,
) -> dict:
    if metadata["identity"] != identity:
        raise Unusable("of a training with other settings")
    states = {
        name: {key: tensors.get(f"{name}.{key}") for key in module.state_dict()} for name, module in modules.items()
    }
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            old = states[name][key]
            if old is None or old.shape != value.shape:
                raise Unusable(f"does not hold {name}.{key} of shape {tuple(value.shape)}")
    for name, module in modules.items():
        module.load_state_dict(states[name])
    state = optimizer.state_dict()
    count = sum(len(group["params"]) for group in state["param_groups"])
    state["state"] = {
        index: {key: tensors[f"optimizer.{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for index in range(count)
        if f"optimizer.{index}.step" in tensors
    }
    optimizer.load_state_dict(state)
    return metadata


def _checksum(tensors: dict[str, torch.Tensor]) -> str:
    value = 0
    for key in sorted(tensors):
        value = zlib.crc32(tensors[key].reshape(-1).view(torch.uint8).numpy().data, value)
    return str(value)


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        with safe_open(file, "pt") as content:
            metadata = content.metadata() or {}
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Unusable(f"half-written ({error})") from error
    if metadata.get("checksum") != _checksum(tensors) or "content" not in metadata:
        raise Unusable("damaged (its checksum differs)")
    return tensors, json.loads(metadata["content"])
