"""The micro captioner: BLIP, which says a frame's caption."""

from pathlib import Path

import numpy as np
import torch

from mindreel.small_world.micro_clips import (
    CLIP_MEAN,
    CLIP_STD,
    FRAMES,
    SIDE,
    normalise,
    random_frames,
    render_clips,
    to_pixels,
)
from mindreel.small_world.micro_text import TOKENS, tokenize, vocabulary
from mindreel.small_world.micro_training import fit

WIDTH = 128  # of its layers


def train_captioner(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train BLIP to say a frame's caption.

    Parameters
    ----------
    out : Path
        Folder of the zoo; the model goes to `captioner` in it.
    seed : int
        Of the weights and the training clips; held-out clips have the next one.
    steps : int
        Steps of training.

    Returns
    -------
    quality : dict
        `exact_match`: share of held-out frames whose caption is said word for word.
    """
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = render_clips(4000, seed)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    words = {word: i for i, word in enumerate([*special, *vocabulary()])}
    tokenizer = BertTokenizer(vocab=words, model_max_length=TOKENS, bos_token="[DEC]")
    text = {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "encoder_hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": 5,
        "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "projection_dim": WIDTH, "label_smoothing": 0.0,
        "max_position_embeddings": 2 * TOKENS,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": 8, "projection_dim": WIDTH,
    }  # fmt: skip
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    tokens = tokenize(tokenizer, data.captions)
    tokens[:, 0] = text["bos_token_id"]  # BLIP's decoder starts at its own token, not at [CLS]

    def loss_of(step: int) -> torch.Tensor:
        pixels, clip = random_frames(data, rng, 48)
        ids = tokens[clip]
        with torch.autocast("cpu", torch.bfloat16):
            result = model(
                pixel_values=normalise(pixels, CLIP_MEAN, CLIP_STD),
                input_ids=ids,
                attention_mask=(ids != 0).long(),
                labels=ids.masked_fill(ids == 0, -100),
            )
        return result.loss.float()

    fit(model, loss_of, steps, 1.5e-3, "captioner")
    held_out = render_clips(200, seed + 1)
    model.eval()
    pixels = normalise(to_pixels(held_out.frames[:, FRAMES // 2]), CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        captions = tokenizer.batch_decode(
            model.generate(pixel_values=pixels, max_new_tokens=TOKENS), skip_special_tokens=True
        )
    processor = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    for part in (model.half(), tokenizer, processor):
        part.save_pretrained(out / "captioner")
    return {"exact_match": float(np.mean([a.strip() == b for a, b in zip(captions, held_out.captions, strict=True)]))}
