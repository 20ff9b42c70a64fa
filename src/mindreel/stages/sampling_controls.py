"""Controls of stage sampling that are clips already: training clips as they are, and the true clips through the VAE.

A function is named as its control (`controls.CONDITIONS`). It takes what the entry there names as inputs. It yields a
clip (F, H, W, 3) uint8 for every test clip, in their order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mindreel import controls
from mindreel.artifacts import atomic, load_array
from mindreel.errors import InputError
from mindreel.sections import Encoder

BATCH = 64  # windows encoded at once


@dataclass(frozen=True)
class Given:
    """What a control may be made from; paths that its entry does not name are empty. As in `control`."""

    subject: str = ""
    seed: int = 0
    encoder: Encoder | None = None
    contrastive: Path = Path()
    bold: Path = Path()
    model: Path = Path()
    train_targets: list[Path] = field(default_factory=list)
    train_frames: list[Path] = field(default_factory=list)
    test_targets: list[Path] = field(default_factory=list)
    test_frames: list[Path] = field(default_factory=list)


def control(
    *,
    control: str,
    test_frames: list[Path],
    out: Path,
    subject: str = "",
    seed: int = 0,
    encoder: Encoder | None = None,
    contrastive: Path | None = None,
    bold: Path | None = None,
    model: Path | None = None,
    train_targets: list[Path] | None = None,
    train_frames: list[Path] | None = None,
    test_targets: list[Path] | None = None,
) -> None:
    """Make the clips of a control that exist already: one for every test clip.

    Parameters
    ----------
    control : str
        Its name: retrieved, random or vae.
    test_frames : list of Path
        Stimuli of the test segments, (T, F, H, W, 3) uint8: how many clips there are, and of which shape.
    out : Path
        (N, F, H, W, 3) uint8, N = sum of T.
    subject : str
        The subject's name; empty where the clips are those of all subjects.
    seed : int
        What is drawn depends on it and on the subject.
    encoder : Encoder
        Section encoder: window and shift of the subject's encoder.
    contrastive : Path
        Folder of stage contrastive.
    bold : Path
        The subject's test.npy, (S, T, V) float32.
    model : Path
        Stable Diffusion's folder (vae/).
    train_targets : list of Path
        Folders of stage targets of the training segments.
    train_frames : list of Path
        Stimuli of the training segments in the same order, (T, F, H, W, 3) uint8.
    test_targets : list of Path
        Folders of stage targets of the test segments, in the order of `test_frames`.

    Raises
    ------
    InputError
        If what is given does not belong together.
    """
    makers = {name: each for name, each in controls.CONDITIONS.items() if each.source == "clips"}
    if control not in makers:
        raise InputError(f"--control: found {control!r}, expected one of {', '.join(makers)}")
    optional = {
        "encoder": encoder, "contrastive": contrastive, "bold": bold, "model": model, "train_targets": train_targets,
        "train_frames": train_frames, "test_targets": test_targets,
    }  # fmt: skip
    if missing := [name for name in makers[control].inputs if not optional[name]]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise InputError(f"--control {control}: give {options} too")
    present: dict[str, Any] = {name: value for name, value in optional.items() if value is not None}
    given = Given(subject=subject, seed=seed, test_frames=test_frames, **present)
    true = [load_array(path) for path in test_frames]
    shape = (sum(map(len, true)), *true[0].shape[1:])
    with atomic(out) as path:
        whole = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        made = 0
        for clip in globals()[control](given):
            if made == len(whole) or clip.shape != whole.shape[1:]:
                raise InputError(
                    f"--control {control}: clip {made} has the shape {clip.shape}, expected {shape[0]} clips of "
                    f"{shape[1:]} as in --test-frames; rerun what they were made from"
                )
            whole[made] = clip
            made += 1
        if made < len(whole):
            raise InputError(f"--control {control}: made {made} clips, --test-frames hold {len(whole)}")
        whole.flush()
        del whole


def retrieved(given: Given) -> Iterator[np.ndarray]:
    """The training clip whose CLIP image embedding is nearest to the decoded one.

    Decoded is the embedding of the subject's encoder after contrastive learning: co-training fits the tokens to the
    generator and leaves their mean no reason to stay in CLIP space. Nearest is the largest cosine, mean over the
    training clip's frames (view 0 of image.npy, (T, F, views, D)). Clips of all training segments are looked at, and
    nothing is fitted.
    """
    movies = _movies(given.train_frames)
    bank = [load_array(folder / "image.npy") for folder in given.train_targets]
    if [array.shape[:2] for array in bank] != [movie.shape[:2] for movie in movies]:
        raise InputError(
            f"--train-targets, --train-frames: found (T, F) {[a.shape[:2] for a in bank]} and "
            f"{[m.shape[:2] for m in movies]}; give both of the same training segments, in the same order"
        )
    embeddings = np.concatenate([np.asarray(array[:, :, 0], np.float32).mean(1) for array in bank])  # (M, D)
    decoded = _decode(given.contrastive, load_array(given.bold), given.encoder)
    if decoded.shape[1] != embeddings.shape[1]:
        raise InputError(
            f"{given.contrastive}: found embeddings of width {decoded.shape[1]}, those of the targets have "
            f"{embeddings.shape[1]}; rerun targets and contrastive"
        )
    return _by_number(movies, nearest(decoded, embeddings))


def random(given: Given) -> Iterator[np.ndarray]:
    """A training clip drawn at random, each by itself."""
    movies = _movies(given.train_frames)
    rng = np.random.default_rng([given.seed, *given.subject.encode()])
    count = sum(len(load_array(path)) for path in given.test_frames)
    return _by_number(movies, rng.integers(sum(map(len, movies)), size=count))


def vae(given: Given) -> Iterator[np.ndarray]:
    """The true clip as the VAE shows it: its latents (of stage targets), decoded."""
    import torch

    from mindreel.device import this_device
    from mindreel.diffusion import sampler

    decoder = sampler.load_vae(given.model)
    for folder in given.test_targets:
        for clip in load_array(folder / "latents.npy"):  # (F, C, h, w)
            latents = torch.from_numpy(np.asarray(clip, np.float32))[None].to(this_device())
            with torch.inference_mode():
                frames = sampler.decode(decoder, latents)
            yield frames[0]


def nearest(decoded: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Which embedding has the largest cosine: (N, D), (M, D) to (N,) int; the first of equals.

    An embedding may be the mean of several of norm 1: then its product is their mean cosine.
    """
    return (decoded @ embeddings.T).argmax(1)


