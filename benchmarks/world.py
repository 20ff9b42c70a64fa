"""What the generator's claims come to in the small world, on the artifacts of a finished `make demo`.

python benchmarks/world.py [results/demo] [--out FOLDER]

Measured with the networks of the zoo and with the storyboard, which no stage of the workflow reads:

recognised     whether classifiers see in a sample what its caption says
cotraining     whether samples get better when encoder and generator were tuned together
adversarial    whether samples differ more from one another when guidance pushes away from the mean fMRI
solver         what fewer steps of DPM-Solver++ lose against 200 of DDIM
guidance       the same at other guidance scales

Intervals (95%) are bootstrapped over scenes. The clips of all variants are kept in --out and used again; world.tsv
there holds every number. About 15 minutes on one idle core, a third of it for DDIM's 200 steps; solvers get every
fourth clip only.
"""

import argparse
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mindreel.artifacts import load_array, load_table, save_array, save_table
from mindreel.config import Config, load
from mindreel.dataset.sheet import Sheet
from mindreel.diffusion import conditioning, sampler
from mindreel.scoring import clip_features, statistics
from mindreel.sections import Sampling
from mindreel.small_world import drawing
from mindreel.stages import metrics, targets

EXPERIMENT, SAMPLES, SEED = "mind-video", 2000, 0
RECOGNISED = ("object", "colour", "motion")
SCORES = ("ssim_rgb_uniform7", "nway_image_50way", "nway_video_50way", "identify_clip_top5", "clip_cosine")
# Variant -> what it changes in the experiment's settings of stage sampling.
CHANGES = {
    "co-trained": {},
    "negative train-mean": {"negative": "train-mean"},
    "negative null-condition": {"negative": "null-condition"},
    "negative none": {"negative": "none"},
    "guidance 1": {"guidance_scale": 1.0},
    "guidance 6": {"guidance_scale": 6.0},
    "guidance 12.5": {"guidance_scale": 12.5},
    "DPM-Solver++ 10": {"scheduler": "DPMSolverMultistepScheduler", "steps": 10},
    "DPM-Solver++ 25": {"scheduler": "DPMSolverMultistepScheduler", "steps": 25},
    "DDIM 10": {"scheduler": "DDIMScheduler", "steps": 10},
    "DDIM 25": {"scheduler": "DDIMScheduler", "steps": 25},
    "DDIM 200": {"scheduler": "DDIMScheduler", "steps": 200},
}
TIMESTEPS = (950, 800, 600, 200)
EVERY = 4  # of the clips, for solvers
SOLVERS = tuple(name for name in CHANGES if name.startswith(("DPM", "DDIM")))
# Variant -> whose encoder and whose UNet.
PARTS = {
    "contrastive only": ("contrastive", "generator"),
    "encoder co-trained": ("cotrain", "generator"),
    "UNet co-trained": ("contrastive", "cotrain"),
}


@dataclass(frozen=True)
class World:
    """A finished run: its results, its configuration, and what was shown in the test segments."""

    results: Path
    config: Config
    sheet: Sheet
    subjects: list[str]
    targets: list[Path]  # of the test segments
    shown: pd.DataFrame  # one row per test clip: object, colour, motion, scene (number)

    @property
    def segments(self) -> list[str]:
        """The test segments."""
        return self.sheet.segments("test")

    @property
    def model(self) -> Path:
        """The Stable Diffusion folder."""
        return Path(self.config.fetch.stable_diffusion)

    def of(self, stage: str, subject: str) -> Path:
        """A stage's artifact for a subject."""
        return self.results / stage / EXPERIMENT / f"sub-{subject}"

    @property
    def shape(self) -> Path:
        """The targets folder of a training segment."""
        return self.results / "targets" / self.sheet.segments("train")[0]


