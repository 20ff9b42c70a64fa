"""Load frozen pretrained models and image processors from folders, and refuse half-loaded ones."""

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from mindreel.device import this_device
from mindreel.errors import InputError

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def frozen(kind: Any, folder: Path, key: str) -> Any:
    """Load a model in float32 on the device, in evaluation mode, without gradients.

    Parameters
    ----------
    kind : Any
        A transformers or diffusers model class.
    folder : Path
        What its `save_pretrained` wrote, or the download of a hub id.
    key : str
        The configuration key that names the folder, for messages.

    Raises
    ------
    InputError
        If there is no such model, or weights that the class needs are missing.
    """
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder}: found no config.json, expected a {kind.__name__}; {_remedy(key)}")
    try:
        model, info = kind.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: not a readable {kind.__name__} ({error}); {_remedy(key)}") from error
    if info["missing_keys"]:
        some = ", ".join(sorted(info["missing_keys"])[:5])
        raise InputError(
            f"{folder}: {len(info['missing_keys'])} weights of {kind.__name__} are missing ({some}, ...): "
            f"another model or an incomplete download; {_remedy(key)}"
        )
    return model.float().eval().requires_grad_(False).to(this_device())


def processor(kind: Any, folder: Path, key: str, **options: Any) -> Any:
    """Load a tokenizer or image processor; `options` go to its `from_pretrained`.

    Raises
    ------
    InputError
        If its files are not in the folder.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder}: found no {kind.__name__} there ({error}); {_remedy(key)}") from error


def _remedy(key: str) -> str:
    return f"delete the folder to download it again, or name another one in fetch.{key}"
