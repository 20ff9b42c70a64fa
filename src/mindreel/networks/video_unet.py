"""Stable Diffusion's UNet inflated to video (MinD-Video 3.4): a stock `UNet2DConditionModel` and what clips add to it.

Frames are folded into the batch, (B, F, C, h, w) -> (B F, C, h, w), and the number of frames of the forward at work
is held in one `FrameCount` that the parts below share:

    paper                                  here
    sparse causal attention (Eq. 4)        FrameAttention, the processor of every `attn1`
    (AnimateDiff's, not the papers')       `frame_positions`, added to what that attention looks at
    cross-attention on the clip's tokens   ClipCrossAttention, the processor of every `attn2`
    temporal attention                     VideoBlock.attn_temp with TemporalAttention, at the end of every block
    statistics over frames (peers)         ClipGroupNorm, residual blocks and output only

Weights carry the released MinD-Video code's names: Stable Diffusion's, and `attn_temp.*`, `norm_temp.*` in each block.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from mindreel.artifacts import atomic, load_json
from mindreel.errors import InputError
from mindreel.networks.checkpoints import load_strictly, read_config, read_weights
from mindreel.networks.position_encoding import sincos

NormSpan = Literal["frames", "frame"]  # what group-norm statistics span
FrameSpan = Literal["sparse-causal", "first-and-previous", "plain"]
TEMPORAL = ("attn_temp", "norm_temp")
PARTS = ("attn1", "attn2", "attn_temp")  # of a block, that can be tuned


class FrameCount:
    """How many frames the batch of the forward at work holds per clip."""

    def __init__(self, count: int = 1):
        self.count = count

    def clips(self, tensor: torch.Tensor) -> torch.Tensor:
        """(B F, ...) -> (B, F, ...)."""
        return tensor.unflatten(0, (-1, self.count))


def _heads(attn: Attention, tokens: torch.Tensor) -> torch.Tensor:
    """(..., L, D) -> (..., heads, L, D / heads)."""
    return tokens.unflatten(-1, (attn.heads, -1)).transpose(-3, -2)


def _out(attn: Attention, values: torch.Tensor) -> torch.Tensor:
    """(..., heads, L, D / heads) -> (..., L, D), through the output projection."""
    values = attn.to_out[0](values.transpose(-3, -2).flatten(-2))
    return attn.to_out[1](values) if attn.to_out[1].p and attn.training else values


class FrameAttention:
    """Self-attention that looks at other frames of the clip; a processor for diffusers' `Attention`.

    Keys and values of frame i come from two frames: `sparse-causal` max(i-2, 0) and max(i-1, 0), `first-and-previous`
    0 and max(i-1, 0). `plain`: from frame i alone. With one frame all three are plain self-attention.

    Parameters
    ----------
    frames : FrameCount or int
        The frame count shared with the model, or a fixed number of frames.
    span : FrameSpan
        Which frames are attended.
    positions : bool
        Add to each frame's tokens where in the clip it is; a single frame has no place.
    """

    def __init__(self, frames: FrameCount | int, span: FrameSpan = "sparse-causal", positions: bool = False):
        self.frames = frames if isinstance(frames, FrameCount) else FrameCount(frames)
        self.span, self.positions = span, positions

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """(B F, L, D) -> (B F, L, D)."""
        if self.positions and self.frames.count > 1:
            places = sincos(self.frames.count, hidden_states.shape[-1]).to(hidden_states)
            hidden_states = (self.frames.clips(hidden_states) + places[:, None]).flatten(0, 1)
        query = _heads(attn, attn.to_q(hidden_states))
        key = _heads(attn, self._attended(attn.to_k(hidden_states)))
        value = _heads(attn, self._attended(attn.to_v(hidden_states)))
        return _out(attn, F.scaled_dot_product_attention(query, key, value))

    def _attended(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B F, L, D) -> (B F, 2 L, D): the tokens of the two frames that each frame attends."""
        if self.span == "plain" or self.frames.count == 1:
            return tokens
        clips = self.frames.clips(tokens)
        first = clips[:, :1]
        if self.span == "first-and-previous":
            pair = (first.expand_as(clips), torch.cat([first, clips[:, :-1]], 1))
        else:
            delayed = torch.cat([first, first, clips[:, :-1]], 1)  # frame i is at i + 2
            pair = (delayed[:, :-1], delayed[:, 1:])
        return torch.cat(pair, -2).flatten(0, 1)


