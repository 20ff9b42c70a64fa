"""Stage `simulate`: a data set of the small world on disk, laid out as Wen 2018's, with the truth beside it.

The same seed writes the same bytes: every draw depends on the seed and on names (segment, subject, run), not on
earlier draws. Nothing but tests reads the truth.
"""

import zlib
from dataclasses import asdict, fields, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from mindreel.artifacts import atomic, load_table, save_array, save_table
from mindreel.brain import surface
from mindreel.errors import InputError
from mindreel.sections import Bold, Data, Simulate
from mindreel.small_world import cortex, drawing, scanner
from mindreel.video import encode_h264

HCP_TR_S = 0.72
HCP_SCENES = (2, 4)  # shortest and longest (cycles of 2 s)
SHEET = ("subject", "segment", "split", "repeat", "volumes", "source", "exclude")
SCENE = tuple(field.name for field in fields(drawing.Scene))


def generator(seed: int, *names: str) -> np.random.Generator:
    """Make the random numbers of one thing, by the seed and the thing's names."""
    return np.random.default_rng(np.random.SeedSequence([seed, *(zlib.crc32(name.encode()) for name in names)]))


def movie(*, segment: str, volumes: int, movie: Path, scenes: Path, cfg: Simulate, tr_s: float) -> None:
    """Draw a segment's storyboard; write the movie and the table of its scenes.

    Parameters
    ----------
    segment : str
        Name of the segment; the drawing depends on it and the seed.
    volumes : int
        Length of the movie (volumes).
    movie : Path
        Movie that is written (H.264 in .mp4).
    scenes : Path
        Storyboard that is written (.tsv), a row per volume: the scene's words and numbers, and its caption.
    cfg : Simulate
        Section simulate of the configuration.
    tr_s : float
        Repetition time (s); must be the 2 s of a motion.

    Raises
    ------
    InputError
        If the TR is another one.
    """
    _check_tr(tr_s)
    drawn = drawing.storyboard(volumes, generator(cfg.seed, segment, "storyboard"), *cfg.scene_volumes)
    board = [replace(s, x=round(s.x, 4), y=round(s.y, 4), size=round(s.size, 4)) for s in drawn]  # as the table has it
    table = pd.DataFrame({"volume": i, **asdict(s), "caption": s.caption} for i, s in enumerate(board))
    write_movie(movie, board, cfg.movie_fps, cfg.side)
    save_table(scenes, table)


def write_movie(out: Path, board: list[drawing.Scene], fps: int, side: int) -> None:
    """Write scenes, one cycle each, as H.264 in mp4."""
    cycles = {scene: drawing.clip(scene, fps, side) for scene in dict.fromkeys(board)}
    # The same bytes every time: one thread, no lookahead (in tiny pictures its result depends on stale memory)
    options = {"crf": "12", "preset": "fast", "threads": "1", "tune": "zerolatency"}
    with atomic(out) as path:
        encode_h264(str(path), (frame for scene in board for frame in cycles[scene]), fps, options)


