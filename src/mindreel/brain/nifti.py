"""The bytes that precede the data of a NIfTI in one file: header, text fields, extensions."""

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from mindreel.errors import InputError

# size of the header -> its text fields: name, first byte, length; format and first byte of vox_offset
NIFTI_1 = (
    ("data_type", 4, 10),
    ("db_name", 14, 18),
    ("descrip", 148, 80),
    ("aux_file", 228, 24),
    ("intent_name", 328, 16),
)
NIFTI_2 = ("descrip", 240, 80), ("aux_file", 320, 24), ("intent_name", 508, 16)
FIELDS = {348: (NIFTI_1, ("f", 108)), 540: (NIFTI_2, ("q", 168))}
DICOM, COMMENT, CIFTI = 2, 6, 32  # codes of extensions
LONGEST_HEAD = 1 << 28  # bytes; a header and extensions beyond this are damaged


def read_head(path: Path) -> bytes:
    """Read all that precedes the data of a NIfTI: header and extensions.

    Parameters
    ----------
    path : Path
        A .nii or .nii.gz.

    Returns
    -------
    head : bytes
        Uncompressed.

    Raises
    ------
    InputError
        If it is no NIfTI in one file.
    """
    try:
        with opened(path) as file:
            start = file.read(544)
            size, order = header_kind(start)
            form, at = FIELDS[size][1]
            end = int(struct.unpack_from(order + form, start, at)[0])
            if not size + 4 <= end <= LONGEST_HEAD:
                raise ValueError(f"its data begin at byte {end}")
            return start[:end] + file.read(max(0, end - len(start)))
    except (OSError, EOFError, ValueError, struct.error, OverflowError) as error:
        raise InputError(f"its header cannot be read ({error}); expected .nii or .nii.gz") from error


def extensions(head: bytes) -> list[tuple[int, int, int]]:
    """List a NIfTI's extensions.

    Parameters
    ----------
    head : bytes
        Header and extensions, as of `read_head`.

    Returns
    -------
    extensions : list of tuple of 3 ints
        Code, first byte of the content, first byte after it.
    """
    size, order = header_kind(head)
    listed, at = [], size + 4
    while head[size : size + 1] not in (b"", b"\0") and at + 8 <= len(head):
        length, code = struct.unpack_from(order + "ii", head, at)
        if length < 8 or at + length > len(head):
            break
        listed.append((code, at + 8, at + length))
        at += length
    return listed


def header_kind(head: bytes | bytearray) -> tuple[int, str]:
    """Tell a NIfTI header's size (348 or 540 bytes) and byte order ("<" or ">")."""
    for order in "<>":
        size = struct.unpack_from(order + "i", head)[0] if len(head) >= 4 else 0
        if size in FIELDS:
            return size, order
    raise ValueError("neither NIfTI-1 nor NIfTI-2")


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """Open the uncompressed bytes of a .nii or .nii.gz."""
    if not str(path).endswith((".nii", ".nii.gz")):
        raise InputError(f"found {path.name}, expected .nii or .nii.gz")
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        yield file
