"""What a NIfTI or CIFTI file says about itself, without reading its data.

CIFTI headers are read here directly rather than with nibabel, which takes half a second for the 91,282 grayordinates of
a run (this: 10 ms); a data set has hundreds of runs, HCP twenty thousand. Messages leave out the path: the tables they
end up in have a column for it.
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
    """A surface in a dense CIFTI file."""

    mesh: int  # vertices of the whole mesh
    first: int  # its first grayordinate in the file
    vertices: np.ndarray  # (n,) int, of the mesh, one per grayordinate


class Series(NamedTuple):
    """A dense time series (.dtseries.nii), its data on disk."""

    path: Path
    shape: tuple[int, int]  # volumes, grayordinates
    time: int  # which axis of the matrix is time: 0 in HCP's files
    tr_s: float  # 0: not said
    surfaces: dict[str, Structure]
    structures: tuple[str, ...]  # names of all, volumes too
    dtype: np.dtype
    offset: int  # bytes before the data
    scale: tuple[float, float]  # slope, intercept

    def read(self, first: int, last: int) -> np.ndarray:
        """Read grayordinates first to last (exclusive), all volumes: (T, n) float32."""
        shape = self.shape if self.time == 0 else self.shape[::-1]
        matrix = np.memmap(self.path, self.dtype, "r", self.offset, shape, order="F")
        part = matrix[:, first:last] if self.time == 0 else matrix[first:last].T
        values = np.array(part, np.float32)
        return values if self.scale == (1.0, 0.0) else values * np.float32(self.scale[0]) + np.float32(self.scale[1])

    def cortex_problem(self) -> str:
        """Say what keeps the file from having the fsLR 32k cortex without the medial wall; "": nothing."""
        for name, wanted in zip(surface.CORTEX, surface.vertices(), strict=True):
            if name not in self.surfaces:
                return f"has no {name}, only {', '.join(self.structures)}"
            found = self.surfaces[name]
            if not np.array_equal(found.vertices, wanted):
                text = f"{len(found.vertices)} vertices of a mesh of {found.mesh}"
                return f"{name} has {text}, expected {len(wanted)} of {surface.MESH} (fsLR 32k without medial wall)"
        return ""

    def cortex(self) -> np.ndarray:
        """Read the cortex, left before right, all volumes: (T, 59412) float32."""
        first = [self.surfaces[name].first for name in surface.CORTEX]
        if first[1] == first[0] + surface.LEFT:
            return self.read(first[0], first[0] + surface.VERTICES)
        counts = (surface.LEFT, surface.VERTICES - surface.LEFT)
        return np.concatenate([self.read(at, at + n) for at, n in zip(first, counts, strict=True)], axis=1)


def open_series(path: Path) -> Series:
    """Read the header of a dense time series.

    Raises
    ------
    InputError
        If it cannot be read, is anything else, or ends before its data do.
    """
    path = Path(path)
    try:
        head = read_head(path)
        size = path.stat().st_size
        contents = [head[first:last] for code, first, last in extensions(head) if code == CIFTI]
        if len(head) <= NIFTI_2 or not contents:
            raise InputError("expected a dense CIFTI time series (.dtseries.nii), found another NIfTI")
        order = "<" if struct.unpack_from("<i", head)[0] == NIFTI_2 else ">"
        maps = ElementTree.fromstring(contents[0].rstrip(b"\0 \n")).findall("./Matrix/MatrixIndicesMap")
        axes = {int(i): axis for axis in maps for i in axis.get("AppliesToMatrixDimension", "").split(",")}
        kinds = [axes[i].get("IndicesMapToDataType", "").removeprefix("CIFTI_INDEX_TYPE_") for i in sorted(axes)]
        if sorted(kinds) != ["BRAIN_MODELS", "SERIES"]:
            found = " x ".join(kinds)
            raise InputError(f"expected a dense CIFTI time series (.dtseries.nii), its axes are {found}")
        time = kinds.index("SERIES")
        lengths = struct.unpack_from(order + "2q", head, 16 + 5 * 8)
        code, bits = struct.unpack_from(order + "2h", head, 12)
        scale = struct.unpack_from(order + "2d", head, 176)
        dtype = nib.nifti1.data_type_codes.dtype[code].newbyteorder(order)
        surfaces, names = _structures(axes[1 - time])
        tr_s = _tr(axes[time])
    except (*UNREADABLE, struct.error, ElementTree.ParseError, AttributeError) as error:
        raise InputError(f"cannot be read: {error}; fetch it again") from error
    needed = len(head) + lengths[0] * lengths[1] * bits // 8
    if size < needed:
        raise InputError(f"cannot be read whole: {size} bytes, its header announces {needed}; fetch it again")
    shape = (lengths[time], lengths[1 - time])
    slope = scale if np.isfinite(scale).all() and scale[0] else (1.0, 0.0)
    return Series(path, shape, time, tr_s, surfaces, names, dtype, len(head), slope)


def open_image(path: Path) -> nib.Nifti1Pair:
    """Open a NIfTI; its data stay on disk.

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
    surfaces: dict[str, Structure] = {}
    names: list[str] = []
    for model in axis.findall("BrainModel"):
        names.append(model.get("BrainStructure", ""))
        if model.get("ModelType") == "CIFTI_MODEL_TYPE_SURFACE":
            vertices = np.array(model.findtext("VertexIndices", "").split(), np.int64)
            mesh, first = int(model.attrib["SurfaceNumberOfVertices"]), int(model.attrib["IndexOffset"])
            surfaces[names[-1]] = Structure(mesh, first, vertices)
    return surfaces, tuple(names)


def _tr(axis: ElementTree.Element) -> float:
    step = float(axis.get("SeriesStep", 0)) * 10.0 ** int(axis.get("SeriesExponent", 0))
    return _seconds(step, axis.get("SeriesUnit", "unknown"))


def _seconds(step: float, unit: str) -> float:
    seconds = float(step) * SCALES.get(unit, 0.0)
    return seconds if np.isfinite(seconds) and seconds > 0 else 0.0
