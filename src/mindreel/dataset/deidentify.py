"""Text in NIfTI headers and JSON sidecars that may identify a person: found, and blanked in copies.

Known are dates, names as DICOM writes them (DOE^JANE), two capitalised words that are no usual word of the field,
patient fields, e-mail addresses, users' home folders, DICOM extensions. This finds the usual accidents; it cannot
prove that a file identifies nobody.

A copy differs from its original in the blanked bytes only: the data, their scaling and all offsets stay.
"""

import gzip
import json
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mindreel.artifacts import atomic
from mindreel.brain.nifti import CIFTI, COMMENT, DICOM, FIELDS, extensions, header_kind, opened, read_head
from mindreel.errors import InputError

MONTH = r"(?:0?[1-9]|1[0-2]|jan\w*|feb\w*|mar\w*|apr\w*|may|june?|july?|aug\w*|sep\w*|oct\w*|nov\w*|dec\w*)"
PATTERNS = {
    "a date": re.compile(
        r"(?<!\d)(?:19|20)\d\d[-/.]?(?:0[1-9]|1[0-2])[-/.]?(?:0[1-9]|[12]\d|3[01])(?!\d)"
        rf"|(?<!\d)(?:0?[1-9]|[12]\d|3[01])[-/. ]{MONTH}[-/. ](?:19|20)\d\d(?!\d)"
        rf"|\b{MONTH}[-/. ](?:0?[1-9]|[12]\d|3[01]),?[-/. ](?:19|20)\d\d(?!\d)",
        re.IGNORECASE,
    ),
    "a name as in DICOM": re.compile(r"[^\W\d_]{2,}\^[^\W\d_]+"),
    "a patient field": re.compile(r"\b(?:patient[ \w]*|dob|mrn|birth\w*|(?:last|first|sur)?name)\s*[:=]\s*\w+", re.I),
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+"),
    "a user's home folder": re.compile(r"(?:/home/|/Users/|\\Users\\)[\w.-]+"),
}
PERSON = re.compile(r"\b[A-Z][a-zß-ÿ'’-]+(?:, ?| )[A-Z][a-zß-ÿ'’-]+\b")
USUAL = re.compile(
    r"analyze|anatomical|average|brain|connectome|converted|corrected|data|dense|discovery|electric|echo|field"
    r"|file|freesurfer|functional|general|gradient|healthineers|human|image|imaging|institute|magnetom|mapping"
    r"|matlab|mean|medical|model|montreal|neurological|nifti|normalized|normalised|one|parametric|philips|prisma"
    r"|project|realigned|reference|resliced|rest|resting|run|scalar|series|session|siemens|signa|skyra|slice"
    r"|smoothed|state|statistical|systems|task|template|time|timing|trio|two|volume|warped|weighted|workbench",
    re.I,
)
# keys of a JSON sidecar whose value identifies by what it is
KEYS = re.compile(
    r"patient(?!position|orientation)\w*|\w*birth\w*|otherpatient\w*|referringphysician\w*|performingphysician\w*"
    r"|requestingphysician\w*|operators?name|accessionnumber|studyid|(?:study|series|sop)?instance(?:creat\w*)?uid"
    r"|subjectname|participantname",
    re.IGNORECASE,
)
EMPTY = {"", "n/a", "na", "none", "unknown", "anonymous", "anon", "anonymized", "anonymised", "removed", "x", "xxx"}


class Hint(NamedTuple):
    """A stretch of a file's head that may identify a person."""

    where: str
    what: str  # what it looks like, with the text masked
    first: int  # bytes
    last: int
    blank: bytes  # one byte to fill it with


def identifying(path: Path) -> list[str]:
    """Say where a NIfTI, CIFTI or JSON file may identify a person, one phrase each; the text itself is masked."""
    path = Path(path)
    if path.suffix == ".json":
        return [f"{key}: {what}" for key, what in _json_hints(_read_json(path))]
    hints = [f"{hint.where}: {hint.what}" for hint in head_hints(read_head(path))]
    name = _gzip_name(path)
    what = _looks(name, person=True) if name and name not in (path.name, path.stem) else None
    return [*hints, f"file name within the gzip: {what}"] if what else hints


def scrub(path: Path, out: Path) -> list[str]:
    """Copy a file without what may identify a person; the original stays as it is.

    Returns
    -------
    removed : what was blanked, as of `identifying`

    Raises
    ------
    InputError
        If `out` is the original, the file is no .nii, .nii.gz or .json, or the copy would not be clean.
    """
    path, out = Path(path), Path(out)
    if out.exists() and out.samefile(path):
        raise InputError(f"{out}: is the original; give --scrub another folder")
    removed = identifying(path)
    with atomic(out) as temporary:
        if path.suffix == ".json":
            temporary.write_text(json.dumps(_without(_read_json(path)), indent=2) + "\n")
        else:
            _copy_image(path, temporary)
        left = identifying(temporary)
        if left:
            raise InputError(f"{path}: cannot be cleaned: {'; '.join(left)}; remove it by hand")
    return removed


