"""Stage sampling: test fMRI to clips, with adversarial guidance (MinD-Video 3.4, Eq. 6)."""

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin
from tqdm import tqdm

from mindreel import diffusion, training
from mindreel.artifacts import atomic, load_array, load_json, save_json
from mindreel.config import Encoder, Sampling
from mindreel.encoder import FmriEncoder, window_batch
from mindreel.errors import InputError
from mindreel.unet import VideoUNet
from mindreel.video import write_mp4

CONTROLS = ("fmri", "shuffled")
NEIGHBOURS = 5  # volumes; the shuffled control takes no fMRI from so near in the same segment
DECODED = 48  # frames decoded at once


def sample(
    *,
    cotrained: Path,
    model: Path,
    bold: Path,
    train_bold: Path,
    empty: Path,
    control: str,
    out: Path,
    scratch: Path,
    encoder: Encoder,
    cfg: Sampling,
) -> None:
    """Reconstruct the clip of every test volume.

    `cotrained` has encoder/ and unet/, `model` is a Stable Diffusion folder (vae/, scheduler/), `bold` and `train_bold`
    are the subject's test.npy and train.npy (S, T, V), `empty` is the targets folder of any segment (empty.npy, and
    the shape of its latents). `control` is fmri, or shuffled: each clip is made from another clip's fMRI.
    `out` becomes (N, F, H, W, 3) uint8, N = S T; values are rounded, not truncated as in the peers' code.
    A run that was stopped goes on at the next batch (`scratch`).
    """
    if control not in CONTROLS:
        raise InputError(f"--control: found {control!r}, expected one of {', '.join(CONTROLS)}")
    where = training.device()
    brain = FmriEncoder.from_pretrained(cotrained / "encoder").to(where)
    unet = VideoUNet.from_pretrained(cotrained / "unet").to(where).requires_grad_(False)
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval().requires_grad_(False)
    vae.to(where, memory_format=torch.channels_last)
    scheduler = make_scheduler(model, cfg.scheduler)
    series, null = load_array(bold), torch.from_numpy(np.array(load_array(empty / "empty.npy"), np.float32)).to(where)
    latent_shape = load_array(empty / "latents.npy").shape[1:]  # (F, C, h, w)
    _check(brain, unet, null, latent_shape, encoder)
    segments, volumes = series.shape[:2]
    source = np.arange(segments * volumes)
    if control == "shuffled":
        source = derangement(segments, volumes, NEIGHBOURS, np.random.default_rng(cfg.seed))
    side = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (len(source), latent_shape[0], latent_shape[2] * side, latent_shape[3] * side, 3)
    inputs = (cotrained / "encoder", cotrained / "unet", model / "vae", empty / "empty.npy", bold, train_bold)
    settings = {"encoder": encoder.model_dump(mode="json"), "cfg": cfg.model_dump(mode="json", exclude={"batch_size"})}
    settings |= {"control": control, "inputs": [_stamp(path) for path in inputs]}
    with torch.inference_mode():
        negative = negative_condition(cfg.negative, brain, series, train_bold, null, encoder.window)  # (1, L, D)
        partial = Partial(scratch / f"{control}.npy", shape, settings)
        for clips in partial.batches(cfg.batch_size):
            segment, volume = source[clips] // volumes, source[clips] % volumes
            seen = window_batch(series, segment, volume, encoder.window, encoder.shift)  # (B, W, V)
            positive = brain(seen.to(where))  # (B, L, D)
            noise = [torch.Generator().manual_seed(clip_seed(cfg.seed, clip)) for clip in clips]
            latents = denoise(unet, scheduler, positive, negative, latent_shape, noise, cfg)
            partial.write(clips, decode(vae, latents))
    partial.finish(out)


def make_scheduler(model: Path, name: str) -> SchedulerMixin:
    """Any diffusers scheduler by class name, with the noise schedule of a Stable Diffusion folder."""
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise InputError(
            f"sampling.scheduler: diffusers has no scheduler {name!r}; expected for example DDIMScheduler, "
            "DPMSolverMultistepScheduler or EulerAncestralDiscreteScheduler"
        )
    return diffusion.load_scheduler(model, kind)


