"""Transformers over fMRI: the masked autoencoder (MBM) and the encoder for windows of volumes.

Paper to code (MinD-Video 3.3): x_t -> `patches`, `embed`; x^spat -> `Block.spatial`; x^temp -> `Block.temporal`.
Letters: B batch, W window, V voxels, P patches, D width, L condition tokens.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from mindreel.artifacts import save_json
from mindreel.config import Encoder, Pretrain
from mindreel.errors import InputError
from mindreel.networks.checkpoints import load_strictly, read_config, read_weights
from mindreel.networks.position_encoding import sincos

LAYER_NORM_EPS = 1e-5
Change = Callable[[torch.Tensor], torch.Tensor]
TOKEN_GAIN = 0.65  # (choice) fresh tokens have about the norm of a caption's states


def windows(series: np.ndarray, window: int, shift: int) -> np.ndarray:
    """Which volumes each clip sees: t+shift ... t+shift+W-1, clamped to the segment's last volume.

    Parameters
    ----------
    series : (S, T, ...) array, of which only the shape is used.

    Returns
    -------
    (S, T, W) int64, indices of volumes of the same segment.
    """
    segments, volumes = series.shape[:2]
    index = np.minimum(np.arange(volumes)[:, None] + shift + np.arange(window), volumes - 1)
    return np.broadcast_to(index, (segments, volumes, window))


def window_batch(series: np.ndarray, segment: np.ndarray, volume: np.ndarray, window: int, shift: int) -> torch.Tensor:
    """Gather the windows of B clips.

    Parameters
    ----------
    series : (S, T, V) float32, may be memory-mapped.
    segment, volume : (B,) int, the clips.

    Returns
    -------
    (B, W, V) float32 tensor.
    """
    index = windows(series, window, shift)[segment, volume]
    return torch.from_numpy(np.asarray(series[np.asarray(segment)[:, None], index], np.float32))


def sparsify(bold: torch.Tensor, share: float, rng: np.random.Generator) -> torch.Tensor:
    """Set a share of the voxels to zero: others in each sample, the same in all volumes of its window.

    Parameters
    ----------
    bold : (B, W, V).
    share : int(share V) voxels become zero.

    Returns
    -------
    (B, W, V), a copy.
    """
    batch, _, voxels = bold.shape
    rank = torch.from_numpy(rng.random((batch, voxels), np.float32)).argsort(dim=1).argsort(dim=1)
    return bold * (rank >= int(share * voxels)).to(bold)[:, None]


class Attention(nn.Module):
    """Multi-head self-attention, fused."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, N, heads, L, D / heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, L, D) -> (N, L, D)."""
        query, key, value = self._split(x)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))

    def received(self, x: torch.Tensor) -> torch.Tensor:
        """Softmax weight each position receives, mean over heads and queries: (N, L, D) -> (N, L), rows sum to 1."""
        query, key, _ = self._split(x)
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return weights.mean(dim=(1, 2))


