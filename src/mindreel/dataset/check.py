"""Look over a data set before anything is computed: one table of all that is wrong with it.

The files' facts come from `file_cache`; here is what follows from them. Errors would stop a stage sooner or later, or
make its result worthless; warnings deserve a look. Before every plan the headers are checked (`before_plan`), which
costs nothing where no file has changed; `mindreel check` looks at a thin slice of the data, too.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mindreel import config as configuration
from mindreel import sections
from mindreel.artifacts import save_table
from mindreel.config import Config
from mindreel.dataset import file_cache, limits
from mindreel.dataset.sheet import Item, Sheet, by_subject
from mindreel.errors import InputError

SHOWN = 20  # findings listed before a plan; all of them stand in the table


Judgement = tuple[str, sections.CheckKind, str]  # severity, kind, message


class Finding(NamedTuple):
    """Something that is wrong with the data set."""

    severity: str  # error, warning
    kind: sections.CheckKind
    name: str  # "sub-1/seg1_2", "sub-1", "seg1", or empty
    file: str
    message: str


def check(*, configfile: list[Path] | None = None, out: Path | None = None, scrub: Path | None = None) -> None:
    """Check a data set: files, lengths, TR, grids, affines, values, copies, movies, identifying text. Starts nothing.

    With errors in the table the exit code is 1.

    Parameters
    ----------
    configfile : list of Path
        Overlays on config.yaml, as for snakemake.
    out : Path
        Table of all findings; results/DATASET/check.tsv, unless named.
    scrub : Path
        Folder for copies of all files with identifying text, without it, at their places below data.root. No original
        is changed.

    Raises
    ------
    InputError
        If there is an error in the table.
    """
    config = configuration.load("config.yaml", *(configfile or []))
    sheet = Sheet(config)
    items = listed(config, sheet)
    found = file_cache.read(items, _cache(config), sample=True)
    table = judge(config, sheet, items, found)
    if not config.simulate and _wants_hcp(config, sheet) and not by_subject(config.hcp.pattern):
        message = f"no HCP run matches {config.hcp.pattern}: get some, correct hcp.pattern, or set mbm.init to scratch"
        table.insert(0, Finding("error", "missing", "hcp", config.hcp.pattern, message))
    table = [finding for finding in table if finding.kind not in config.check.ignore]
    out = out or Path("results") / config.dataset / "check.tsv"
    save_table(out, pd.DataFrame(table, columns=list(Finding._fields)))
    print("\n".join(lines(table)))
    if scrub is not None:
        clean([item for item in items if found.get(item.path, {}).get("identifying")], Path(config.data.root), scrub)
    runs = sum(item.kind in ("raw", "mni", "cifti") for item in items)
    text = f"{_count(table)} in {runs} runs; the table: {out}"
    if any(finding.severity == "error" for finding in table):
        raise InputError(text)
    print(text)


def before_plan(config: Config, sheet: Sheet) -> None:
    """Check the headers of real data before the workflow is planned.

    Raises
    ------
    InputError
        If there are errors; lists them.
    """
    items = listed(config, sheet)
    found = file_cache.read(items, _cache(config), sample=False)
    table = [f for f in judge(config, sheet, items, found) if f.kind not in config.check.ignore]
    errors = [finding for finding in table if finding.severity == "error"]
    if errors:
        more = [f"… and {len(errors) - SHOWN} more"] if len(errors) > SHOWN else []
        raise InputError(
            "\n".join([f"the data set has {_count(table)}:", *lines(errors[:SHOWN]), *more])
            + "\n`mindreel check` lists all; what is meant to be so can be named in check.ignore"
        )
    if table:
        print(f"mindreel: the data set has {_count(table)}; `mindreel check` lists them", file=sys.stderr)


def listed(config: Config, sheet: Sheet) -> list[Item]:
    """All files of the data set that the sample sheet asks for, and the sidecars that lie beside them."""
    items = [Item(run.source, name, sheet.file(run)) for name, run in _runs(sheet).items()]
    raw = dict.fromkeys(run.subject for run in sheet.names("raw").values())
    items += [Item("t1w", f"sub-{subject}", sheet.path("t1w", subject=subject)) for subject in raw]
    for item in list(items):
        beside, needed = _sidecar(item.path), item.kind == "raw" and config.bold.slice_timing
        if needed or beside.exists():
            items.append(Item("sidecar", item.name, str(beside)))
    return items + [Item("movie", name, sheet.path("movie", segment=name)) for name in sheet.segments()]


def judge(config: Config, sheet: Sheet, items: list[Item], found: dict[str, dict]) -> list[Finding]:
    """Say what is wrong, errors first; `found`: path -> facts of the files that are there."""
    runs = _runs(sheet)
    findings = [*_of_sheet(config, sheet)]
    for item in items:
        facts = found.get(item.path)
        if facts is None:
            message = f"{item.path} is missing: get it, correct data.root or data.patterns, "
            message += f"or give a reason in the column exclude of {config.data.sheet}"
            findings.append(Finding("error", "missing", item.name, item.path, message))
        elif "problem" in facts:
            severity = "warning" if item.kind == "sidecar" else "error"
            findings.append(Finding(severity, "unreadable", item.name, item.path, facts["problem"]))
        else:
            findings += [
                Finding(severity, kind, item.name, item.path, message)
                for severity, kind, message in _of_file(config, item, facts, runs)
            ]
    readable = [(item, found[item.path]) for item in items if "problem" not in found.get(item.path, {"problem": ""})]
    findings += [*_grids(readable), *_copies(readable)]
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _of_sheet(config: Config, sheet: Sheet) -> Iterator[Finding]:
    """What the sample sheet alone shows: splits that overlap, lengths that do not fit, too few repeats."""
    name, table, trim = config.data.sheet, sheet.table, config.bold.trim
    for segment, rows in table.groupby("segment", sort=False):
        if rows.split.nunique() > 1:
            message = f"{segment} is listed as train and as test: nothing of the test set may be learned from"
            yield Finding("error", "split", segment, name, f"{message}; correct the column split")
    for length in sorted(set(table.volumes) - set(trim)):
        where = table[table.volumes == length].iloc[0]
        message = f"{length} volumes, but bold.trim only has rules for {', '.join(map(str, sorted(trim)))}"
        yield Finding("error", "length", where.segment, name, f"{message}; add {length} there")
    known = table[table.volumes.isin(list(trim))]
    kept = known.volumes.map(lambda length: length - sum(trim[length]))
    for split, lengths in kept.groupby(known.split, sort=False):
        if lengths.nunique() > 1:
            counts = ", ".join(f"{n} of {length}" for length, n in Counter(lengths).most_common())
            message = f"{split} runs keep different lengths after bold.trim: {counts} volumes; all must be equally long"
            yield Finding("error", "length", split, name, f"{message}: correct bold.trim or the column volumes")
    for subject in sheet.subjects:
        repeats = sheet.runs(subject, "train").groupby("segment", sort=False).size()
        single = list(repeats.index[repeats < 2])
        if (repeats >= 2).sum() < 2:
            message = f"{(repeats >= 2).sum()} training segments with two repeats or more; voxel selection needs two"
            yield Finding("error", "repeats", f"sub-{subject}", name, f"{message}: add runs or lift an exclude")
        elif single:
            message = f"one repeat only of {', '.join(single)}: no part of voxel selection"
            yield Finding("warning", "repeats", f"sub-{subject}", name, message)
        absent = [s for s in sheet.segments() if s not in set(sheet.runs(subject).segment)]
        if absent:
            message = f"no run of {', '.join(absent)}, which other subjects have; clips and pairs are fewer"
            yield Finding("warning", "repeats", f"sub-{subject}", name, message)


def _of_file(config: Config, item: Item, facts: dict, runs: dict[str, pd.Series]) -> Iterator[Judgement]:
    """What one readable file shows: severity, kind, message."""
    for hint in facts.get("identifying", []):
        yield (
            "warning",
            "identity",
            f"may identify a person: {hint}; `mindreel check --scrub FOLDER` writes clean copies",
        )
    if item.kind == "movie":
        yield from _movie(config, item, facts, runs)
    elif item.kind == "sidecar":
        if facts["tr_s"] and item.name in runs:
            yield from _tr(config, facts["tr_s"], "RepetitionTime")
    elif item.kind == "t1w":
        if len([length for length in facts["shape"] if length > 1]) != 3:
            yield "error", "format", f"expected a 3-D image, found the shape {tuple(facts['shape'])}"
        yield from _affine(item, facts)
    else:
        yield from _run(config, item, facts, runs[item.name])


def _run(config: Config, item: Item, facts: dict, run: pd.Series) -> Iterator[Judgement]:
    shape, volumes = tuple(facts["shape"]), int(run.volumes)
    length = shape[0] if item.kind == "cifti" else shape[-1]
    if item.kind != "cifti" and len(shape) != 4:
        yield "error", "format", f"expected a 4-D NIfTI, found the shape {shape}; check data.patterns"
        return
    if item.kind != "cifti" and limits.swapped(shape, volumes):
        message = f"found the shape {shape}, expected (X, Y, Z, {volumes}): its dimensions are swapped"
        yield "error", "format", f"{message}; write it again with time as the last one"
        return
    if length != volumes:
        message = f"{length} volumes, the sample sheet says {volumes}; fetch the run again if it is incomplete"
        yield "error", "length", f"{message}, or correct `volumes` or set `exclude` in {config.data.sheet}"
    if facts["tr_s"]:
        yield from _tr(config, facts["tr_s"], "its header's TR")
    else:
        yield "warning", "tr", f"its header says no TR; data.tr_s ({config.data.tr_s:g} s) is used"
    if facts.get("cortex"):
        yield "error", "cortex", f"{facts['cortex']}; resample it to fsLR 32k"
    if item.kind != "cifti":
        yield from _affine(item, facts)
    yield from _values(config, facts.get("sample"))


def _tr(config: Config, tr_s: float, what: str) -> Iterator[Judgement]:
    expected = config.data.tr_s
    if tr_s > limits.LONGEST_TR_S and limits.same_tr(tr_s / 1000, expected):
        yield "warning", "tr", f"{what} is {tr_s:g} s; taken for milliseconds"
    elif not limits.same_tr(tr_s, expected):
        yield "error", "tr", f"{what} is {tr_s:g} s, data.tr_s says {expected:g} s; correct one of them"


def _affine(item: Item, facts: dict) -> Iterator[Judgement]:
    if facts["covered"] is None:
        yield "error", "affine", "its affine gives voxels no volume; repair the header"
        return
    rows = [row[:3] for row in facts["affine"][:3]]
    sides = [sum(row[axis] ** 2 for row in rows) ** 0.5 for axis in range(3)]
    low, high = limits.VOXEL_MM
    if not low <= min(sides) <= max(sides) <= high:
        text = " x ".join(f"{side:.3g}" for side in sides)
        message = f"its voxels are {text} mm, expected {low:g} to {high:g} mm"
        yield "warning", "affine", f"{message}; look at the header's units and affine"
    if not facts["placed"]:
        yield (
            "warning",
            "affine",
            "its header sets neither qform nor sform: where the head is and which side is left is a guess",
        )
    if item.kind == "mni" and facts["covered"] < limits.COVERED:
        message = (
            f"only {facts['covered']:.0%} of the cortex lies within its grid, expected {limits.COVERED:.0%} or more"
        )
        yield "error", "affine", f"{message}: that is not MNI space; set its source to raw, or repair the header"


def _values(config: Config, sample: dict | None) -> Iterator[Judgement]:
    if sample is None:
        return
    limit = config.check.nonfinite
    if sample["nonfinite"] > limit:
        message = (
            f"{sample['nonfinite']:.1%} of the values looked at are not finite, check.nonfinite allows {limit:.1%}"
        )
        yield "error", "nonfinite", f"{message}; fetch it again or exclude it"
    elif sample["zero"]:
        yield "error", "constant", "all values looked at are 0; fetch it again or exclude it"
    elif sample["constant"]:
        yield "error", "constant", "its values do not change over time; fetch it again or exclude it"
    elif sample["empty"]:
        yield "error", "constant", f"{sample['empty']} volumes hold no signal; fetch it again or exclude it"


def _movie(config: Config, item: Item, facts: dict, runs: dict[str, pd.Series]) -> Iterator[Judgement]:
    trim = config.bold.trim
    lengths = [int(run.volumes) for run in runs.values() if run.segment == item.name and run.volumes in trim]
    if not lengths:
        return
    seconds = max(length - sum(trim[length]) for length in lengths) * config.data.tr_s
    last = seconds - 0.5 / config.stimuli.fps  # the last moment of which stage stimuli takes a frame
    if facts["duration_s"] < last:
        message = f"{facts['duration_s']:.1f} s long, the volumes that are kept last {seconds:.1f} s"
        yield "error", "movie", f"{message}; get the whole movie, or correct the column volumes or bold.trim"


def _grids(readable: list[tuple[Item, dict]]) -> Iterator[Finding]:
    """Runs of a subject on another grid than most of them; for MNI runs the affine counts, too."""
    groups: dict[tuple[str, str], list[tuple[Item, tuple]]] = {}
    for item, facts in readable:
        if item.kind in ("raw", "mni", "cifti"):
            subject = item.name.split("/")[0]
            groups.setdefault((subject, item.kind), []).append((item, _grid(item, facts)))
    for (subject, kind), members in groups.items():
        (usual, count), *others = Counter(grid for _, grid in members).most_common()
        for item, grid in members if others else ():
            if grid != usual:
                most = f"{count} of {subject}'s {len(members)} {kind} runs have {_words(usual)}"
                message = f"its grid is {_words(grid)}; {most}"
                yield Finding("warning", "grid", item.name, item.path, message)


def _grid(item: Item, facts: dict) -> tuple:
    if item.kind == "cifti":
        return (facts["shape"][1],)
    if item.kind == "mni":
        return (*facts["shape"][:3], *(round(value, 2) for row in facts["affine"][:3] for value in row))
    sides = [round(sum(row[axis] ** 2 for row in facts["affine"][:3]) ** 0.5, 2) for axis in range(3)]
    return (*facts["shape"][:3], *sides)  # between raw runs the head may have moved


def _words(grid: tuple) -> str:
    if len(grid) == 1:
        return f"{grid[0]} grayordinates"
    shape, rest = grid[:3], grid[3:]
    return f"{' x '.join(map(str, shape))} ({', '.join(f'{value:g}' for value in rest)} mm)"


def _copies(readable: list[tuple[Item, dict]]) -> Iterator[Finding]:
    """Runs that are one file, or whose data are the same."""
    first: dict[tuple, Item] = {}
    for item, facts in readable:
        if item.kind not in ("raw", "mni", "cifti"):
            continue
        sample = facts.get("sample") or {"constant": True}
        marks = [("file", *facts["file"])] + ([] if sample["constant"] else [("data", sample["hash"])])
        other = next((first[mark] for mark in marks if mark in first), None)
        if other is not None:
            what = "is the same file as" if marks[0] in first else "holds the same data as"
            message = f"{what} {other.name} ({other.path}); correct data.patterns, fetch the right one, or exclude one"
            yield Finding("error", "duplicate", item.name, item.path, message)
        for mark in marks:
            first.setdefault(mark, item)


def clean(items: Iterable[Item], root: Path, folder: Path) -> None:
    """Write copies without identifying text of files, at their places below `root`, into `folder`."""
    from mindreel.dataset import deidentify

    folder = Path(folder)
    count = 0
    for item in dict.fromkeys(items):
        path = Path(item.path)
        place = (
            path.resolve().relative_to(root.resolve()) if path.resolve().is_relative_to(root.resolve()) else path.name
        )
        deidentify.scrub(path, folder / place)
        count += 1
    print(f"{count} clean copies written to {folder}; point data.root at a copy of the data with these laid over it")


def lines(table: list[Finding]) -> list[str]:
    """The findings as text, in columns."""
    widths = [max((len(finding[i]) for finding in table), default=0) for i in range(3)]
    rows = []
    for finding in table:
        start = "  ".join(finding[i].ljust(widths[i]) for i in range(3))
        where = "" if finding.file in finding.message else f" ({finding.file})"
        rows.append(f"{start}  {finding.message}{where}")
    return rows


def _count(table: list[Finding]) -> str:
    counts = Counter(finding.severity for finding in table)
    words = [f"{n} {name}{'s' * (n != 1)}" for name in ("error", "warning") if (n := counts[name])]
    return " and ".join(words) or "no findings"


def _runs(sheet: Sheet) -> dict[str, pd.Series]:
    return sheet.names("raw", "mni", "cifti")


def _sidecar(path: str) -> Path:
    """The JSON file that lies beside an image, by BIDS' rule: same name, other ending."""
    for ending in (".dtseries.nii", ".nii.gz", ".nii"):
        if path.endswith(ending):
            return Path(path.removesuffix(ending) + ".json")
    return Path(path).with_suffix(".json")


def _cache(config: Config) -> Path:
    return Path("scratch") / config.dataset / "check.json"


def _wants_hcp(config: Config, sheet: Sheet) -> bool:
    experiments = [config.experiments[name] for name in config.run]
    return any(e.of_subject(sub).mbm.init == "hcp" for e in experiments for sub in sheet.subjects)
