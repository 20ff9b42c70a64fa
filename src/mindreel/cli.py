"""`mindreel STAGE ACTION --key value …`: the commands that the rules run and that a person can paste.

The options of an action are the parameters of its function, explained by its docstring; cyclopts reads both. A section
of the configuration (`--cfg`, `--encoder`, …) is JSON, a file of it, or `config.yaml[,OVERLAY…][:EXPERIMENT]`.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from mindreel.artifacts import refuse_foreign, refuse_overlap
from mindreel.config import parse_section
from mindreel.errors import InputError
from mindreel.sections import Section

# Stage -> what it does, and its actions. An action is the function of its name in the stage's module.
STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "simulate": ("Draw movies and scan subjects of the small world.", ("movie", "subject", "hcp")),
    "fetch": ("Download pretrained models, or a data set.", ("model", "dataset")),
    "stimuli": ("Movies to frames.", ("extract",)),
    "captions": ("Frames to captions.", ("describe",)),
    "targets": ("Frames and captions to CLIP embeddings, text states and latents.", ("embed",)),
    "bold": ("Runs to cleaned time series on the cortex.", ("anatomy", "clean")),
    "roi": ("Select voxels, gather their time series.", ("select", "train", "test", "lag")),
    "hcp": ("HCP runs to segments for pretraining.", ("segments", "gather")),
    "mbm": ("Masked brain modelling.", ("pretrain", "tune", "import")),
    "contrastive": ("Bring the encoder into CLIP space.", ("train",)),
    "generator": ("Make a video generator of Stable Diffusion.", ("train",)),
    "cotrain": ("Tune encoder and generator together.", ("train",)),
    "sampling": (
        "Test fMRI to clips, and controls.",
        ("sample", "captions", "control", "gather", "film", "segment-movie"),
    ),
    "features": ("What classifiers and encoders see in clips.", ("extract",)),
    "metrics": ("Clips to scores.", ("score", "folder", "compare")),
    "audit": ("Look for test frames in the training movies.", ("leaks",)),
    "attention": ("Encoders to attention maps.", ("maps",)),
    "pictures": ("Draw brain maps and scan quality.", ("selection", "quality", "attention")),
    "report": ("Tables, figures and the page.", ("provenance", "tables", "draw", "page")),
    "zoo": ("Train the demo's micro models.", ("build",)),
}
ACTIONS = {stage: actions for stage, (_, actions) in STAGES.items()}
# Actions whose function is in a module of its own: no rule runs them, or they share no code with the stage's others.
ELSEWHERE = {
    ("roi", "lag"): ("roi_lag", "sweep"),
    ("mbm", "import"): ("mbm_import", "convert"),
    ("metrics", "folder"): ("metrics_folder", "folder"),
    ("sampling", "control"): ("sampling_controls", "control"),
    ("sampling", "segment-movie"): ("sampling_movie", "segment_movie"),
}
# For people: a command of one word -> what it does, and its function
COMMANDS = {
    "check": ("Check a data set before anything is computed.", "dataset.check:check"),
    "reconstruct": ("Reconstruct one test clip.", "reconstruct:reconstruct"),
}
# Parameters that name what an action writes, wherever they stand
OUTPUTS = ("out", "scratch", "figure", "maps", "summary", "tsnr", "truth", "index", "skipped", "pairs")
READ = {"maps": "pictures", "summary": "pictures", "tsnr": "pictures"}  # but in these stages it is an input


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : list of str
        The words after `mindreel`; those of the process, unless given.

    Returns
    -------
    code : int
        0; 1 after an InputError, which is printed without a traceback; 2 if the command line is wrong.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        command, bound, _ = _app(words).parse_args(words, exit_on_error=False)
    except CycloptsError:
        return 2  # printed by cyclopts
    except InputError as error:  # of a section
        print(f"mindreel {' '.join(words[:2])}: {error}", file=sys.stderr)
        return 2
    try:
        if words and words[0] in (*STAGES, *COMMANDS):
            check_outputs(words[0], bound.arguments)
        command(*bound.args, **bound.kwargs)
    except InputError as error:
        print(f"mindreel {words[0]}: {error}", file=sys.stderr)
        return 1
    return 0


def _app(words: list[str]) -> App:
    """All commands; only the function of the one that is asked for is imported."""
    options = Parameter(consume_multiple=True, negative=(), show_default=False)
    app = App("mindreel", help="Reconstruct videos from fMRI.", default_parameter=options, version_flags=())
    for stage, (summary, actions) in STAGES.items():
        app.command(App(stage, help=summary))
        if words[:1] == [stage]:
            for action in actions:
                app[stage].command(function(stage, action), name=action)
    for name, (summary, place) in COMMANDS.items():
        module, _, attribute = place.partition(":")
        if words[:1] == [name]:
            app.command(getattr(import_module(f"mindreel.{module}"), attribute), name=name)
        else:
            app.command(App(name, help=summary))
    return app


def function(stage: str, action: str) -> Callable[..., None]:
    """The function of an action."""
    module, name = ELSEWHERE.get((stage, action), (stage, action))
    place = "small_world.zoo" if stage == "zoo" else f"stages.{module}"
    return getattr(import_module(f"mindreel.{place}"), name)


def check_outputs(stage: str, values: dict[str, Any]) -> None:
    """Refuse, before any work, to write over an input or over what mindreel did not write.

    Parameters
    ----------
    stage : str
        The stage or command.
    values : dict
        What its parameters were given.
    """
    outputs = {name for name in OUTPUTS if READ.get(name) != stage} & {k for k, v in values.items() if v is not None}
    given = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    inputs = [path for name, paths in given.items() if name not in outputs for path in paths if isinstance(path, Path)]
    for name in outputs:
        refuse_overlap(values[name], inputs)
        if name != "scratch" and stage != "fetch":  # which leaves what is there alone
            refuse_foreign(values[name])


def _section(kind: type[Section], tokens: Any) -> Section:
    return parse_section(kind, tokens[0].value)


Parameter(accepts_keys=False, n_tokens=1, converter=_section)(Section)


def entry() -> None:
    """The console script `mindreel`."""
    sys.exit(main())
