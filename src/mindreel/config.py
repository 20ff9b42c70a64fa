"""The configuration: read, overlays laid over it, experiments completed, everything checked before the plan.

Its sections are in `mindreel.sections`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mindreel.errors import InputError
from mindreel.sections import (
    Attention,
    Audit,
    Bold,
    Captions,
    Check,
    Contrastive,
    Cotrain,
    Data,
    Encoder,
    Features,
    Fetch,
    Generator,
    Hcp,
    Mbm,
    Metrics,
    Pretrain,
    Report,
    Roi,
    Sampling,
    Section,
    Simulate,
    Stimuli,
    Targets,
)  # fmt: skip

# sections of stages that are made for each subject; HCP pretraining and the generator are not
PerSubject = Literal["roi", "mbm", "encoder", "contrastive", "cotrain", "sampling"]


class Experiment(Section):
    """One way to reconstruct: complete once its base is merged in."""

    roi: Roi
    pretrain: Pretrain
    mbm: Mbm
    encoder: Encoder
    contrastive: Contrastive
    generator: Generator
    cotrain: Cotrain
    sampling: Sampling
    subjects: dict[str, dict[PerSubject, dict[str, Any]]] = Field(
        default={}, description="what differs for a subject, as {subject: {section: {key: value}}}"
    )

    @field_validator("subjects", mode="before")
    @classmethod
    def _names(cls, subjects: Any) -> Any:
        """YAML reads a subject named 3 as a number."""
        return {str(name): own for name, own in subjects.items()} if isinstance(subjects, dict) else subjects

    @model_validator(mode="after")
    def _complete(self) -> "Experiment":
        for subject in self.subjects:
            try:
                self.of_subject(subject)
            except ValidationError as error:
                raise ValueError(f"subjects.{subject}:" + ";".join(_lines(error))) from None
        return self

    def of_subject(self, subject: str) -> "Experiment":
        """The experiment with what differs for one subject merged in."""
        own = self.subjects.get(subject)
        return Experiment.model_validate(merge(self.model_dump(exclude={"subjects"}), own)) if own else self


NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"  # of experiments: they become parts of file names and of commands


class Config(Section):
    """The whole configuration, every experiment complete."""

    dataset: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="name of the results folder")]
    data: Data
    simulate: Simulate | None = Field(description="null: real data")
    fetch: Fetch
    stimuli: Stimuli
    captions: Captions
    targets: Targets
    bold: Bold
    check: Check
    hcp: Hcp
    features: Features
    metrics: Metrics
    audit: Audit
    attention: Attention
    report: Report
    experiments: dict[str, Experiment]
    bases: dict[str, str | None] = Field(description="each experiment's base, oldest first; filled in by the loader")
    run: tuple[str, ...] = Field(description="experiments that `all` makes")

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        unknown = [name for name in self.run if name not in self.experiments]
        if unknown:
            raise ValueError(f"run: no such experiment: {', '.join(unknown)}; there are {', '.join(self.experiments)}")
        if unfit := [name for name in self.experiments if not re.fullmatch(NAME, name)]:
            raise ValueError(f"experiments: found the name {unfit[0]!r}, expected letters, digits, _ and -")
        frames = self.stimuli.fps * self.data.tr_s
        if abs(frames - round(frames)) > 1e-6 or frames < 1:
            counts = sorted({max(1, int(frames)), int(frames) + 1})
            fitting = " or ".join(f"{count / self.data.tr_s:.6g} ({count} frames)" for count in counts)
            raise ValueError(
                f"stimuli.fps {self.stimuli.fps:g} (1/s) times data.tr_s {self.data.tr_s:g} (s) is {frames:g} frames "
                f"per volume, expected a whole number; set stimuli.fps to {fitting}, for example"
            )
        if self.stimuli.side % 8:
            raise ValueError(f"stimuli.side: found {self.stimuli.side}, expected a multiple of 8")
        return self

    @property
    def frames(self) -> int:
        """Frames per volume."""
        return round(self.stimuli.fps * self.data.tr_s)


def merge(base: dict, overlay: dict) -> dict:
    """Lay `overlay` over `base`, section by section; anything but a mapping is replaced whole."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def complete(experiments: dict[str, dict]) -> tuple[dict[str, dict], dict[str, str | None]]:
    """Merge every experiment into its base; return them and the bases.

    Raises
    ------
    InputError
        If a base does not exist or experiments name each other in a circle.
    """
    whole: dict[str, dict] = {}
    bases: dict[str, str | None] = {}

    def resolve(name: str, path: tuple[str, ...]) -> dict:
        if name in path:
            raise InputError(f"experiments: {' -> '.join((*path, name))} is a circle; remove one `base`")
        if name not in experiments:
            raise InputError(
                f"experiments.{path[-1]}.base: no such experiment: {name!r}; there are {', '.join(experiments)}"
            )
        if name not in whole:
            own = {k: v for k, v in (experiments[name] or {}).items() if k != "base"}
            base = (experiments[name] or {}).get("base")
            bases[name] = base
            whole[name] = merge(resolve(base, (*path, name)), own) if base else own
        return whole[name]

    for name in experiments:
        resolve(name, ())
    return whole, bases


