"""Windows of fMRI to the tokens that condition the generator (MinD-Video 3.3).

Letters: B batch, W window, V voxels, P patches, D width, L condition tokens.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mindreel.errors import InputError
from mindreel.networks.checkpoints import load_strictly
from mindreel.networks.masked_autoencoder import MaskedAutoencoder
from mindreel.networks.patch_model import Block, PatchModel, initialise
from mindreel.sections import Encoder

Change = Callable[[torch.Tensor], torch.Tensor]
TOKEN_GAIN = 0.65  # (choice) fresh tokens have about the norm of a caption's states


def windows(series: np.ndarray, window: int, shift: int) -> np.ndarray:
    """Which volumes each clip sees: t+shift ... t+shift+W-1, clamped to the segment's last volume.

    Parameters
    ----------
    series : (S, T, ...)
        Array, of which only the shape is used.

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
    series : (S, T, V) float32
        May be memory-mapped.
    segment, volume : (B,) int
        The clips.

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
    bold : (B, W, V)
    share : float
        Int(share V) voxels become zero.

    Returns
    -------
    (B, W, V), a copy.
    """
    batch, _, voxels = bold.shape
    rank = torch.from_numpy(rng.random((batch, voxels), np.float32)).argsort(dim=1).argsort(dim=1)
    return bold * (rank >= int(share * voxels)).to(bold)[:, None]


class ProjectionHead(nn.Module):
    """Window x patches to condition tokens, as released: token map, linear, GELU, linear, residual."""

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
    config : numbers
        As of `PatchModel`; and window, tokens, token_width, dropout (of the projection head).
    """

    of_patch_count = ("positions", "head.token_map.weight")

    def __init__(self, **config: Any):
        super().__init__(temporal=True, **config)
        positions = config["window"] * self.config["patches"]
        self.head = ProjectionHead(
            positions, config["tokens"], config["width"], config["token_width"], config["dropout"]
        )
        self.apply(initialise)
        for block in self.blocks:  # a fresh encoder treats every volume as the MBM encoder does
            assert isinstance(block, Block)
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
        bold : (B, W, V) float32
            Standardised.
        change : Change
            What is done to the embedded patches (B, W, P, D) before they learn their positions.

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
        bold : (B, W, V)
            Float32.
        layers : tuple of int
            Counted from 1.

        Returns
        -------
        (B, W, layers, P) float32; sums to 1 over P.
        """
        depth = len(self.blocks)
        if wrong := [layer for layer in layers if not 1 <= layer <= depth]:
            raise InputError(
                f"attention.layers: found {wrong}, the encoder has layers 1 to {depth}; change attention.layers"
            )
        return torch.stack(self._run(bold, layers)[1], dim=2)

    def _run(
        self, bold: torch.Tensor, layers: tuple[int, ...], change: Change | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The normalised output (B, W, P, D), and the attention received (B, W, P) in each of the layers."""
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
            assert isinstance(block, Block)
            if number in layers:
                received[number] = block.spatial.received(block.norm_spatial(x)).unflatten(0, (batch, window))
            x = self.through(block, x, window)
        return self.norm(x).unflatten(0, (batch, window)), [received[layer] for layer in layers]
