# The only helpers: the checked configuration, the sample sheet, and whose artifact a file is.
import re
import sys
from shlex import quote
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.iocontainers import Wildcards

# this repository, wherever Snakemake runs: another workflow may import this one
ROOT = Path(workflow.current_basedir).parents[1]
sys.path.insert(0, str(ROOT / "src"))  # the package need not be installed

from mindreel.dataset.check import before_plan
from mindreel.config import overridden, validate
from mindreel.errors import InputError
from mindreel.controls import CONDITIONS, MODEL
from mindreel.controls import pattern as conditions_of
from mindreel.plan.experiments import PLANNED, STAGES, owner
from mindreel.plan.fingerprint import fingerprint
from mindreel.dataset.sheet import Sheet, by_subject


def hcp_runs():
    """HCP subject -> its runs: simulated ones are named by the workflow, real ones found on disk."""
    if CONFIG.simulate is None:
        return by_subject(CONFIG.hcp.pattern)
    subjects = [str(100001 + i) for i in range(CONFIG.simulate.hcp_subjects)]
    folder = f"results/{CONFIG.dataset}/simulate/hcp"
    return {subject: [f"{folder}/{subject}.dtseries.nii"] for subject in subjects}


def ours(path):
    """A file or folder as named from the working folder, or else from this repository."""
    return (
        path if Path(path).exists() or not (ROOT / path).exists() else f"{ROOT}/{path}"
    )


try:
    CONFIG = validate(config)
    data = CONFIG.data.model_copy(update={"sheet": ours(CONFIG.data.sheet)})
    CONFIG = CONFIG.model_copy(update={"data": data})
    SHEET = Sheet(CONFIG)
    if workflow.is_main_process:
        overlays = set(map(str, workflow.overwrite_configfiles))
        files = sorted(map(str, workflow.configfiles), key=overlays.__contains__)
        for message in overridden(files, CONFIG.run):
            print(f"mindreel: {message}", file=sys.stderr)
        if CONFIG.simulate is None and (
            Path(CONFIG.data.root).exists() or not CONFIG.fetch.dataset_url
        ):
            before_plan(CONFIG, SHEET)
    HCP_RUNS = hcp_runs()
except InputError as error:
    sys.exit(f"mindreel: {error}")

# rules call the package of this checkout, installed or not
shell.prefix(f"set -euo pipefail; export PYTHONPATH={quote(str(ROOT))}/src; ")

DATASET = CONFIG.dataset
RESULTS = f"results/{DATASET}"
# how a training starts: with more than one GPU a process for each
LAUNCH = (
    "python $([ {resources.gpu} -gt 1 ] && "
    "echo -m torch.distributed.run --standalone --nproc-per-node {resources.gpu})"
)
# what experiments.STAGES has beside the stages, and the stage that it is a part of
PARTS = {"pretrain": "mbm", "captioned": "sampling", "decoded": "sampling"}


wildcard_constraints:
    dataset=DATASET,
    sub="|".join(SHEET.subjects),
    segment="|".join(SHEET.segments()),
    repeat=r"\d+",
    owner="|".join(CONFIG.experiments),
    control=rf"({'|'.join(CONDITIONS)})(_\d+)?",
    shard="|".join([*SHEET.segments("test"), "all"]),


def section(name, whole=False):
    """A section of the configuration as JSON; one of an experiment belongs to the experiment that owns the artifact.

    Keys that only plan jobs are left out, unless the section is wanted whole.
    """
    left_out = set() if whole else PLANNED.get(name, set())

    def find(wildcards):
        if name in type(CONFIG).model_fields:
            return getattr(CONFIG, name).model_dump_json()
        experiment = CONFIG.experiments[wildcards.owner]
        if "sub" in wildcards.keys():
            experiment = experiment.of_subject(wildcards.sub)
        return getattr(experiment, name).model_dump_json(exclude=left_out)

    return find


def flag(name):
    """A params function: the option --NAME if the rule's input of that name is there, else nothing."""

    def find(wildcards, input):
        return f"--{name}" if input.get(name) else ""

    return find


def seed_of(name):
    """The seed of a section of the experiment that owns the artifact, where nothing else of the section matters."""

    def find(wildcards):
        experiment = CONFIG.experiments[wildcards.owner]
        if "sub" in wildcards.keys():
            experiment = experiment.of_subject(wildcards.sub)
        return getattr(experiment, name).seed

    return find