def subject(
    *, subject: str, sheet: Path, scenes: list[Path], root: Path, truth: Path, cfg: Simulate, data: Data, bold: Bold
) -> None:
    """Write all runs of one subject, its T1w if it has raw runs, and the truth about it.

    Parameters
    ----------
    subject : str
        The subject's name in the sheet.
    sheet : Path
        Sample sheet (.tsv).
    scenes : list of Path
        Storyboards of `mindreel simulate movie`, each named {segment}.tsv.
    root : Path
        Folder of the data set; data.patterns says where in it files are written.
    truth : Path
        Folder that is written: responding.npy (59412,) bool; hrf.npy (59412,) float32, peak delay (s), NaN where
        nothing responds; noise_ceiling.npy (59412,) float32, expected correlation of two repeats; tuning.tsv, a row per
        responding vertex; motion/{segment}_{repeat}.tsv for raw runs: translations (mm), rotations (rad) per volume.
    cfg : Simulate
        Section simulate of the configuration.
    data : Data
        Section data of the configuration.
    bold : Bold
        Section bold of the configuration; its trim rules say how many volumes precede the movie.

    Raises
    ------
    InputError
        If the subject, a storyboard or a trim rule is missing, lengths disagree, or a run's source is neither raw nor
        cifti.
    """
    _check_tr(data.tr_s)
    runs = _runs(sheet, subject)
    files = {path.stem: path for path in scenes}
    boards = {segment: read_board(files[segment]) for segment in dict.fromkeys(runs["segment"]) if segment in files}
    _check(runs, boards, bold, sheet)

    model = cortex.grow(cfg.responsive, generator(cfg.seed, f"sub-{subject}", "cortex"))
    responses = segment_responses(model, runs, boards, bold, data.tr_s)
    raw = (runs["source"] == "raw").any()
    head = scanner.draw_head(cfg.voxel_mm, generator(cfg.seed, f"sub-{subject}", "head")) if raw else None
    strength = noise_strength(model, cfg, subject)
    with atomic(truth) as folder:
        _save_truth(folder, model, responses, head, strength, cfg, runs)
        if head is not None:
            _save_image(root / data.patterns.t1w.format(subject=subject), head.t1w)
        for run in runs.itertuples():
            rng = generator(cfg.seed, f"sub-{subject}", run.segment, run.repeat)
            out = root / getattr(data.patterns, run.source).format(
                subject=subject, segment=run.segment, repeat=run.repeat
            )
            response = responses[run.segment, run.volumes]
            if run.source == "cifti":
                series = cifti_run(model.vertices, response, strength, rng)
                surface.save_dtseries(out, series, data.tr_s, scanner.grayordinate_axis())
            else:
                assert head is not None, "there is a raw run"
                path = scanner.motion(run.volumes, cfg.motion_mm, rng)
                image = raw_run(head, model.vertices, response, path, cfg.noise, data.tr_s, rng)
                _save_image(out, image)
                table = pd.DataFrame(path, columns=list(scanner.MOTION))
                save_table(folder / "motion" / f"{run.segment}_{run.repeat}.tsv", table)


def hcp(*, run: Path, cfg: Simulate, subject: str) -> None:
    """Write one HCP-like run: 91,282 grayordinates, TR 0.72 s.

    All visual vertices respond to a movie of their own, each of the 17 networks fluctuates slowly, and there is noise.

    Parameters
    ----------
    run : Path
        Run that is written (.dtseries.nii); the drawing depends on its name.
    cfg : Simulate
        Section simulate of the configuration.
    subject : str
        Name of the HCP subject; the drawing depends on it and the seed.
    """
    model = cortex.grow(1.0, generator(cfg.seed, f"hcp-{subject}", "cortex"))
    rng = generator(cfg.seed, f"hcp-{subject}", Path(run).name)
    seconds = cfg.hcp_volumes * HCP_TR_S
    board = drawing.storyboard(int(np.ceil(seconds / drawing.CYCLE_S)) + 10, rng, *HCP_SCENES)
    times_s = 20 + np.arange(cfg.hcp_volumes) * HCP_TR_S  # the run begins in the middle of things
    response = cortex.standardise(cortex.respond(model, *_unrolled(model, {"": board})[""], times_s), axis=0)
    series = scanner.noise(cfg.hcp_volumes, scanner.GRAYORDINATES, rng)
    series *= np.float32(cfg.noise)
    series[:, model.vertices] += response
    series[:, : surface.VERTICES] += _networks(cfg.hcp_volumes, rng)
    series = scanner.BASELINE * (1 + scanner.RESPONSE * series)
    surface.save_dtseries(run, series, HCP_TR_S, scanner.grayordinate_axis())


def _networks(volumes: int, rng: np.random.Generator) -> np.ndarray:
    """Draw slow fluctuations that a Yeo-17 network's vertices share: (volumes, 59412) float32, deviation 0.5."""
    from scipy.ndimage import gaussian_filter1d

    waves = gaussian_filter1d(rng.standard_normal((volumes, 18)), 8 / HCP_TR_S, axis=0)
    waves = 0.5 * cortex.standardise(waves, axis=0)
    waves[:, 0] = 0  # no network
    return waves[:, surface.atlas()["network"].to_numpy()]


def read_board(path: Path) -> list[drawing.Scene]:
    """Read a storyboard that `movie` wrote: one scene per volume.

    Raises
    ------
    InputError
        If the table lacks a column.
    """
    table = load_table(path)
    missing = [name for name in SCENE if name not in table]
    if missing:
        raise InputError(f"{path}: has no column {', '.join(missing)}; make it with `mindreel simulate movie`")
    return [drawing.Scene(*row) for row in table[list(SCENE)].itertuples(index=False, name=None)]


