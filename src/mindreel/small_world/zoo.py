"""Micro models: the classes of the full pipeline at a size that a laptop trains, for the small world.

`mindreel zoo` draws scenes that are in no demo data set (another seed) and trains, in this order,

    vae               AutoencoderKL, 64 x 64 pixels to 8 x 8 x 8 latents
    clip              CLIPModel, frame and caption into one space
    captioner         BlipForConditionalGeneration
    image-classifier  ViTForImageClassification, object x colour
    video-classifier  VideoMAEForVideoClassification, object x motion
    unet              UNet2DConditionModel, conditioned on the caption's CLIP states

Each is a folder written by `save_pretrained`, in half precision (the UNet's matrices in 8 bits). `stable-diffusion/` is
laid out as Stable Diffusion 1.5's folder is. The held-out quality of each goes to `quality.json`.
"""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from mindreel.artifacts import load_json, save_json
from mindreel.diffusion import objective
from mindreel.errors import InputError
from mindreel.networks.video_unet import TEMPORAL, FrameSpan, NormSpan, VideoUNet, deflate, inflate
from mindreel.small_world import drawing

SIDE = 64  # pixels
FPS = 3.0
FRAMES = 6
TOKENS = 16  # caption length, start and end tokens included
WIDTH = 128  # of the CLIP space and of the text states
LATENT_CHANNELS = 8
KIND: tuple[FrameSpan, NormSpan, bool] = (
    "sparse-causal",
    "frames",
    True,
)  # how the UNet is inflated: attention, norm_over, frame_positions


@dataclass(frozen=True)
class Clips:
    """Clips of the small world: frames (N, F, H, W, 3) uint8 and their scenes."""

    frames: np.ndarray
    scenes: list[drawing.Scene]

    @property
    def captions(self) -> list[str]:
        """One per clip."""
        return [scene.caption for scene in self.scenes]


def random_clips(count: int, seed: int) -> Clips:
    """Draw `count` random clips of FRAMES frames each."""
    rng = np.random.default_rng(seed)
    scenes = [drawing.random_scene(rng) for _ in range(count)]
    frames = np.stack([drawing.clip(s, FPS, SIDE) for s in tqdm(scenes, desc="drawing clips", leave=False)])
    return Clips(frames, scenes)


def to_pixels(frames: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in [-1, 1]."""
    return (
        torch.from_numpy(frames)
        .permute(0, 3, 1, 2)
        .float()
        .div(127.5)
        .sub(1)
        .contiguous(memory_format=torch.channels_last)
    )


def fit(
    modules: list[nn.Module],
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    lr: float,
    name: str,
    ema: tuple[nn.Module, nn.Module] | None = None,
) -> None:
    """Train with AdamW, a short warm-up and a cosine; `ema` = (averaged copy, source)."""
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    bar = tqdm(range(steps), desc=name, mininterval=10)
    for step in bar:
        scale = min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = lr * scale
        loss = loss_of(step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            decay = min(0.999, (1 + step) / (10 + step))
            with torch.no_grad():
                for kept, new in zip(ema[0].parameters(), ema[1].parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)


def ssim_uniform7(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean SSIM of pictures (N, C, H, W) in [-1, 1], uniform 7 x 7 window."""
    mean_a, mean_b = F.avg_pool2d(a, 7, 1), F.avg_pool2d(b, 7, 1)
    var_a = F.avg_pool2d(a * a, 7, 1) - mean_a**2
    var_b = F.avg_pool2d(b * b, 7, 1) - mean_b**2
    cov = F.avg_pool2d(a * b, 7, 1) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    score = ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return score.mean()


def train_vae(out: Path, seed: int, steps: int) -> dict:
    """Train the autoencoder on single frames: L1, structural similarity, a whiff of KL."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = random_clips(4000, seed).frames.reshape(-1, SIDE, SIDE, 3)
    widths = (16, 32, 64, 128)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=SIDE,
    ).to(memory_format=torch.channels_last)
    freeze_at = steps // 2  # the last part polishes the decoder only

    def loss_of(step: int) -> torch.Tensor:
        pixels = to_pixels(data[rng.integers(len(data), size=24)])
        with torch.autocast("cpu", torch.bfloat16):
            if step < freeze_at:
                posterior = vae.encode(pixels).latent_dist
                latents, kl = posterior.sample(), posterior.kl().mean()
            else:
                with torch.no_grad():
                    latents, kl = vae.encode(pixels).latent_dist.mode(), torch.zeros(())
            decoded = vae.decode(latents).sample.float()
        return F.l1_loss(decoded, pixels) + 0.25 * (1 - ssim_uniform7(decoded, pixels)) + 1e-6 * kl.float()

    fit([vae], loss_of, steps, 1.5e-3, "vae")
    held_out = to_pixels(random_clips(64, seed + 1).frames[:, ::3].reshape(-1, SIDE, SIDE, 3))
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(held_out).latent_dist.mode()
        vae.register_to_config(scaling_factor=float(1 / latents.std()))
        decoded = vae.decode(latents).sample.clamp(-1, 1)
    quality = {"ssim_rgb_uniform7": ssim_uniform7(decoded, held_out).item(), "l1": F.l1_loss(decoded, held_out).item()}
    vae.half().save_pretrained(out / "stable-diffusion" / "vae")
    return quality


def vocabulary() -> list[str]:
    """Every word of every caption, sorted."""
    scenes = (drawing.Scene(*kind) for kind in drawing.KINDS)
    return sorted({word for scene in scenes for word in scene.caption.split()})


def clip_tokenizer():
    """CLIP's tokenizer with one token per word of the small world, and letters for all other words."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    tokens, merges = letters + [f"{c}</w>" for c in letters], []
    for word in vocabulary():
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens.append(parts[0])
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=list(dict.fromkeys(merges)), model_max_length=TOKENS
    )


