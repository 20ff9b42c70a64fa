"""Frames to sentences: BLIP describes every frame."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mindreel import artifacts
from mindreel.errors import InputError
from mindreel.sections import Captions

Captioner = Callable[[np.ndarray], list[str]]


def describe(*, frames: Path, model: Path, out: Path, cfg: Captions) -> None:
    """Caption every frame of a segment; frames that are exactly equal are captioned once.

    Parameters
    ----------
    frames : Path
        (T, F, H, W, 3) uint8.
    model : Path
        Folder of the captioner. Backend `transformers`: BlipForConditionalGeneration with its tokenizer and image
        processor. Backend `lavis`: `hub/checkpoints/blip_coco_caption_base.pth` and `bert-base-uncased/vocab.txt`
        are taken from it if they are there; else LAVIS downloads them to its own cache.
    out : Path
        Table: volume, frame, caption; T * F rows.
    cfg : Captions
        Section captions of the configuration.

    Raises
    ------
    InputError
        If the frames are not of that shape or type, or the backend's model or package is missing.
    """
    array = artifacts.load_array(frames)
    if array.ndim != 5 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise InputError(
            f"{frames}: found {array.dtype} {array.shape}, expected uint8 (T, F, H, W, 3); delete it and rerun stimuli"
        )
    flat = array.reshape(-1, *array.shape[2:])
    first, same_as = unique_frames(flat)
    caption = _transformers(model, cfg) if cfg.backend == "transformers" else _lavis(model, cfg)
    captions: list[str] = []
    starts = range(0, len(first), cfg.batch_size)
    for start in tqdm(starts, desc=f"captions of {frames.stem}", mininterval=2):
        captions += caption(flat[first[start : start + cfg.batch_size]])
    volume, frame = np.divmod(np.arange(len(flat)), array.shape[1])
    texts = [" ".join(captions[i].split()) for i in same_as]  # one line each, whatever the tokenizer returns
    artifacts.save_table(out, pd.DataFrame({"volume": volume, "frame": frame, "caption": texts}))


def unique_frames(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find equal frames.

    Parameters
    ----------
    frames : (N, H, W, 3) uint8

    Returns
    -------
    first : (U,) int
        Where each different frame appears first, ascending.
    same_as : (N,) int
        For every frame, the position in `first` of the one that it equals.
    """
    seen: dict[bytes, int] = {}
    first: list[int] = []
    same_as = np.empty(len(frames), int)
    for index, frame in enumerate(frames):
        digest = hashlib.blake2b(np.ascontiguousarray(frame).data, digest_size=16).digest()
        if digest not in seen:
            seen[digest] = len(first)
            first.append(index)
        same_as[index] = seen[digest]
    return np.array(first, int), same_as


def _transformers(model: Path, cfg: Captions) -> Captioner:
    from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

    from mindreel.device import this_device
    from mindreel.networks.pretrained import frozen, processor

    tokenizer = processor(BertTokenizer, model, "captioner")
    prepare = processor(BlipImageProcessorPil, model, "captioner")
    blip = frozen(BlipForConditionalGeneration, model, "captioner")

    @torch.inference_mode()
    def caption(frames: np.ndarray) -> list[str]:
        pixels = prepare(list(frames), return_tensors="pt")["pixel_values"].to(this_device())
        tokens = blip.generate(pixels, max_new_tokens=cfg.max_tokens, num_beams=cfg.beams, do_sample=False)
        return tokenizer.batch_decode(tokens[:, 1:], skip_special_tokens=True)  # the first one is the start token

    return caption


def _lavis(model: Path, cfg: Captions) -> Captioner:
    try:
        from lavis.models import load_model_and_preprocess
    except ImportError as error:
        raise InputError(
            f"captions.backend: found 'lavis', but this environment cannot import it ({error}); run with --use-conda, "
            "which uses envs/lavis.yaml, or set captions.backend to transformers"
        ) from error
    from PIL import Image

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (model / "hub").is_dir():
        torch.hub.set_dir(str(model.resolve() / "hub"))
    # LAVIS looks for bert-base-uncased in the working folder before it asks the hub
    try:
        with contextlib.chdir(model if (model / "bert-base-uncased").is_dir() else "."):
            blip, processors, _ = load_model_and_preprocess("blip_caption", "base_coco", is_eval=True, device=device)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{model}: LAVIS cannot load its captioner ({error}); without a network put hub/checkpoints/"
            "blip_coco_caption_base.pth and bert-base-uncased/vocab.txt into this folder"
        ) from error

    @torch.inference_mode()
    def caption(frames: np.ndarray) -> list[str]:
        pixels = torch.stack([processors["eval"](Image.fromarray(frame)) for frame in frames]).to(device)
        return blip.generate({"image": pixels}, num_beams=cfg.beams, max_length=cfg.max_tokens)

    return caption
