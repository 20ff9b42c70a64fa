"""From scanner space to MNI: head motion within a run, the run to the anatomy, the anatomy to the template.

All transforms are 4 x 4 matrices on points in mm, RAS (the axes of NIfTI). They lead from the space that is sampled
*for* to the space that is sampled *from*. So they chain by multiplication, and the data are interpolated once.

Every registration is by ANTs, on one thread and with a fixed seed: the same files give the same transforms. Head motion
is rigid, by the mean squared difference of intensities, as in SPM and AFNI, since the volumes of a run have one
contrast. On a known motion this was nearer than ANTs' own preset for BOLD (6 mm voxels: 0.10 mm at worst, not 0.24 mm)
and took half the time. EPI, T1w and template differ in contrast and are registered by mutual information.

ANTs takes 1.3 s to import and is therefore imported where it is used.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from mindreel.errors import InputError

if TYPE_CHECKING:
    from ants import ANTsImage

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to ITK's LPS, and back
HEAD_MM = 50.0  # radius of the sphere on which rotations become millimetres (Power et al. 2012)
BRIGHT = 0.2  # a voxel above this share of the 98th percentile is taken for head


def rigid(translation: np.ndarray, rotation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Build a rigid transform.

    Parameters
    ----------
    translation : ndarray of shape (3,), float
        In mm.
    rotation : ndarray of shape (3,), float
        About the fixed axes x, y, z in this order (rad).
    centre : ndarray of shape (3,), float
        What the rotation is about (mm).

    Returns
    -------
    matrix : ndarray of shape (4, 4), float64
        The transform.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation).as_matrix()
    matrix[:3, 3] = translation + centre - matrix[:3, :3] @ centre
    return matrix


def parameters(matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Undo `rigid`: translation (mm) and rotation (rad) of a (4, 4) matrix about a centre, (6,) float64."""
    translation = matrix[:3, 3] + matrix[:3, :3] @ centre - centre
    return np.concatenate([translation, Rotation.from_matrix(matrix[:3, :3]).as_euler("xyz")])


