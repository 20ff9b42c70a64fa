"""Whose artifact is it: experiments share every stage in which they and all that lies upstream agree."""

from typing import Any

from mindreel.config import Config, Experiment

# Keys of a section that only plan jobs: what was made under another value is still right.
PLANNED = {"sampling": {"controls", "samples", "shard", "overlap"}}

# Stage -> the sections of an experiment it reads (or parts of them: `decides`), and the experiment's stages it is made
# from. Beside the stages: pretrain, the part of mbm that no subject has a say in; captioned and decoded, the parts of
# sampling that none has (the controls `text` and `vae`).
STAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "roi": (("roi",), ()),
    "pretrain": (("pretrain",), ()),
    "mbm": (("mbm",), ("pretrain", "roi")),
    "contrastive": (("encoder", "contrastive"), ("mbm",)),
    "generator": (("generator",), ()),
    "cotrain": (("cotrain",), ("contrastive", "generator")),
    "sampling": (("sampling",), ("cotrain",)),
    "captioned": (("captioned",), ("generator",)),
    "decoded": ((), ()),
    "metrics": ((), ("sampling",)),
    "attention": ((), ("cotrain",)),
}


def decides(experiment: Experiment, name: str) -> Any:
    """A section without the keys that only plan jobs; or captioned, the part of sampling that clips of captions need.

    Other controls decide, since the scores of all conditions lie under one name, that of the experiment whose clips
    they are of; captions are sampled alike whatever else is scored.
    """
    section = "sampling" if name == "captioned" else name
    found = getattr(experiment, section).model_dump(exclude=PLANNED.get(section))
    if name == "sampling":
        found["controls"] = experiment.sampling.controls
    if (
        name == "captioned"
    ):  # unless there is no guidance, it pushes away from the empty caption, whatever `negative` says
        found["negative"] = found["negative"] == "none"
    return found


def settings(config: Config, experiment: str, stage: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """All that decides what the stage's artifact of an experiment is: of the stage and of those upstream.

    Each with what differs for single subjects.
    """
    sections, upstream = STAGES[stage]
    whole = config.experiments[experiment]
    found = {}
    for name in sections:
        of_all = decides(whole, name)
        own = {} if name == "captioned" else {sub: decides(whole.of_subject(sub), name) for sub in whole.subjects}
        found[name] = (of_all, {sub: differing for sub, differing in own.items() if differing != of_all})
    for earlier in upstream:
        found |= settings(config, experiment, earlier)
    return found


def owner(config: Config, experiment: str, stage: str) -> str:
    """Name the oldest ancestor of the experiment whose settings for the stage and all stages upstream are the same."""
    mine = settings(config, experiment, stage)
    found, base = experiment, config.bases[experiment]
    while base is not None:
        if settings(config, base, stage) == mine:
            found = base
        base = config.bases[base]
    return found