def tokenize(tokenizer, captions: list[str]) -> torch.Tensor:
    """Captions to (N, TOKENS) int64."""
    return tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF_MEAN, HALF_STD = (0.5,) * 3, (0.5,) * 3
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(pixels: torch.Tensor, mean: tuple, std: tuple) -> torch.Tensor:
    """From [-1, 1] to what a model's image processor makes of the same picture; (..., 3, H, W)."""
    centre, scale = (torch.tensor(v).reshape(3, 1, 1) for v in (mean, std))
    return ((pixels + 1) / 2 - centre) / scale


def random_frames(clips: Clips, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, np.ndarray]:
    """Draw frames: pixels (count, 3, H, W) in [-1, 1] and the clip each is from (count,)."""
    clip = rng.integers(len(clips.frames), size=count)
    return to_pixels(clips.frames[clip, rng.integers(FRAMES, size=count)]), clip


def train_clip(out: Path, seed: int, steps: int) -> dict:
    """Train frame and caption into one space with the symmetric contrastive loss."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextModel

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data, tokenizer = random_clips(4000, seed), clip_tokenizer()
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

    fit([model], loss_of, steps, 1e-3, "clip")
    held_out = random_clips(500, seed + 1)
    model.eval()
    with torch.no_grad():
        pixels = normalise(to_pixels(held_out.frames[:, FRAMES // 2]), CLIP_MEAN, CLIP_STD)
        logits = model(input_ids=tokenize(tokenizer, held_out.captions), pixel_values=pixels).logits_per_image
    own = [[a == b for b in held_out.captions] for a in held_out.captions]  # two clips may share a caption
    found = torch.tensor(own)[torch.arange(500), logits.argmax(1)].float().mean().item()
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
    return {"retrieval_top1_of_500": found}


def train_captioner(out: Path, seed: int, steps: int) -> dict:
    """Train BLIP to say a frame's caption."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = random_clips(4000, seed)
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

    fit([model], loss_of, steps, 1.5e-3, "captioner")
    held_out = random_clips(200, seed + 1)
    model.eval()
    pixels = normalise(to_pixels(held_out.frames[:, FRAMES // 2]), CLIP_MEAN, CLIP_STD)
    with torch.no_grad():
        said = tokenizer.batch_decode(
            model.generate(pixel_values=pixels, max_new_tokens=TOKENS), skip_special_tokens=True
        )
    processor = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    for part in (model.half(), tokenizer, processor):
        part.save_pretrained(out / "captioner")
    return {"exact_match": float(np.mean([a.strip() == b for a, b in zip(said, held_out.captions, strict=True)]))}


def train_image_classifier(out: Path, seed: int, steps: int) -> dict:
    """Train a ViT to name object and colour of a frame."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    names = drawing.IMAGE_CLASSES
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
            patch_size=8, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        )
    )  # fmt: skip

    def batch(clips: Clips, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, clip = random_frames(clips, rng, count)
        labels = [names.index(f"{clips.scenes[i].colour} {clips.scenes[i].object}") for i in clip]
        return normalise(pixels, HALF_MEAN, HALF_STD), torch.tensor(labels)

    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _train_classifier(model, batch, processor, out / "image-classifier", seed, steps, 64)


def train_video_classifier(out: Path, seed: int, steps: int) -> dict:
    """Train VideoMAE to name object and motion of a clip."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEImageProcessorPil

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    names = drawing.VIDEO_CLASSES
    model = VideoMAEForVideoClassification(
        VideoMAEConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
            patch_size=16, num_frames=FRAMES, tubelet_size=2, id2label=dict(enumerate(names)),
            label2id={n: i for i, n in enumerate(names)},
        )
    )  # fmt: skip

    def batch(clips: Clips, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        clip = rng.integers(len(clips.frames), size=count)
        pixels = to_pixels(clips.frames[clip].reshape(-1, SIDE, SIDE, 3)).reshape(count, FRAMES, 3, SIDE, SIDE)
        labels = [names.index(f"{clips.scenes[i].object} {drawing.MOTIONS[clips.scenes[i].motion]}") for i in clip]
        return normalise(pixels, IMAGENET_MEAN, IMAGENET_STD), torch.tensor(labels)

    processor = VideoMAEImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD),
    )  # fmt: skip
    return _train_classifier(model, batch, processor, out / "video-classifier", seed, steps, 48)


def _train_classifier(model, batch: Callable, processor, folder: Path, seed: int, steps: int, size: int) -> dict:
    data = random_clips(4000, seed)

    def loss_of(step: int) -> torch.Tensor:
        pixels, labels = batch(data, size)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixel_values=pixels).logits
        return F.cross_entropy(logits.float(), labels)

    fit([model], loss_of, steps, 1.5e-3, folder.name)
    model.eval()
    with torch.no_grad():
        pixels, labels = batch(random_clips(500, seed + 1), 500)
        accuracy = (model(pixel_values=pixels).logits.argmax(1) == labels).float().mean().item()
    for part in (model.half(), processor):
        part.save_pretrained(folder)
    return {"accuracy": accuracy, "classes": model.config.num_labels}


