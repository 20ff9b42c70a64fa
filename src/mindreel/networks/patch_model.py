"""The transformer over patches of voxels that the masked autoencoder and the encoder for windows share.

Paper to code (MinD-Video 3.3): x_t -> `patches`, `embed`; x^spat -> `Block.spatial`; x^temp -> `Block.temporal`.
Letters: B batch, W window, V voxels, P patches, D width.
"""

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from mindreel.artifacts import save_json
from mindreel.errors import InputError
from mindreel.networks.checkpoints import load_strictly, read_config, read_weights
from mindreel.networks.position_encoding import sincos

LAYER_NORM_EPS = 1e-5


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
    temporal : bool
        Whether blocks have temporal attention.
    config
        Numbers voxels, patch_size, width, depth, heads, mlp_ratio, and the subclass's own. `patches` may ask for
        more patches than the voxels need: released checkpoints have one too many where the count of voxels divides.

    Attributes
    ----------
    gradient_checkpointing : bool
        Whether a block keeps only its input for the backward pass and runs again there: less memory, more time.
    """

    gradient_checkpointing = False
    of_patch_count: tuple[str, ...] = ("positions",)  # tensors that another number of patches does not fit
    config: dict[str, Any]
    source: torch.Tensor  # (P x patch size,) int, the voxel at every place of the patches
    real: torch.Tensor  # (P, patch size) bool, False where a place only pads
    positions: torch.Tensor  # (P, D)

    def __init__(self, temporal: bool, **config: Any):
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

    def through(self, block: nn.Module, x: torch.Tensor, window: int | None = None) -> torch.Tensor:
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
        sizes = {"voxels": voxels, **config, **({"patches": patches} if patches else {})}
        model = type(self)(**sizes)
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


def initialise(module: nn.Module) -> None:
    """Draw the weights of a linear layer (Xavier), zero its bias; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