def segment_responses(
    model: cortex.Cortex, runs: pd.DataFrame, boards: dict[str, list[drawing.Scene]], bold: Bold, tr_s: float
) -> dict[tuple[str, int], np.ndarray]:
    """Compute what each responding vertex does in the runs of each segment, without noise.

    Parameters
    ----------
    model : Cortex
        The subject's N responding vertices.
    runs : DataFrame
        The subject's rows of the sample sheet.
    boards : dict of list of Scene
        Storyboard of each segment.
    bold : Bold
        Section bold of the configuration.
    tr_s : float
        Repetition time (s).

    Returns
    -------
    responses : dict of ndarray of shape (volumes, N), float32
        By segment and length of the run. Over the kept volumes of the training segments every vertex has mean 0 and
        deviation 1.
    """
    unrolled = _unrolled(model, boards)
    responses, train = {}, []
    for run in runs.drop_duplicates(["segment", "volumes"]).itertuples():
        start, end = bold.trim[run.volumes]
        times_s = (np.arange(run.volumes) - start) * tr_s
        response = cortex.respond(model, *unrolled[run.segment], times_s)
        responses[run.segment, run.volumes] = response
        if run.split == "train":
            train.append(response[start : run.volumes - end])
    kept = np.concatenate(train or list(responses.values()))
    mean, deviation = kept.mean(0), np.maximum(kept.std(0), 1e-6)
    return {name: (response - mean) / deviation for name, response in responses.items()}


def _unrolled(model: cortex.Cortex, boards: dict[str, list[drawing.Scene]]) -> dict[str, tuple[np.ndarray, float]]:
    """Compute each segment's drive on the fine time grid, ((n, N) float32, its step in s); a scene is drawn once."""
    distinct = list(dict.fromkeys(scene for board in boards.values() for scene in board))
    place = {scene: i for i, scene in enumerate(distinct)}
    drive = cortex.drive(model, distinct)
    step_s = drawing.CYCLE_S / cortex.FRAMES
    return {name: (np.concatenate(drive[[place[s] for s in board]]), step_s) for name, board in boards.items()}


def noise_strength(model: cortex.Cortex, cfg: Simulate, subject: str) -> np.ndarray:
    """Draw the deviation of every vertex's noise: (59412,) float32, cfg.noise, times 0.7 to 1.5 if it responds."""
    strength = np.full(surface.VERTICES, cfg.noise, np.float32)
    rng = generator(cfg.seed, f"sub-{subject}", "noise")
    strength[model.vertices] *= rng.uniform(0.7, 1.5, len(model.vertices)).astype(np.float32)
    return strength


