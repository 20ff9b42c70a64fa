"""The simulated scanner: noise, drift, head motion, raw NIfTI of a moving head, and the 91,282 grayordinates."""

from dataclasses import dataclass
from functools import cache

import nibabel as nib
import numpy as np
import scipy.ndimage
import scipy.sparse
from nibabel.affines import apply_affine
from nibabel.cifti2 import BrainModelAxis
from nibabel.eulerangles import euler2mat

from mindreel.brain import surface

BASELINE = 10000.0  # mean intensity of cortex
RESPONSE = 0.015  # a response of deviation 1, as a share of the baseline
DRIFT = 1.5  # deviation of the slow drift, that of the response being 1
CORRELATION = 0.4  # of the noise of a volume with that of the next
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
Shape = tuple[int, int, int]  # of a volume: voxels along x, y, z
DEGREES_PER_MM = 1.0  # a head that moves 0.5 mm also turns 0.5 degrees
FIELD_OF_VIEW_MM = (170.0, 210.0, 180.0)
HEAD_CENTRE = np.array([0.0, -17.0, 5.0])  # of MNI space (mm)
BRAIN_MM = 110.0  # no part of the brain is farther from it

# The subcortical structures of the 91,282 grayordinates in their order: voxels, then where they roughly are
# (centre and half axes, mm, MNI; a left structure mirrors its right one).
STRUCTURES = (
    ("ACCUMBENS_LEFT", 135, (-10, 12, -7), (4, 6, 5)),
    ("ACCUMBENS_RIGHT", 140, (10, 12, -7), (4, 6, 5)),
    ("AMYGDALA_LEFT", 315, (-23, -4, -18), (8, 8, 8)),
    ("AMYGDALA_RIGHT", 332, (23, -4, -18), (8, 8, 8)),
    ("BRAIN_STEM", 3472, (0, -30, -32), (14, 14, 28)),
    ("CAUDATE_LEFT", 728, (-13, 10, 10), (6, 18, 12)),
    ("CAUDATE_RIGHT", 755, (13, 10, 10), (6, 18, 12)),
    ("CEREBELLUM_LEFT", 8709, (-24, -62, -36), (24, 24, 20)),
    ("CEREBELLUM_RIGHT", 9144, (24, -62, -36), (24, 24, 20)),
    ("DIENCEPHALON_VENTRAL_LEFT", 706, (-10, -14, -9), (9, 10, 7)),
    ("DIENCEPHALON_VENTRAL_RIGHT", 712, (10, -14, -9), (9, 10, 7)),
    ("HIPPOCAMPUS_LEFT", 764, (-26, -22, -14), (8, 18, 7)),
    ("HIPPOCAMPUS_RIGHT", 795, (26, -22, -14), (8, 18, 7)),
    ("PALLIDUM_LEFT", 297, (-20, -4, 0), (5, 9, 6)),
    ("PALLIDUM_RIGHT", 260, (20, -4, 0), (5, 9, 6)),
    ("PUTAMEN_LEFT", 1060, (-26, 2, 1), (6, 16, 12)),
    ("PUTAMEN_RIGHT", 1010, (26, 2, 1), (6, 16, 12)),
    ("THALAMUS_LEFT", 1288, (-11, -18, 7), (9, 14, 9)),
    ("THALAMUS_RIGHT", 1248, (11, -18, 7), (9, 14, 9)),
)
GRAYORDINATES = surface.VERTICES + sum(count for _, count, _, _ in STRUCTURES)


@cache
def grayordinate_axis() -> BrainModelAxis:
    """Make the brain-model axis of all 91,282 grayordinates, with the names, counts and order of the HCP's.

    The cortex, which the pipeline reads, is exact. Subcortical voxels are roughly in place: no package carries a list
    of the HCP's own.
    """
    shape, affine = (91, 109, 91), np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    voxels = np.argwhere(np.ones(shape, bool))
    place = apply_affine(affine, voxels)
    deep = (np.abs(place - [0, -30, -20]) < [52, 70, 56]).all(1)  # no structure lies outside this box
    voxels, place = voxels[deep], place[deep]
    inside = []
    for name, count, centre, axes in STRUCTURES:
        distance = (((place - centre) / np.array(axes, float)) ** 2).sum(1)
        distance[("LEFT" in name) & (place[:, 0] >= 0) | ("RIGHT" in name) & (place[:, 0] <= 0)] = np.inf
        near = np.sort(np.argsort(distance, kind="stable")[:count])
        inside.append(voxels[near])
        voxels, place = np.delete(voxels, near, 0), np.delete(place, near, 0)  # no voxel belongs to two structures
    names = np.repeat([f"CIFTI_STRUCTURE_{name}" for name, *_ in STRUCTURES], [len(part) for part in inside])
    return surface.brain_model_axis() + BrainModelAxis(names, np.concatenate(inside), affine=affine, volume_shape=shape)


