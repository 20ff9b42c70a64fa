"""`mindreel <stage> <action> --key value …`: the commands that the rules run and that a person can paste.

The options of an action are the parameters of the function of that name in the stage's module.
"""

import argparse
import importlib
import inspect
import sys
import types
import typing
from functools import partial

from mindreel.config import Section, parse_section
from mindreel.errors import InputError

# Stage -> its actions. The module has the stage's name, the function the action's.
ACTIONS: dict[str, tuple[str, ...]] = {
    "simulate": ("movie", "subject", "hcp"),
    "fetch": ("model", "dataset"),
    "stimuli": ("extract",),
    "captions": ("describe",),
    "targets": ("embed",),
    "bold": ("anatomy", "clean"),
    "roi": ("select", "train", "test", "lag"),
    "hcp": ("segments", "gather"),
    "mbm": ("pretrain", "tune", "import"),
    "contrastive": ("train",),
    "generator": ("train",),
    "cotrain": ("train",),
    "sampling": ("sample", "captions", "control", "gather", "film", "segment-movie"),
    "features": ("extract",),
    "metrics": ("score", "folder", "compare"),
    "audit": ("leaks",),
    "attention": ("maps",),
    "pictures": ("selection", "quality", "attention"),
    "report": ("provenance", "tables", "draw", "page"),
    "zoo": ("build",),
}
# For people: one word, the name of the module and of its function
COMMANDS = ("check", "reconstruct")

# Actions whose function is in another module of `stages`: no rule runs them, or they share no code with the others.
ELSEWHERE = {
    ("roi", "lag"): ("roi_lag", "sweep"),
    ("mbm", "import"): ("mbm_import", "convert"),
    ("metrics", "folder"): ("metrics_folder", "folder"),
    ("sampling", "control"): ("sampling_controls", "control"),
    ("sampling", "segment-movie"): ("sampling_movie", "segment_movie"),
}
# What is no stage: the module of its function.
OUTSIDE = {"zoo": "small_world.zoo", "check": "dataset.check", "reconstruct": "reconstruct"}


def main(argv: list[str] | None = None) -> int:
    """Run one action; an InputError is printed without a traceback, exit code 1."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="mindreel", description="Reconstruct videos from fMRI.")
    stages = parser.add_subparsers(dest="stage", required=True, metavar="stage")
    for stage, actions in ACTIONS.items():
        named = stages.add_parser(stage).add_subparsers(dest="action", required=True, metavar="action")
        for action in actions:
            command = named.add_parser(action, formatter_class=argparse.RawDescriptionHelpFormatter)
            if argv[:2] == [stage, action]:  # only the stage at work is imported
                _add_options(command, _function(stage, action))
    for name in COMMANDS:
        command = stages.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter)
        if argv[:1] == [name]:
            _add_options(command, _function(name, name))
    options = vars(parser.parse_args(argv))
    stage = options.pop("stage")
    action = options.pop("action", stage)
    try:
        _function(stage, action)(**options)
    except InputError as error:
        print(f"mindreel {stage}: {error}", file=sys.stderr)
        return 1
    return 0


def _function(stage: str, action: str) -> typing.Callable:
    module, function = ELSEWHERE.get((stage, action), (stage, action))
    place = OUTSIDE.get(stage, f"stages.{module}")
    return getattr(importlib.import_module(f"mindreel.{place}"), function)


def _add_options(parser: argparse.ArgumentParser, function: typing.Callable) -> None:
    parser.description = inspect.getdoc(function)
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, several = hints[name], False
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            kind = next(k for k in typing.get_args(kind) if k is not type(None))
        if typing.get_origin(kind) is list:
            kind, several = typing.get_args(kind)[0], True
        required = parameter.default is inspect.Parameter.empty
        read = partial(_section, kind) if _is_section(kind) else kind
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            type=read,
            nargs="+" if several else None,
            required=required,
            default=None if required else parameter.default,
            metavar="JSON" if _is_section(kind) else kind.__name__.upper(),
        )


def _section(kind: type[Section], text: str) -> Section:
    try:
        return parse_section(kind, text)
    except (InputError, OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _is_section(kind: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def entry() -> None:
    """The console script `mindreel`."""
    sys.exit(main())
