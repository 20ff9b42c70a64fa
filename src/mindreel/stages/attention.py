"""Where the fMRI encoder looks: attention per voxel, on the cortex and per network (MinD-Video 3.5 and 5.1).

The attention a patch receives is the softmax weight that the queries of one volume give it, averaged over queries,
heads, the volumes of a window and all test windows (or those of one category, as in NeuroCine 5.3). Every voxel of a
patch gets the patch's value. Beside it: integrated gradients (`attribution`) of the two encoders whose output lives in
CLIP space, and how far they agree; after MBM there is no output to attribute, the head that makes one is untrained.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mindreel.artifacts import atomic, load_array, load_table, save_array, save_table
from mindreel.brain import surface
from mindreel.device import this_device
from mindreel.errors import InputError
from mindreel.learning import integrated_gradients
from mindreel.networks.fmri_encoder import FmriEncoder, window_batch
from mindreel.sections import Attention, Encoder

STAGES = ("mbm", "contrastive", "cotrain")
EMBEDDING = ("contrastive", "cotrain")  # after which the encoder's output is compared with CLIP's
GRADIENTS = "integrated-gradients"  # in the names of maps


def maps(
    *,
    mbm: Path,
    contrastive: Path,
    cotrained: Path,
    bold: Path,
    voxels: Path,
    captions: list[Path],
    true_features: Path,
    out: Path,
    encoder: Encoder,
    cfg: Attention,
) -> None:
    """Write the attention maps of the encoder after each of its three learning stages, and integrated gradients.

    Parameters
    ----------
    mbm : Path
        Folder of the subject's masked autoencoder.
    contrastive : Path
        Folder of the encoder after contrastive learning.
    cotrained : Path
        Folder whose `encoder/` is the encoder after co-training.
    bold : Path
        test.npy, (S, T, V) float32.
    voxels : Path
        voxels.tsv of the same voxel selection.
    captions : list of Path
        Tables of the S test segments in the order of `bold`: volume, frame, caption.
    true_features : Path
        Folder of `features`: {segment}/clip.npy (T, F, E) float32, CLIP image embeddings.
    out : Path
        Folder of

        - attention.npy (stage, layer, V) float32, attention.dscalar.nii, networks.tsv, areas.tsv
        - gradients.npy (stage, V) float32, mean size of the integrated gradients of the stages EMBEDDING, summed over
          the window; gradients.dscalar.nii, gradients.tsv (per network and area); completeness.tsv
        - agreement.tsv: rank correlation of each layer's attention with the integrated gradients
        - categories.tsv and, if any clip has a category, categories.npy (category, map, V) float32 and
          categories.dscalar.nii
    encoder : Encoder
        Section encoder of the experiment.
    cfg : Attention
        Section attention of the configuration.
    """
    table, series = load_table(voxels), load_array(bold)
    if series.ndim != 3 or series.shape[2] != len(table):
        raise InputError(
            f"{bold}: found an array of shape {series.shape}, expected (segments, volumes, {len(table)}), "
            f"one column per row of {voxels}; rerun roi for this subject"
        )
    segments, volumes = series.shape[:2]
    per_clip = clip_captions(captions, segments, volumes)
    targets = clip_embeddings(true_features, captions, volumes, encoder.token_width)
    models = {
        "mbm": FmriEncoder.from_mbm(mbm, encoder, len(table), 0.0),
        "contrastive": FmriEncoder.from_pretrained(contrastive),
        "cotrain": FmriEncoder.from_pretrained(Path(cotrained) / "encoder"),
    }
    size = {stage: model.config["patch_size"] for stage, model in models.items()}
    by_clip = {stage: received(model, series, encoder, cfg) for stage, model in models.items()}  # (N, layers, P) each
    values = np.stack([spread(by_clip[stage].mean(0), size[stage], len(table)) for stage in STAGES])
    sizes, complete = {}, []
    for stage in EMBEDDING:
        shares, check = integrated_gradients.integrated_gradients(
            models[stage], series, targets, encoder.window, encoder.shift, cfg.gradient_steps, cfg.batch_size
        )
        sizes[stage] = np.abs(shares).sum(1)  # (N, V)
        complete.append(check.assign(stage=stage, clip=np.arange(len(check))))
    gradients = np.stack([sizes[stage].mean(0) for stage in EMBEDDING]).astype(np.float32)

    members = category_clips(per_clip, cfg.categories)
    per_category: dict[str, np.ndarray] = {}
    for name, clips in members.items():
        for stage in STAGES:
            received_by = spread(by_clip[stage][clips].mean(0), size[stage], len(table))
            per_category |= {f"{name}-{stage}-layer{n}": v for n, v in zip(cfg.layers, received_by, strict=True)}
        per_category |= {f"{name}-{stage}-{GRADIENTS}": sizes[stage][clips].mean(0) for stage in EMBEDDING}

    parts = {"network": pd.Categorical.from_codes(table.network, surface.NETWORKS)}
    parts["area"] = pd.Categorical(table.area, list(dict.fromkeys(table.area)))  # up the hierarchy, as the voxels
    named = {stage: dict(zip(cfg.layers, layers, strict=True)) for stage, layers in zip(STAGES, values, strict=True)}
    of_gradients = {stage: {GRADIENTS: value} for stage, value in zip(EMBEDDING, gradients, strict=True)}
    with atomic(out) as folder:
        folder.mkdir()
        save_array(folder / "attention.npy", values)
        save_array(folder / "gradients.npy", gradients)
        for unit, part in parts.items():
            save_table(folder / f"{unit}s.tsv", part_sums(named, part, unit))
        both = [part_sums(of_gradients, part, "part").assign(unit=unit) for unit, part in parts.items()]
        save_table(folder / "gradients.tsv", pd.concat(both).drop(columns="layer"))
        save_table(folder / "completeness.tsv", pd.concat(complete))
        save_table(folder / "agreement.tsv", agreements(named, of_gradients, parts, size))
        save = _saver(table.grayordinate.to_numpy())
        save(folder / "attention.dscalar.nii", {f"{s}-layer{n}": v for s in named for n, v in named[s].items()})
        save(folder / "gradients.dscalar.nii", {f"{s}-{GRADIENTS}": of_gradients[s][GRADIENTS] for s in EMBEDDING})
        rows = [(name, len(members.get(name, ())), ", ".join(words)) for name, words in cfg.categories.items()]
        save_table(folder / "categories.tsv", pd.DataFrame(rows, columns=["category", "clips", "words"]))
        if per_category:
            stacked = np.stack(list(per_category.values())).reshape(len(members), -1, len(table))
            save_array(folder / "categories.npy", stacked.astype(np.float32))
            save(folder / "categories.dscalar.nii", per_category)


def clip_captions(paths: list[Path], segments: int, volumes: int) -> list[str]:
    """Read the caption of every clip's middle frame: S T texts."""
    if len(paths) != segments:
        raise InputError(f"captions: found {len(paths)} tables, expected {segments}, one per test segment; rerun roi")
    found = []
    for path in paths:
        table = load_table(path)
        middle = table[table.frame == (table.frame.max() + 1) // 2].sort_values("volume")
        if list(middle.volume) != list(range(volumes)):
            raise InputError(f"{path}: found captions of {len(middle)} volumes, expected {volumes}; rerun captions")
        found += middle.caption.astype(str).tolist()
    return found


def clip_embeddings(folder: Path, captions: list[Path], volumes: int, width: int) -> np.ndarray:
    """Read the CLIP embedding of every clip, the mean over its frames: (S T, E) float32."""
    found = []
    for path in captions:
        file = Path(folder) / Path(path).stem / "clip.npy"
        embedded = load_array(file)
        if embedded.ndim != 3 or (len(embedded), embedded.shape[2]) != (volumes, width):
            raise InputError(
                f"{file}: found an array of shape {embedded.shape}, expected ({volumes}, frames, {width}), the test "
                "clips in the CLIP space of contrastive learning; rerun features, or see encoder.token_width"
            )
        found.append(embedded.mean(1))
    return np.concatenate(found)


def category_clips(captions: list[str], categories: dict[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Numbers of the clips whose caption has a word of a category, or its plural in s; only categories with clips."""
    tokens = [set(re.findall(r"[a-z]+", caption.lower())) for caption in captions]
    found = {}
    for name, words in categories.items():
        wanted = {form for word in words for form in (word.lower(), f"{word.lower()}s")}
        found[name] = np.flatnonzero([bool(wanted & words_of) for words_of in tokens])
    return {name: clips for name, clips in found.items() if len(clips)}


def received(model: FmriEncoder, series: np.ndarray, encoder: Encoder, cfg: Attention) -> np.ndarray:
    """Attention that each patch receives, averaged over the volumes of every clip's window.

    Parameters
    ----------
    series : (S, T, V) float32

    Returns
    -------
    (S T, layers, P) float32; sums to 1 over P
    """
    device = this_device()
    model = model.to(device).eval()
    segment, volume = (index.ravel() for index in np.indices(series.shape[:2]))
    parts = []
    with torch.inference_mode():
        for start in range(0, len(segment), cfg.batch_size):
            part = slice(start, start + cfg.batch_size)
            batch = window_batch(series, segment[part], volume[part], encoder.window, encoder.shift)
            parts.append(model.attention(batch.to(device), cfg.layers).mean(1).float().cpu().numpy())
    return np.concatenate(parts)


def spread(patches: np.ndarray, patch_size: int, voxels: int) -> np.ndarray:
    """Give every voxel its patch's value; what only pads the last patch is dropped: (..., P) -> (..., V) float32."""
    spread_out = np.repeat(patches, patch_size, axis=-1)
    if spread_out.shape[-1] < voxels:
        raise InputError(
            f"attention: {patches.shape[-1]} patches of {patch_size} voxels hold fewer than the {voxels} selected "
            "voxels; the encoder was trained on another selection: rerun mbm for this subject"
        )
    return spread_out[..., :voxels].astype(np.float32)


def part_sums(values: Mapping[str, Mapping[Any, np.ndarray]], part: pd.Categorical, unit: str) -> pd.DataFrame:
    """Sum maps over the voxels of every part of the cortex.

    Parameters
    ----------
    values : Mapping[str, Mapping[Any, array]]
        Stage -> layer -> (V,) float.
    part : (V,)
        The part of each voxel; parts come in the order of the categories, those without a voxel are left out.
    unit : str
        Name of the column of the parts.

    Returns
    -------
    table : stage, layer, unit, voxels (number), sum, share (of the sum over all voxels), relative (mean over the part's
        voxels divided by the mean over all voxels: 1 is what even attention gives)
    """
    rows = []
    for stage, by_layer in values.items():
        for layer, value in by_layer.items():
            value = value.astype(float)
            for name in part.remove_unused_categories().categories:
                inside = np.asarray(part == name)
                total = value[inside].sum()
                share, relative = total / value.sum(), value[inside].mean() / value.mean()
                rows.append((stage, layer, name, int(inside.sum()), total, share, relative))
    return pd.DataFrame(rows, columns=["stage", "layer", unit, "voxels", "sum", "share", "relative"])


def agreements(
    received_by: dict[str, dict[int, np.ndarray]],
    gradients: dict[str, dict[str, np.ndarray]],
    parts: dict[str, pd.Categorical],
    patch_size: dict[str, int],
) -> pd.DataFrame:
    """How far attention and integrated gradients rank voxels, patches, networks and areas alike.

    Returns
    -------
    table : stage, layer, over ("voxels", "patches", "networks", "areas"), number, spearman
    """
    tables = []
    for stage, by_name in gradients.items():
        for layer, value in received_by[stage].items():
            patch = np.arange(len(value)) // patch_size[stage]
            groups = {"voxels": None, "patches": patch, "networks": parts["network"], "areas": parts["area"]}
            found = integrated_gradients.agreement(value, by_name[GRADIENTS], groups)
            tables.append(found.assign(stage=stage, layer=layer))
    return pd.concat(tables)[["stage", "layer", "over", "number", "spearman"]]


def _saver(grayordinate: np.ndarray) -> Callable[[Path, dict[str, np.ndarray]], None]:
    """A function that writes maps (V,) by name as CIFTI; voxels that were not selected are 0."""

    def save(path: Path, named: dict[str, np.ndarray]) -> None:
        whole = np.zeros((len(named), surface.VERTICES), np.float32)
        whole[:, grayordinate] = np.stack(list(named.values()))
        surface.save_dscalar(path, dict(zip(named, whole, strict=True)))

    return save
