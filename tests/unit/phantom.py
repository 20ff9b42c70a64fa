"""A head whose anatomy, place and motion are known: nilearn's MNI152 template, sampled wherever a test wants it."""

from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

from mindreel.brain import registration

WAVE = np.array([0.05, 0.06, -0.04])  # rad / mm: a travelling wave whose phase tells where in MNI a voxel lies


@cache
def _template(tissue: str) -> tuple[np.ndarray, np.ndarray]:
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template

    image = load_mni152_template(resolution=2) if tissue == "t1w" else load_mni152_gm_template(resolution=2)
    return np.asarray(image.dataobj, np.float64), image.affine


@cache
def _contrast() -> tuple[np.ndarray, np.ndarray]:
    (anatomy, _), (grey, grid) = _template("t1w"), _template("gm")
    return gaussian_filter(np.where(anatomy > 0.1 * anatomy.max(), 0.4 + 0.5 * grey / grey.max(), 0.0), 1), grid


def scan(
    contrast: str, shape: tuple[int, int, int], affine: np.ndarray, mni_to_scanner: np.ndarray, phase: float = 0.0
):
    """Image the head at a place: "t1w", or "epi" (another contrast, 5 % wave in it): (X, Y, Z) float32."""
    points = registration.move(np.linalg.inv(mni_to_scanner) @ affine, np.indices(shape).reshape(3, -1).T)
    if contrast == "t1w":
        values = registration.sample(*_template("t1w"), points)
    else:
        values = registration.sample(*_contrast(), points) * (1 + 0.05 * wave(points, phase))
    return np.nan_to_num(values * 1000).reshape(shape).astype(np.float32)


def wave(points: np.ndarray, phase: float) -> np.ndarray:
    """The wave at (N, 3) points in MNI (mm): (N,)."""
    return np.sin(points @ WAVE + phase)


def grid(voxel_mm: float, tilt: float, margin_mm: float = 0.0) -> tuple[tuple[int, int, int], np.ndarray]:
    """A shape and an oblique affine (tilted about x by so many rad) around the head."""
    size = np.array([160, 200, 170]) + 2 * margin_mm
    affine = np.diag([-voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = np.array([size[0] / 2, -size[1] / 2, -size[2] / 2])
    centre = np.array([0.0, -18.0, 8.0])
    affine[:3, 3] += centre
    shape = tuple(int(n) for n in np.ceil(size / voxel_mm))
    return shape, registration.rigid(np.zeros(3), np.array([tilt, 0, 0]), centre) @ affine