def open_world(results: Path, out: Path, subjects: list[str] | None) -> World:
    """Read the storyboard of the test segments; make their targets where the run has none."""
    config = load("config.yaml", "config/demo.yaml")
    sheet = Sheet(config)
    segments = sheet.segments("test")
    boards = [load_table(results / "simulate" / "truth" / f"{name}.tsv") for name in segments]
    shown = pd.concat(boards, keys=segments, names=["segment"]).reset_index("segment").reset_index(drop=True)
    same = shown.drop(columns="volume").eq(shown.drop(columns="volume").shift()).all(axis=1)
    folders = [made_targets(config, results, name, out) for name in segments]
    return World(results, config, sheet, subjects or sheet.subjects, folders, shown.assign(scene=(~same).cumsum()))


def made_targets(config: Config, results: Path, segment: str, out: Path) -> Path:
    """A segment's folder of stage targets; the demo makes none of the test segments."""
    folder = results / "targets" / segment
    if not folder.exists():
        folder = out / "targets" / segment
    if not folder.exists():
        files = {"frames": results / "stimuli" / f"{segment}.npy", "captions": results / "captions" / f"{segment}.tsv"}
        networks = {"clip": Path(config.fetch.clip), "diffusion": Path(config.fetch.stable_diffusion)}
        synonyms = Path("resources/synonyms.tsv")
        targets.embed(**files, **networks, synonyms=synonyms, out=folder, cfg=config.targets)
    return folder


# ---------------------------------------------------------------------------------------------- clips


def every_clip(at: World, subject: str, out: Path) -> dict[str, np.ndarray]:
    """Sample all variants for a subject: (N, F, H, W, 3) uint8 by name; solvers have every fourth clip only."""
    cfg = at.config.experiments[EXPERIMENT].sampling
    found = {name: load_array(at.of("sampling", subject) / f"{name}.npy") for name in ("shuffled",)}

    def made(name: str, source: conditioning.Source, clips: np.ndarray, cfg: Sampling) -> None:
        file = out / f"sub-{subject}" / f"{name.replace(' ', '-')}.npy"
        if not file.exists():
            scheduler, vae = sampler.make_scheduler(at.model, cfg.scheduler), sampler.load_vae(at.model)
            batches = np.array_split(clips, range(cfg.batch_size, len(clips), cfg.batch_size))
            bar = tqdm(batches, desc=f"sub-{subject}: {name}", mininterval=2)
            rows = [sampler.make_clips(source, vae, scheduler, batch, subject, 1, cfg) for batch in bar]
            save_array(file, np.concatenate(rows))
        found[name] = load_array(file)

    everything = np.arange(len(at.shown))
    made("text", conditioning.from_captions(at.results / "generator" / EXPERIMENT, at.targets, cfg), everything, cfg)
    for name, parts in PARTS.items():
        made(name, from_fmri(at, subject, parts, cfg), everything, cfg)
    for name, changes in CHANGES.items():
        changed = cfg.model_copy(update=changes)
        source = from_fmri(at, subject, ("cotrain", "cotrain"), changed)
        made(name, source, everything[::EVERY] if name in SOLVERS else everything, changed)
    return found


def from_fmri(at: World, subject: str, parts: tuple[str, str], cfg: Sampling) -> conditioning.Source:
    """Conditions and generator, each from one of two stages."""
    brain, unet = parts
    cotrained = at.of("cotrain", subject)
    encoders = {"contrastive": at.of("contrastive", subject), "cotrain": cotrained / "encoder"}
    unets = {"generator": at.results / "generator" / EXPERIMENT, "cotrain": cotrained / "unet"}
    roi = at.of("roi", subject)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "encoder").symlink_to(encoders[brain].resolve())
        (Path(folder) / "unet").symlink_to(unets[unet].resolve())
        settings = at.config.experiments[EXPERIMENT].encoder
        bolds = roi / "test.npy", roi / "train.npy"
        return conditioning.from_fmri(Path(folder), *bolds, at.shape, settings, cfg)


@torch.inference_mode()
def through_vae(at: World) -> np.ndarray:
    """The true clips as the decoder shows them: the best that any sample could be."""
    latents = np.concatenate([load_array(folder / "latents.npy") for folder in at.targets])
    vae = sampler.load_vae(at.model)
    parts = torch.from_numpy(latents.astype(np.float32)).split(16)
    return np.concatenate([sampler.decode(vae, part) for part in parts])


# ---------------------------------------------------------------------------------------------- what is in them


