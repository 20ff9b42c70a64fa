"""Stage sampling: test fMRI to clips, with adversarial guidance (MinD-Video 3.4, Eq. 6).

torch is imported where it is used: gathering and filming do without.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mindreel import controls
from mindreel.artifacts import atomic, load_array, load_json, save_json
from mindreel.errors import InputError
from mindreel.sections import Encoder, Sampling
from mindreel.video import beside, write_mp4

if TYPE_CHECKING:
    import torch

    from mindreel.diffusion.conditioning import Source


def sample(
    *,
    cotrained: Path,
    model: Path,
    bold: Path,
    train_bold: Path,
    empty: Path,
    subject: str,
    control: str,
    out: Path,
    scratch: Path,
    encoder: Encoder,
    cfg: Sampling,
    segments: list[int] | None = None,
) -> None:
    """Reconstruct the clips of test volumes.

    A clip's noise depends on cfg.seed, the subject, the clip and which sample it is, and on nothing else. A run that
    was stopped goes on at the next batch.

    Parameters
    ----------
    cotrained : Path
        Folder of stage cotrain: encoder/, unet/.
    model : Path
        Folder in Stable Diffusion's layout: vae/, scheduler/.
    bold : Path
        The subject's test.npy and train.npy, (S, T, V) float32.
    train_bold : Path
        The subject's test.npy and train.npy, (S, T, V) float32.
    empty : Path
        Targets folder of any segment: empty.npy, and the shape of its latents.
    subject : str
        The subject's name: every subject has its own noise.
    control : str
        What the clips are made from: fmri, shuffled or mean; fmri_2, fmri_3, … are further samples.
    out : Path
        (N, F, H, W, 3) uint8, N = T per segment; values are rounded, not truncated as in the released code.
    scratch : Path
        Folder of the clips made so far.
    encoder : Encoder
        Section encoder of the experiment.
    cfg : Sampling
        Section sampling of the experiment.
    segments : list of int
        Test segments by their numbers in test.npy, from 0; all, unless named.
    """
    from mindreel.diffusion.conditioning import from_fmri

    name, sample_number = which_sample(control, "fmri")
    source = from_fmri(cotrained, bold, train_bold, empty, encoder, cfg, name)
    inputs = (cotrained / "encoder", cotrained / "unet", model / "vae", empty / "empty.npy", bold, train_bold)
    settings = {"encoder": encoder.model_dump(mode="json"), "inputs": [stamp(path) for path in inputs]}
    _sample(source, model, subject, name, sample_number, segments, out, scratch, cfg, settings)


def captions(
    *,
    generator: Path,
    model: Path,
    targets: list[Path],
    control: str,
    out: Path,
    scratch: Path,
    cfg: Sampling,
    segments: list[int] | None = None,
) -> None:
    """Sample the clips of the test captions: the ceiling, what the generator shows of a clip that it is told in words.

    Guidance pushes away from the empty caption. No subject comes into it. All else is as in `sample`.

    Parameters
    ----------
    generator : Path
        Folder of stage generator.
    model : Path
        Folder in Stable Diffusion's layout: vae/, scheduler/.
    targets : list of Path
        Folders of stage targets of the test segments.
    control : str
        text; text_2, text_3, … are further samples.
    out : Path
        (N, F, H, W, 3) uint8.
    scratch : Path
        Folder of the clips made so far.
    cfg : Sampling
        Section sampling of the experiment.
    segments : list of int
        Test segments by their numbers, from 0; all, unless named.
    """
    from mindreel.diffusion.conditioning import from_captions

    name, sample_number = which_sample(control, "captions")
    source = from_captions(generator, targets, cfg)
    inputs = (generator, model / "vae", *(folder / "states.npy" for folder in targets))
    settings = {"inputs": [stamp(path) for path in inputs]}
    _sample(source, model, "", name, sample_number, segments, out, scratch, cfg, settings)


def which_sample(control: str, source: str) -> tuple[str, int]:
    """What of a source is sampled, and the how-manieth sample of it: fmri -> fmri, 1; fmri_2 -> fmri, 2."""
    known = [name for name, each in controls.CONDITIONS.items() if each.source == source]
    found = re.fullmatch(r"([a-z]+)(?:_([2-9]|[1-9]\d+))?", control)
    if found is None or found[1] not in known:
        raise InputError(
            f"--control: found {control!r}, expected one of {', '.join(known)}, or for further samples "
            f"{known[0]}_2, {known[0]}_3, …"
        )
    return found[1], int(found[2] or 1)


def _sample(
    source: "Source",
    model: Path,
    subject: str,
    control: str,
    sample_number: int,
    segments: list[int] | None,
    out: Path,
    scratch: Path,
    cfg: Sampling,
    settings: dict,
) -> None:
    """Sample what a job is asked for, batch by batch."""
    from mindreel.diffusion import sampler

    if wrong := [number for number in segments or [] if number not in range(source.segments)]:
        raise InputError(f"--segments: found {wrong}, there are {source.segments} test segments, counted from 0")
    asked = range(source.segments) if segments is None else segments
    clips = np.concatenate([np.arange(source.volumes) + number * source.volumes for number in asked])
    scheduler, vae = sampler.make_scheduler(model, cfg.scheduler), sampler.load_vae(model)
    frames, _, *size = source.shape
    enlarged = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (len(clips), frames, *(side * enlarged for side in size), 3)
    own = cfg.model_dump(mode="json", exclude={"batch_size", "controls", "samples", "shard", "overlap"})
    settings = {
        "cfg": own,
        "subject": subject,
        "control": control,
        "sample_number": sample_number,
        "clips": clips.tolist(),
        **settings,
    }
    partial = Partial(scratch / out.name, shape, settings)
    for rows in partial.batches(cfg.batch_size):
        partial.write(rows, sampler.make_clips(source, vae, scheduler, clips[rows], subject, sample_number, cfg))
    partial.finish(out)


class Partial:
    """Clips sampled so far, in a scratch file that a stopped run leaves for the next.

    Parameters
    ----------
    file : Path
        .npy in the scratch folder.
    shape : (N, F, H, W, 3)
        Of the whole.
    settings : dict
        What the clips depend on; a file made under others is begun anew.
    kind : type[np.generic]
        Of the numbers.
    """

    def __init__(self, file: Path, shape: tuple[int, ...], settings: dict, kind: type[np.generic] = np.uint8):
        self.file, self.note = file, file.with_suffix(".json")
        self.settings = {**settings, "shape": list(shape)}
        file.parent.mkdir(parents=True, exist_ok=True)
        self.done = 0
        if file.exists() and self.note.exists():
            note = load_json(self.note)
            self.done = note["done"] if note["settings"] == self.settings else 0
        mode = "r+" if self.done else "w+"
        self.array = np.lib.format.open_memmap(file, mode, kind, shape)  # r+ takes the shape from the file

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yield the rows (B,) still to sample."""
        total = len(self.array)
        with tqdm(total=total, initial=self.done, desc="sampling", unit="clip", mininterval=2) as bar:
            for start in range(self.done, total, size):
                yield np.arange(start, min(start + size, total))
                bar.update(self.done - bar.n)

    def write(self, rows: np.ndarray, frames: np.ndarray) -> None:
        """Keep a batch: frames (B, F, H, W, 3) uint8."""
        self.array[rows] = frames
        self.array.flush()
        self.done = int(rows[-1]) + 1
        save_json(self.note, {"done": self.done, "settings": self.settings})

    def finish(self, out: Path) -> None:
        """Move the whole file to its place."""
        del self.array
        with atomic(out) as path:
            shutil.move(self.file, path)  # scratch may be another file system
        self.note.unlink()

    def remembering(self) -> Callable[[int, Callable[[], "torch.Tensor"]], "torch.Tensor"]:
        """A function that fetches rows in order: those of the stopped run, then newly made ones, which are kept.

        It takes how many rows and what makes them, (B, ...) float32.
        """
        import torch

        bar, asked = tqdm(total=len(self.array), initial=self.done, unit="window", mininterval=2), 0

        def rows(count: int, make: Callable[[], torch.Tensor]) -> torch.Tensor:
            nonlocal asked
            asked += count
            if asked <= self.done:
                return torch.from_numpy(self.array[asked - count : asked].copy())
            made = make()
            self.write(np.arange(asked - count, asked), made.cpu().numpy())
            bar.update(asked - bar.n)
            return made

        return rows

    def discard(self) -> None:
        """Remove the file: what it was kept for is in place."""
        del self.array
        self.file.unlink()
        self.note.unlink()