def data_root(wildcards):
    """A params function: the folder of the data set."""
    return CONFIG.data.root


def hcp_folders(wildcards):
    """An input function: the folder of every HCP subject."""
    if not HCP_RUNS:
        raise WorkflowError(
            f"no HCP run matches {CONFIG.hcp.pattern}: get some, correct hcp.pattern, "
            "or set mbm.init to scratch"
        )
    return [f"{RESULTS}/hcp/sub-{subject}" for subject in HCP_RUNS]


def pretrained(wildcards):
    """An input function: the masked autoencoder that tuning starts from, if `mbm.init` names one."""
    init = CONFIG.experiments[wildcards.owner].of_subject(wildcards.sub).mbm.init
    if init == "hcp":
        return made("pretrain", "hcp")(wildcards)
    if init in ("scratch", "none"):
        return []
    if not Path(init, "config.json").exists():
        raise WorkflowError(
            f"mbm.init: {init} holds no model; convert a released checkpoint with `mindreel mbm import`, "
            "or name hcp, scratch, none or the folder of a masked autoencoder"
        )
    return init


def made(stage, path):
    """An input function: `path` in the folder of the experiment that owns what `wildcards.owner` needs of a stage."""

    def find(wildcards):
        name = owner(CONFIG, wildcards.owner, stage)
        folder = f"{RESULTS}/{PARTS.get(stage, stage)}/{name}"
        return f"{folder}/{path}".format(**wildcards)

    return find


def shards(wildcards):
    """An input function: what the jobs make that a control's clips are shared among, in the order of the clips."""
    experiment = CONFIG.experiments[wildcards.owner]
    folder = Path(RESULTS, "sampling", wildcards.owner)
    if "sub" in wildcards.keys():
        experiment = experiment.of_subject(wildcards.sub)
        folder = folder / f"sub-{wildcards.sub}"
    whole = experiment.sampling.shard == "all"
    names = ["all"] if whole else SHEET.segments("test")
    return [f"{folder}/{wildcards.control}/{name}.npy" for name in names]


def conditions(wildcards):
    """An input function: the clips that are scored together, the model's first, then those of `sampling.controls`."""
    experiment = CONFIG.experiments[wildcards.owner].of_subject(wildcards.sub)
    clips = []
    for name in (MODEL, *experiment.sampling.controls):
        if CONDITIONS[name].per_subject:
            folder = Path(RESULTS, "sampling", wildcards.owner, f"sub-{wildcards.sub}")
            clips.append(f"{folder}/{name}.npy")
        else:
            clips.append(made(CONDITIONS[name].stage, f"{name}.npy")(wildcards))
    return clips


def control_inputs(wildcards):
    """An input function: what a control is made from, as its entry in the list of conditions says."""
    found = {
        "contrastive": made("contrastive", "sub-{sub}"),
        "bold": made("roi", "sub-{sub}/test.npy"),
        "model": lambda wildcards: model("stable_diffusion"),
        "train_targets": lambda wildcards: segments("targets", "train"),
        "train_frames": lambda wildcards: segments("stimuli", "train", ".npy"),
        "test_targets": lambda wildcards: segments("targets", "test"),
        "test_frames": lambda wildcards: segments("stimuli", "test", ".npy"),
    }
    names = ("test_frames", *CONDITIONS[wildcards.control].inputs)
    return {name: found[name](wildcards) for name in names}


def options(wildcards, input):
    """A params function: every named input as an option of its name, quoted."""
    words = []
    for name, paths in input.items():
        paths = [paths] if isinstance(paths, str) else paths
        words += [f"--{name.replace('_', '-')}", *map(quote, paths)]
    return " ".join(words)


def subject_option(wildcards):
    """A params function: --subject with the subject's name, nothing where clips are those of all subjects."""
    return f"--subject {quote(wildcards.sub)}" if "sub" in wildcards.keys() else ""


def control_gpus(wildcards):
    """A resources function: the GPUs that a control needs."""
    return int(CONDITIONS[wildcards.control].gpu)


def numbers(wildcards):
    """Numbers, from 0, of the test segments that a shard (or a film of one segment) holds."""
    names = SHEET.segments("test")
    name = wildcards.get("shard", wildcards.get("segment"))
    return list(range(len(names))) if name == "all" else [names.index(name)]