def validate(raw: dict[str, Any]) -> Config:
    """Check a merged configuration; all errors at once, each with its key path.

    Raises
    ------
    InputError
        One line per error: the key, what is wrong, what was found.
    """
    experiments, bases = complete(raw.get("experiments") or {})
    try:
        return Config.model_validate({**raw, "experiments": experiments, "bases": bases})
    except ValidationError as error:
        raise InputError("the configuration has errors:\n" + "\n".join(_lines(error))) from None


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "config"
        if item["type"] == "extra_forbidden":
            lines.append(f"  {key}: unknown key; check its spelling against config/README.md")
        elif item["type"] == "missing":
            lines.append(f"  {key}: missing")
        else:
            found = "" if isinstance(item["input"], dict) else f" (found {item['input']!r:.60})"
            lines.append(f"  {key}: {item['msg']}{found}")
    return lines


def load(*paths: str | Path) -> Config:
    """Read `config.yaml` and overlays, later ones winning."""
    raw: dict = {}
    for path in paths:
        raw = merge(raw, read(path))
    return validate(raw)


def read(path: str | Path) -> dict:
    """One file of the configuration, as it is written."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # eight times as fast, where PyYAML was built with it
    try:
        content = yaml.load(Path(path).read_text(), loader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected keys and values")
    return content


def overridden(paths: Sequence[str | Path], run: Sequence[str]) -> list[str]:
    """Where an overlay changes a key of an experiment that a planned one, derived from it, sets to a number of its own.

    The derived experiment's number then stands in an older file and wins, which is easily overlooked.

    Parameters
    ----------
    paths : list of paths
        config.yaml and the overlays, later ones winning.
    run : list of str
        The planned experiments.

    Returns
    -------
    messages : list of str
        One per key, with both values.
    """
    files = [(read(path).get("experiments") or {}) for path in paths]
    bases = {name: own["base"] for file in files for name, own in file.items() if own and "base" in own}
    messages = []
    for name in run:
        base = bases.get(name)
        while base is not None:
            for key, (latest, changed) in _written(files, base).items():
                oldest, value = _written(files, name).get(key, (latest, changed))
                if 0 <= oldest < latest and value != changed:
                    messages.append(
                        f"experiments.{name}.{key}: {value} of {paths[oldest]} wins over the {changed} that "
                        f"{paths[latest]} gives its base {base}; set it for {name}, too"
                    )
            base = bases.get(base)
    return messages


def _written(files: list[dict], name: str) -> dict[str, tuple[int, Any]]:
    """Key path of an experiment -> the last file that writes it, and the value there."""
    found: dict[str, tuple[int, Any]] = {}
    for number, file in enumerate(files):
        found |= {key: (number, value) for key, value in _leaves(file.get(name) or {})}
    return found


def _leaves(values: dict, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and key != "subjects":
            yield from _leaves(value, f"{path}{key}.")
        elif key not in ("base", "subjects"):
            yield f"{path}{key}", value


def parse_section(section: type[Section], text: str) -> Section:
    """Read one section as it is given on the command line.

    Parameters
    ----------
    section : type of Section
        Which one.
    text : str
        JSON; a .json file of it; or `config.yaml[,OVERLAY…][:EXPERIMENT]`: the section of that configuration, of the
        experiment if it is an experiment's (the first of `run`, unless one is named).

    Raises
    ------
    InputError
        With every key that is wrong.
    """
    try:
        if text.lstrip().startswith("{"):
            return section.model_validate(json.loads(text))
        if text.endswith(".json"):
            return section.model_validate(json.loads(Path(text).read_text()))
    except ValidationError as error:
        raise InputError(f"section {section.__name__}:\n" + "\n".join(_lines(error))) from None
    except (OSError, ValueError) as error:
        raise InputError(f"section {section.__name__}: cannot be read as JSON: {error}") from error
    files, _, experiment = text.partition(":")
    config = load(*files.split(","))
    for name, field in Config.model_fields.items():
        if section in (field.annotation, *get_args(field.annotation)) and getattr(config, name) is not None:
            return getattr(config, name)
    experiment = experiment or config.run[0]
    if experiment not in config.experiments:
        known = ", ".join(config.experiments)
        raise InputError(f"section {section.__name__}: {files} has no experiment {experiment!r}; it has {known}")
    for name, field in Experiment.model_fields.items():
        if field.annotation is section:
            return getattr(config.experiments[experiment], name)
    raise InputError(f"section {section.__name__}: is part of another section; give it as JSON")