def gather(*, shards: list[Path], out: Path) -> None:
    """Put the clips of several jobs into one array, in the order given.

    Parameters
    ----------
    shards : list of Path
        (n, F, H, W, 3) uint8 each.
    out : Path
        (N, F, H, W, 3) uint8.
    """
    parts = [load_array(path) for path in shards]
    for path, part in zip(shards, parts, strict=True):
        if part.shape[1:] != parts[0].shape[1:]:
            raise InputError(f"{path}: found clips of shape {part.shape[1:]}, those before have {parts[0].shape[1:]}")
    with atomic(out) as path:
        whole = np.lib.format.open_memmap(path, "w+", np.uint8, (sum(map(len, parts)), *parts[0].shape[1:]))
        start = 0
        for part in parts:
            whole[start : start + len(part)] = part
            start += len(part)
        whole.flush()
        del whole


def film(*, clips: Path, frames: list[Path], out: Path, fps: float) -> None:
    """Write a film of all clips: what was seen on the left, the reconstruction on the right.

    Parameters
    ----------
    clips : Path
        Array of stage sampling, (N, F, H, W, 3) uint8.
    frames : list of Path
        Stimuli of the test segments in the same order, (T, F, H, W, 3) uint8.
    out : Path
        Movie, .mp4.
    fps : float
        Frames per second.
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
    write_mp4(out, beside(left, right), fps)


def stamp(path: Path) -> list:
    """Name, size and time of a file (of the weights, if a model's folder), to notice that it was made anew."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
