"""A run as raw NIfTI, MNI NIfTI or CIFTI -> cleaned cortical time series.

In this order: slice timing (raw, if wanted); sampled at the 59,412 cortical grayordinates; trimmed; per vertex, a
polynomial trend removed and the rest divided by its standard deviation (with T - 1, as in the data set's MATLAB code).
Images are interpolated once in space, trilinearly, at the group midthickness, wherever that lies in the scanner.
"""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from mindreel.artifacts import atomic, load_array, save_array, save_table
from mindreel.brain import cifti, registration, surface
from mindreel.config import Bold
from mindreel.errors import InputError

SOURCES = ("raw", "mni", "cifti")
BLOCK = 512  # vertices detrended at once: they fit the processor's cache
COVERED = 0.95  # share of the cortex that must lie within the grid of an MNI run, or of the T1w
BRAIN = 0.5  # share of the cortex that must lie in a raw run's brain
LONGEST_TR_S = 60.0  # a header's TR above this is taken for milliseconds
TR_TOLERANCE = 0.01  # headers round
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError)


def anatomy(*, t1w: Path, out: Path, cfg: Bold) -> None:
    """Register a subject's T1w to MNI, once for all of the subject's raw runs.

    Writes a folder: the transforms (`mni_0GenericAffine.mat` and, for SyN, `mni_1Warp.nii.gz`), `midthickness.npy`
    ((59412, 3) float32: where the cortical grayordinates lie in the scanner, mm), `t1w.nii.gz` (at the registration's
    resolution, for the runs) and `t1w_mni.nii.gz` (registered, to look at).
    """
    resolution = cfg.registration.resolution_mm
    image = read_image(t1w, dimensions=3)
    fixed = _template(resolution)
    moving = coarse(*image, resolution)
    with atomic(out) as folder:
        folder.mkdir()
        found = registration.align_template(fixed, moving, cfg.registration.transform, f"{folder}/mni_")
        points = registration.move_through(found["fwdtransforms"], surface.coordinates().astype(np.float64))
        share = registration.inside(image[0].shape, image[1], points)
        if share < COVERED:
            raise InputError(
                f"{t1w}: only {share:.0%} of the cortex lies within the T1w after registration to MNI, expected at "
                f"least {COVERED:.0%}; look at its orientation, or change bold.registration.transform"
            )
        print(f"{t1w}: correlation with the template {_likeness(found['warpedmovout'], fixed):.2f} within the brain")
        np.save(folder / "midthickness.npy", points.astype(np.float32))
        _save_image(moving, folder / "t1w.nii.gz")
        _save_image(found["warpedmovout"], folder / "t1w_mni.nii.gz")
        for inverse in folder.glob("mni_*Inverse*"):  # not needed: points go forward only
            inverse.unlink()


