"""A whole test segment, or a stretch of it, reconstructed as one movie (`mindreel sampling segment-movie`)."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindreel.artifacts import load_array
from mindreel.errors import InputError
from mindreel.sections import Encoder, Sampling
from mindreel.stages.sampling import Partial, stamp
from mindreel.video import beside, write_mp4

if TYPE_CHECKING:
    from mindreel.diffusion.conditioning import Source


def segment_movie(
    *,
    cotrained: Path,
    model: Path,
    bold: Path,
    train_bold: Path,
    empty: Path,
    frames: Path,
    subject: str,
    segment: int,
    out: Path,
    scratch: Path,
    encoder: Encoder,
    cfg: Sampling,
    fps: float,
    first: int = 0,
    last: int | None = None,
) -> None:
    """Reconstruct a test segment as one movie; what was seen on the left, the reconstruction on the right.

    Windows of a clip's length share `cfg.overlap` frames with their neighbours and are blended in latent space at every
    step. With overlap 0 the movie is cut at every volume and shows the very clips that `sample` makes. A run that was
    stopped goes on at the next batch of windows.

    Parameters
    ----------
    cotrained : Path
        Folder of stage cotrain: encoder/, unet/.
    model : Path
        Stable Diffusion's folder: vae/, scheduler/.
    bold : Path
        The subject's test.npy and train.npy, (S, T, V) float32.
    train_bold : Path
        The subject's test.npy and train.npy, (S, T, V) float32.
    empty : Path
        Targets folder of any segment: empty.npy, and the shape of its latents.
    frames : Path
        The segment's stimulus, (T, F, H, W, 3) uint8.
    subject : str
        The subject's name: every subject has its own noise.
    segment : int
        The segment's number in test.npy, from 0.
    out : Path
        Movie, .mp4.
    scratch : Path
        Folder of what was predicted so far: steps x windows x the latents of a clip, float32.
    encoder : Encoder
        Section encoder: window and shift.
    cfg : Sampling
        Section sampling, whole.
    fps : float
        Frames per second of the movie.
    first : int
        First and last volume; all of the segment, unless named.
    last : int
        First and last volume; all of the segment, unless named.

    Raises
    ------
    InputError
        If what is given does not belong together.
    """
    from mindreel.diffusion.conditioning import from_fmri

    true = load_array(frames)
    last = len(true) - 1 if last is None else last
    if not 0 <= first <= last < len(true):
        raise InputError(
            f"--first, --last: found {first}, {last}, expected volumes of the segment, 0 to {len(true) - 1}"
        )
    if cfg.overlap >= true.shape[1]:
        raise InputError(
            f"sampling.overlap: found {cfg.overlap}, expected less than the {true.shape[1]} frames of a clip"
        )
    source = from_fmri(cotrained, bold, train_bold, empty, encoder, cfg)
    if (len(true), true.shape[1]) != (source.volumes, source.shape[0]) or segment not in range(source.segments):
        raise InputError(
            f"{frames}: shape {true.shape} and --segment {segment} do not fit {bold}: {source.segments} segments of "
            f"{source.volumes} volumes, {source.shape[0]} frames each"
        )
    clips = np.arange(first, last + 1) + segment * source.volumes
    inputs = (cotrained / "encoder", cotrained / "unet", empty / "empty.npy", bold, train_bold)
    settings = {
        "cfg": cfg.model_dump(mode="json", exclude={"batch_size", "controls", "samples", "shard"}),
        "encoder": encoder.model_dump(mode="json"),
        "clips": clips.tolist(),
        "subject": subject,
        "inputs": [stamp(path) for path in inputs],
    }
    made, partial = _sampled(source, model, clips, subject, scratch / f"{out.stem}.npy", settings, cfg)
    left = (frame for clip in true[first : last + 1] for frame in clip)
    write_mp4(out, beside(left, (frame for clip in made for frame in clip)), fps)
    partial.discard()


def _sampled(
    source: "Source", model: Path, clips: np.ndarray, subject: str, file: Path, settings: dict, cfg: Sampling
) -> tuple[np.ndarray, Partial]:
    """Sample successive clips (T,) by overlapping windows: (T, F, H, W, 3) uint8, and the file of what is kept."""
    import torch

    from mindreel.diffusion import sampler

    scheduler, vae = sampler.make_scheduler(model, cfg.scheduler), sampler.load_vae(model)
    noise = [sampler.clip_generator(cfg.seed, subject, clip) for clip in clips]
    batches = np.split(clips, range(cfg.batch_size, len(clips), cfg.batch_size))
    scheduler.set_timesteps(cfg.steps)
    windows = len(sampler.window_starts(len(clips), source.shape[0], cfg.overlap))
    partial = Partial(file, (len(scheduler.timesteps) * windows, *source.shape), settings, np.float32)
    with torch.inference_mode():
        positive = torch.cat([source.states(batch) for batch in batches])
        guidance, windowing = (source.negative, cfg.guidance_scale), (cfg.overlap, cfg.batch_size)
        prediction = sampler.overlapping_windows(
            source.generator, positive, *guidance, *windowing, partial.remembering()
        )
        latents = sampler.denoise(prediction, scheduler, source.shape, noise, cfg, positive.device)
        return sampler.decode(vae, latents), partial