def cifti_run(vertices: np.ndarray, response: np.ndarray, strength: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make one run in grayordinates.

    Parameters
    ----------
    vertices : ndarray of shape (N,), int
        Grayordinates that respond.
    response : ndarray of shape (T, N), float32
        What they do, without noise.
    strength : ndarray of shape (59412,), float32
        Deviation of each cortical grayordinate's noise.
    rng : Generator
        Source of the random numbers.

    Returns
    -------
    series : ndarray of shape (T, 91282), float32
        Intensities around the baseline.
    """
    series = scanner.noise(len(response), scanner.GRAYORDINATES, rng)
    series[:, : surface.VERTICES] *= strength
    series[:, vertices] += response
    series += scanner.drift(len(response), scanner.GRAYORDINATES, rng)
    series *= np.float32(scanner.BASELINE * scanner.RESPONSE)
    series += np.float32(scanner.BASELINE)
    return series


def raw_run(
    head: scanner.Head,
    vertices: np.ndarray,
    response: np.ndarray,
    path: np.ndarray,
    noise: float,
    tr_s: float,
    rng: np.random.Generator,
) -> nib.Nifti1Image:
    """Make one run in the scanner's space.

    Parameters
    ----------
    head : Head
        The subject's.
    vertices : ndarray of shape (N,), int
        Grayordinates that respond.
    response : ndarray of shape (T, N), float32
        What they do, without noise.
    path : ndarray of shape (T, 6), float64
        Head motion, as of `scanner.motion`.
    noise : float
        Deviation of a voxel's noise.
    tr_s : float
        Repetition time (s).
    rng : Generator
        Source of the random numbers.

    Returns
    -------
    image : Nifti1Image
        4-D, int16.
    """
    everywhere = np.zeros((len(response), surface.VERTICES), np.float32)
    everywhere[:, vertices] = response
    image = nib.Nifti1Image(scanner.scan(head, everywhere, noise, path, rng), head.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    image.set_sform(head.affine, 1)
    image.set_qform(head.affine, 1)
    return image


def _save_truth(
    folder: Path,
    model: cortex.Cortex,
    responses: dict[tuple[str, int], np.ndarray],
    head: scanner.Head | None,
    strength: np.ndarray,
    cfg: Simulate,
    runs: pd.DataFrame,
) -> None:
    """Write what `subject` says about the truth, but for head motion."""
    responding, peak_s = np.zeros(surface.VERTICES, bool), np.full(surface.VERTICES, np.nan, np.float32)
    responding[model.vertices] = True
    peak_s[model.vertices] = model.table["peak_s"]
    everything = np.concatenate(list(responses.values()))
    signal, noise = np.zeros(surface.VERTICES, np.float32), strength**2
    signal[model.vertices] = everything.var(0)
    if head is not None and (runs["source"] == "raw").all():
        # voxels mix vertices, and reading a vertex off the voxels mixes and averages them again
        mixed = (head.sample @ head.paint)[:, model.vertices]
        signal = (mixed @ everything.T).var(1)
        noise = cfg.noise**2 * np.asarray(head.sample.power(2).sum(1)).ravel()
    save_array(folder / "responding.npy", responding)
    save_array(folder / "hrf.npy", peak_s)
    save_array(folder / "noise_ceiling.npy", (signal / (signal + noise)).astype(np.float32))
    tuning = model.table.copy()
    for word, values in cortex.WORDS.items():
        tuned = tuning["group"].isin([group for group, shares in cortex.SHARES.items() if word in shares])
        tuning[word] = np.where(tuned, np.array(values)[model.words[word].argmax(1)], "")
    save_table(folder / "tuning.tsv", tuning)


def _save_image(out: Path, image: nib.Nifti1Image) -> None:
    """Write an image, atomically."""
    with atomic(out) as path:
        image.to_filename(path)


def _check_tr(tr_s: float) -> None:
    if tr_s != drawing.CYCLE_S:
        raise InputError(
            f"data.tr_s: found {tr_s}, expected {drawing.CYCLE_S}: a motion in the small world lasts a volume"
        )


def _runs(sheet: Path, subject: str) -> pd.DataFrame:
    """Read the subject's runs that are not excluded."""
    runs = pd.read_csv(sheet, sep="\t", dtype=str, keep_default_na=False)
    missing = [name for name in SHEET if name not in runs]
    if missing:
        raise InputError(f"{sheet}: no column {', '.join(missing)}; expected {', '.join(SHEET)}")
    there = ", ".join(dict.fromkeys(runs["subject"]))
    runs = runs[(runs["subject"] == subject) & (runs["exclude"] == "")].astype({"volumes": int})
    if runs.empty:
        raise InputError(f"{sheet}: has no run of subject {subject}; there are {there}")
    return runs


def _check(runs: pd.DataFrame, boards: dict[str, list[drawing.Scene]], bold: Bold, sheet: Path) -> None:
    """Refuse runs that have no storyboard, another length than it or a source that is not simulated."""
    for run in runs.itertuples():
        name = f"{sheet}: subject {run.subject}, {run.segment}, repeat {run.repeat}"
        if run.segment not in boards:
            there = ", ".join(boards) or "none"
            raise InputError(
                f"{name}: no storyboard {run.segment}.tsv among --scenes (found: {there}); "
                f"make it with `mindreel simulate movie --segment {run.segment}`"
            )
        if run.volumes not in bold.trim:
            rules = ", ".join(map(str, bold.trim))
            raise InputError(f"{name}: {run.volumes} volumes, but bold.trim has rules for {rules} only")
        kept, shown = run.volumes - sum(bold.trim[run.volumes]), len(boards[run.segment])
        if kept != shown:
            raise InputError(f"{name}: bold.trim keeps {kept} of {run.volumes} volumes, but the storyboard has {shown}")
        if run.source not in ("raw", "cifti"):
            raise InputError(f"{name}: source is {run.source!r}; simulated runs are raw or cifti")