def clean(
    *,
    run: Path,
    source: str,
    out: Path,
    cfg: Bold,
    tr_s: float,
    volumes: int,
    tsnr: Path | None = None,
    anatomy: Path | None = None,
    motion: Path | None = None,
    sidecar: Path | None = None,
    header_tr: str = "check",
) -> None:
    """Bring one run to the cortical surface and clean it: (T, 59412) float32, on disk vertex after vertex.

    `volumes` is the run's length by the sample sheet, `tr_s` its TR by the configuration: a header that says another TR
    is refused, with `header_tr` "ignore" (the workflow: with `tr` in check.ignore) only reported. Constant vertices and
    those outside the image become zeros. The temporal signal-to-noise ratio of every vertex goes to `tsnr`: (59412,)
    float32, NaN where constant. Raw runs need `anatomy` (the folder that `bold anatomy` made for the subject), write
    their head motion to `motion` and, with bold.slice_timing, need `sidecar`: a JSON file with SliceTiming.
    """
    if header_tr not in ("check", "ignore"):
        raise InputError(f"--header-tr: found {header_tr!r}, expected check or ignore")
    if source not in SOURCES:
        raise InputError(f"{run}: source: found {source!r}, expected one of {', '.join(SOURCES)}; change the sheet")
    if source == "raw" and anatomy is None:
        raise InputError(f"{run}: a raw run needs --anatomy, the folder that `mindreel bold anatomy` makes")
    if source == "raw" and cfg.slice_timing and sidecar is None:
        raise InputError(f"{run}: bold.slice_timing needs --sidecar, the JSON file with its SliceTiming")
    length, run_tr_s = describe(run, source)
    if source != "cifti" and length != volumes:
        _check_order(run, volumes)
    kept = trimmed(run, length, volumes, cfg.trim)
    _check_tr(run, run_tr_s, tr_s, header_tr)
    if source == "cifti":
        series, moved = open_series(run).read_surface(), None
    elif source == "mni":
        series, moved = from_mni(run), None
    else:
        series, moved = from_raw(run, anatomy, cfg, sidecar, tr_s)
    series = series[kept]
    check_volumes(run, series, kept.start)
    cleaned, ratio = standardise(series, cfg.polynomial_order, cfg.constant_tolerance)
    constant = np.isnan(ratio)
    dead = f"{constant.sum()} of {constant.size} vertices are constant, not finite or outside the image"
    if constant.all():
        raise InputError(f"{run}: {dead}: the run holds no signal; fetch it again or exclude it in the sample sheet")
    print(f"{run}: kept {len(cleaned)} of {length} volumes; {dead}; median tSNR {np.nanmedian(ratio):.1f}")
    if motion is not None and moved is not None:
        print(f"{run}: median framewise displacement {moved['framewise_displacement_mm'].median():.2f} mm")
        save_table(motion, moved)
    if tsnr is not None:
        save_array(tsnr, ratio)
    save_array(out, cleaned)


def describe(run: Path, source: str) -> tuple[int, float]:
    """Read a run's length (volumes) and TR (s; 0: unknown) from its header alone."""
    if source == "cifti":
        series = open_series(run)
        return series.shape[0], _seconds(run, series.tr_s)
    image = _open(run)
    if image.ndim != 4:
        raise InputError(f"{run}: expected a 4-D NIfTI, found the shape {image.shape}; check data.patterns")
    return image.shape[3], _seconds(run, cifti.image_tr(image))


def open_series(run: Path) -> cifti.Series:
    """Open a CIFTI run whose cortex is fsLR 32k."""
    try:
        series = cifti.open_series(run)
    except InputError as error:
        raise InputError(f"{run}: {error}") from error
    if problem := series.surface_problem():
        raise InputError(f"{run}: {problem}; resample it to fsLR 32k, or correct data.patterns")
    return series


def _seconds(run: Path, tr_s: float) -> float:
    """A header's TR (s; 0: not said). Milliseconds are often labelled as seconds."""
    if tr_s <= LONGEST_TR_S:
        return tr_s
    print(f"warning: {run}: its header says TR {tr_s:g} s; taken for milliseconds")
    return tr_s * 1e-3


def _check_tr(run: Path, found_s: float, expected_s: float, header_tr: str) -> None:
    """Compare a header's TR (s; 0: not said) with the configuration's: another one shifts every picture."""
    if not found_s or abs(found_s - expected_s) <= TR_TOLERANCE * expected_s:
        return
    said = f"{run}: its header says TR {found_s:g} s, data.tr_s says {expected_s:g} s"
    if header_tr == "check":
        raise InputError(f"{said}; correct one of them, or name `tr` in check.ignore if the header is wrong")
    print(f"warning: {said}; the latter is used")


def _check_order(run: Path, volumes: int) -> None:
    """Say so if another axis than the last is as long as the run should be."""
    shape = _open(run).shape
    if volumes in shape[:3]:
        raise InputError(
            f"{run}: found the shape {shape}, expected (X, Y, Z, {volumes}): its dimensions are swapped; "
            "write it again with time as the last one"
        )