@torch.no_grad()
def text_states(out: Path, captions: list[str]) -> torch.Tensor:
    """Encode captions with the zoo's text encoder: (N, TOKENS, WIDTH) float32."""
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = out / "stable-diffusion"
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32).eval()
    tokens = tokenize(CLIPTokenizer.from_pretrained(folder / "tokenizer"), captions)
    return torch.cat([encoder(part).last_hidden_state for part in tokens.split(256)])


@torch.no_grad()
def latents_of(vae, clips: Clips) -> torch.Tensor:
    """Encode clips with the VAE: (N, F, C, 8, 8) float32, scaled to unit variance."""
    frames = clips.frames.reshape(-1, SIDE, SIDE, 3)
    parts = [vae.encode(to_pixels(frames[i : i + 96])).latent_dist.mode() for i in range(0, len(frames), 96)]
    return torch.cat(parts).mul(vae.config.scaling_factor).reshape(-1, FRAMES, LATENT_CHANNELS, SIDE // 8, SIDE // 8)


def train_unet(out: Path, seed: int, steps: int) -> dict:
    """Train the UNet to denoise clips and single frames, conditioned on the caption.

    It sees clips through the sparse causal attention of the video model, whose temporal attention stays at zero, so
    that what is saved is a stock UNet2DConditionModel and the video generator starts near its goal.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    folder = out / "stable-diffusion"
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    data = random_clips(5000, seed)
    latents, states = latents_of(vae, data), text_states(out, data.captions)
    empty = text_states(out, [""])
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, block_out_channels=(64, 128),
        layers_per_block=1, cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    model = VideoUNet(unet, *KIND)
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
    fit([model], loss_of, steps, 1e-3, "unet", ema=(averaged, model))
    averaged.eval()
    small = deflate(averaged).half()
    for parameter in small.parameters():
        if parameter.ndim > 1:  # 8-bit matrices keep the zoo small; samples do not change visibly
            parameter.data = parameter.data.to(torch.float8_e4m3fn)
    small.save_pretrained(folder / "unet")
    averaged = inflate(folder / "unet", *KIND)
    index = {
        "_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None], "feature_extractor": [None, None],
    }  # fmt: skip
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return _judge_unet(out, averaged, vae, scheduler, seed + 1)


@torch.no_grad()
def _judge_unet(out: Path, unet: VideoUNet, vae, scheduler, seed: int) -> dict:
    """Sample captions of held-out scenes; draw true and sampled clips; ask the classifiers what they see."""
    from transformers import ViTForImageClassification

    held_out = random_clips(48, seed)
    states, empty = text_states(out, held_out.captions), text_states(out, [""])
    sampled = torch.randn(
        (len(states), FRAMES, LATENT_CHANNELS, SIDE // 8, SIDE // 8), generator=torch.Generator().manual_seed(seed)
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


# Model -> its training and the steps it takes; later ones read earlier ones.
RECIPES: dict[str, tuple[Callable[[Path, int, int], dict], int]] = {
    "vae": (train_vae, 4600),
    "clip": (train_clip, 1150),
    "captioner": (train_captioner, 10000),
    "image-classifier": (train_image_classifier, 7000),
    "video-classifier": (train_video_classifier, 2600),
    "unet": (train_unet, 11800),
}


def build(*, out: Path, seed: int = 1234, only: list[str] | None = None, steps: int | None = None) -> None:
    """Train the micro models, and write their held-out quality to `quality.json`; about four hours on two cores.

    Parameters
    ----------
    out : Path
        Folder of the models.
    seed : int
        Of scenes, weights and batches.
    only : list of str
        Train only these: vae, clip, captioner, image-classifier, video-classifier, unet.
    steps : int
        Steps of each training, instead of its own number.
    """
    out.mkdir(parents=True, exist_ok=True)
    unknown = set(only or []) - set(RECIPES)
    if unknown:
        raise InputError(f"--only: no such model: {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    for name in only or RECIPES:
        train, usual = RECIPES[name]
        quality = load_json(out / "quality.json") if (out / "quality.json").exists() else {}
        quality[name] = train(out, seed, steps or usual)
        save_json(out / "quality.json", quality)
        print(name, quality[name])
