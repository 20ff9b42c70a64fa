"""Small runs for the tests of stage bold, and its configuration."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mindreel.brain import registration
from mindreel.errors import InputError
from mindreel.sections import Bold, Registration
from mindreel.stages import bold

VOLUMES = 12
CFG = Bold(
    trim={VOLUMES: (1, 2), 16: (2, 4), 3: (2, 1)},
    polynomial_order=1,
    constant_tolerance=1e-6,
    slice_timing=False,
    registration=Registration(transform="Affine", resolution_mm=8),
)


def save_run(path: Path, series: np.ndarray, affine: np.ndarray, tr_s: float = 2.0) -> None:
    image = nib.Nifti1Image(series.astype(np.float32), affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def mni_run(path: Path, rng: np.random.Generator, volumes: int = VOLUMES) -> tuple[np.ndarray, np.ndarray]:
    """Write a run on an 8 mm MNI grid; each volume is linear in space: (volumes, 3) slopes, (volumes,) offsets."""
    affine = np.diag([-8.0, 8, 8, 1])
    affine[:3, 3] = [92, -130, -76]
    places = registration.move(affine, np.indices((24, 29, 25)).reshape(3, -1).T)
    slopes, offsets = rng.normal(size=(volumes, 3)), 1000 + 10 * rng.normal(size=volumes)
    series = np.stack(
        [(places @ slope + offset).reshape(24, 29, 25) for slope, offset in zip(slopes, offsets, strict=True)], axis=-1
    )
    save_run(path, series, affine)
    return slopes, offsets


def refused(folder: Path, message: str, **options) -> None:
    """The run is refused with a message, and nothing, whole or partial, is written."""
    outs = {name: folder / "out" / name for name in ("tsnr", "motion")}
    with pytest.raises(InputError, match=message):
        bold.clean(**{"tr_s": 2.0, "volumes": VOLUMES, "out": folder / "out" / "bold.npy", **outs, **options})
    assert not list((folder / "out").rglob("*"))
