"""From scanner space to MNI: head motion within a run, the run to the anatomy, the anatomy to the template.

All transforms are 4 x 4 matrices on points in mm, RAS (the axes of NIfTI), and lead from the space that is sampled
*for* to the space that is sampled *from*: they chain by multiplication, and the data are interpolated once.

Every registration is by ANTs, on one thread and with a fixed seed: the same files give the same transforms. Head motion
is rigid, by the mean squared difference of intensities (as SPM and AFNI do it; the volumes of a run have one contrast),
which on a known motion was nearer than ANTs' own preset for BOLD (6 mm voxels: 0.10 mm at worst, not 0.24 mm) in half
its time; EPI, T1w and template, of different contrast, by mutual information.

ANTs takes 1.3 s to import and is therefore imported where it is used.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from mindreel.errors import InputError

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to ITK's LPS, and back
HEAD_MM = 50.0  # radius of the sphere on which rotations become millimetres (Power et al. 2012)
BRIGHT = 0.2  # a voxel above this share of the 98th percentile is taken for head


def rigid(translation: np.ndarray, rotation: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Build a rigid transform: (3,) mm, (3,) rad about the fixed axes x, y, z in this order, centre (3,) mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation).as_matrix()
    matrix[:3, 3] = translation + centre - matrix[:3, :3] @ centre
    return matrix


def parameters(matrix: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Undo `rigid`: (6,) translation in mm, rotation in rad."""
    translation = matrix[:3, 3] + matrix[:3, :3] @ centre - centre
    return np.concatenate([translation, Rotation.from_matrix(matrix[:3, :3]).as_euler("xyz")])


def move(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a 4 x 4 transform to (N, 3) points."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def sample(volume: np.ndarray, affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Interpolate a volume trilinearly at points.

    Parameters
    ----------
    volume : (X, Y, Z)
    affine : (4, 4)
        Voxels to mm.
    points : (N, 3)
        In mm.

    Returns
    -------
    values : (N,) float32; NaN outside the grid
    """
    voxels = move(np.linalg.inv(affine), points)
    return map_coordinates(volume, voxels.T, np.float32, order=1, mode="constant", cval=np.nan)


def inside(shape: tuple[int, ...], affine: np.ndarray, points: np.ndarray) -> float:
    """Share of (N, 3) points in mm that lie within a grid."""
    voxels = move(np.linalg.inv(affine), points)
    return float(((voxels >= 0) & (voxels <= np.array(shape[:3]) - 1)).all(axis=1).mean())


def head(volume: np.ndarray) -> np.ndarray:
    """Mark the bright voxels of a volume: boolean, of its shape."""
    return volume > BRIGHT * np.percentile(volume, 98)


def realign(series: np.ndarray, affine: np.ndarray, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Find where the head is in every volume.

    Parameters
    ----------
    series : (X, Y, Z, T) float32
    affine : (4, 4)
        Voxels to mm.
    reference : int
        Index of the reference volume.

    Returns
    -------
    transforms : (T, 4, 4), points of the reference to points of each volume (mm)
    centre : (3,) mm, the head's centre in the reference

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
    """Head motion of (T, 4, 4) transforms, relative to the reference volume.

    Returns
    -------
    table : trans_x_mm, trans_y_mm, trans_z_mm, rot_x_rad, rot_y_rad, rot_z_rad (about the head's centre),
        framewise_displacement_mm (Power et al. 2012: the sum of the six steps, rotations as millimetres on a sphere of
        50 mm), 0 for the first volume
    """
    motion = np.stack([parameters(matrix, centre) for matrix in transforms])
    table = pd.DataFrame(motion, columns=[*(f"trans_{x}_mm" for x in "xyz"), *(f"rot_{x}_rad" for x in "xyz")])
    steps = np.abs(np.diff(motion, axis=0, prepend=motion[:1]))
    table["framewise_displacement_mm"] = steps[:, :3].sum(axis=1) + HEAD_MM * steps[:, 3:].sum(axis=1)
    return table


def mean_volume(series: np.ndarray, affine: np.ndarray, transforms: np.ndarray, most: int = 50) -> np.ndarray:
    """Average at most `most` volumes, spread evenly, in the reference's space: (X, Y, Z) float32; 0 where unseen."""
    shape = series.shape[:3]
    grid = move(affine, np.indices(shape).reshape(3, -1).T)
    chosen = np.unique(np.linspace(0, series.shape[-1] - 1, min(most, series.shape[-1])).round().astype(int))
    total, seen = np.zeros(len(grid)), np.zeros(len(grid))
    for volume in chosen:
        values = sample(series[..., volume], affine, move(transforms[volume], grid))
        total += np.nan_to_num(values)
        seen += np.isfinite(values)
    return (total / np.maximum(seen, 1)).reshape(shape).astype(np.float32)


def ants():
    """Import ANTs, on one thread and with a fixed seed."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"
    os.environ["ANTS_RANDOM_SEED"] = "1"
    import ants as library

    return library


def to_ants(volume: np.ndarray, affine: np.ndarray):
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


def from_ants(image) -> tuple[np.ndarray, np.ndarray]:
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


def align_rigid(fixed, moving) -> np.ndarray:
    """Register two ANTs images of one head by mutual information.

    Returns
    -------
    matrix : (4, 4), points of `fixed` to points of `moving` (mm, RAS)
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


def _register(fixed, moving, **options: object) -> np.ndarray:
    """Run an ANTs registration that ends in one matrix: (4, 4), points of `fixed` to points of `moving`."""
    with tempfile.TemporaryDirectory() as folder:
        found = ants().registration(fixed, moving, outprefix=f"{folder}/", **options)
        return read_matrix(found["fwdtransforms"][-1])


def align_template(template, t1w, kind: str, prefix: str) -> dict:
    """Register an anatomy to the template with ANTs ("SyN" or "Affine"); transforms are written to `prefix`….

    Returns
    -------
    found : ANTs' answer: "warpedmovout" (the anatomy on the template's grid), "fwdtransforms" (files)
    """
    return ants().registration(template, t1w, type_of_transform=kind, outprefix=prefix)


def move_through(files: list[str], points: np.ndarray) -> np.ndarray:
    """Carry (N, 3) points (mm, RAS) of the fixed image to the moving one, through ANTs' forward transforms.

    An image is warped to the fixed grid by looking up, for each fixed point, the moving point: on points, the "forward"
    transforms lead from fixed to moving.
    """
    lps = pd.DataFrame(move(FLIP, points), columns=["x", "y", "z"])
    moved = ants().apply_transforms_to_points(3, lps, files)
    return move(FLIP, moved[["x", "y", "z"]].to_numpy())
