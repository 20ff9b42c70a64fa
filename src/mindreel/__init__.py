"""mindreel: reconstruct the video a person was watching from fMRI (MinD-Video, NeuroCine).

Letters for shapes, the same everywhere: B batch, W window, T volumes, V voxels (selected vertices), P patches,
D width, F frames, C H W pixels, S segments, L tokens.
"""

__version__ = "0.1.0"
