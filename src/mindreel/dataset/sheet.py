"""The sample sheet: which runs a data set has, and which HCP runs there are."""

import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mindreel.config import Config
from mindreel.errors import InputError

NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"  # of subjects and segments
COLUMNS = ("subject", "segment", "split", "repeat", "volumes", "source", "exclude")


class Item(NamedTuple):
    """A file of the data set."""

    kind: str  # raw, mni, cifti, t1w, movie, sidecar
    name: str  # "sub-1/seg1_2", "sub-1", "seg1"
    path: str


class Sheet:
    """The runs of a data set, and where their files are.

    Raises
    ------
    InputError
        If the file or a column is missing, a value is not allowed, or a run is listed twice.
    """

    def __init__(self, config: Config):
        self.config = config
        path = Path(config.data.sheet)
        if not path.exists():
            raise InputError(f"data.sheet: {path} does not exist")
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        missing = [c for c in COLUMNS if c not in table.columns]
        if missing:
            raise InputError(f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)}")
        for column, allowed in {"split": ("train", "test"), "source": ("raw", "mni", "cifti")}.items():
            wrong = table[~table[column].isin(allowed)]
            if len(wrong):
                line, value = wrong.index[0] + 2, wrong[column].iloc[0]
                raise InputError(f"{path}: {column} is {value!r} in line {line}; expected {', '.join(allowed)}")
        twice = table[table.duplicated(["subject", "segment", "repeat"])]
        if len(twice):
            line, run = twice.index[0] + 2, twice.iloc[0]
            name = f"subject {run.subject}, {run.segment}, repeat {run['repeat']}"
            raise InputError(f"{path}: {name} is listed twice (line {line}); remove one")
        _check_names(path, table)
        self.all = table.astype({"volumes": int})
        self.table = self.all[self.all.exclude == ""]
        for split in ("train", "test"):
            if split not in set(self.table.split):
                raise InputError(f"{path}: no {split} run that is not excluded; add some, or lift an `exclude`")

    @property
    def subjects(self) -> list[str]:
        """Subjects in the order of the sheet."""
        return list(self.table.subject.unique())

    def segments(self, split: str | None = None) -> list[str]:
        """Segments in the order of the sheet."""
        table = self.all if split is None else self.all[self.all.split == split]
        return list(table.segment.unique())

    def runs(self, subject: str, split: str | None = None) -> pd.DataFrame:
        """The subject's runs that are not excluded."""
        table = self.table[self.table.subject == str(subject)]
        return table if split is None else table[table.split == split]

    def names(self, *sources: str) -> dict[str, pd.Series]:
        """The runs of these sources by the name of their artifact, "sub-1/seg1_2"."""
        table = self.table[self.table.source.isin(sources)]
        return {f"sub-{run.subject}/{run.segment}_{run['repeat']}": run for _, run in table.iterrows()}

    def path(self, kind: str, **fields: str) -> str:
        """A file of the data set by the pattern of its kind: raw, mni, cifti, t1w, movie."""
        return f"{self.config.data.root}/{getattr(self.config.data.patterns, kind).format(**fields)}"

    def file(self, run: pd.Series) -> str:
        """The file of a run."""
        return self.path(run.source, subject=run.subject, segment=run.segment, repeat=run["repeat"])

    def volumes(self, segment: str) -> int:
        """Volumes of a segment that remain after trimming."""
        length = int(self.all[self.all.segment == segment].volumes.iloc[0])
        if length not in self.config.bold.trim:
            known = ", ".join(map(str, self.config.bold.trim))
            raise InputError(
                f"{self.config.data.sheet}: {segment} has {length} volumes, but bold.trim knows only {known}"
            )
        return length - sum(self.config.bold.trim[length])


def _check_names(path: Path, table: pd.DataFrame) -> None:
    """Names become parts of file names and of commands, so they are plain."""
    plain = "letters, digits, _ and -, a letter or digit first"
    rules = {"subject": (NAME, plain), "segment": (NAME, plain), "repeat": (r"[0-9]+", "digits"),
             "volumes": (r"[0-9]+", "digits")}  # fmt: skip
    for column, (allowed, words) in rules.items():
        wrong = table[~table[column].str.fullmatch(allowed)]
        if len(wrong):
            line, value = wrong.index[0] + 2, wrong[column].iloc[0]
            raise InputError(f"{path}: {column} is {value!r} in line {line}; expected {words}")


def by_subject(pattern: str) -> dict[str, list[str]]:
    """Find the files of a glob in which {subject} stands for a subject's name: subject -> files, both sorted.

    Raises
    ------
    InputError
        If a name cannot be told from a file's path, or is more than letters, digits, _ and -.
    """
    expression = re.escape(pattern)
    for escaped, meaning in {r"\*\*/": "(?:.*/)?", r"\*": "[^/]*", r"\?": "[^/]"}.items():
        expression = expression.replace(escaped, meaning)
    expression = expression.replace(r"\{subject\}", "(?P<subject>[^/]+?)", 1)
    expression = expression.replace(r"\{subject\}", "(?P=subject)")
    anchor = Path(pattern).anchor  # glob takes relative patterns only
    files = sorted(map(str, Path(anchor).glob(pattern.removeprefix(anchor).replace("{subject}", "*"))))
    found: dict[str, list[str]] = {}
    for file in files:
        match = re.fullmatch(expression, file)
        if match is None and pattern.count("{subject}") > 1:
            continue  # its two names differ, so it is not of the pattern
        if match is None or not re.fullmatch(NAME, match["subject"]):
            name = f"{match['subject']!r} is not made of letters, digits, _ and -" if match else "cannot be told"
            raise InputError(f"hcp.pattern: the subject's name in {file} {name}; change {pattern}")
        found.setdefault(match["subject"], []).append(file)
    return dict(sorted(found.items()))
