"""What a CIFTI or NIfTI file says about itself, and the cortical surface that a CIFTI file holds.

CIFTI headers are read here directly rather than with nibabel, which takes half a second for the 91,282 grayordinates of
a run (this: 10 ms); a data set has hundreds of runs, HCP twenty thousand. Data stay on disk until they are asked for.
Messages leave out the path, which the tables that they end up in have a column for; `read_surface` adds it.
"""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from mindreel.brain import surface
from mindreel.brain.nifti import CIFTI, extensions, read_head
from mindreel.errors import InputError

UNREADABLE = (OSError, EOFError, ValueError, KeyError, zlib.error, ImageFileError)
SCALES = {"SECOND": 1.0, "sec": 1.0, "unknown": 1.0, "msec": 1e-3, "usec": 1e-6}  # other units are no times
NIFTI_2 = 540  # bytes of its header


class Structure(NamedTuple):
    """A surface in a dense CIFTI file.

    Attributes
    ----------
    mesh : int
        Number of vertices of the whole mesh.
    first : int
        Column of the file in which the surface begins.
    vertices : ndarray of shape (n,), int
        Vertices of the mesh, one per column.
    """

    mesh: int
    first: int
    vertices: np.ndarray


class Series(NamedTuple):
    """A dense time series (.dtseries.nii) or dense maps (.dscalar.nii), the data on disk.

    Attributes
    ----------
    path : Path
        The file.
    shape : tuple of 2 ints
        Number of volumes (or maps), number of grayordinates.
    time : int
        Which axis of the file's matrix is time (or the maps): 0 in HCP's files.
    tr_s : float
        Repetition time (s); 0 if the file does not say.
    surfaces : dict of Structure
        The surfaces by name.
    structures : tuple of str
        Names of all structures, volumes too.
    dtype : dtype
        Type of the data on disk.
    offset : int
        Bytes before the data.
    scale : tuple of 2 floats
        Slope and intercept that the data are to be read with.
    """

    path: Path
    shape: tuple[int, int]
    time: int
    tr_s: float
    surfaces: dict[str, Structure]
    structures: tuple[str, ...]
    dtype: np.dtype
    offset: int
    scale: tuple[float, float]

    def read(self, first: int, last: int) -> np.ndarray:
        """Read grayordinates `first` to `last` (exclusive), all volumes: (T, n) float32."""
        shape = self.shape if self.time == 0 else self.shape[::-1]
        matrix = np.memmap(self.path, self.dtype, "r", self.offset, shape, order="F")
        part = matrix[:, first:last] if self.time == 0 else matrix[first:last].T
        values = np.array(part, np.float32)
        return values if self.scale == (1.0, 0.0) else values * np.float32(self.scale[0]) + np.float32(self.scale[1])

    def surface_problem(self) -> str:
        """Say what keeps the file from having the fsLR 32k cortex without the medial wall; "": nothing."""
        for name, expected in zip(surface.HEMISPHERES, surface.vertices(), strict=True):
            if name not in self.surfaces:
                return f"has no {name}, only {', '.join(self.structures)}"
            structure = self.surfaces[name]
            if not np.array_equal(structure.vertices, expected):
                text = f"{len(structure.vertices)} vertices of a mesh of {structure.mesh}"
                return f"{name} has {text}, expected {len(expected)} of {surface.MESH} (fsLR 32k without medial wall)"
        return ""

    def read_surface(self) -> np.ndarray:
        """Read the cortex, left before right, all volumes: (T, 59412) float32; needs a file without a problem."""
        left, right = (self.surfaces[name].first for name in surface.HEMISPHERES)
        if right == left + surface.LEFT:
            return self.read(left, left + surface.VERTICES)
        right_count = surface.VERTICES - surface.LEFT
        parts = self.read(left, left + surface.LEFT), self.read(right, right + right_count)
        return np.concatenate(parts, axis=1)


def open_series(path: Path) -> Series:
    """Read the header of a dense time series.

    Parameters
    ----------
    path : Path
        A .dtseries.nii.

    Returns
    -------
    series : Series
        What the header says; no data are read.

    Raises
    ------
    InputError
        If the file cannot be read, is anything else, or ends before its data do.
    """
    return _open_dense(Path(path), ("SERIES",), "a dense CIFTI time series (.dtseries.nii)")


def read_surface(path: Path) -> np.ndarray:
    """Read the cortex of a dense CIFTI file, whatever the order of its axes and structures.

    Parameters
    ----------
    path : Path
        A .dtseries.nii or .dscalar.nii.

    Returns
    -------
    values : ndarray of shape (T, 59412), float32
        Volumes or maps, left hemisphere before right.

    Raises
    ------
    InputError
        If the file cannot be read, is not dense CIFTI, or its cortex is not fsLR 32k without the medial wall.
    """
    try:
        series = _open_dense(Path(path), ("SERIES", "SCALARS"), "a dense CIFTI file (.dtseries.nii or .dscalar.nii)")
        if problem := series.surface_problem():
            raise InputError(problem)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return series.read_surface()


