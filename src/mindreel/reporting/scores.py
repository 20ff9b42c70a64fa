"""What the report reads of an experiment on one subject: clips, scores, captions; and that they belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mindreel.artifacts import load_array, load_table
from mindreel.config import Config
from mindreel.controls import MODEL
from mindreel.errors import InputError
from mindreel.plan.experiments import owner
from mindreel.reporting.labels import leads


@dataclass(frozen=True)
class Result:
    """One experiment on one subject: clips.tsv (C rows per condition), summary.tsv, classes.tsv, and arrays of clips.

    Parameters
    ----------
    arrays : dict
        By condition, (C, F, H, W, 3) uint8; conditions that were scored and whose clips were given.
    """

    experiment: str
    subject: str
    clips: pd.DataFrame
    summary: pd.DataFrame
    classes: pd.DataFrame
    arrays: dict[str, np.ndarray]

    @property
    def metrics(self) -> list[str]:
        """Names of the leading metrics, without the sampled twins of expected accuracies."""
        return [name for name in dict.fromkeys(self.summary.metric) if leads(name)]

    @property
    def all_metrics(self) -> list[str]:
        """Names of all metrics, the leading ones first, without the sampled twins."""
        rest = [name for name in dict.fromkeys(self.summary.metric) if not name.endswith("_sampled")]
        return list(dict.fromkeys([*self.metrics, *rest]))

    @property
    def conditions(self) -> list[str]:
        """What was scored: the model first, then its controls."""
        return list(dict.fromkeys(self.summary.condition))


def names_of(folder: Path) -> tuple[str, str]:
    """Experiment and subject of …/{owner}/sub-{subject}."""
    if not folder.name.startswith("sub-"):
        raise InputError(f"{folder}: expected a folder …/{{experiment}}/sub-{{subject}}")
    return folder.parent.name, folder.name.removeprefix("sub-")


def _place(name: str, names: list[str]) -> int:
    return names.index(name) if name in names else len(names)


def in_order(folders: list[Path], experiments: list[str], subjects: list[str]) -> list[Path]:
    """Folders …/{owner}/sub-{subject} in the order of the experiments, then of the subjects."""

    def place(folder: Path) -> tuple[int, int]:
        experiment, subject = names_of(folder)
        return _place(experiment, experiments), _place(subject, subjects)

    return sorted(folders, key=place)


def load(folder: Path, clips: Sequence[Path] = (), config: Config | None = None) -> Result:
    """Read a metrics folder and, of `clips`, those that it scores.

    `config` tells whose clips they are: of the owner of stage sampling, and those of captions, which know no subject,
    of the owner of that part of it; without it they are the experiment's own.
    """
    experiment, subject = names_of(folder)
    tables = {name: load_table(folder / f"{name}.tsv") for name in ("clips", "summary", "classes")}
    made, captioned = (
        owner(config, experiment, stage) if config else experiment for stage in ("sampling", "captioned")
    )
    places = [Path("sampling", name, f"sub-{subject}") for name in {made, experiment}] + [Path("sampling", captioned)]
    paths = {path.stem: path for path in clips if any(path.match(f"{place}/*.npy") for place in places)}
    arrays = {name: load_array(paths[name]) for name in dict.fromkeys(tables["summary"].condition) if name in paths}
    if clips and MODEL not in arrays:
        raise InputError(f"{folder}: no clips …/sampling/{made}/sub-{subject}/{MODEL}.npy were given beside it")
    return Result(experiment, subject, **tables, arrays=arrays)


def captions(path: Path) -> list[list[str]]:
    """The captions of every volume, that of its middle frame, F // 2, first; none twice."""
    table = load_table(path).sort_values(["volume", "frame"])
    middle = (table.frame.max() + 1) // 2
    first = table[table.frame == middle].set_index("volume").caption
    groups = table.groupby("volume", sort=True).caption
    return [list(dict.fromkeys([str(first[volume]), *map(str, group)])) for volume, group in groups]


def check(results: list[Result], true: list[np.ndarray], captions: list[list[str]]) -> None:
    """Raise unless every clip has its true frames, its captions and its scores."""
    if not results:
        raise InputError("report: no metrics were given; run at least one experiment")
    expected = (sum(map(len, true)), *true[0].shape[1:])
    if len(captions) != expected[0]:
        raise InputError(
            f"report: {len(captions)} captions for {expected[0]} clips; give both of the same test segments"
        )
    for result in results:
        name = f"{result.experiment}/sub-{result.subject}"
        for condition, array in result.arrays.items():
            if array.shape != expected:
                raise InputError(
                    f"sampling/{name}/{condition}.npy: found shape {array.shape}, expected {expected}; rerun sampling"
                )
        scored = int((result.clips.condition == MODEL).sum())
        if scored != expected[0]:
            raise InputError(f"metrics/{name}: {scored} scored clips, expected {expected[0]}; rerun metrics")


def true_clip(true: list[np.ndarray], clip: int) -> np.ndarray:
    """The true frames (F, H, W, 3) of a clip, counted over all segments."""
    for segment in true:
        if clip < len(segment):
            return np.asarray(segment[clip])
        clip -= len(segment)
    raise IndexError(clip)