def clip_seed(seed: int, clip: int) -> int:
    """Seed of a clip's own noise, so that results do not depend on the batch size."""
    return int(np.random.SeedSequence((seed, int(clip))).generate_state(1, np.uint64)[0] >> np.uint64(1))


def derangement(segments: int, volumes: int, apart: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a permutation of clips by which none keeps its own fMRI, nor one from its neighbourhood.

    Parameters
    ----------
    segments, volumes : clips are segment-major, N = segments * volumes
    apart : volumes of the same segment that count as neighbours, before and after; fewer are if that cannot be had

    Returns
    -------
    (N,) int: clip n gets the fMRI of clip source[n].
    """
    from scipy.optimize import linear_sum_assignment

    clip = np.arange(segments * volumes)
    costs = rng.random((len(clip), len(clip)))
    distance = np.where(clip[:, None] // volumes == clip // volumes, np.abs(clip[:, None] - clip), len(clip))
    for nearest in range(apart, -1, -1):
        source = linear_sum_assignment(costs + len(clip) * (distance <= nearest))[1]
        if np.all(distance[clip, source] > nearest):
            return source
    raise InputError(f"sampling: the shuffled control needs at least 2 clips, found {len(clip)}")


def negative_condition(
    kind: str, brain: FmriEncoder, series: np.ndarray, train_bold: Path, null: torch.Tensor, window: int
) -> torch.Tensor:
    """What guidance pushes away from (`sampling.negative`): (1, L, D).

    The mean is taken over the data set in voxel space, repeated over the window, and encoded (D6).
    """
    if kind == "null-condition":
        return null[None]
    data = series if kind == "test-mean" else load_array(train_bold)
    if data.shape[2] != series.shape[2]:
        raise InputError(f"{train_bold}: found {data.shape[2]} voxels, expected the {series.shape[2]} of the test fMRI")
    mean = torch.from_numpy(data.mean((0, 1), dtype=np.float64).astype(np.float32))
    return brain(mean.expand(1, window, -1).to(null.device))


def denoise(
    unet: VideoUNet,
    scheduler: SchedulerMixin,
    positive: torch.Tensor,
    negative: torch.Tensor,
    shape: tuple[int, ...],
    generators: list[torch.Generator],
    cfg: Sampling,
) -> torch.Tensor:
    """Sample latents; both conditions go through the UNet in one forward, the negative first (U7).

    Parameters
    ----------
    positive : (B, L, D)
    negative : (1, L, D)
    shape : (F, C, h, w) of one clip
    generators : one per clip, on the CPU

    Returns
    -------
    (B, F, C, h, w) float32
    """
    where = positive.device

    def draw() -> torch.Tensor:
        noise = [diffusion.clip_noise((1, *shape), cfg.noise_beta, generator) for generator in generators]
        return torch.cat(noise).to(where)

    scheduler.set_timesteps(cfg.steps, device=where)  # also forgets the previous batch
    states = torch.cat([negative.expand_as(positive), positive])
    accepted = inspect.signature(scheduler.step).parameters
    options = {"eta": cfg.eta} if "eta" in accepted else {}
    dependent = "variance_noise" in accepted and cfg.eta > 0
    if "generator" in accepted and not dependent:
        options["generator"] = generators
    latents = draw() * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        with training.precision(where):
            prediction = unet(torch.cat([scaled, scaled]), timestep, states)
        if dependent:
            options["variance_noise"] = draw()
        guided = diffusion.guide(prediction.float(), cfg.guidance_scale)
        latents = scheduler.step(guided, timestep, latents, **options).prev_sample
    return latents


def decode(vae: AutoencoderKL, latents: torch.Tensor) -> np.ndarray:
    """Latents (B, F, C, h, w) -> frames (B, F, H, W, 3) uint8, rounded and clipped."""
    scaled = latents.flatten(0, 1).contiguous(memory_format=torch.channels_last) / vae.config.scaling_factor
    pixels = torch.cat([vae.decode(part).sample for part in scaled.split(DECODED)])
    pixels = ((pixels + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).unflatten(0, latents.shape[:2]).cpu().numpy()


class Partial:
    """Clips sampled so far, in a scratch file that a stopped run leaves for the next.

    Parameters
    ----------
    file : .npy in the scratch folder
    shape : (N, F, H, W, 3) of the whole
    settings : what the clips depend on; a file made under others is begun anew
    """

    def __init__(self, file: Path, shape: tuple[int, ...], settings: dict):
        self.file, self.note = file, file.with_suffix(".json")
        self.settings = {**settings, "shape": list(shape)}
        file.parent.mkdir(parents=True, exist_ok=True)
        self.done = 0
        if file.exists() and self.note.exists():
            note = load_json(self.note)
            self.done = note["done"] if note["settings"] == self.settings else 0
        mode = "r+" if self.done else "w+"
        self.array = np.lib.format.open_memmap(file, mode, np.uint8, shape)  # r+ takes the shape from the file

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yield the indices (B,) of the clips still to sample."""
        total = len(self.array)
        with tqdm(total=total, initial=self.done, desc="sampling", unit="clip", mininterval=2) as bar:
            for start in range(self.done, total, size):
                yield np.arange(start, min(start + size, total))
                bar.update(self.done - bar.n)

    def write(self, clips: np.ndarray, frames: np.ndarray) -> None:
        """Keep a batch: frames (B, F, H, W, 3) uint8."""
        self.array[clips] = frames
        self.array.flush()
        self.done = int(clips[-1]) + 1
        save_json(self.note, {"done": self.done, "settings": self.settings})

    def finish(self, out: Path) -> None:
        """Move the whole file to its place."""
        del self.array
        with atomic(out) as path:
            shutil.move(self.file, path)  # scratch may be another file system
        self.note.unlink()


def film(*, clips: Path, frames: list[Path], out: Path, fps: float) -> None:
    """Write a film of all clips: what was seen on the left, the reconstruction on the right.

    `clips` is an array of stage sampling, (N, F, H, W, 3), `frames` the test segments' stimuli in the same order.
    """
    made, seen = load_array(clips), [load_array(path) for path in frames]
    count = sum(len(segment) for segment in seen)
    if count != len(made) or any(segment.shape[1:] != made.shape[1:] for segment in seen):
        raise InputError(
            f"{clips}: shape {made.shape} does not fit --frames: {count} clips of shapes "
            f"{sorted({segment.shape[1:] for segment in seen})}; "
            "give the stimuli of all test segments, in the sample sheet's order"
        )
    left = (frame for segment in seen for clip in segment for frame in clip)
    right = (frame for clip in made for frame in clip)
    write_mp4(out, (np.concatenate(pair, 1) for pair in zip(left, right, strict=True)), fps)


def _check(
    brain: FmriEncoder, unet: VideoUNet, null: torch.Tensor, latent_shape: tuple[int, ...], settings: Encoder
) -> None:
    """The parts must fit before anything is sampled."""
    found = (brain.config["window"], brain.config["tokens"], brain.config["token_width"])
    expected = (settings.window, *null.shape)
    if found != expected:
        raise InputError(
            f"sampling: the encoder has (window, tokens, token_width) {found}, expected {expected} from "
            "encoder.window and the empty caption's states; correct section encoder and rerun cotrain"
        )
    if latent_shape[1] != unet.unet.config.in_channels:
        raise InputError(
            f"sampling: latents have {latent_shape[1]} channels, the UNet takes {unet.unet.config.in_channels}; "
            "rerun targets"
        )


def _stamp(path: Path) -> list:
    """Name, size and time of a file (of the weights, if a model's folder), to notice that it was made anew."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