class ClipCrossAttention:
    """Cross-attention in which all frames of a clip attend the same tokens: these are projected once per clip."""

    def __init__(self, frames: FrameCount):
        self.frames = frames

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *_: object,
        **__: object,
    ) -> torch.Tensor:
        """(B F, N, D) and (B, L, E) -> (B F, N, D)."""
        query = _heads(attn, self.frames.clips(attn.to_q(hidden_states)).flatten(1, 2))
        key = _heads(attn, attn.to_k(encoder_hidden_states))
        value = _heads(attn, attn.to_v(encoder_hidden_states))
        return _out(attn, F.scaled_dot_product_attention(query, key, value)).reshape(hidden_states.shape)


class TemporalAttention:
    """Attention over the frames at one place of the picture; a processor for diffusers' `Attention`."""

    def __init__(self, frames: FrameCount):
        self.frames = frames

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """(B F, N, D) -> (B F, N, D)."""
        clips = self.frames.clips(hidden_states).transpose(1, 2)  # (B, N, F, D)
        query, key, value = (_heads(attn, layer(clips)).flatten(0, 1) for layer in (attn.to_q, attn.to_k, attn.to_v))
        values = F.scaled_dot_product_attention(query, key, value)
        return _out(attn, values).unflatten(0, clips.shape[:2]).transpose(1, 2).reshape(hidden_states.shape)


class VideoBlock(BasicTransformerBlock):
    """A stock transformer block with temporal attention behind its feed-forward. Made by `inflate` from a stock one."""

    norm_temp: nn.LayerNorm
    attn_temp: Attention

    def forward(self, *args: object, **kwargs: object) -> torch.Tensor:
        """Do as the stock block, then attend over frames."""
        hidden_states = super().forward(*args, **kwargs)
        return hidden_states + self.attn_temp(self.norm_temp(hidden_states))


