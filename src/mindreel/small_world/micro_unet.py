"""The micro UNet: it denoises clips, conditioned on the text states of their captions."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from mindreel.diffusion import objective
from mindreel.networks.video_unet import TEMPORAL, VideoUNet, deflate, inflate
from mindreel.small_world.micro_clip import WIDTH, text_states
from mindreel.small_world.micro_clips import FRAMES, HALF_MEAN, HALF_STD, normalise, render_clips
from mindreel.small_world.micro_training import fit
from mindreel.small_world.micro_vae import LATENT_CHANNELS, LATENT_SIDE, latents_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel


def train_unet(out: Path, seed: int, steps: int) -> dict[str, float]:
    """Train the UNet to denoise clips and single frames, conditioned on the caption.

    It sees clips through the sparse causal attention of the video model, whose temporal attention stays at zero. What
    is saved is therefore a stock UNet2DConditionModel, from which the video generator starts near its goal.

    Parameters
    ----------
    out : Path
        Folder of the zoo, with its VAE, text encoder and image classifier. UNet, scheduler and `model_index.json` go to
        `stable-diffusion` in it, true clips above sampled ones to `samples.png`.
    seed : int
        Of the weights and the training clips; held-out clips have the next one.
    steps : int
        Steps of training.

    Returns
    -------
    quality : dict
        Shares of clips sampled from held-out captions that the image classifier recognises:
        `sampled_object_and_colour`, `sampled_colour`.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    folder = out / "stable-diffusion"
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    data = render_clips(5000, seed)
    latents, states = latents_of(vae, data), text_states(out, data.captions)
    empty = text_states(out, [""])
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 128), layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    model = _inflated(unet)
    for block in model.blocks():
        for part in TEMPORAL:
            getattr(block, part).requires_grad_(False)
    averaged = copy.deepcopy(model)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type="v_prediction",
    )  # fmt: skip
    scheduler.save_pretrained(folder / "scheduler")
    noising = objective.training_scheduler(folder)

    def loss_of(step: int) -> torch.Tensor:
        clip = rng.integers(len(latents), size=16)
        part = latents[clip] if step % 5 else latents[clip][:, [step // 5 % FRAMES]]  # every fifth batch: single frames
        condition = objective.replace_some(states[clip], empty[0], 0.1, rng)
        return objective.objective(model, noising, part, condition, 0.0)

    model.train()
    fit(model, loss_of, steps, 1e-3, "unet", averaged)
    averaged.eval()
    small = deflate(averaged).half()
    for parameter in small.parameters():
        if parameter.ndim > 1:  # 8-bit matrices keep the zoo small; samples do not change visibly
            parameter.data = parameter.data.to(torch.float8_e4m3fn)
    small.save_pretrained(folder / "unet")
    averaged = _inflated(folder / "unet")
    index = {
        "_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None], "feature_extractor": [None, None],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return _judge_unet(out, averaged, vae, scheduler, seed + 1)


def _inflated(unet: UNet2DConditionModel | Path) -> VideoUNet:
    """Inflate as the experiments do whose generator starts from this UNet."""
    return inflate(unet, "sparse-causal", "frames", True)


@torch.no_grad()
def _judge_unet(
    out: Path, unet: VideoUNet, vae: AutoencoderKL, scheduler: DDIMScheduler, seed: int
) -> dict[str, float]:
    """Sample captions of held-out scenes; draw true and sampled clips; ask the classifiers what they see."""
    from transformers import ViTForImageClassification

    held_out = render_clips(48, seed)
    states, empty = text_states(out, held_out.captions), text_states(out, [""])
    sampled = torch.randn(
        (len(states), FRAMES, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE), generator=torch.Generator().manual_seed(seed)
    )
    scheduler.set_timesteps(25)
    for timestep in scheduler.timesteps:
        both = unet(torch.cat([sampled, sampled]), timestep, torch.cat([empty.expand_as(states), states]))
        sampled = scheduler.step(objective.guide(both, 3.0), timestep, sampled).prev_sample
    pixels = vae.decode(sampled.flatten(0, 1) / vae.config.scaling_factor).sample.clamp(-1, 1)
    shown = pixels.permute(0, 2, 3, 1).add(1).mul(127.5).round().byte().numpy().reshape(held_out.frames.shape)
    pairs = np.concatenate([held_out.frames, shown], 2)[:12]  # true above sampled
    rows = [np.concatenate(list(clip), 1) for clip in pairs]
    picture = np.concatenate([np.concatenate(rows[:6], 0), np.concatenate(rows[6:], 0)], 1)
    Image.fromarray(picture).save(out / "samples.png")
    classifier = ViTForImageClassification.from_pretrained(out / "image-classifier", dtype=torch.float32).eval()
    labels = classifier(pixel_values=normalise(pixels[FRAMES // 2 :: FRAMES], HALF_MEAN, HALF_STD)).logits.argmax(1)
    names = [classifier.config.id2label[int(i)] for i in labels]
    right = [n == f"{s.colour} {s.object}" for n, s in zip(names, held_out.scenes, strict=True)]
    near = [n.split()[0] == s.colour for n, s in zip(names, held_out.scenes, strict=True)]
    return {"sampled_object_and_colour": float(np.mean(right)), "sampled_colour": float(np.mean(near))}