def noise(volumes: int, places: int, rng: np.random.Generator) -> np.ndarray:
    """Draw autoregressive noise, x_t = rho x_{t-1} + sqrt(1 - rho^2) e_t: (volumes, places) float32, deviation 1."""
    out = rng.standard_normal((volumes, places), dtype=np.float32)
    out[1:] *= np.float32(np.sqrt(1 - CORRELATION**2))
    for t in range(1, volumes):
        out[t] += np.float32(CORRELATION) * out[t - 1]
    return out


def drift(volumes: int, places: int, rng: np.random.Generator) -> np.ndarray:
    """Draw slow drift, a cubic and half a wave: (volumes, places) float32, deviation about DRIFT."""
    t = np.linspace(-1, 1, volumes)
    shapes = np.stack([t, (3 * t**2 - 1) / 2, (5 * t**3 - 3 * t) / 2, np.sin(np.pi * (t + rng.uniform(-1, 1)) / 2)], 1)
    shapes = (shapes - shapes.mean(0)) / shapes.std(0)
    common, own = rng.standard_normal((4, 1)), rng.standard_normal((4, places), dtype=np.float32)
    return DRIFT * shapes.astype(np.float32) @ (0.4 * common.astype(np.float32) + 0.3 * own)


def motion(volumes: int, typical_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the path of a head that wanders from where it was in the first volume.

    Parameters
    ----------
    volumes : int
        Length of the run.
    typical_mm : float
        How far a head gets; in a run it is 0.3 to 1.2 times as far, drawn anew.
    rng : Generator
        Source of the random numbers.

    Returns
    -------
    motion : ndarray of shape (volumes, 6), float64
        Translations (mm) and rotations (rad) about the head's centre, as MOTION names them.
    """
    walk = scipy.ndimage.gaussian_filter1d(rng.standard_normal((volumes, 6)).cumsum(0), 1.5, axis=0, mode="nearest")
    walk -= walk[0]
    for part in (slice(0, 3), slice(3, 6)):
        walk[:, part] /= max(np.linalg.norm(walk[:, part], axis=1).max(), 1e-9)
    farthest_mm = typical_mm * rng.uniform(0.3, 1.2)
    return walk * farthest_mm * np.repeat([1.0, np.deg2rad(DEGREES_PER_MM)], 3)


def rigid(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Build a rigid transform of points in mm.

    Written apart from `brain.registration`, so that an error there shows in tests on simulated heads.

    Parameters
    ----------
    parameters : ndarray of shape (6,), float
        Translations (mm) and rotations (rad: about x, then y, then z).
    centre : ndarray of shape (3,), float
        What the rotation is about (mm).

    Returns
    -------
    matrix : ndarray of shape (4, 4), float64
        The transform.
    """
    turn = euler2mat(*parameters[5:2:-1])
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = parameters[:3] + centre - turn @ centre
    return matrix


@dataclass(frozen=True)
class Head:
    """One subject's head in the scanner.

    Attributes
    ----------
    t1w : Nifti1Image
        T1-weighted anatomy (2 mm), in the subject's own space.
    affine : ndarray of shape (4, 4), float64
        Voxel of a raw run -> scanner (mm).
    shape : tuple of 3 ints
        Shape of a raw volume.
    tissue : ndarray of shape (X, Y, Z), float32
        T2*-weighted picture of the head on a 2 mm grid, blurred to the voxels' size; cortex is about BASELINE.
    tissue_affine : ndarray of shape (4, 4), float64
        Voxel of that picture -> scanner (mm).
    brain : ndarray of shape (voxels,), bool
        The voxels of a raw volume that lie in the brain before the head moves.
    paint : sparse array of shape (voxels, 59412), float32
        Mean of each voxel over the vertices whose cortical ribbon meets it.
    sample : sparse array of shape (59412, voxels), float32
        Linear interpolation at midthickness.
    centre : ndarray of shape (3,), float64
        What the head turns about (mm, scanner).
    """

    t1w: nib.Nifti1Image
    affine: np.ndarray
    shape: Shape
    tissue: np.ndarray
    tissue_affine: np.ndarray
    brain: np.ndarray
    paint: scipy.sparse.csr_matrix
    sample: scipy.sparse.csr_matrix
    centre: np.ndarray


def draw_head(voxel_mm: float, rng: np.random.Generator) -> Head:
    """Draw a head: MNI's, turned, shifted and scaled a little, lying obliquely in the scanner.

    Parameters
    ----------
    voxel_mm : float
        Side of a raw run's voxel (mm).
    rng : Generator
        Source of the random numbers.

    Returns
    -------
    head : Head
        The head in its scanner.
    """
    t1w, gray, white, mask = _mni()
    size = np.diag([*rng.choice([-1, 1], 3) * rng.uniform(0.03, 0.05, 3) + 1, 1.0])
    subject = rigid(_pose(rng, 4, 5), HEAD_CENTRE) @ size  # MNI -> T1w (mm)
    scanner = rigid(_pose(rng, 4, 6), HEAD_CENTRE) @ subject  # MNI -> scanner (mm)
    centre = apply_affine(scanner, HEAD_CENTRE)
    x, y, z = (int(np.ceil(length / voxel_mm)) for length in FIELD_OF_VIEW_MM)
    shape = (x, y, z)
    affine = rigid(_pose(rng, 8, 0), np.zeros(3)) @ np.diag([-voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)

    g, w, inside = (image.get_fdata(dtype=np.float32) for image in (gray, white, mask))
    fluid = inside * np.clip(1 - g - w, 0, 1)
    picture = BASELINE * inside * (g + 0.75 * w + 1.3 * fluid)  # gray brighter than white, unlike in the T1w
    tissue = scipy.ndimage.gaussian_filter(picture, voxel_mm / 2 / 2.355)
    brain = resample(inside, scanner @ mask.affine, affine, shape) > 0.5
    paint, sample = _painting(np.linalg.inv(affine) @ scanner, shape)
    anatomy, tissue_affine = _anatomy(t1w, subject), scanner @ gray.affine
    return Head(anatomy, affine, shape, tissue, tissue_affine, brain.ravel(), paint, sample, centre)


@cache
def _mni() -> tuple[nib.Nifti1Image, ...]:
    """Load MNI's T1w, gray matter, white matter and brain mask at 2 mm; kept, as nilearn resamples at each call."""
    from nilearn import datasets

    return tuple(
        load(resolution=2)
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )


def _pose(rng: np.random.Generator, degrees: float, mm: float) -> np.ndarray:
    """Draw a rigid pose that is `degrees` and `mm` off along each axis, give or take a third: (6,)."""
    return rng.choice([-1, 1], 6) * rng.uniform(0.67, 1.33, 6) * np.repeat([mm, np.deg2rad(degrees)], 3)


def _anatomy(template: nib.Nifti1Image, subject: np.ndarray) -> nib.Nifti1Image:
    """Resample the template's head in the subject's space, on a grid that holds it whole."""
    grid = template.affine.copy()
    grid[:3, 3] += subject[:3, :3] @ HEAD_CENTRE + subject[:3, 3] - HEAD_CENTRE
    values = resample(template.get_fdata(dtype=np.float32), subject @ template.affine, grid, template.shape)
    image = nib.Nifti1Image(np.round(1000 * np.clip(values, 0, None)).astype(np.int16), grid)
    image.set_sform(grid, 1)
    image.set_qform(grid, 1)
    return image


def resample(picture: np.ndarray, from_affine: np.ndarray, to_affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample a volume linearly from one grid to another of a `shape`, by their affines (4, 4); outside is 0."""
    matrix = np.linalg.inv(from_affine) @ to_affine
    return scipy.ndimage.affine_transform(picture, matrix[:3, :3], matrix[:3, 3], shape, order=1)


def _sample(picture: np.ndarray, affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Interpolate a picture linearly at points (N, 3) in mm; outside is 0."""
    voxels = apply_affine(np.linalg.inv(affine), points)
    return scipy.ndimage.map_coordinates(picture, voxels.T, np.float32, order=1)


def _painting(to_voxel: np.ndarray, shape: Shape) -> tuple[scipy.sparse.csr_matrix, scipy.sparse.csr_matrix]:
    """Make `paint` and `sample` of a Head; `to_voxel` (4, 4) takes MNI (mm) to voxel indices."""
    count = int(np.prod(shape))
    vertex = surface.atlas()["vertex"].to_numpy()
    left = np.arange(surface.VERTICES) < surface.LEFT
    hits = scipy.sparse.csr_matrix((count, surface.VERTICES), dtype=np.float32)
    for name in ("white", "midthickness", "pial"):
        (left_mm, _), (right_mm, _) = surface.mesh(name)
        place = apply_affine(to_voxel, np.where(left[:, None], left_mm[vertex], right_mm[vertex]))
        index = np.ravel_multi_index(np.round(place).astype(int).T, shape, mode="clip")
        entries = (np.ones(surface.VERTICES, np.float32), (index, np.arange(surface.VERTICES)))
        hits = hits + scipy.sparse.csr_matrix(entries, shape=hits.shape)
    share = np.asarray(hits.sum(1)).ravel()
    paint = scipy.sparse.diags(np.divide(1, share, out=np.zeros_like(share), where=share > 0)) @ hits

    place = apply_affine(to_voxel, surface.coordinates())
    low = np.floor(place).astype(int)
    sample = scipy.sparse.csr_matrix((surface.VERTICES, count), dtype=np.float32)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, place - low, 1 - (place - low)), axis=1)
        index = np.ravel_multi_index((low + corner).T, shape, mode="clip")
        entries = (weight.astype(np.float32), (np.arange(surface.VERTICES), index))
        sample = sample + scipy.sparse.csr_matrix(entries, shape=sample.shape)
    return paint.tocsr(), sample


def scan(head: Head, response: np.ndarray, strength: float, path: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Acquire a raw run.

    Parameters
    ----------
    head : Head
        The subject's.
    response : ndarray of shape (T, 59412), float32
        What the cortex does; deviation 1 where it responds.
    strength : float
        Deviation of a voxel's noise; that of a response is 1.
    path : ndarray of shape (T, 6), float64
        Head motion (mm, rad), as of `motion`.
    rng : Generator
        Source of the random numbers.

    Returns
    -------
    run : ndarray of shape (X, Y, Z, T), int16
        Intensities.
    """
    volumes, voxels = len(response), len(head.brain)
    active = (head.paint @ response.T).T.reshape(volumes, *head.shape)
    turned, moved = np.linalg.norm(path[:, 3:], axis=1).max(), np.linalg.norm(path[:, :3], axis=1).max()
    margin = 2 + int((moved + BRAIN_MM * turned) / np.linalg.norm(head.affine[:3, 0]))  # voxels; 2 for the blur
    reached = scipy.ndimage.binary_dilation(head.brain.reshape(head.shape), iterations=margin)
    places = apply_affine(head.affine, np.argwhere(reached))  # the brain comes nowhere else
    run = np.zeros((volumes, *head.shape), np.float32)
    for t in range(volumes):
        back = apply_affine(np.linalg.inv(rigid(path[t], head.centre)), places)
        run[t, reached] = _sample(head.tissue, head.tissue_affine, back)
        run[t, reached] *= 1 + RESPONSE * _sample(active[t], head.affine, back)
    grain = strength * noise(volumes, voxels, rng)
    grain[:, head.brain] += drift(volumes, int(head.brain.sum()), rng)
    grain[:, ~head.brain] *= 0.2
    run += BASELINE * RESPONSE * grain.reshape(run.shape)
    return np.moveaxis(np.round(np.clip(run, 0, 32767)).astype(np.int16), 0, -1)