def _open_dense(path: Path, row_types: tuple[str, ...], expected: str) -> Series:
    """Read the header of a CIFTI file of which one axis is grayordinates, the other one of `row_types`."""
    try:
        head = read_head(path)
        size = path.stat().st_size
        contents = [head[first:last] for code, first, last in extensions(head) if code == CIFTI]
        if len(head) <= NIFTI_2 or not contents:
            raise InputError(f"expected {expected}, found another NIfTI")
        order = "<" if struct.unpack_from("<i", head)[0] == NIFTI_2 else ">"
        maps = ElementTree.fromstring(contents[0].rstrip(b"\0 \n")).findall("./Matrix/MatrixIndicesMap")
        axes = {int(i): axis for axis in maps for i in axis.get("AppliesToMatrixDimension", "").split(",")}
        types = [axes[i].get("IndicesMapToDataType", "").removeprefix("CIFTI_INDEX_TYPE_") for i in sorted(axes)]
        if sorted(types) not in [sorted(["BRAIN_MODELS", row_type]) for row_type in row_types]:
            raise InputError(f"expected {expected}, its axes are {' x '.join(types)}")
        time = 1 - types.index("BRAIN_MODELS")
        lengths = struct.unpack_from(order + "2q", head, 16 + 5 * 8)
        code, bits = struct.unpack_from(order + "2h", head, 12)
        slope, intercept = struct.unpack_from(order + "2d", head, 176)
        dtype = nib.nifti1.data_type_codes.dtype[code].newbyteorder(order)
        surfaces, names = _structures(axes[1 - time])
        tr_s = _tr(axes[time])
    except (*UNREADABLE, struct.error, ElementTree.ParseError) as error:
        raise InputError(f"cannot be read: {error}; fetch it again") from error
    needed = len(head) + lengths[0] * lengths[1] * bits // 8
    if size < needed:
        raise InputError(f"cannot be read whole: {size} bytes, its header announces {needed}; fetch it again")
    shape = (lengths[time], lengths[1 - time])
    scale = (slope, intercept) if np.isfinite([slope, intercept]).all() and slope else (1.0, 0.0)
    return Series(path, shape, time, tr_s, surfaces, names, dtype, len(head), scale)


def open_image(path: Path) -> nib.Nifti1Pair:
    """Open a NIfTI; its data stay on disk.

    Parameters
    ----------
    path : Path
        A .nii or .nii.gz.

    Returns
    -------
    image : Nifti1Pair
        The image.

    Raises
    ------
    InputError
        If it is missing or no NIfTI, or an uncompressed file ends before its data do.
    """
    path = Path(path)
    try:
        image = nib.load(path)
        size = path.stat().st_size
    except UNREADABLE as error:
        raise InputError(f"cannot be read: {error}; fetch it again") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise InputError(f"expected a NIfTI, found {type(image).__name__}")
    needed = data_bytes(image)
    if path.suffix == ".nii" and size < needed:
        raise InputError(f"cannot be read whole: {size} bytes, its header announces {needed}; fetch it again")
    return image


def data_bytes(image: nib.Nifti1Pair) -> int:
    """Bytes up to the end of the data in the uncompressed file."""
    return int(image.dataobj.offset) + int(np.prod(image.shape)) * image.header.get_data_dtype().itemsize


def image_tr(image: nib.Nifti1Pair) -> float:
    """TR (s) of a 4-D NIfTI; 0: not said."""
    unit, step = image.header.get_xyzt_units()[1], float(image.header.get_zooms()[3])
    # without a unit, 1 is what software writes that does not know
    return 0.0 if unit == "unknown" and step == 1 else _seconds(step, unit)


def _structures(axis: ElementTree.Element) -> tuple[dict[str, Structure], tuple[str, ...]]:
    """The surfaces of a brain-model axis by name, and the names of all its structures."""
    surfaces: dict[str, Structure] = {}
    names: list[str] = []
    for model in axis.findall("BrainModel"):
        name = model.attrib["BrainStructure"]
        names.append(name)
        if model.get("ModelType") == "CIFTI_MODEL_TYPE_SURFACE":
            vertices = np.array(model.findtext("VertexIndices", "").split(), np.int64)
            mesh, first = int(model.attrib["SurfaceNumberOfVertices"]), int(model.attrib["IndexOffset"])
            surfaces[name] = Structure(mesh, first, vertices)
    return surfaces, tuple(names)


def _tr(axis: ElementTree.Element) -> float:
    """TR (s) of an axis; 0: not said, or the axis is not time."""
    step = float(axis.get("SeriesStep", "0")) * 10.0 ** int(axis.get("SeriesExponent", "0"))
    return _seconds(step, axis.get("SeriesUnit", "unknown"))


def _seconds(step: float, unit: str) -> float:
    """A time in a unit -> s; 0 if that is no time."""
    seconds = float(step) * SCALES.get(unit, 0.0)
    return seconds if np.isfinite(seconds) and seconds > 0 else 0.0