class Eyes:
    """The zoo's classifiers and CLIP."""

    def __init__(self, at: World):
        fetch = at.config.fetch
        folders = Path(fetch.image_classifier), Path(fetch.video_classifier), Path(fetch.clip)
        self.networks = clip_features.networks(*folders, None, at.config.features)
        self.known: dict[int, tuple[np.ndarray, dict[str, np.ndarray]]] = {}  # with the clips, so that none takes an id

    def look(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """Logits of frames (N, F, C) and clips (N, C), CLIP embeddings (N, F, E)."""
        if id(clips) not in self.known:
            self.known[id(clips)] = clips, {name: network.features(clips) for name, network in self.networks.items()}
        return self.known[id(clips)][1]

    def named(self, clips: np.ndarray) -> dict[str, np.ndarray]:
        """The best class, in words: object and colour of every frame (N, F), motion of every clip (N, 1)."""
        seen = self.look(clips)
        frames = np.array([label.split(" ", 1) for label in self.networks["image"].labels])  # colour, object
        motions = np.array([label.split(" ", 1)[1] for label in self.networks["video"].labels])
        best = frames[seen["image"].argmax(-1)]
        return {"object": best[..., 1], "colour": best[..., 0], "motion": motions[seen["video"].argmax(-1)][:, None]}


def said(captions: pd.DataFrame) -> dict[str, np.ndarray]:
    """Object, colour and motion that captions name, (N, F) each; "" where none is."""
    words = {"object": drawing.OBJECTS, "colour": tuple(drawing.COLOURS), "motion": tuple(drawing.MOTIONS.values())}
    frames = captions["frame"].max() + 1

    def first(text: str, known: tuple[str, ...]) -> str:
        return next((word for word in known if f" {word} " in f" {text} "), "")

    return {
        name: np.array([first(text, known) for text in captions["caption"]]).reshape(-1, frames)
        for name, known in words.items()
    }


def agreement(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> np.ndarray:
    """Share of each clip's frames in which both name the same: (N, 3)."""
    return np.stack([(found[name] == wanted[name]).mean(1) for name in RECOGNISED], 1)


def scores(made: np.ndarray, true: np.ndarray, eyes: Eyes, cfg: object) -> np.ndarray:
    """SCORES of each clip: (N, 5)."""
    a, b = metrics.Clips(made, eyes.look(made)), metrics.Clips(true, eyes.look(true))
    columns = metrics.measure(a, b, cfg, np.random.default_rng(SEED), 1)
    columns["clip_cosine"] = (embedded(a.features["clip"]) * embedded(b.features["clip"])).sum(1)
    return np.stack([columns[name] for name in SCORES], 1)


def embedded(frames: np.ndarray) -> np.ndarray:
    """One CLIP embedding per clip, (N, F, E) to (N, E) of norm 1."""
    mean = frames.mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


# ---------------------------------------------------------------------------------------------- tables


class Table:
    """Collects numbers with their intervals, and prints them."""

    def __init__(self):
        self.rows: list[dict] = []

    def add(self, claim: str, variant: str, subject: str, names: tuple[str, ...], value: tuple, low, high) -> None:
        """One row per quantity."""
        for name, *numbers in zip(names, value, low, high, strict=True):
            row = {"claim": claim, "variant": variant, "subject": subject, "quantity": name}
            self.rows.append({**row, **dict(zip(("value", "ci_low", "ci_high"), numbers, strict=True))})

    def means(self, claim: str, variant: str, subject: str, names: tuple, values: np.ndarray, scene: pd.Series) -> None:
        """Means over clips of values (N, M), with intervals over scenes."""
        drawn = statistics.block_bootstrap(values, scene.to_numpy(), SAMPLES, np.random.default_rng(SEED))
        self.add(claim, variant, subject, names, values.mean(0), *statistics.interval(drawn))

    def show(self, claim: str) -> None:
        """Print a claim's numbers in Markdown: a row per variant and subject, a column per quantity."""
        table = pd.DataFrame(self.rows).query("claim == @claim")
        names = list(table["quantity"].unique())
        print(f"\n{claim}\n\n| clips | subject | {' | '.join(names)} |\n| --- | --- |{' --- |' * len(names)}")
        for (variant, subject), rows in table.groupby(["variant", "subject"], sort=False):
            cells = [f"{r.value:.3f} ({r.ci_low:.3f} to {r.ci_high:.3f})" for r in rows.itertuples()]
            print(f"| {variant} | {subject} | {' | '.join(cells)} |")


def recognised(table: Table, at: World, clips: dict[str, dict[str, np.ndarray]], true: np.ndarray, eyes: Eyes) -> None:
    """Object, colour and motion of samples, against the storyboard and against what is seen in the true clip."""
    motion = at.shown["motion"].map(drawing.MOTIONS)
    storyboard = {name: at.shown[name].to_numpy()[:, None] for name in ("object", "colour")}
    storyboard["motion"] = motion.to_numpy()[:, None]
    seen, scene = eyes.named(true), at.shown["scene"]
    captions = said(pd.concat([load_table(at.results / "captions" / f"{name}.tsv") for name in at.segments]))
    through = eyes.named(through_vae(at))
    still = {"true clips": seen, "true clips, VAE": through, "captions, their words": captions}
    samples = ("text", "co-trained", "contrastive only", "shuffled")
    for wanted, against in ((storyboard, "the storyboard"), (seen, "the true clip's classes")):
        claim = f"recognised, against {against}"
        for name, found in still.items():
            if found is not wanted and not (found is captions and wanted is seen):
                table.means(claim, name, "", RECOGNISED, agreement(found, wanted), scene)
        for name in samples:
            each = [agreement(eyes.named(clips[subject][name]), wanted) for subject in at.subjects]
            for subject, values in zip(at.subjects, each, strict=True):
                table.means(claim, name, subject, RECOGNISED, values, scene)
        chance = tuple(1 / len(known) for known in (drawing.OBJECTS, drawing.COLOURS, drawing.MOTIONS))
        table.add(claim, "chance", "", RECOGNISED, chance, chance, chance)


def compared(
    table: Table, claim: str, at: World, clips: dict, true: np.ndarray, eyes: Eyes, names: tuple[str, ...]
) -> None:
    """Scores of variants; for all but the last, also how much they differ from the last, clip by clip."""
    step = EVERY if names[0] in SOLVERS else 1
    shown, scene = true[::step], at.shown["scene"][::step]
    for subject in at.subjects:
        found = {name: scores(clips[subject][name], shown, eyes, at.config.metrics) for name in names}
        for name, values in found.items():
            table.means(claim, name, subject, SCORES, values, scene)
        for name in names[:-1]:
            table.means(claim, f"{name}, less {names[-1]}", subject, SCORES, found[name] - found[names[-1]], scene)


def pair_means(vectors: np.ndarray, scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean cosine of vectors (N, D) of norm 1 over pairs of different scenes: () and, scenes resampled, (B,)."""
    apart = (scene[:, None] != scene).astype(float)
    cosine = vectors @ vectors.T * apart
    weights = statistics.draw_blocks(scene, SAMPLES, np.random.default_rng(SEED)).astype(float)
    value, drawn = (
        ((w @ cosine) * w).sum(1) / ((w @ apart) * w).sum(1)  # a scene drawn twice counts twice
        for w in (np.ones((1, len(scene))), weights)
    )
    return value[0], drawn


def alike(table: Table, at: World, clips: dict, eyes: Eyes, true: np.ndarray, names: tuple[str, ...]) -> None:
    """Mean cosine of the CLIP embeddings of clips of different scenes: how little samples differ from one another."""
    claim, scene = "adversarial, similarity of different scenes' clips", at.shown["scene"].to_numpy()

    def write(name: str, subject: str, value: np.ndarray, drawn: np.ndarray) -> None:
        low, high = statistics.interval(drawn)
        table.add(claim, name, subject, ("similarity",), (value,), (low,), (high,))

    write("true clips", "", *pair_means(embedded(eyes.look(true)["clip"]), scene))
    for subject in at.subjects:
        found = {name: pair_means(embedded(eyes.look(clips[subject][name])["clip"]), scene) for name in names}
        for name, (value, drawn) in found.items():
            write(name, subject, value, drawn)
        for name in names[:-1]:
            (a, drawn_a), (b, drawn_b) = found[name], found[names[-1]]
            write(f"{name}, less {names[-1]}", subject, a - b, drawn_a - drawn_b)


@torch.inference_mode()
def directions(table: Table, at: World) -> None:
    """Where guidance pushes noisy true clips: mean cosine between the pushes on different scenes' clips.

    0: every clip is pushed its own way; 1: all the same way, which makes them more alike. At timestep 0 nothing is
    noise, at 999 all.
    """
    cfg, chosen = at.config.experiments[EXPERIMENT].sampling, np.arange(0, len(at.shown), EVERY)
    latents = np.concatenate([load_array(folder / "latents.npy") for folder in at.targets])[chosen]
    latents = torch.from_numpy(latents.astype(np.float32))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED))
    scheduler = sampler.make_scheduler(at.model, "DDIMScheduler")
    for subject, kind in product(at.subjects, ("test-mean", "train-mean", "null-condition")):
        changed = cfg.model_copy(update={"negative": kind})
        source = from_fmri(at, subject, ("cotrain", "cotrain"), changed)
        told, away = source.states(chosen), source.negative.expand(len(chosen), -1, -1)
        found = []
        for timestep in TIMESTEPS:
            noisy = scheduler.add_noise(latents, noise, torch.full((len(chosen),), timestep))
            push = source.generator(noisy, timestep, told) - source.generator(noisy, timestep, away)
            push = torch.nn.functional.normalize(push.flatten(1), dim=1).numpy().astype(float)
            value, drawn = pair_means(push, at.shown["scene"].to_numpy()[chosen])
            found.append((value, *statistics.interval(drawn)))
        names = tuple(f"timestep {timestep}" for timestep in TIMESTEPS)
        table.add("adversarial, cosine of pushes", f"negative {kind}", subject, names, *zip(*found, strict=True))


def near(table: Table, at: World, clips: dict, eyes: Eyes, names: tuple[str, ...]) -> None:
    """How like a solver's clips are to those of the last one, from the same noise."""
    quantities = ("ssim_rgb_uniform7", "clip_cosine")
    chosen = [SCORES.index(name) for name in quantities]
    for subject in at.subjects:
        for name in names[:-1]:
            last = clips[subject][names[-1]]
            values = scores(clips[subject][name], last, eyes, at.config.metrics)[:, chosen]
            scene = at.shown["scene"][::EVERY]
            table.means(f"solver, likeness to {names[-1]}", name, subject, quantities, values, scene)


def main() -> None:
    """Sample, look, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results/demo"))
    parser.add_argument("--out", type=Path, default=Path("scratch/benchmarks/world"))
    parser.add_argument("--subjects", nargs="+", help="all, unless named")
    given = parser.parse_args()
    torch.set_num_threads(1)
    at = open_world(given.results, given.out, given.subjects)
    clips = {subject: every_clip(at, subject, given.out) for subject in at.subjects}
    true = np.concatenate([load_array(given.results / "stimuli" / f"{name}.npy") for name in at.segments])
    table, eyes = Table(), Eyes(at)
    recognised(table, at, clips, true, eyes)
    compared(table, "cotraining", at, clips, true, eyes, ("co-trained", *reversed(PARTS)))
    negatives = ("co-trained", *(f"negative {name}" for name in ("train-mean", "none", "null-condition")))
    alike(table, at, clips, eyes, true, negatives)
    directions(table, at)
    compared(table, "adversarial, quality", at, clips, true, eyes, negatives)
    near(table, at, clips, eyes, SOLVERS)
    compared(table, "solver", at, clips, true, eyes, SOLVERS)
    compared(table, "guidance", at, clips, true, eyes, ("guidance 1", "guidance 6", "guidance 12.5", "co-trained"))
    for claim in dict.fromkeys(row["claim"] for row in table.rows):
        table.show(claim)
    save_table(given.out / "world.tsv", pd.DataFrame(table.rows))


if __name__ == "__main__":
    main()
