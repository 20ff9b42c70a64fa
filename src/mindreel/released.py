"""Checkpoints of the two papers' released code, under our names."""

import re

import torch

from mindreel.encoder import FmriEncoder, MaskedAutoencoder
from mindreel.weights import load_strictly

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


def from_released(config: dict, weights: dict[str, torch.Tensor]) -> MaskedAutoencoder | FmriEncoder:
    """Build our model from Mind-Vis's MAEforFMRI or MinD-Video's fMRIEncoder, positions included.

    Parameters
    ----------
    config : the released model's arguments (num_voxels, padded as in D1; embed_dim, ...); mlp_ratio defaults to 1.
    weights : its state dict.
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
        model = MaskedAutoencoder(class_token=True, **arguments, **{key: config[name] for key, name in names.items()})
        load_strictly(model, state, "released MAEforFMRI")
        return model.eval()
    names = {"window": "window_size", "tokens": "out_channel", "token_width": "out_dim", "dropout": "dropout"}
    model = FmriEncoder(**arguments, **{key: config[name] for key, name in names.items()})
    load_strictly(model, state, "released fMRIEncoder", unused=("class_token", "mask_token", "logit_scale"))
    return model.eval()
