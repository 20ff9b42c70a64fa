"""One clip from one window of fMRI, from the artifacts on disk: `mindreel reconstruct`, for the curious."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mindreel.artifacts import load_array
from mindreel.config import Config, load
from mindreel.dataset.sheet import Sheet
from mindreel.errors import InputError
from mindreel.plan.experiments import owner
from mindreel.video import beside, check_suffix, write_film


def reconstruct(
    *, experiment: str, subject: str, clip: int, out: Path, configfile: list[Path] | None = None, sample: int = 1
) -> None:
    """Reconstruct one test clip: what was seen on the left, the reconstruction on the right.

    Run it in the folder in which the workflow ran. Seed and settings are the experiment's, so it is the clip of stage
    sampling.

    Parameters
    ----------
    experiment : str
        The experiment's name.
    subject : str
        The subject's name.
    clip : int
        The clip's number among all test clips, from 0, as in clips.tsv of stage metrics.
    out : Path
        .mp4 or .gif.
    configfile : list of Path
        What lies over config.yaml, such as config/demo.yaml.
    sample : int
        2, 3, … for a further sample of the clip.

    Raises
    ------
    InputError
        If there is no such experiment, subject or clip, or something has not been made yet.
    """
    check_suffix(out)
    config = load("config.yaml", *(configfile or []))
    segments = Sheet(config).segments("test")
    folder = Path("results") / config.dataset
    parts = files(config, experiment, subject, configfile or [])
    volumes = load_array(parts["bold"]).shape[1]
    if not 0 <= clip < len(segments) * volumes:
        raise InputError(f"--clip: found {clip}, expected 0 to {len(segments) * volumes - 1}")
    segment, volume = divmod(clip, volumes)
    stimulus = folder / "stimuli" / f"{segments[segment]}.npy"
    _present(configfile or [], stimulus)
    made = _make(parts, config, experiment, subject, clip, sample)
    write_film(out, beside(load_array(stimulus)[volume], made), config.stimuli.fps)


def files(config: Config, experiment: str, subject: str, configfile: Iterable[Path] = ()) -> dict[str, Path]:
    """What a clip is made from: cotrained, bold, train_bold, empty, model.

    `configfile` is for the advice only.

    Raises
    ------
    InputError
        If there is no such experiment or subject, or one of the files is not there.
    """
    sheet = Sheet(config)
    for key, name, known in (
        ("experiment", experiment, list(config.experiments)),
        ("subject", subject, sheet.subjects),
    ):
        if name not in known:
            raise InputError(f"--{key}: found {name!r}, {config.dataset} has {', '.join(known)}; another --configfile?")
    results = Path("results") / config.dataset
    roi = results / "roi" / owner(config, experiment, "roi") / f"sub-{subject}"
    parts = {
        "cotrained": results / "cotrain" / owner(config, experiment, "cotrain") / f"sub-{subject}",
        "bold": roi / "test.npy",
        "train_bold": roi / "train.npy",
        "empty": results / "targets" / sheet.segments("train")[0],
        "model": _model(config.fetch.stable_diffusion),
    }
    _present(configfile, *parts.values())
    return parts


def _model(named: str) -> Path:
    """A pretrained model's folder: the one that the configuration names, or where its hub id is downloaded to."""
    return Path(named) if Path(named).is_dir() else Path("resources/models") / named.replace("/", "--")


def _present(configfile: Iterable[Path], *paths: Path) -> None:
    if missing := [str(path) for path in paths if not path.exists()]:
        options = " ".join(["--configfile", *map(str, configfile), "-- "]) if configfile else ""
        raise InputError(f"missing: {', '.join(missing)}; make it with: snakemake {options}{' '.join(missing)}")


def _make(parts: dict[str, Path], config: Config, experiment: str, subject: str, clip: int, sample: int) -> np.ndarray:
    """Sample one clip: frames (F, H, W, 3) uint8."""
    from mindreel.diffusion import conditioning, sampler

    settings = config.experiments[experiment].of_subject(subject)
    cfg, model = settings.sampling, parts["model"]
    cotrained, bold, train_bold, empty = (parts[name] for name in ("cotrained", "bold", "train_bold", "empty"))
    source = conditioning.from_fmri(cotrained, bold, train_bold, empty, settings.encoder, cfg)
    scheduler, vae = sampler.make_scheduler(model, cfg.scheduler), sampler.load_vae(model)
    return sampler.make_clips(source, vae, scheduler, np.array([clip]), subject, sample, cfg)[0]