class ClipGroupNorm(nn.GroupNorm):
    """Group norm whose statistics span all frames of a clip. Made by `inflate` from a stock one."""

    frames: FrameCount

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B F, C, h, w) -> (B F, C, h, w); free of copies when the memory is channels-last."""
        places = hidden_states.permute(0, 2, 3, 1)  # (B F, h, w, C)
        tall = self.frames.clips(places).flatten(1, 2).permute(0, 3, 1, 2)  # (B, C, F h, w)
        return super().forward(tall).permute(0, 2, 3, 1).reshape(places.shape).permute(0, 3, 1, 2)


class VideoUNet(nn.Module):
    """Noise prediction for clips.

    Parameters
    ----------
    unet : UNet2DConditionModel
        Stock model; it is changed in place.
    attention : FrameSpan
        Which frames the self-attention looks at (`FrameAttention`).
    norm_over : NormSpan
        What group-norm statistics of the residual blocks and the output span; the transformers' is per frame.
    frame_positions : bool
        Whether the self-attention is told which frame of the clip it looks from (`FrameAttention`).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        attention: FrameSpan,
        norm_over: NormSpan,
        frame_positions: bool = False,
    ):
        super().__init__()
        self.unet = unet.to(memory_format=torch.channels_last)
        self.attention, self.norm_over, self.frame_positions = attention, norm_over, frame_positions
        self.frames = FrameCount()
        for block in self.blocks():
            self._inflate(block)
        if norm_over == "frames":
            for module in self.unet.modules():
                if isinstance(module, ResnetBlock2D):
                    self._span_clip(module.norm1, module.norm2)
            self._span_clip(self.unet.conv_norm_out)

    def blocks(self) -> Iterator[BasicTransformerBlock]:
        """All transformer blocks, in the order of the model's modules."""
        return (module for module in self.unet.modules() if isinstance(module, BasicTransformerBlock))

    def _inflate(self, block: BasicTransformerBlock) -> None:
        if block.only_cross_attention or block.attn2 is None:
            raise InputError(
                "this UNet has blocks without self-attention or without cross-attention, expected Stable Diffusion's; "
                "correct fetch.stable_diffusion"
            )
        size = {"query_dim": block.dim, "heads": block.num_attention_heads, "dim_head": block.attention_head_dim}
        block.norm_temp = nn.LayerNorm(block.dim)
        block.attn_temp = Attention(**size, dropout=block.dropout, bias=block.attention_bias)
        nn.init.zeros_(block.attn_temp.to_out[0].weight)  # the clip starts as independent pictures
        nn.init.zeros_(block.attn_temp.to_out[0].bias)
        block.attn1.set_processor(FrameAttention(self.frames, self.attention, self.frame_positions))
        block.attn2.set_processor(ClipCrossAttention(self.frames))
        block.attn_temp.set_processor(TemporalAttention(self.frames))
        block.__class__ = VideoBlock  # keeps the stock block's weights and their names

    def _span_clip(self, *norms: nn.GroupNorm) -> None:
        for norm in norms:
            norm.__class__ = ClipGroupNorm
            assert isinstance(norm, ClipGroupNorm)
            norm.frames = self.frames

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor | int, states: torch.Tensor) -> torch.Tensor:
        """Predict the noise (or what the scheduler's `prediction_type` says).

        Parameters
        ----------
        latents : (B, F, C, h, w) float
        timesteps : int or (B,) int
            One for all, or one each.
        states : (B, L, D) float
            The condition, the same for all frames of a clip.

        Returns
        -------
        (B, F, C, h, w) float
        """
        self.frames.count = latents.shape[1]
        timesteps = torch.as_tensor(timesteps, device=latents.device)
        if timesteps.ndim:
            timesteps = timesteps.repeat_interleave(self.frames.count)
        pictures = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self.frames.clips(self.unet(pictures, timesteps, states).sample)

    @property
    def latent_channels(self) -> int:
        """C of the latents (B, F, C, h, w) that it takes."""
        return self.unet.config.in_channels

    @property
    def condition_width(self) -> int:
        """D of the conditions (B, L, D) that it takes."""
        return self.unet.config.cross_attention_dim

    def save_memory(self) -> None:
        """Keep of every block its input only; the backward pass computes the rest again."""
        self.unet.enable_gradient_checkpointing()

    def train_only(self, parts: tuple[str, ...]) -> None:
        """Freeze all but the named parts ("attn1", "attn2", "attn_temp") of the transformer blocks."""
        self.requires_grad_(False)
        for block in self.blocks():
            for part in parts:
                getattr(block, part).requires_grad_(True)

    def trained(self) -> nn.ModuleList:
        """The parts that `train_only` left trainable, shared with this model: what a resume file has to hold."""
        parts = [getattr(block, part) for block in self.blocks() for part in PARTS]
        return nn.ModuleList(part for part in parts if next(part.parameters()).requires_grad)

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = {key: getattr(self, key) for key in ("attention", "norm_over", "frame_positions")}
        config = {**kind, "unet": _plain(self.unet.config)}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        with atomic(folder / "model.safetensors") as path:
            save_file({key: value.contiguous() for key, value in self.unet.state_dict().items()}, path)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read what `save_pretrained` wrote, in float32."""
        config = read_config(folder)
        model = cls(UNet2DConditionModel.from_config(config.pop("unet")), **config)
        load_strictly(model.unet, read_weights(folder), str(folder))
        return model.eval()


def _plain(config: dict) -> dict:
    """Drop what diffusers notes for itself (names with an underscore), so that the file has the architecture only."""
    return {key: value for key, value in dict(config).items() if not key.startswith("_")}


def inflate(
    source: Path | str | UNet2DConditionModel, attention: FrameSpan, norm_over: NormSpan, frame_positions: bool = False
) -> VideoUNet:
    """Make a video UNet of a stock one (or of its folder); with the temporal attention's output at zero.

    A folder with a UNet released with MinD-Video is video already: it is read as it is, temporal attention included.
    """
    if not isinstance(source, UNet2DConditionModel):
        folder = Path(source)
        if not (folder / "config.json").exists():
            raise InputError(
                f"{folder}: no config.json; expected a Stable Diffusion UNet; correct fetch.stable_diffusion"
            )
        if "Block3D" in (folder / "config.json").read_text():
            weights = [folder / f"diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin")]
            if not (found := [file for file in weights if file.exists()]):
                raise InputError(f"{folder}: found no {weights[0].name} or .bin beside config.json; download it again")
            return load_released(folder / "config.json", found[0], attention, norm_over, frame_positions)
        source = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    return VideoUNet(source, attention, norm_over, frame_positions).eval()


def deflate(video: VideoUNet) -> UNet2DConditionModel:
    """Make a stock UNet of a video one: its weights without the temporal attention's."""
    weights = {k: v for k, v in video.unet.state_dict().items() if not any(f".{part}." in k for part in TEMPORAL)}
    unet = UNet2DConditionModel.from_config(_plain(video.unet.config))
    unet.load_state_dict(weights)
    return unet.eval()


def load_released(
    config: Path,
    weights: Path,
    attention: FrameSpan = "sparse-causal",
    norm_over: NormSpan = "frames",
    frame_positions: bool = False,
) -> VideoUNet:
    """Read a UNet released with MinD-Video: `config.json` naming 3-D blocks, and weights (.safetensors or .bin)."""
    entries = {k: v for k, v in load_json(config).items() if not k.startswith("_") and k != "dual_cross_attention"}
    text = json.dumps(entries).replace("Block3D", "Block2D")
    model = VideoUNet(UNet2DConditionModel.from_config(json.loads(text)), attention, norm_over, frame_positions)
    safe = Path(weights).suffix == ".safetensors"
    state = load_file(weights) if safe else torch.load(weights, map_location="cpu", weights_only=True)
    load_strictly(model.unet, state, str(weights))
    return model.eval()