class Block(nn.Module):
    """Spatial attention, temporal attention if `temporal`, MLP; each normalised before and added."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, temporal: bool = False):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm_spatial = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.spatial = Attention(width, heads)
        if temporal:
            self.norm_temporal = nn.LayerNorm(width, LAYER_NORM_EPS)
            self.temporal = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor, window: int | None = None) -> torch.Tensor:
        """(B W, P, D) -> same; without a window, no temporal attention."""
        x = x + self.spatial(self.norm_spatial(x))
        if window is not None:
            over_time = x.unflatten(0, (-1, window)).transpose(1, 2).flatten(0, 1)  # (B P, W, D)
            over_time = self.temporal(self.norm_temporal(over_time))
            x = x + over_time.unflatten(0, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1)
        return x + self.mlp(self.norm_mlp(x))


class PatchModel(nn.Module):
    """What both models share: patches, embedding, positions, blocks, and how they are saved.

    Parameters
    ----------
    config : voxels, patch_size, width, depth, heads, mlp_ratio, and the subclass's own; `patches` may ask for more
        patches than the voxels need (released checkpoints: D1).

    Attributes
    ----------
    gradient_checkpointing : whether a block keeps only its input for the backward pass and runs again there: less
        memory, more time.
    """

    gradient_checkpointing = False
    of_patch_count = ("positions",)  # tensors that another number of patches does not fit

    def __init__(self, temporal: bool, **config: float):
        super().__init__()
        self.config = {"patches": -(-config["voxels"] // config["patch_size"]), **config}
        voxels, size, patches = (self.config[key] for key in ("voxels", "patch_size", "patches"))
        width, heads = config["width"], config["heads"]
        if width % heads or width % 2:
            raise InputError(
                f"pretrain: width {width} must be even and a multiple of heads {heads}; change one of them"
            )
        wrapped = torch.arange(patches * size)
        self.register_buffer("source", wrapped % voxels, persistent=False)  # voxels repeat from the start
        self.register_buffer("real", (wrapped < voxels).view(patches, size), persistent=False)
        self.register_buffer("positions", sincos(patches, width))
        self.embed = nn.Linear(size, width)
        depth, ratio = config["depth"], config["mlp_ratio"]
        self.blocks = nn.ModuleList(Block(width, heads, ratio, temporal) for _ in range(depth))
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)

    def patches(self, bold: torch.Tensor) -> torch.Tensor:
        """(N, V) -> (N, P, patch size), wrapped up to whole patches."""
        if bold.shape[-1] != self.config["voxels"]:
            raise InputError(
                f"the model takes {self.config['voxels']} voxels, the fMRI has {bold.shape[-1]}: "
                "they come from different voxel selections; rerun mbm for this subject"
            )
        return bold[:, self.source].unflatten(1, self.real.shape)

    def through(self, block: Block, x: torch.Tensor, window: int | None = None) -> torch.Tensor:
        """(B [W], P, D) -> same, after a block."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, window, use_reentrant=False)
        return block(x, window)

    def for_voxels(self, voxels: int, patches: int | None = None) -> tuple[Self, list[str]]:
        """The same model for another number of voxels, and what had to be adapted, one sentence each.

        Positions become those of the new patches; what else depends on their number starts anew.
        """
        if voxels == self.config["voxels"]:
            return self, []
        config = {key: value for key, value in self.config.items() if key not in ("voxels", "patches")}
        model = type(self)(voxels=voxels, **config, **({"patches": patches} if patches else {}))
        before, now = self.config["patches"], model.config["patches"]
        notes = [f"{self.config['voxels']} voxels in {before} patches become {voxels} in {now}"]
        state = self.state_dict()
        if before != now:
            own = model.state_dict()
            state |= {key: own[key] for key in self.of_patch_count}
            notes += [f"{key}: {'of the new patches' if 'positions' in key else 'new'}" for key in self.of_patch_count]
        load_strictly(model, state, "the model to be adapted")
        return model, notes

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_json(Path(folder) / "config.json", {"class": type(self).__name__, **self.config})
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        save_file(state, Path(folder) / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path, missing: tuple[str, ...] = ()) -> Self:
        """Read a folder written by `save_pretrained`; parameters it may lack are named in `missing`."""
        config = read_config(folder)
        if (kind := config.pop("class")) != cls.__name__:
            raise InputError(f"{folder}: holds a {kind}, expected a {cls.__name__}; give the folder of another stage")
        model = cls(**config)
        load_strictly(model, read_weights(folder), str(folder), missing)
        return model.eval()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class MaskedAutoencoder(PatchModel):
    """Masked brain modelling: the encoder sees some patches, a small decoder restores the others.

    Parameters
    ----------
    config : see `PatchModel`; and decoder_width, decoder_depth, decoder_heads. `class_token` adds the one of released
        checkpoints; ours have none, as the encoder for windows has none (E1).
    """

    of_patch_count = ("positions", "decoder_positions")

    def __init__(self, class_token: bool = False, **config: float):
        super().__init__(temporal=False, class_token=class_token, **config)
        width, decoder, size = config["width"], config["decoder_width"], config["patch_size"]
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder))
        self.decoder_embed = nn.Linear(width, decoder)
        self.register_buffer("decoder_positions", sincos(self.config["patches"], decoder))
        self.decoder_blocks = nn.ModuleList(
            Block(decoder, config["decoder_heads"], config["mlp_ratio"]) for _ in range(config["decoder_depth"])
        )
        self.decoder_norm = nn.LayerNorm(decoder, LAYER_NORM_EPS)
        self.predict = nn.Linear(decoder, size)
        self.apply(_initialise)
        for token in (self.class_token, self.mask_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)

    @classmethod
    def from_config(cls, cfg: Pretrain, voxels: int) -> Self:
        """A randomly initialised model of the configured size."""
        keys = ("patch_size", "width", "depth", "heads", "mlp_ratio", "decoder_width", "decoder_depth", "decoder_heads")
        return cls(voxels=voxels, **{key: getattr(cfg, key) for key in keys})

    def encode(self, bold: torch.Tensor, visible: torch.Tensor | None = None) -> torch.Tensor:
        """Encode the visible patches.

        Parameters
        ----------
        bold : (B, V) float32.
        visible : (B, K) int64, patches to encode; None: all.

        Returns
        -------
        (B, K, D), with a class token (B, 1 + K, D).
        """
        x = self.embed(self.patches(bold)) + self.positions
        if visible is not None:
            x = x.gather(1, visible[..., None].expand(-1, -1, x.shape[-1]))
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = self.through(block, x)
        return self.norm(x)

    def decode(self, latent: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Latents (B, [1 +] K, D) of the visible patches (B, K) -> all patches (B, P, patch size)."""
        x = self.decoder_embed(latent)
        first = x.shape[1] - visible.shape[1]  # 1 with a class token
        index = visible[..., None].expand(-1, -1, x.shape[-1])
        patches = self.mask_token.to(x.dtype).repeat(len(x), self.config["patches"], 1)
        x = torch.cat([x[:, :first], patches.scatter(1, index, x[:, first:]) + self.decoder_positions], dim=1)
        for block in self.decoder_blocks:
            x = self.through(block, x)
        return self.predict(self.decoder_norm(x))[:, first:]

    def reconstruct(
        self, bold: torch.Tensor, mask_ratio: float, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Remove random patches and restore them.

        Parameters
        ----------
        bold : (B, V) float32.
        noise : (B, P) float32; the int(P (1 - mask_ratio)) patches of least noise stay. None: drawn by torch.

        Returns
        -------
        (B, P, patch size) restored patches; (B, P) bool, True where a patch was removed.
        """
        count = self.config["patches"]
        noise = torch.rand(len(bold), count, device=bold.device) if noise is None else noise
        kept = max(1, int(count * (1 - mask_ratio)))
        visible = noise.argsort(dim=1, stable=True)[:, :kept]
        removed = torch.ones_like(noise, dtype=torch.bool).scatter(1, visible, False)
        return self.decode(self.encode(bold, visible), visible), removed

    def forward(self, bold: torch.Tensor, mask_ratio: float, noise: torch.Tensor | None = None) -> torch.Tensor:
        """The masked error of `reconstruct`: a scalar."""
        return self.masked_error(bold, *self.reconstruct(bold, mask_ratio, noise))

    def masked_error(self, bold: torch.Tensor, restored: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
        """Mean over the removed patches of the per-patch mean square error on the raw target (E4).

        Voxels that only pad the last patch are no target: they can be read off the first patch (E7).

        Parameters
        ----------
        bold : (B, V).
        restored, removed : (B, P, patch size) and (B, P) bool, of `reconstruct`.
        """
        square = (restored - self.patches(bold)).square() * self.real
        per_patch = square.sum(-1) / self.real.sum(-1).clamp(min=1)  # (B, P)
        counted = removed & self.real.any(-1)
        return (per_patch * counted).sum() / counted.sum().clamp(min=1)


class ProjectionHead(nn.Module):
    """Window x patches to condition tokens (E1): token map, linear, GELU, linear, residual."""

    def __init__(self, positions: int, tokens: int, width: int, token_width: int, dropout: float):
        super().__init__()
        self.token_map = nn.Linear(positions, tokens, bias=False)
        self.project = nn.Linear(width, token_width, bias=False)
        self.refine = nn.Linear(token_width, token_width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, W P, D), volume-major -> (B, L, token width)."""
        x = self.project(self.token_map(x.transpose(1, 2)).transpose(1, 2))
        return x + self.dropout(self.refine(F.gelu(x)))


class FmriEncoder(PatchModel):
    """Windows of fMRI to the condition tokens of the generator.

    Parameters
    ----------
    config : see `PatchModel`; and window, tokens, token_width, dropout (of the projection head).
    """

    of_patch_count = ("positions", "head.token_map.weight")

    def __init__(self, **config: float):
        super().__init__(temporal=True, **config)
        positions = config["window"] * self.config["patches"]
        self.head = ProjectionHead(
            positions, config["tokens"], config["width"], config["token_width"], config["dropout"]
        )
        self.apply(_initialise)
        for block in self.blocks:  # a fresh encoder treats every volume as the MBM encoder does
            nn.init.zeros_(block.temporal.out.weight)
        # every token starts near the mean of all, so that the generator can read what contrastive learning put there
        with torch.no_grad():
            self.head.token_map.weight.mul_(0.1).add_(TOKEN_GAIN / positions)

    @classmethod
    def from_mbm(cls, folder: Path, encoder_cfg: Encoder, voxels: int, dropout: float) -> Self:
        """Continue from a MaskedAutoencoder folder: temporal attention and head are new, the rest is loaded."""
        source = MaskedAutoencoder.from_pretrained(folder)
        keys = ("patch_size", "width", "depth", "heads", "mlp_ratio")
        patches = (
            source.config["patches"] if voxels == source.config["voxels"] else -(-voxels // source.config["patch_size"])
        )
        new = {"window": encoder_cfg.window, "tokens": encoder_cfg.tokens, "token_width": encoder_cfg.token_width}
        model = cls(voxels=voxels, patches=patches, dropout=dropout, **new, **{k: source.config[k] for k in keys})
        state, own = source.state_dict(), model.state_dict()
        added = tuple(key for key in own if "temporal" in key or key.startswith("head."))
        dropped = tuple(
            key for key in state if key.startswith(("decoder_", "predict.")) or key in ("mask_token", "class_token")
        )
        if patches != source.config["patches"]:  # positions are those of the new patches
            state["positions"] = own["positions"]
        load_strictly(model, state, str(folder), missing=added, unused=dropped)
        return model

    def features(self, bold: torch.Tensor, change: Change | None = None) -> torch.Tensor:
        """(B, W, V) -> (B, W, P, D), the normalised output of the last block; `change` as in `forward`."""
        return self._run(bold, (), change)[0]

    def forward(self, bold: torch.Tensor, change: Change | None = None) -> torch.Tensor:
        """Encode windows.

        Parameters
        ----------
        bold : (B, W, V) float32, standardised.
        change : what is done to the embedded patches (B, W, P, D) before they learn their positions.

        Returns
        -------
        (B, L, token width).
        """
        return self.head(self.features(bold, change).flatten(1, 2))

    @staticmethod
    def pool(tokens: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, D), the mean over tokens."""
        return tokens.mean(dim=1)

    def attention(self, bold: torch.Tensor, layers: tuple[int, ...]) -> torch.Tensor:
        """Spatial attention each patch receives, mean over heads and queries.

        Parameters
        ----------
        bold : (B, W, V) float32.
        layers : counted from 1.

        Returns
        -------
        (B, W, layers, P) float32; sums to 1 over P.
        """
        depth = len(self.blocks)
        if wrong := [layer for layer in layers if not 1 <= layer <= depth]:
            raise InputError(
                f"attention.layers: found {wrong}, the encoder has layers 1 to {depth}; change attention.layers"
            )
        return self._run(bold, layers)[1]

    def _run(
        self, bold: torch.Tensor, layers: tuple[int, ...], change: Change | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch, window = bold.shape[:2]
        if window != self.config["window"]:
            raise InputError(
                f"the encoder takes windows of {self.config['window']} volumes, found {window}; see encoder.window"
            )
        x = self.embed(self.patches(bold.flatten(0, 1)))  # (B W, P, D)
        if change is not None:
            x = change(x.unflatten(0, (batch, window))).flatten(0, 1)
        x = x + self.positions
        received = {}
        for number, block in enumerate(self.blocks, start=1):
            if number in layers:
                received[number] = block.spatial.received(block.norm_spatial(x)).unflatten(0, (batch, window))
            x = self.through(block, x, window)
        maps = torch.stack([received[layer] for layer in layers], dim=2) if layers else None
        return self.norm(x).unflatten(0, (batch, window)), maps
