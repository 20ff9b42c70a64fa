"""A run as raw NIfTI, MNI NIfTI or CIFTI -> cleaned cortical time series.

The order of operations:

1. slice timing (raw runs, if wanted)
2. sampling at the 59,412 cortical grayordinates
3. trimming
4. per vertex, a polynomial trend is removed and the rest divided by its standard deviation

Images are interpolated once in space, trilinearly, at the group midthickness, wherever that lies in the scanner.
"""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage

from mindreel.artifacts import atomic, load_array, save_array, save_table
from mindreel.brain import cifti, cleaning, registration, surface
from mindreel.dataset import limits
from mindreel.errors import InputError
from mindreel.sections import Bold

SOURCES = ("raw", "mni", "cifti")
BRAIN = 0.5  # share of the cortex that must lie in a raw run's brain
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError)


def anatomy(*, t1w: Path, out: Path, cfg: Bold) -> None:
    """Register a subject's T1w to MNI, once for all of the subject's raw runs.

    Parameters
    ----------
    t1w : Path
        The subject's T1-weighted image (NIfTI).
    out : Path
        Folder that is written: the transforms (`mni_0GenericAffine.mat` and, for SyN, `mni_1Warp.nii.gz`);
        `midthickness.npy`, (59412, 3) float32, where the cortical grayordinates lie in the T1w's space (mm);
        `t1w.nii.gz`, at the registration's resolution, for the runs; `t1w_mni.nii.gz`, registered, to look at.
    cfg : Bold
        Section bold of the configuration.

    Raises
    ------
    InputError
        If the image cannot be read, or the cortex lies outside it after registration.
    """
    resolution = cfg.registration.resolution_mm
    volume, affine = read_image(t1w, dimensions=3)
    fixed = registration.template(resolution)
    moving = registration.coarse(volume, affine, resolution)
    with atomic(out) as folder:
        folder.mkdir()
        answer = registration.align_template(fixed, moving, cfg.registration.transform, f"{folder}/mni_")
        registered = answer["warpedmovout"]
        points = registration.move_through(answer["fwdtransforms"], surface.coordinates().astype(np.float64))
        share = registration.inside(volume.shape, affine, points)
        if share < limits.COVERED:
            raise InputError(
                f"{t1w}: only {share:.0%} of the cortex lies within the T1w after registration to MNI, expected at "
                f"least {limits.COVERED:.0%}; look at its orientation, or change bold.registration.transform"
            )
        print(f"{t1w}: correlation with the template {registration.likeness(registered, fixed):.2f} within the brain")
        np.save(folder / "midthickness.npy", points.astype(np.float32))
        registration.save_image(moving, folder / "t1w.nii.gz")
        registration.save_image(registered, folder / "t1w_mni.nii.gz")
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
    """Bring one run to the cortical surface and clean it.

    Parameters
    ----------
    run : Path
        The run: 4-D NIfTI, or CIFTI (.dtseries.nii) whose cortex is fsLR 32k.
    source : str
        What the run is: raw (NIfTI in the scanner's space), mni (NIfTI in MNI space) or cifti.
    out : Path
        The cleaned run (.npy): (T, 59412) float32, on disk vertex after vertex. Constant vertices and those outside the
        image are zeros.
    cfg : Bold
        Section bold of the configuration.
    tr_s : float
        Repetition time by the configuration (s), data.tr_s.
    volumes : int
        The run's length by the sample sheet.
    tsnr : Path, optional
        Temporal signal-to-noise ratio of every vertex (.npy): (59412,) float32, NaN where constant.
    anatomy : Path, optional
        Folder that `mindreel bold anatomy` made for the subject; raw runs need it.
    motion : Path, optional
        Head motion of a raw run (.tsv), a row per volume of the file: mm, rad, framewise displacement.
    sidecar : Path, optional
        JSON file with SliceTiming; raw runs need it if bold.slice_timing is on.
    header_tr : str
        What happens if the header says another TR: check refuses the run, ignore reports it. The workflow says ignore
        if check.ignore has `tr`.

    Raises
    ------
    InputError
        If the run cannot be read, has another length or TR than expected, does not cover the cortex, holds no signal,
        or its registration fails.
    """
    _check_options(run, source, cfg, anatomy, sidecar, header_tr)
    length, run_tr_s = describe(run, source)
    if source != "cifti" and length != volumes:
        _check_order(run, volumes)
    kept = cleaning.trimmed(run, length, volumes, cfg.trim)
    _check_tr(run, run_tr_s, tr_s, header_tr)
    moved = None
    if source == "cifti":
        series = open_series(run).read_surface()
    elif source == "mni":
        series = from_mni(run)
    else:
        assert anatomy is not None, "_check_options"
        series, moved = from_raw(run, anatomy, cfg, sidecar, tr_s)
    series = series[kept]
    cleaning.check_volumes(run, series, kept.start)
    cleaned, ratio = cleaning.standardise(series, cfg.polynomial_order, cfg.constant_tolerance)
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


