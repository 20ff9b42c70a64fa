# The only helpers: the checked configuration, the sample sheet, and whose artifact a file is.
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# the package need not be installed where Snakemake runs
sys.path.insert(0, workflow.basedir + "/src")

from mindreel.config import validate
from mindreel.errors import InputError
from mindreel.experiments import STAGES, owner
from mindreel.fingerprint import fingerprint
from mindreel.sheet import Sheet

try:
    CONFIG = validate(config)
    SHEET = Sheet(CONFIG)
except InputError as error:
    sys.exit(f"mindreel: {error}")

# rules call the package of this checkout, installed or not
shell.prefix(f"export PYTHONPATH={workflow.basedir}/src; ")

DATASET = CONFIG.dataset
RESULTS = f"results/{DATASET}"
CONTROLS = ["fmri", "shuffled"]


wildcard_constraints:
    dataset=DATASET,
    sub="|".join(SHEET.subjects),
    segment="|".join(SHEET.segments()),
    repeat=r"\d+",
    owner="|".join(CONFIG.experiments),
    control="|".join(CONTROLS),


def section(name):
    """A section of the configuration as JSON; one of an experiment belongs to the experiment that owns the artifact."""

    def find(wildcards):
        if name in type(CONFIG).model_fields:
            return getattr(CONFIG, name).model_dump_json()
        whole = CONFIG.experiments[wildcards.owner]
        if "sub" in wildcards.keys():
            whole = whole.of_subject(wildcards.sub)
        return getattr(whole, name).model_dump_json()

    return find


def made(stage, path):
    """An input function: `path` below the folder of the experiment that owns what `wildcards.owner` needs of a stage."""

    def find(wildcards):
        folder = "mbm" if stage == "pretrain" else stage
        name = owner(CONFIG, wildcards.owner, stage)
        return f"{RESULTS}/{folder}/{name}/{path}".format(**wildcards)

    return find


def segments(stage, split, suffix=""):
    """The artifact of a stage for every segment of a split."""
    return [f"{RESULTS}/{stage}/{name}{suffix}" for name in SHEET.segments(split)]


def runs(split):
    """An input function: the cleaned runs of a subject's split."""

    def find(wildcards):
        table = SHEET.runs(wildcards.sub, split)
        return [
            f"{RESULTS}/bold/sub-{wildcards.sub}/{r.segment}_{r.repeat}.npy"
            for r in table.itertuples()
        ]

    return find


def model(name):
    """A pretrained model's folder: the one that the configuration names, or where its hub id is downloaded to."""
    named = getattr(CONFIG.fetch, name)
    return (
        named
        if (Path(workflow.basedir) / named).is_dir()
        else f"resources/models/{named.replace('/', '--')}"
    )


def present(path):
    """A file of the data set; one that is not there and that no rule makes stops the plan with a remedy."""
    if CONFIG.simulate is None and not Path(path).exists():
        raise WorkflowError(
            f"{path} is missing: get it, correct data.root or data.patterns, "
            f"or give a reason in the column exclude of {CONFIG.data.sheet}"
        )
    return path


def pattern(names):
    """A wildcard's regular expression for exactly these names (for none at all: one that never matches)."""
    return "|".join(names) or "(?!)"


def trainings():
    """The folder of every model that the experiments of `run` rest on."""
    found = []
    for name in CONFIG.run:
        found.append(f"{RESULTS}/generator/{owner(CONFIG, name, 'generator')}")
        if CONFIG.experiments[name].mbm.init == "hcp":
            found.append(f"{RESULTS}/mbm/{owner(CONFIG, name, 'pretrain')}/hcp")
        found += subjects_of(name, "mbm", "contrastive", "cotrain")
    return list(dict.fromkeys(found))


def subjects_of(experiment, *stages, path=""):
    """`path` in every subject's folder of stages, each under the experiment that owns it."""
    names = [
        (stage, owner(CONFIG, experiment, stage), sub)
        for stage in stages
        for sub in SHEET.subjects
    ]
    return [f"{RESULTS}/{stage}/{name}/sub-{sub}{path}" for stage, name, sub in names]


def everywhere(stage, path=""):
    """`path` in every subject's folder of a stage, for every experiment of `run`, each once."""
    found = [
        folder for name in CONFIG.run for folder in subjects_of(name, stage, path=path)
    ]
    return list(dict.fromkeys(found))
