"""The configuration described for editors (JSON schema) and for people (config/README.md), from its own classes.

`make schema` writes both files, and the table of controls in docs/stages.md; a test keeps them in step.
"""

import json
from pathlib import Path

from pydantic.fields import FieldInfo

from mindreel.config import Config, Experiment
from mindreel.controls import CONDITIONS, CONTROLS
from mindreel.sections import Section

MARKERS = ("<!-- controls: written by make schema -->\n", "<!-- end of controls -->\n")

INTRO = """# Configuration

`config.yaml` holds the papers' experiments, each number once with its source beside it. An overlay names only what
differs: `config/demo.yaml` is the small world, `config/test.yaml` (on top of it) the smallest one in which every rule
runs. Use your own with `snakemake --configfile my.yaml`. Everything is checked before the workflow is planned: unknown
keys, missing keys and values out of range are listed together, each with its path.

An experiment under `experiments` names its `base` and what differs from it; `run` lists those that are made. The
sections `roi`, `pretrain`, `mbm`, `encoder`, `contrastive`, `generator`, `cotrain` and `sampling` belong to an
experiment (`experiments.mind-video.roi.alpha`), all others stand at the top. What differs for one subject stands under
the experiment's `subjects`; HCP pretraining and the generator know no subject. Editors check the file as you type with
`config/schema.json`.

A sample sheet (`wen2018.tsv`, `demo.tsv`) lists one run per row: `subject`, `segment`, `split` (train, test), `repeat`,
`volumes` (length of the file), `source` (raw, mni, cifti) and `exclude` (a reason, or empty).

This page is written by `make schema`.
"""


def schema() -> dict:
    """JSON schema of `config.yaml` and of overlays, for editors: every key may be left out, none may be misspelt.

    That nothing is missing in the end is checked when the configuration is loaded.
    """
    whole = Config.model_json_schema()
    whole["properties"].pop("bases")
    experiment = whole["$defs"]["Experiment"]
    base = {"type": "string", "description": "experiment that this one differs from"}
    experiment["properties"] = {"base": base, **experiment["properties"]}
    for described in (whole, *whole["$defs"].values()):
        described.pop("required", None)
    return whole


def all_keys(section: type[Section] = Config, prefix: str = "") -> list[tuple[str, FieldInfo]]:
    """Every key of the configuration as a path and its field, experiments' sections by their own names."""
    found = []
    for name, field in section.model_fields.items():
        kinds = [k for k in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(k, type)]
        inner = next((k for k in kinds if issubclass(k, Section)), None)
        if inner is Experiment:
            found += [(name if "." in name else f"experiments.NAME.{name}", f) for name, f in all_keys(Experiment)]
        elif inner is not None:
            found += all_keys(inner, f"{prefix}{name}.")
        elif name != "bases":
            found.append((f"{prefix}{name}", field))
    return found


def reference() -> str:
    """The text of config/README.md: every key with its values and its meaning."""
    lines, section = [INTRO], None
    for key, field in all_keys():
        top = key.split(".")[0] if "." in key else "top level"
        if top != section:
            lines.append(f"\n## {top}\n\n| key | values | meaning |\n| --- | --- | --- |")
            section = top
        lines.append(f"| `{key}` | {_values(field)} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def _values(field) -> str:
    """What a key may hold, in words."""
    from pydantic import TypeAdapter

    described = TypeAdapter(field.annotation).json_schema()
    for limit in field.metadata:
        for name, sign in {
            "gt": "exclusiveMinimum",
            "ge": "minimum",
            "lt": "exclusiveMaximum",
            "le": "maximum",
        }.items():
            if getattr(limit, name, None) is not None:
                described[sign] = getattr(limit, name)
    return _words(described)


def _words(described: dict) -> str:
    if "anyOf" in described:
        return " or ".join(_words(option) for option in described["anyOf"])
    if "enum" in described or "const" in described:
        return ", ".join(f"`{value}`" for value in described.get("enum", [described.get("const")]))
    if "prefixItems" in described:
        return " and ".join(_words(item) for item in described["prefixItems"])
    if described.get("type") == "array":
        return f"list of {_words(described.get('items', {}))}"
    if described.get("type") == "object":
        inner = described.get("additionalProperties")
        return f"mapping to {_words(inner)}" if isinstance(inner, dict) else "mapping"
    name = {"number": "number", "integer": "whole number", "string": "text", "boolean": "true or false", "null": "null"}
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = [f"{sign} {described[key]:g}" for key, sign in signs.items() if key in described]
    return " ".join([name.get(described.get("type", ""), ""), ", ".join(limits)]).strip()


def controls_table() -> str:
    """The controls (`mindreel.controls`) as a table for docs/stages.md."""
    lines = ["| file | control | meaning |", "| --- | --- | --- |"]
    for name in CONTROLS:
        control = CONDITIONS[name]
        file = f"{'' if control.per_subject else '../'}{name}.npy"
        lines.append(f"| `{file}` | {control.label} | {control.meaning} |")
    return "\n".join(lines) + "\n"


def with_controls(page: str) -> str:
    """A page with the table of controls between its two markers."""
    before, rest = page.split(MARKERS[0])
    return before + MARKERS[0] + controls_table() + MARKERS[1] + rest.split(MARKERS[1])[1]


def write(root: Path = Path()) -> None:
    """Write config/schema.json, config/README.md and the table of controls in docs/stages.md.

    Parameters
    ----------
    root : Path
        The repository.
    """
    (root / "config" / "schema.json").write_text(json.dumps(schema(), indent=2) + "\n")
    (root / "config" / "README.md").write_text(reference())
    page = root / "docs" / "stages.md"
    page.write_text(with_controls(page.read_text()))
