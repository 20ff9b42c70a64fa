"""The masked autoencoder over fMRI (masked brain modelling, MBM; Mind-Vis, MinD-Video 3.2)."""

from typing import Any, Self

import torch
from torch import nn

from mindreel.networks.patch_model import LAYER_NORM_EPS, Block, PatchModel, initialise
from mindreel.networks.position_encoding import sincos
from mindreel.sections import Pretrain


class MaskedAutoencoder(PatchModel):
    """Masked brain modelling: the encoder sees some patches, a small decoder restores the others.

    Parameters
    ----------
    class_token : bool
        Whether there is one, as in released checkpoints; ours have none, as the encoder for windows has none.
    config : numbers
        As of `PatchModel`; and decoder_width, decoder_depth, decoder_heads.
    """

    of_patch_count = ("positions", "decoder_positions")
    decoder_positions: torch.Tensor  # (P, decoder width)

    def __init__(self, class_token: bool = False, **config: Any):
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
        self.apply(initialise)
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
        bold : (B, V)
            Float32.
        visible : (B, K) int64
            Patches to encode; None: all.

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
        bold : (B, V)
            Float32.
        noise : (B, P) float32
            The int(P (1 - mask_ratio)) patches of least noise stay. None: drawn by torch.

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
        """Mean over the removed patches of the per-patch mean square error on the raw target, as in Mind-Vis.

        Voxels that only pad the last patch are no target: they can be read off the first patch.

        Parameters
        ----------
        bold : (B, V)
        restored, removed : (B, P, patch size)
            And (B, P) bool, of `reconstruct`.
        """
        square = (restored - self.patches(bold)).square() * self.real
        per_patch = square.sum(-1) / self.real.sum(-1).clamp(min=1)  # (B, P)
        counted = removed & self.real.any(-1)
        return (per_patch * counted).sum() / counted.sum().clamp(min=1)