def _check_options(
    run: Path, source: str, cfg: Bold, anatomy: Path | None, sidecar: Path | None, header_tr: str
) -> None:
    """Refuse options of `clean` that do not go together."""
    if header_tr not in ("check", "ignore"):
        raise InputError(f"--header-tr: found {header_tr!r}, expected check or ignore")
    if source not in SOURCES:
        raise InputError(f"{run}: source: found {source!r}, expected one of {', '.join(SOURCES)}; change the sheet")
    if source == "raw" and anatomy is None:
        raise InputError(f"{run}: a raw run needs --anatomy, the folder that `mindreel bold anatomy` makes")
    if source == "raw" and cfg.slice_timing and sidecar is None:
        raise InputError(f"{run}: bold.slice_timing needs --sidecar, the JSON file with its SliceTiming")


def describe(run: Path, source: str) -> tuple[int, float]:
    """Read a run's header.

    Parameters
    ----------
    run : Path
        The run.
    source : str
        raw, mni or cifti.

    Returns
    -------
    volumes : int
        Its length.
    tr_s : float
        Repetition time (s); 0 if the header does not say.
    """
    if source == "cifti":
        series = open_series(run)
        return series.shape[0], _seconds(run, series.tr_s)
    image = _open(run)
    if image.ndim != 4:
        raise InputError(f"{run}: expected a 4-D NIfTI, found the shape {image.shape}; check data.patterns")
    return image.shape[3], _seconds(run, cifti.image_tr(image))


def open_series(run: Path) -> cifti.Series:
    """Open a CIFTI run.

    Raises
    ------
    InputError
        If it cannot be read, or its cortex is not fsLR 32k without the medial wall.
    """
    try:
        series = cifti.open_series(run)
    except InputError as error:
        raise InputError(f"{run}: {error}") from error
    if problem := series.surface_problem():
        raise InputError(f"{run}: {problem}; resample it to fsLR 32k, or correct data.patterns")
    return series


def _seconds(run: Path, tr_s: float) -> float:
    """A header's TR (s; 0: not said). Milliseconds are often labelled as seconds."""
    if tr_s <= limits.LONGEST_TR_S:
        return tr_s
    print(f"warning: {run}: its header says TR {tr_s:g} s; taken for milliseconds")
    return tr_s * 1e-3


def _check_tr(run: Path, found_s: float, expected_s: float, header_tr: str) -> None:
    """Compare a header's TR (s; 0: not said) with the configuration's: another one shifts every picture."""
    if not found_s or limits.same_tr(found_s, expected_s):
        return
    said = f"{run}: its header says TR {found_s:g} s, data.tr_s says {expected_s:g} s"
    if header_tr == "check":
        raise InputError(f"{said}; correct one of them, or name `tr` in check.ignore if the header is wrong")
    print(f"warning: {said}; the latter is used")


def _check_order(run: Path, volumes: int) -> None:
    """Say so if another axis than the last is as long as the run should be."""
    shape = _open(run).shape
    if limits.swapped(shape, volumes):
        raise InputError(
            f"{run}: found the shape {shape}, expected (X, Y, Z, {volumes}): its dimensions are swapped; "
            "write it again with time as the last one"
        )