def further_samples():
    """The further samples of every clip that `sampling.samples` asks for, of every experiment of `run`."""
    found = []
    for name in CONFIG.run:
        for folder in subjects_of(name, "sampling"):
            sub = folder.rsplit("sub-", 1)[1]
            count = CONFIG.experiments[name].of_subject(sub).sampling.samples
            found += [f"{folder}/fmri_{number}.npy" for number in range(2, count + 1)]
    return list(dict.fromkeys(found))


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


def paired(wildcards):
    """An input function: the targets of every row of train.npy: a segment's, or (roi.repeats: stack) a run's."""
    rows = list(SHEET.runs(wildcards.sub, "train").segment)
    whole = CONFIG.experiments[wildcards.owner].of_subject(wildcards.sub)
    if whole.roi.repeats == "average":
        rows = dict.fromkeys(rows)
    return [f"{RESULTS}/targets/{segment}" for segment in rows]


def paired_frames(wildcards):
    """An input function: the frames of every row of a subject's train.npy."""
    return [
        f"{RESULTS}/stimuli/{Path(folder).name}.npy" for folder in paired(wildcards)
    ]


def sidecar(path):
    """The JSON file beside a raw run, if slice timing is to be corrected by it."""
    beside = f"{path.removesuffix('.gz').removesuffix('.nii')}.json"
    return present(beside) if CONFIG.bold.slice_timing else []


def model(name):
    """A pretrained model's folder: the one that the configuration names, or where its hub id is downloaded to."""
    named = getattr(CONFIG.fetch, name)
    if Path(ours(named)).is_dir():
        return ours(named)
    return f"resources/models/{'--'.join(Path(named).parts)}"


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
        experiment = CONFIG.experiments[name]
        if any(experiment.of_subject(sub).mbm.init == "hcp" for sub in SHEET.subjects):
            found.append(f"{RESULTS}/mbm/{owner(CONFIG, name, 'pretrain')}/hcp")
        found += subjects_of(name, "mbm", "contrastive", "cotrain")
    return list(dict.fromkeys(found))


def generators():
    """The folder of every generator that the experiments of `run` rest on."""
    folder = f"{RESULTS}/generator/"
    return [path for path in trainings() if path.startswith(folder)]


def compared_clips():
    """All clips that are scored: of every experiment of `run`, subject and condition, each once."""
    found = []
    for folder in everywhere("metrics"):
        name, sub = folder.split("/")[-2:]
        found += conditions(
            Wildcards(fromdict={"owner": name, "sub": sub.removeprefix("sub-")})
        )
    return list(dict.fromkeys(found))


def benchmarks(wildcards):
    """A params function: RULE=REGEX, the paths of the benchmark files of every rule that has any."""
    found = []
    for each in workflow.rules:
        if each.benchmark:
            constraints = each.wildcard_constraints
            parts = re.split(r"\{(\w+)(?:,[^{}]*)?\}", str(each.benchmark))
            names = [
                f"({constraints.get(p, '[^/]+')})" if i % 2 else re.escape(p)
                for i, p in enumerate(parts)
            ]
            found.append(f"{each.name}={''.join(names)}")
    return found


def bold_of(sub, suffix, *sources):
    """What `bold` made beside every run of a subject that came from one of these sources, in the sheet's order."""
    names = [name for name in SHEET.names(*sources) if name.startswith(f"sub-{sub}/")]
    return [f"{RESULTS}/bold/{name}_{suffix}" for name in names]


def pictures():
    """Every folder of pictures that the report shows."""
    drawn = [f"{RESULTS}/pictures/bold/sub-{sub}" for sub in SHEET.subjects]
    for folder in everywhere("roi") + everywhere("attention"):
        drawn.append(folder.replace(RESULTS, f"{RESULTS}/pictures", 1))
    return drawn


def subjects_of(experiment, *stages):
    """Every subject's folder of stages, each under the experiment that owns it."""
    names = [
        (stage, owner(CONFIG, experiment, stage), sub)
        for stage in stages
        for sub in SHEET.subjects
    ]
    return [f"{RESULTS}/{stage}/{name}/sub-{sub}" for stage, name, sub in names]


def everywhere(stage, name=""):
    """Every subject's folder of a stage, for every experiment of `run`, each once; or the file of that name in it."""
    folders = [folder for each in CONFIG.run for folder in subjects_of(each, stage)]
    return [str(Path(folder, name)) for folder in dict.fromkeys(folders)]
