"""Checkpoints of the papers' released code (Mind-Vis, MinD-Video, vis_dec), under our names and in our format."""

import re
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mindreel.artifacts import atomic, load_json
from mindreel.errors import InputError
from mindreel.networks.checkpoints import load_strictly
from mindreel.networks.fmri_encoder import FmriEncoder
from mindreel.networks.masked_autoencoder import MaskedAutoencoder

RELEASED_NAMES = (  # released code -> ours, in order
    (r"^cls_token$", "class_token"),
    (r"^(decoder_)?pos_embed$", r"\1positions"),
    (r"patch_embed\.proj\.", "embed."),
    (r"\.norm1\.", ".norm_spatial."),
    (r"\.norm2\.", ".norm_mlp."),
    (r"\.norm_temp\.", ".norm_temporal."),
    (r"\.attn_temp\.", ".temporal."),
    (r"\.attn\.", ".spatial."),
    (r"(spatial|temporal)\.proj\.", r"\1.out."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^decoder_pred\.", "predict."),
    (r"^proj_head\.channel_mapper\.", "head.token_map."),
    (r"^proj_head\.projection\.", "head.project."),
    (r"^proj_head\.fc\.", "head.refine."),
)
SIDE_TRACKS = re.compile(r"^(nature_img_|conv_up\.|linear_up\.|dis_)")  # parts of vis_dec that no fMRI goes through
SETTINGS_OBJECT = re.compile(r"^(\w+\.)*Config_\w+$")  # Mind-Vis pickles its settings beside the weights


def convert(
    *,
    checkpoint: Path,
    out: Path,
    voxels: int | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
) -> None:
    """Convert a released checkpoint into our format; say what is not as it was.

    A checkpoint of Mind-Vis's MAEforFMRI becomes a folder for `mbm.init`; one of MinD-Video's fMRIEncoder (config.json
    beside it) becomes an encoder as stage contrastive makes it.

    Parameters
    ----------
    checkpoint : Path
        .pth, .bin (read without running pickled code) or .safetensors.
    out : Path
        Folder of the model.
    voxels : int
        Adapt the model to so many voxels; without it, it takes as many as it was trained for, padding included.
    heads : int
        Attention heads of the encoder, if the checkpoint does not say (16 in the papers).
    decoder_heads : int
        Attention heads of the decoder, likewise.

    Raises
    ------
    InputError
        If the checkpoint cannot be read, would run code, or is of another model.
    """
    weights, config = read_checkpoint(checkpoint)
    given = {"num_heads": heads} if heads else {}
    given |= {"decoder_num_heads": decoder_heads} if decoder_heads else {}
    config = {"dropout": 0.0} | config | sizes(weights) | given
    needed = ("num_heads", "decoder_num_heads") if "decoder_embed.weight" in weights else ("num_heads",)
    if missing := [key for key in needed if key not in config]:
        options = " and ".join({"num_heads": "--heads", "decoder_num_heads": "--decoder-heads"}[key] for key in missing)
        raise InputError(
            f"{checkpoint}: does not say how many attention heads it has; give {options} (16 in the papers)"
        )
    model, notes = from_released(config, weights), []
    if voxels is not None:
        size, patches = model.config["patch_size"], model.config["patches"]
        whole_extra = voxels % size == 0 and patches == voxels // size + 1  # as released
        model, notes = model.for_voxels(voxels, patches if whole_extra else None)
    if left := sorted({key.split(".")[0] for key in weights if SIDE_TRACKS.match(key)}):
        notes.append(f"left out: {', '.join(left)}")
    print(f"{checkpoint}: {type(model).__name__} of {model.config['voxels']} voxels")
    print("\n".join(f"adapted: {note}" for note in notes) or "nothing had to be adapted")
    with atomic(out) as folder:
        model.save_pretrained(folder)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The state dict of a released checkpoint, and the settings that come with it (possibly none).

    Pickled code is not run: of classes only tensors' own are made; Mind-Vis's settings objects become plain ones.
    """
    path = Path(path)
    beside = path.parent / "config.json"
    config = load_json(beside) if beside.exists() else {}
    try:
        if path.suffix == ".safetensors":
            return load_file(path), config
        content = _unpickle(path)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, UnpicklingError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error}); download it again") from error
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            settings = content.get("config", {})
            settings = settings if isinstance(settings, dict) else vars(settings)
            content, config = content[key], config | settings
    weights = {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if "patch_embed.proj.weight" not in weights:
        found = ", ".join(list(content)[:5]) or "nothing"
        raise InputError(
            f"{path}: holds {found}, but no patch_embed.proj.weight; expected a checkpoint of Mind-Vis's MAEforFMRI or "
            "MinD-Video's fMRIEncoder"
        )
    return weights, config


def _unpickle(path: Path) -> dict:
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if refused := [name for name in unknown if not SETTINGS_OBJECT.match(name)]:
        raise InputError(
            f"{path}: would run code of {', '.join(refused)} when it is read; "
            "save the weights alone with torch.save(model.state_dict(), ...) where you trust it"
        )
    with torch.serialization.safe_globals([(_settings_object(name), name) for name in unknown]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _settings_object(name: str) -> type:
    return type(name.rsplit(".", 1)[1], (SimpleNamespace,), {})


def sizes(weights: dict[str, torch.Tensor]) -> dict[str, int | float]:
    """A released model's arguments as far as its weights show them: all but the number of heads."""
    width, _, patch_size = weights["patch_embed.proj.weight"].shape
    found = {
        "num_voxels": (weights["pos_embed"].shape[1] - 1) * patch_size,
        "patch_size": patch_size,
        "embed_dim": width,
        "depth": _depth(weights, "blocks"),
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
    }
    if "decoder_embed.weight" in weights:
        found["decoder_embed_dim"] = weights["decoder_embed.weight"].shape[0]
        found["decoder_depth"] = _depth(weights, "decoder_blocks")
    else:
        tokens, positions = weights["proj_head.channel_mapper.weight"].shape
        found |= {
            "window_size": positions // (weights["pos_embed"].shape[1] - 1),
            "out_channel": tokens,
            "out_dim": weights["proj_head.projection.weight"].shape[0],
        }
    return found


def _depth(weights: dict[str, torch.Tensor], blocks: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in weights if key.startswith(f"{blocks}."))


def from_released(config: dict, weights: dict[str, torch.Tensor]) -> MaskedAutoencoder | FmriEncoder:
    """Build our model from Mind-Vis's MAEforFMRI or MinD-Video's fMRIEncoder, positions included.

    Parameters
    ----------
    config : dict
        The released model's arguments (num_voxels, padded as Mind-Vis does; embed_dim, ...); mlp_ratio defaults to 1.
    weights : dict
        Its state dict.
    """
    ours = {
        "voxels": "num_voxels",
        "patch_size": "patch_size",
        "width": "embed_dim",
        "depth": "depth",
        "heads": "num_heads",
    }
    arguments = {key: config[name] for key, name in ours.items()} | {"mlp_ratio": config.get("mlp_ratio", 1.0)}
    state = {}
    for key, value in weights.items():
        if SIDE_TRACKS.match(key):
            continue
        for pattern, name in RELEASED_NAMES:
            key = re.sub(pattern, name, key)
        if key.endswith("positions"):
            value = value[0, 1:]  # the first row is the class token's, all zero
        state[key] = value.squeeze(1) if key == "embed.weight" else value
    if "decoder_embed.weight" in state:
        names = {
            "decoder_width": "decoder_embed_dim",
            "decoder_depth": "decoder_depth",
            "decoder_heads": "decoder_num_heads",
        }
        own = {key: config[name] for key, name in names.items()}
        autoencoder = MaskedAutoencoder(class_token=True, **arguments, **own)
        load_strictly(autoencoder, state, "released MAEforFMRI")
        return autoencoder.eval()
    names = {"window": "window_size", "tokens": "out_channel", "token_width": "out_dim", "dropout": "dropout"}
    model = FmriEncoder(**arguments, **{key: config[name] for key, name in names.items()})
    load_strictly(model, state, "released fMRIEncoder", unused=("class_token", "mask_token", "logit_scale"))
    return model.eval()