def move(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a 4 x 4 transform to (N, 3) points."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def sample(volume: np.ndarray, affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Interpolate a volume trilinearly at points.

    Parameters
    ----------
    volume : ndarray of shape (X, Y, Z)
        Values on a grid.
    affine : ndarray of shape (4, 4), float64
        Voxels to mm.
    points : ndarray of shape (N, 3), float64
        In mm.

    Returns
    -------
    values : ndarray of shape (N,), float32
        NaN outside the grid.
    """
    voxels = move(np.linalg.inv(affine), points)
    return map_coordinates(volume, voxels.T, np.float32, order=1, mode="constant", cval=np.nan)


def inside(shape: tuple[int, ...], affine: np.ndarray, points: np.ndarray) -> float:
    """Compute the share of (N, 3) points in mm that lie within the grid of a shape and an affine (4, 4)."""
    voxels = move(np.linalg.inv(affine), points)
    return float(((voxels >= 0) & (voxels <= np.array(shape[:3]) - 1)).all(axis=1).mean())


def head(volume: np.ndarray) -> np.ndarray:
    """Mark the bright voxels of a volume: boolean, of its shape."""
    return volume > BRIGHT * np.percentile(volume, 98)


def realign(series: np.ndarray, affine: np.ndarray, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Find where the head is in every volume.

    Parameters
    ----------
    series : ndarray of shape (X, Y, Z, T), float32
        A run.
    affine : ndarray of shape (4, 4), float64
        Voxels to mm.
    reference : int
        Index of the reference volume.

    Returns
    -------
    transforms : ndarray of shape (T, 4, 4), float64
        Points of the reference to points of each volume (mm).
    centre : ndarray of shape (3,), float64
        The head's centre in the reference (mm).

    Raises
    ------
    InputError
        If the reference shows no head, or a volume holds no signal or lost more than half of the head.
    """
    mask = head(series[..., reference])
    if mask.sum() < 100:
        raise InputError(f"volume {reference} shows no head: {mask.sum()} bright voxels; look at the run in a viewer")
    brightness = series[mask].mean(axis=0)
    if np.any(brightness <= 0):
        volume = int(np.argmax(brightness <= 0))
        raise InputError(f"volume {volume} holds no signal where the head is in volume {reference}; exclude the run")
    points = move(affine, np.argwhere(mask))
    # squared differences must not see a change of brightness
    fixed = to_ants(series[..., reference] / brightness[reference], affine)
    transforms = np.empty((series.shape[-1], 4, 4))
    for volume in tqdm(range(series.shape[-1]), desc="realign", unit="volume", mininterval=5):
        transforms[volume] = _register(
            fixed,
            to_ants(series[..., volume] / brightness[volume], affine),
            type_of_transform="Rigid",
            aff_metric="meansquares",
            aff_iterations=(60, 20),
            aff_shrink_factors=(2, 1),
            aff_smoothing_sigmas=(1, 0.85),
            aff_random_sampling_rate=0.05,
        )
        seen = inside(series.shape, affine, move(transforms[volume], points))
        if seen < 0.5:
            raise InputError(f"volume {volume}: only {seen:.0%} of the head is in the field of view; exclude the run")
    return transforms, points.mean(axis=0)


def motion_table(transforms: np.ndarray, centre: np.ndarray) -> pd.DataFrame:
    """Tabulate head motion relative to the reference volume.

    Parameters
    ----------
    transforms : ndarray of shape (T, 4, 4), float64
        As of `realign`.
    centre : ndarray of shape (3,), float64
        The head's centre (mm).

    Returns
    -------
    table : DataFrame of T rows
        trans_x_mm, trans_y_mm, trans_z_mm, rot_x_rad, rot_y_rad, rot_z_rad (about the head's centre),
        framewise_displacement_mm (Power et al. 2012: the sum of the six steps, rotations as millimetres on a sphere of
        50 mm; 0 for the first volume).
    """
    motion = np.stack([parameters(matrix, centre) for matrix in transforms])
    table = pd.DataFrame(motion, columns=[*(f"trans_{x}_mm" for x in "xyz"), *(f"rot_{x}_rad" for x in "xyz")])
    steps = np.abs(np.diff(motion, axis=0, prepend=motion[:1]))
    table["framewise_displacement_mm"] = steps[:, :3].sum(axis=1) + HEAD_MM * steps[:, 3:].sum(axis=1)
    return table


def mean_volume(series: np.ndarray, affine: np.ndarray, transforms: np.ndarray, most: int = 50) -> np.ndarray:
    """Average volumes in the reference's space.

    Parameters
    ----------
    series : ndarray of shape (X, Y, Z, T), float32
        A run.
    affine : ndarray of shape (4, 4), float64
        Voxels to mm.
    transforms : ndarray of shape (T, 4, 4), float64
        As of `realign`.
    most : int
        Number of volumes that are averaged at most, spread evenly over the run.

    Returns
    -------
    mean : ndarray of shape (X, Y, Z), float32
        0 where no volume reaches.
    """
    shape = series.shape[:3]
    grid = move(affine, np.indices(shape).reshape(3, -1).T)
    chosen = np.unique(np.linspace(0, series.shape[-1] - 1, min(most, series.shape[-1])).round().astype(int))
    total, seen = np.zeros(len(grid)), np.zeros(len(grid))
    for volume in chosen:
        values = sample(series[..., volume], affine, move(transforms[volume], grid))
        total += np.nan_to_num(values)
        seen += np.isfinite(values)
    return (total / np.maximum(seen, 1)).reshape(shape).astype(np.float32)


def ants() -> ModuleType:
    """Import ANTs, on one thread and with a fixed seed."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    os.environ["ANTS_RANDOM_SEED"] = "1"
    import ants as library

    return library


def to_ants(volume: np.ndarray, affine: np.ndarray) -> ANTsImage:
    """Wrap a (X, Y, Z) volume and its affine (voxels to mm, RAS) as an ANTs image.

    Raises
    ------
    InputError
        If the affine is sheared, which ITK cannot express.
    """
    lps = FLIP @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / np.where(spacing == 0, 1, spacing)
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        raise InputError(f"the affine {affine[:3].round(3).tolist()} is sheared; expected rotation and scaling only")
    left, _, right = np.linalg.svd(direction)
    data = np.ascontiguousarray(volume, dtype=np.float32)
    return ants().from_numpy(data, origin=tuple(lps[:3, 3]), spacing=tuple(spacing), direction=left @ right)


def from_ants(image: ANTsImage) -> tuple[np.ndarray, np.ndarray]:
    """Unwrap an ANTs image: (X, Y, Z) float32 and its affine (voxels to mm, RAS)."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.direction) * image.spacing
    affine[:3, 3] = image.origin
    return image.numpy().astype(np.float32), FLIP @ affine


def read_matrix(path: str | Path) -> np.ndarray:
    """Read an ITK affine (.mat) as a 4 x 4 transform on points in mm, RAS."""
    transform = ants().read_transform(str(path))
    values, centre = np.asarray(transform.parameters), np.asarray(transform.fixed_parameters)
    matrix = np.eye(4)
    matrix[:3, :3] = values[:9].reshape(3, 3)
    matrix[:3, 3] = values[9:] + centre - matrix[:3, :3] @ centre
    return FLIP @ matrix @ FLIP


def align_rigid(fixed: ANTsImage, moving: ANTsImage) -> np.ndarray:
    """Register two ANTs images of one head by mutual information.

    Returns
    -------
    matrix : ndarray of shape (4, 4), float64
        Points of `fixed` to points of `moving` (mm, RAS).
    """
    return _register(
        fixed,
        moving,
        type_of_transform="Rigid",
        aff_iterations=(200, 100, 50),
        aff_shrink_factors=(3, 2, 1),
        aff_smoothing_sigmas=(2, 1, 0),
        aff_random_sampling_rate=0.25,
    )


def _register(fixed: ANTsImage, moving: ANTsImage, **options: object) -> np.ndarray:
    """Run an ANTs registration that ends in one matrix: (4, 4), points of `fixed` to points of `moving`."""
    with tempfile.TemporaryDirectory() as folder:
        answer = ants().registration(fixed, moving, outprefix=f"{folder}/", **options)
        return read_matrix(answer["fwdtransforms"][-1])


def align_template(template: ANTsImage, t1w: ANTsImage, transform: str, prefix: str) -> dict:
    """Register an anatomy to the template with ANTs.

    Parameters
    ----------
    template, t1w : ANTsImage
        As of `template` and `coarse`.
    transform : str
        "SyN" or "Affine".
    prefix : str
        Beginning of the paths that transforms are written to.

    Returns
    -------
    answer : dict
        What ANTs returns: `warpedmovout` is the anatomy on the template's grid, `fwdtransforms` are files.
    """
    return ants().registration(template, t1w, type_of_transform=transform, outprefix=prefix)


def move_through(files: list[str], points: np.ndarray) -> np.ndarray:
    """Carry (N, 3) points (mm, RAS) of the fixed image to the moving one, through ANTs' forward transforms.

    ANTs warps an image to the fixed grid by looking up, for each fixed point, the moving one. So the transforms that it
    calls forward lead points from fixed to moving.
    """
    lps = pd.DataFrame(move(FLIP, points), columns=["x", "y", "z"])
    moved = ants().apply_transforms_to_points(3, lps, files)
    return move(FLIP, moved[["x", "y", "z"]].to_numpy())


def coarse(volume: np.ndarray, affine: np.ndarray, resolution_mm: float) -> ANTsImage:
    """Resample a (X, Y, Z) volume to about a resolution, smoothed first so that nothing aliases."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = np.where(spacing < resolution_mm, 0.5 * resolution_mm / spacing, 0.0)
    image = to_ants(gaussian_filter(volume, sigma), affine)
    return ants().resample_image(image, (resolution_mm,) * 3, use_voxels=False, interp_type=0)


def template(resolution_mm: float) -> ANTsImage:
    """Load the MNI152 template at a resolution."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    return coarse(np.asarray(image.dataobj, np.float32), image.affine, resolution_mm)


def likeness(registered: ANTsImage, template: ANTsImage) -> float:
    """Correlate two images of one grid within the template's brain."""
    one, other = registered.numpy(), template.numpy()
    brain = other > 0.05 * other.max()
    return float(np.corrcoef(one[brain], other[brain])[0, 1])


def save_image(image: ANTsImage, path: Path) -> None:
    """Write an ANTs image as NIfTI."""
    nib.save(nib.Nifti1Image(*from_ants(image)), path)