def _decode(contrastive: Path, series: np.ndarray, encoder: Encoder | None) -> np.ndarray:
    """Embeddings (N, D) float32 of the windows of fMRI (S, T, V)."""
    import torch

    from mindreel.device import this_device
    from mindreel.networks.fmri_encoder import FmriEncoder, window_batch

    if encoder is None:
        raise InputError("--control retrieved: give --encoder too")
    device = this_device()
    fmri_encoder = FmriEncoder.from_pretrained(contrastive).requires_grad_(False).to(device)
    segment, volume = np.divmod(np.arange(series.shape[0] * series.shape[1]), series.shape[1])
    pooled = []
    with torch.inference_mode():
        for start in range(0, len(segment), BATCH):
            rows = slice(start, start + BATCH)
            window = window_batch(series, segment[rows], volume[rows], encoder.window, encoder.shift).to(device)
            pooled.append(fmri_encoder.pool(fmri_encoder(window)).cpu().numpy())
    return np.concatenate(pooled)


def _movies(frames: list[Path]) -> list[np.ndarray]:
    """Open stimuli (T, F, H, W, 3) uint8, all of one kind of clip."""
    movies = [load_array(path) for path in frames]
    shapes = {movie.shape[1:] for movie in movies}
    if len(shapes) != 1:
        raise InputError(
            f"--train-frames: found clips of shapes {sorted(shapes)}, expected those of at least one training segment, "
            "all alike; rerun stimuli"
        )
    return movies


def _by_number(movies: list[np.ndarray], which: np.ndarray) -> Iterator[np.ndarray]:
    """Yield clips by their numbers (N,) over all movies."""
    ends = np.cumsum([len(movie) for movie in movies])
    for clip in which:
        movie = int(np.searchsorted(ends, clip, side="right"))
        yield movies[movie][clip - (ends[movie] - len(movies[movie]))]