def check_volumes(run: Path, series: np.ndarray, start: int) -> None:
    """Refuse a run with volumes in which every vertex is 0 or not finite; `start`: the first one's number in the file.

    A single one would stand out as a spike in every vertex.
    """

    def silent(values: np.ndarray) -> np.ndarray:
        return ~(np.isfinite(values) & (values != 0)).any(axis=1)

    empty = silent(series[:, :: max(1, series.shape[1] // 64)])  # a few vertices clear nearly all volumes
    if empty.any():
        empty[empty] = silent(series[empty])
    if empty.any():
        numbers = ", ".join(str(start + i) for i in np.flatnonzero(empty)[:10])
        finite = "zeros" if np.isfinite(series[empty]).any() else "not finite"
        raise InputError(
            f"{run}: {empty.sum()} of {len(series)} volumes hold no signal, all values are {finite} (volumes "
            f"{numbers}{', …' if empty.sum() > 10 else ''}); fetch it again or exclude it in the sample sheet"
        )


def trimmed(run: Path, length: int, volumes: int, trim: dict[int, tuple[int, int]]) -> slice:
    """Say which volumes of a run stay.

    Raises
    ------
    InputError
        If the length is not that of the sample sheet, or has no entry in `bold.trim`, or nothing would stay.
    """
    if length != volumes:
        raise InputError(
            f"{run}: {length} volumes, the sample sheet says {volumes}; "
            "fetch the run again if it is incomplete, or correct `volumes` or set `exclude` in the sheet"
        )
    if length not in trim:
        rules = ", ".join(f"{n}: drop {start} first and {end} last" for n, (start, end) in sorted(trim.items()))
        raise InputError(f"{run}: {length} volumes, but bold.trim only has a rule for {rules}; add {length} there")
    start, end = trim[length]
    if start + end >= length:
        raise InputError(f"bold.trim.{length}: drops {start} + {end} of {length} volumes; nothing would be left")
    return slice(start, length - end)


def read_image(path: Path, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a NIfTI whole: (X, Y, Z[, T]) float32, non-finite values as 0, and its affine (4, 4).

    Raises
    ------
    InputError
        If it cannot be read, is truncated or has another number of dimensions.
    """
    image = _open(path)
    try:
        data = np.asarray(image.dataobj, dtype=np.float32)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    while data.ndim > dimensions and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != dimensions or min(data.shape[:3]) < 2:
        raise InputError(f"{path}: expected a {dimensions}-D NIfTI, found the shape {data.shape}")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-6:
        raise InputError(
            f"{path}: its affine {image.affine[:3].round(3).tolist()} gives voxels no volume; repair the header"
        )
    if not np.isfinite(data).all():
        print(f"warning: {path}: {(~np.isfinite(data)).mean():.2%} of the values are not finite and count as 0")
        data = np.nan_to_num(data, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return data, image.affine.astype(np.float64)


def _open(path: Path) -> nib.spatialimages.SpatialImage:
    try:
        return nib.load(path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    said = " ".join(str(error).split())
    return InputError(
        f"{path}: cannot be read ({said}); it is missing, truncated or no image: fetch it again, or exclude the run"
    )


def from_mni(run: Path) -> np.ndarray:
    """Sample an MNI run at the midthickness surface: (T, 59412) float32, NaN outside the grid."""
    series, affine = read_image(run, dimensions=4)
    points = surface.coordinates().astype(np.float64)
    share = registration.inside(series.shape, affine, points)
    if share < COVERED:
        raise InputError(
            f"{run}: only {share:.0%} of the cortex lies within its grid, expected at least {COVERED:.0%}; its affine "
            f"{affine[:3].round(2).tolist()} does not look like MNI (mm): set its source to raw, or repair the header"
        )
    return np.stack([registration.sample(series[..., t], affine, points) for t in range(series.shape[-1])])


def from_raw(run: Path, anatomy: Path, cfg: Bold, sidecar: Path | None, tr_s: float) -> tuple[np.ndarray, pd.DataFrame]:
    """Follow the head through a scanner-space run and sample it at the subject's cortex.

    Volume t is read at A_t E x: x a grayordinate in the T1w's space, E the run's place relative to the T1w, A_t the
    head's motion.

    Returns
    -------
    series : (T, 59412) float32; NaN where the field of view ends
    motion : as `registration.motion_table` has it
    """
    points = np.asarray(load_array(anatomy / "midthickness.npy"), np.float64)
    series, affine = read_image(run, dimensions=4)
    if cfg.slice_timing:
        from mindreel.brain import slice_timing

        series = slice_timing.correct(series, *slice_timing.read_times(sidecar, series.shape, tr_s), tr_s)
    try:
        transforms, centre = registration.realign(series, affine, reference=series.shape[-1] // 2)
        still = registration.mean_volume(series, affine, transforms)
        t1w = registration.to_ants(*read_image(anatomy / "t1w.nii.gz", dimensions=3))
        place = registration.align_rigid(t1w, registration.to_ants(still, affine))
    except InputError as error:
        raise InputError(f"{run}: {error}") from error
    here = registration.sample(registration.head(still).astype(np.float32), affine, registration.move(place, points))
    share = float(np.nan_to_num(here).mean())
    print(f"{run}: {share:.0%} of the cortex lies in the brain after registration to the T1w")
    if share < BRAIN:
        raise InputError(
            f"{run}: registration to the T1w failed: {share:.0%} of the cortex lies in the brain, expected {BRAIN:.0%} "
            "or more; look at both images"
        )
    moved = (registration.move(matrix @ place, points) for matrix in transforms)
    sampled = np.stack([registration.sample(series[..., t], affine, at) for t, at in enumerate(moved)])
    return sampled, registration.motion_table(transforms, centre)


def standardise(series: np.ndarray, order: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Remove a polynomial trend per vertex, then divide by the standard deviation (ddof 1).

    Parameters
    ----------
    series : (T, N)
    order : of the polynomial; 0 removes the mean only
    tolerance : a vertex is constant if its deviation, trend removed, is at most this share of its root mean square.
        (The deviation before the trend is removed would miss a vertex that is itself a polynomial.)

    Returns
    -------
    cleaned : (T, N) float32, Fortran order, mean 0, deviation 1; constant and non-finite vertices are 0 throughout
    tsnr : (N,) float32, the mean over that deviation; NaN for constant and non-finite vertices
    """
    volumes, count = series.shape
    if volumes < order + 2:
        raise InputError(f"bold.polynomial_order: order {order} needs {order + 2} volumes or more, found {volumes}")
    trend = np.linalg.qr(np.polynomial.legendre.legvander(np.linspace(-1, 1, volumes), order))[0]  # (T, order + 1)
    cleaned, tsnr = np.empty((count, volumes), np.float32).T, np.empty(count, np.float32)
    for first in range(0, count, BLOCK):
        part = slice(first, first + BLOCK)
        # double precision: what BLAS adds in another order (on more threads) is lost when it is rounded to single
        block = np.array(series[:, part].T, np.float64, order="C")  # (n, T)
        with np.errstate(invalid="ignore"):
            weights = block @ trend
            block -= weights @ trend.T
            left = np.vecdot(block, block)
            power = np.vecdot(weights, weights) + left  # of the vertex before: Pythagoras. Not finite if a value is not
        alive = np.isfinite(power) & (left > tolerance**2 * power * (volumes - 1) / volumes)
        scale = np.zeros_like(left)
        scale[alive] = np.sqrt((volumes - 1) / left[alive])
        if not alive.all():
            block[~alive] = 0.0  # NaN times 0 is NaN
        np.multiply(block, scale[:, None], out=cleaned[:, part].T, casting="same_kind")
        tsnr[part] = np.where(alive, weights[:, 0] * trend[0, 0] * scale, np.nan)  # the first polynomial is constant
    return cleaned, tsnr


def coarse(volume: np.ndarray, affine: np.ndarray, resolution_mm: float):
    """Bring a volume to about a resolution, smoothed first so that nothing aliases: an ANTs image."""
    from scipy.ndimage import gaussian_filter

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = np.where(spacing < resolution_mm, 0.5 * resolution_mm / spacing, 0.0)
    image = registration.to_ants(gaussian_filter(volume, sigma), affine)
    return registration.ants().resample_image(image, (resolution_mm,) * 3, use_voxels=False, interp_type=0)


def _template(resolution_mm: float):
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    return coarse(np.asarray(image.dataobj, np.float32), image.affine, resolution_mm)


def _likeness(registered, template) -> float:
    one, other = registered.numpy(), template.numpy()
    brain = other > 0.05 * other.max()
    return float(np.corrcoef(one[brain], other[brain])[0, 1])


def _save_image(image, path: Path) -> None:
    nib.save(nib.Nifti1Image(*registration.from_ants(image)), path)