def read_image(path: Path, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Read a NIfTI whole.

    Parameters
    ----------
    path : Path
        The image.
    dimensions : int
        3 or 4.

    Returns
    -------
    data : ndarray of shape (X, Y, Z) or (X, Y, Z, T), float32
        Non-finite values become 0, which is reported.
    affine : ndarray of shape (4, 4), float64
        Voxels to mm.

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


def _open(path: Path) -> SpatialImage:
    """Open an image; its data stay on disk."""
    try:
        return nib.load(path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    """Name the file and what to do about an error that a library raised."""
    reason = " ".join(str(error).split())
    return InputError(
        f"{path}: cannot be read ({reason}); it is missing, truncated or no image: fetch it again, or exclude the run"
    )


def from_mni(run: Path) -> np.ndarray:
    """Sample an MNI run at the midthickness surface.

    Parameters
    ----------
    run : Path
        4-D NIfTI.

    Returns
    -------
    series : ndarray of shape (T, 59412), float32
        NaN outside the grid.

    Raises
    ------
    InputError
        If the run cannot be read, or does not cover the cortex.
    """
    series, affine = read_image(run, dimensions=4)
    points = surface.coordinates().astype(np.float64)
    share = registration.inside(series.shape, affine, points)
    if share < limits.COVERED:
        raise InputError(
            f"{run}: only {share:.0%} of the cortex lies within its grid, expected at least {limits.COVERED:.0%}; its "
            f"affine {affine[:3].round(2).tolist()} does not look like MNI (mm): "
            "set its source to raw, or repair the header"
        )
    return np.stack([registration.sample(series[..., t], affine, points) for t in range(series.shape[-1])])


def from_raw(run: Path, anatomy: Path, cfg: Bold, sidecar: Path | None, tr_s: float) -> tuple[np.ndarray, pd.DataFrame]:
    """Follow the head through a scanner-space run and sample it at the subject's cortex.

    Volume t is read at A_t E x: x a grayordinate in the T1w's space, E the run's place relative to the T1w, A_t the
    head's motion.

    Parameters
    ----------
    run : Path
        4-D NIfTI.
    anatomy : Path
        Folder that `anatomy` made for the subject.
    cfg : Bold
        Section bold of the configuration.
    sidecar : Path, optional
        JSON file with SliceTiming; needed if bold.slice_timing is on.
    tr_s : float
        Repetition time (s).

    Returns
    -------
    series : ndarray of shape (T, 59412), float32
        NaN where the field of view ends.
    motion : DataFrame
        As of `registration.motion_table`.

    Raises
    ------
    InputError
        If the run cannot be read, its motion cannot be followed, or it does not lie on the T1w after registration.
    """
    points = np.asarray(load_array(anatomy / "midthickness.npy"), np.float64)
    series, affine = read_image(run, dimensions=4)
    if cfg.slice_timing:
        from mindreel.brain import slice_timing  # SciPy's splines take a second to import

        assert sidecar is not None, "_check_options"
        series = slice_timing.correct(series, *slice_timing.read_times(sidecar, series.shape, tr_s), tr_s)
    try:
        transforms, centre = registration.realign(series, affine, reference=series.shape[-1] // 2)
        still = registration.mean_volume(series, affine, transforms)
        t1w = registration.to_ants(*read_image(anatomy / "t1w.nii.gz", dimensions=3))
        place = registration.align_rigid(t1w, registration.to_ants(still, affine))
    except InputError as error:
        raise InputError(f"{run}: {error}") from error
    in_head = registration.sample(registration.head(still).astype(np.float32), affine, registration.move(place, points))
    share = float(np.nan_to_num(in_head).mean())
    print(f"{run}: {share:.0%} of the cortex lies in the brain after registration to the T1w")
    if share < BRAIN:
        raise InputError(
            f"{run}: registration to the T1w failed: {share:.0%} of the cortex lies in the brain, expected {BRAIN:.0%} "
            "or more; look at both images"
        )
    moved = (registration.move(matrix @ place, points) for matrix in transforms)
    sampled = np.stack([registration.sample(series[..., t], affine, at) for t, at in enumerate(moved)])
    return sampled, registration.motion_table(transforms, centre)