def head_hints(head: bytes) -> list[Hint]:
    """Find what may identify a person in a NIfTI's header and extensions."""
    size, _ = header_kind(head)
    hints = []
    for name, first, length in FIELDS[size][0]:
        what = _looks(_text(head[first : first + length]), person=True)
        if what:
            hints.append(Hint(name, what, first, first + length, b"\0"))
    for code, first, last in extensions(head):
        if code == DICOM:
            hints.append(Hint("extension", "a DICOM header", first, last, b"\0"))
        elif code == CIFTI:
            hints += _cifti_hints(head, first, last)
        else:
            what = _looks(_text(head[first:last]))
            if what:
                hints.append(Hint(f"extension of code {code}", what, first, last, b"\0"))
    return hints


def _cifti_hints(head: bytes, first: int, last: int) -> Iterator[Hint]:
    """Hints in the values of a CIFTI file's metadata; the rest of the XML is geometry."""
    for pair in re.finditer(
        rb"<Name>([^<]*|<!\[CDATA\[.*?)</Name>\s*<Value>(.*?)</Value>", head[first:last], re.DOTALL
    ):
        name, value = (_text(part) for part in pair.groups())
        what = _looks(f"{name}={value}") or _looks(value)
        if what:
            yield Hint(f"CIFTI metadata {name}", what, first + pair.start(2), first + pair.end(2), b" ")


def _looks(text: str, person: bool = False) -> str | None:
    """What a text looks like, with a masked excerpt; None: nothing that identifies."""
    for what, pattern in PATTERNS.items():
        match = pattern.search(text)
        if match:
            return f"{what} ({mask(match[0])})"
    for match in PERSON.finditer(text) if person else ():
        if not any(USUAL.fullmatch(word) for word in re.findall(r"[^\W\d_]+", match[0])):
            return f"a name ({mask(match[0])})"
    return None


def mask(text: str) -> str:
    """Keep the first letter of each word: a report must not spread what it warns of."""
    return re.sub(r"(?<=\w)\w", "*", text)


def _json_hints(content: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _json_hints(value, f"{key}.{name}" if key else name)
    elif isinstance(content, list):
        for value in content:
            yield from _json_hints(value, key)
    elif content is not None and str(content).strip().lower() not in EMPTY:
        if KEYS.fullmatch(key.rsplit(".", 1)[-1]):
            yield key, f"a patient field ({mask(str(content))})"
        elif isinstance(content, str) and (what := _looks(content)):
            yield key, what


def _without(content: object, key: str = "") -> object:
    """A JSON document without the entries that identify."""
    if isinstance(content, dict):
        kept = {name: _without(value, name) for name, value in content.items() if not _identifies(value, name)}
        return kept
    if isinstance(content, list):
        return [_without(value, key) for value in content if not _identifies(value, key)]
    return content


def _identifies(value: object, key: str) -> bool:
    return not isinstance(value, dict | list) and any(_json_hints(value, key))


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); repair or remove it") from error


def _copy_image(path: Path, out: Path) -> None:
    head = bytearray(read_head(path))
    _, order = header_kind(bytes(head))
    for hint in head_hints(bytes(head)):
        head[hint.first : hint.last] = hint.blank * (hint.last - hint.first)
        if hint.where.startswith("extension"):  # an empty DICOM header would not parse
            head[hint.first - 4 : hint.first] = struct.pack(order + "i", COMMENT)
    with opened(path) as source, open(out, "wb") as raw:
        source.seek(len(head))
        if path.suffix == ".gz":
            with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as target:
                target.write(head)
                shutil.copyfileobj(source, target, 1 << 20)
        else:
            raw.write(head)
            shutil.copyfileobj(source, raw, 1 << 20)


def _text(content: bytes) -> str:
    return content.replace(b"\0", b" ").decode("utf-8", "replace").strip()


def _gzip_name(path: Path) -> str:
    """The file name that gzip keeps in its own header; "" if none."""
    if path.suffix != ".gz":
        return ""
    with open(path, "rb") as file:
        start = file.read(1024)
    named, extra = len(start) > 10 and start[3] & 8, len(start) > 10 and start[3] & 4
    return start[10:].split(b"\0", 1)[0].decode("latin-1") if named and not extra else ""
