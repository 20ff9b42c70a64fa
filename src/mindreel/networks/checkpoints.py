"""Read model folders (config.json + model.safetensors), strictly."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mindreel.artifacts import load_json
from mindreel.errors import InputError


def read_config(folder: Path) -> dict:
    """The config.json of a model folder."""
    try:
        return load_json(Path(folder) / "config.json")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: not a model folder ({error}); delete it and rerun the stage that wrote it"
        ) from error


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The model.safetensors of a model folder."""
    try:
        return load_file(Path(folder) / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: no readable weights ({error}); delete it and rerun the stage that wrote it"
        ) from error


def load_strictly(
    model: nn.Module,
    state: dict[str, torch.Tensor],
    name: str,
    missing: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> None:
    """Load weights; keys the file lacks or has too many, or of another shape, are errors unless listed.

    Parameters
    ----------
    missing : tuple of str
        Keys of the model that keep their initial values if the file lacks them.
    unused : tuple of str
        Keys of the file that are not loaded.
    """
    own = model.state_dict()
    lacking = sorted(own.keys() - state.keys() - set(missing))
    extra = sorted(state.keys() - own.keys() - set(unused))
    common = own.keys() & state.keys() - set(unused)
    shapes = [
        f"{k} {tuple(state[k].shape)}, expected {tuple(own[k].shape)}" for k in common if state[k].shape != own[k].shape
    ]
    if lacking or extra or shapes:
        raise InputError(
            f"{name}: the weights do not fit the model. Lacking: {lacking or 'none'}. Unknown: {extra or 'none'}. "
            f"Of another shape: {sorted(shapes) or 'none'}. Name the keys that may differ, or give matching weights"
        )
    model.load_state_dict({key: state[key] for key in common}, strict=False)
