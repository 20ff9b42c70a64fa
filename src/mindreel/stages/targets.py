"""Frames and captions to what training aims at: CLIP embeddings, text states, VAE latents. Computed once."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from mindreel import artifacts
from mindreel.device import this_device
from mindreel.errors import InputError
from mindreel.networks.pretrained import frozen, processor
from mindreel.sections import Targets

CROP_AREA = (0.6, 1.0)  # (choice) smallest and largest share of the picture that a random crop keeps


def embed(
    *, frames: Path, captions: Path, clip: Path, diffusion: Path, synonyms: Path, out: Path, cfg: Targets
) -> None:
    """Encode a segment with the frozen networks.

    Every view (random crop, augmented caption) is drawn from (cfg.seed, the segment's name), so that a segment's
    targets do not depend on the others. Each different caption is encoded once.

    Parameters
    ----------
    frames : Path
        (T, F, H, W, 3) uint8.
    captions : Path
        Table: volume, frame, caption; T * F rows in this order.
    clip : Path
        Folder of a CLIPModel.
    diffusion : Path
        Folder in Stable Diffusion's layout: `vae`, `text_encoder`, `tokenizer`.
    synonyms : Path
        Table: word, synonyms (separated by commas).
    out : Path
        Folder of

        - image.npy (T, F, 1 + image_views, E) float32, CLIP image embeddings of norm 1; view 0 is the whole frame
        - text.npy (T, F, 1 + text_views, E) float32, CLIP text embeddings of norm 1; view 0 is the caption
        - states.npy (T, L, D) float16, last hidden states of the text encoder for the caption of frame F // 2
        - empty.npy (L, D) float16, the same for the empty caption
        - latents.npy (T, F, C, h, w) float16, posterior means of the VAE times its scaling factor
    cfg : Targets
        Section targets of the configuration.

    Raises
    ------
    InputError
        If frames and captions do not belong together, or a model or the synonyms cannot be read.
    """
    pictures = artifacts.load_array(frames)
    volumes, count = pictures.shape[:2]
    texts = read_captions(captions, volumes, count)
    words = read_synonyms(synonyms)
    rng = np.random.default_rng([cfg.seed, *frames.stem.encode()])
    views = text_views(texts, words, rng, cfg)
    with artifacts.atomic(out) as folder, torch.inference_mode():
        image, text = _clip_embeddings(clip, pictures, views, rng, cfg)
        artifacts.save_array(folder / "image.npy", image)
        artifacts.save_array(folder / "text.npy", text.reshape(volumes, count, 1 + cfg.text_views, -1))
        states = _text_states(diffusion, ["", *texts[count // 2 :: count]], cfg)
        artifacts.save_array(folder / "empty.npy", states[0])
        artifacts.save_array(folder / "states.npy", states[1:])
        artifacts.save_array(folder / "latents.npy", _latents(diffusion, pictures, cfg))


def read_captions(path: Path, volumes: int, frames: int) -> list[str]:
    """Read a segment's captions, one per frame in the order of the frames."""
    table = pd.read_csv(path, sep="\t", keep_default_na=False, dtype={"caption": str})
    expected = np.stack(np.divmod(np.arange(volumes * frames), frames), 1)
    if len(table) != len(expected) or (table[["volume", "frame"]].to_numpy() != expected).any():
        raise InputError(
            f"{path}: found {len(table)} rows, expected {len(expected)}, one for each of {frames} frames of {volumes} "
            "volumes in order; delete it and rerun captions"
        )
    return table["caption"].tolist()


def read_synonyms(path: Path) -> dict[str, list[str]]:
    """Read the synonyms of each word."""
    table = pd.read_csv(path, sep="\t", keep_default_na=False, comment="#", dtype=str)
    if list(table.columns) != ["word", "synonyms"]:
        raise InputError(
            f"{path}: found columns {', '.join(table.columns)}, expected word and synonyms (tab-separated)"
        )
    return {word: [s.strip() for s in text.split(",")] for word, text in zip(table.word, table.synonyms, strict=True)}


def text_views(
    captions: list[str], synonyms: dict[str, list[str]], rng: np.random.Generator, cfg: Targets
) -> list[list[str]]:
    """Augment every caption `cfg.text_views` times; the first entry of each list is the caption itself."""
    return [
        [caption, *(augment(caption, synonyms, rng, cfg.synonym_share, cfg.swap_words) for _ in range(cfg.text_views))]
        for caption in captions
    ]


def augment(caption: str, synonyms: dict[str, list[str]], rng: np.random.Generator, share: float, swaps: int) -> str:
    """Replace words by synonyms, then swap pairs of words.

    Parameters
    ----------
    share : float
        Probability that a word which has synonyms is replaced by one of them, each equally likely.
    swaps : int
        How often two different positions, drawn at random, exchange their words.
    """
    words = caption.split()
    replaced = []
    for word in words:
        choices = synonyms.get(word.lower(), [])
        swap_in = choices and rng.random() < share
        replaced.append(choices[rng.integers(len(choices))] if swap_in else word)
    for _ in range(swaps if len(words) > 1 else 0):
        i, j = rng.choice(len(replaced), size=2, replace=False)
        replaced[i], replaced[j] = replaced[j], replaced[i]
    return " ".join(replaced)


def random_crop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut out a square, its area a share drawn from CROP_AREA, anywhere in the picture.

    Parameters
    ----------
    picture : (H, W, 3) uint8

    Returns
    -------
    crop : (h, h, 3) uint8
    """
    height, width = picture.shape[:2]
    side = max(1, round(min(height, width) * np.sqrt(rng.uniform(*CROP_AREA))))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return picture[top : top + side, left : left + side]


def _clip_embeddings(
    folder: Path, pictures: np.ndarray, views: list[list[str]], rng: np.random.Generator, cfg: Targets
) -> tuple[np.ndarray, np.ndarray]:
    """Image embeddings (T, F, 1 + image_views, E) and text embeddings (T * F, 1 + text_views, E), float32, norm 1."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    prepare = processor(CLIPImageProcessorPil, folder, "clip")
    tokenizer = processor(CLIPTokenizer, folder, "clip")
    model = frozen(CLIPModel, folder, "clip")

    def of_images(images: list[np.ndarray]) -> torch.Tensor:
        pixels = prepare(images, return_tensors="pt")["pixel_values"].to(this_device())
        return model.get_image_features(pixels).pooler_output

    def of_texts(texts: list[str]) -> torch.Tensor:
        tokens = _tokens(tokenizer, texts, model.config.text_config.max_position_embeddings)
        return model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output

    flat = pictures.reshape(-1, *pictures.shape[2:])
    rows = []
    for start in tqdm(range(0, len(flat), cfg.batch_size), desc="CLIP images", mininterval=2):
        batch = flat[start : start + cfg.batch_size]
        images = [view for p in batch for view in (p, *(random_crop(p, rng) for _ in range(cfg.image_views)))]
        rows.append(_normalised(of_images(images)))
    image = np.concatenate(rows).reshape(*pictures.shape[:2], 1 + cfg.image_views, -1)

    unique, position = np.unique(np.array(views, dtype=np.str_), return_inverse=True)
    rows = []
    for start in tqdm(range(0, len(unique), cfg.batch_size), desc="CLIP texts", mininterval=2):
        rows.append(_normalised(of_texts(unique[start : start + cfg.batch_size].tolist())))
    return image, np.concatenate(rows)[position.reshape(len(views), -1)]


def _text_states(folder: Path, texts: list[str], cfg: Targets) -> np.ndarray:
    """Last hidden states (N, L, D) float16 of Stable Diffusion's text encoder, as its pipeline passes them on."""
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = processor(CLIPTokenizer, folder / "tokenizer", "stable_diffusion")
    model = frozen(CLIPTextModel, folder / "text_encoder", "stable_diffusion")
    unique, position = np.unique(np.array(texts, dtype=np.str_), return_inverse=True)
    rows = []
    for start in tqdm(range(0, len(unique), cfg.batch_size), desc="text states", mininterval=2):
        tokens = _tokens(
            tokenizer, unique[start : start + cfg.batch_size].tolist(), model.config.max_position_embeddings
        )
        # without a mask, as Stable Diffusion was trained
        rows.append(model(tokens["input_ids"]).last_hidden_state.half().cpu().numpy())
    return np.concatenate(rows)[position]


def _latents(folder: Path, pictures: np.ndarray, cfg: Targets) -> np.ndarray:
    """Posterior means times the scaling factor, (T, F, C, h, w) float16; pixels go in as [-1, 1]."""
    from diffusers import AutoencoderKL

    vae = frozen(AutoencoderKL, folder / "vae", "stable_diffusion")
    flat = pictures.reshape(-1, *pictures.shape[2:])
    rows = []
    for start in tqdm(range(0, len(flat), cfg.batch_size), desc="latents", mininterval=2):
        pixels = torch.from_numpy(np.array(flat[start : start + cfg.batch_size])).to(this_device())
        pixels = pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)
        mean = vae.encode(pixels).latent_dist.mode()
        rows.append((mean * vae.config.scaling_factor).half().cpu().numpy())
    return np.concatenate(rows).reshape(*pictures.shape[:2], *rows[0].shape[1:])


def _tokens(tokenizer: Any, texts: list[str], length: int) -> dict[str, torch.Tensor]:
    tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.to(this_device())


def _normalised(embeddings: torch.Tensor) -> np.ndarray:
    return nn.functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
