"""Fixed sine-cosine positions: of patches in the encoder, of frames in the generator."""

import numpy as np
import torch


def sincos(count: int, width: int) -> torch.Tensor:
    """Fixed positions [sin | cos], frequencies 1 to 1/10000: (count, width) float32."""
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width / 2))
    angles = np.arange(count)[:, None] * frequencies
    return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1)).float()
