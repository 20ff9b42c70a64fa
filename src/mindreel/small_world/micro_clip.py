"""The micro CLIP: frame and caption in one space, and the text states that the UNet reads."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

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
from mindreel.small_world.micro_text import TOKENS, clip_tokenizer, tokenize
from mindreel.small_world.micro_training import fit

WIDTH = 128  # of the CLIP space and of the text states


def train_clip(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train frame and caption into one space with the symmetric contrastive loss.

    Parameters
    ----------
    out : Path
        Folder of the zoo; the model goes to `clip` in it, its text encoder and tokenizer to `stable-diffusion` too.
    seed : int
        Of the weights and the training clips; held-out clips have the next one.
    steps : int
        Steps of training.

    Returns
    -------
    quality : dict
        `retrieval_top1_of_500`: share of held-out frames whose nearest caption of 500 is their own.
    """
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextModel

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data, tokenizer = render_clips(4000, seed), clip_tokenizer()
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    ends = {name: tokenizer.convert_tokens_to_ids(f"<|{name}oftext|>") for name in ("start", "end")}
    text = {
        **tower, "num_hidden_layers": 3, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS,
        "bos_token_id": ends["start"], "eos_token_id": ends["end"], "pad_token_id": ends["end"],
    }  # fmt: skip
    vision = {**tower, "num_hidden_layers": 4, "image_size": SIDE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))
    # text states and embeddings share one space: what contrastive learning aligns with is what the UNet reads
    nn.init.eye_(model.text_projection.weight)
    model.text_projection.requires_grad_(False)
    tokens = tokenize(tokenizer, data.captions)

    def loss_of(step: int) -> torch.Tensor:
        pixels, clip = random_frames(data, rng, 96)
        with torch.autocast("cpu", torch.bfloat16):
            result = model(
                input_ids=tokens[clip], pixel_values=normalise(pixels, CLIP_MEAN, CLIP_STD), return_loss=True
            )
        return result.loss.float()

    fit(model, loss_of, steps, 1e-3, "clip")
    held_out = render_clips(500, seed + 1)
    model.eval()
    with torch.no_grad():
        pixels = normalise(to_pixels(held_out.frames[:, FRAMES // 2]), CLIP_MEAN, CLIP_STD)
        logits = model(input_ids=tokenize(tokenizer, held_out.captions), pixel_values=pixels).logits_per_image
    same = torch.tensor([[a == b for b in held_out.captions] for a in held_out.captions])  # two clips may share one
    top1 = same[torch.arange(500), logits.argmax(1)].float().mean().item()
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    encoder = CLIPTextModel(model.config.text_config)
    encoder.load_state_dict(
        {k.removeprefix("text_model."): v for k, v in model.state_dict().items() if k.startswith("text_model.")}
    )
    for part, folder in (
        (model.half(), "clip"), (tokenizer, "clip"), (processor, "clip"),
        (encoder.half(), "stable-diffusion/text_encoder"), (tokenizer, "stable-diffusion/tokenizer"),
    ):  # fmt: skip
        part.save_pretrained(out / folder)
    return {"retrieval_top1_of_500": top1}


@torch.no_grad()
def text_states(out: Path, captions: list[str]) -> torch.Tensor:
    """Encode N captions with the text encoder of the zoo in `out`: (N, TOKENS, WIDTH) float32."""
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = out / "stable-diffusion"
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tokens = tokenize(CLIPTokenizer.from_pretrained(folder / "tokenizer"), captions)
    return torch.cat([encoder(part).last_hidden_state for part in tokens.split(256)])
