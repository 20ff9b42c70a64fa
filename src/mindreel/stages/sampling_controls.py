"""Controls of stage sampling that show training clips as they are: the nearest one by decoding, and any one."""

from pathlib import Path

import numpy as np

from mindreel.artifacts import atomic, load_array
from mindreel.config import Encoder
from mindreel.errors import InputError

BATCH = 64  # windows encoded at once


def retrieve(
    *, contrastive: Path, bold: Path, targets: list[Path], frames: list[Path], out: Path, encoder: Encoder
) -> None:
    """For every test clip the training clip whose CLIP image embedding is nearest to the decoded one.

    Decoded is the embedding of the subject's encoder after contrastive learning: co-training fits the tokens to the
    generator and leaves their mean no reason to stay in CLIP space. Nearest is the largest cosine, mean over the
    training clip's frames; clips of all training segments are looked at, and nothing is fitted.

    Parameters
    ----------
    contrastive : folder of stage contrastive
    bold : the subject's test.npy, (S, T, V)
    targets : folders of stage targets of the training segments; read is image.npy (T, F, views, D), view 0
    frames : their stimuli in the same order, (T, F, H, W, 3) uint8
    out : (N, F, H, W, 3) uint8, N = S T

    Raises
    ------
    InputError
        If targets and frames do not belong together, or the encoder's embedding has another width.
    """
    movies = _movies(frames)
    bank = [load_array(folder / "image.npy") for folder in targets]
    if [array.shape[:2] for array in bank] != [movie.shape[:2] for movie in movies]:
        raise InputError(
            f"--targets, --frames: found (T, F) {[a.shape[:2] for a in bank]} and {[m.shape[:2] for m in movies]}; "
            "give both of the same training segments, in the same order"
        )
    known = np.concatenate([np.asarray(array[:, :, 0], np.float32).mean(1) for array in bank])  # (M, D)
    decoded = _decode(contrastive, load_array(bold), encoder)
    if decoded.shape[1] != known.shape[1]:
        raise InputError(
            f"{contrastive}: found embeddings of width {decoded.shape[1]}, those of the targets have {known.shape[1]}; "
            "rerun targets and contrastive"
        )
    _write(out, movies, nearest(decoded, known))


def draw(*, frames: list[Path], true: list[Path], subject: str, seed: int, out: Path) -> None:
    """For every test clip a training clip drawn at random, each by itself.

    Parameters
    ----------
    frames : stimuli of the training segments, (T, F, H, W, 3) uint8
    true : stimuli of the test segments, of which only the number of clips is used
    subject, seed : what is drawn depends on these
    out : (N, F, H, W, 3) uint8
    """
    movies = _movies(frames)
    rng = np.random.default_rng([seed, *subject.encode()])
    _write(out, movies, rng.integers(sum(map(len, movies)), size=sum(len(load_array(path)) for path in true)))


def nearest(decoded: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the known embeddings has the largest cosine: (N, D), (M, D) to (N,) int; the first of equals.

    A known embedding may be the mean of several of norm 1: then its product is their mean cosine.
    """
    return (decoded @ known.T).argmax(1)


def _decode(contrastive: Path, series: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Embeddings (N, D) float32 of the windows of fMRI (S, T, V)."""
    import torch

    from mindreel.networks.fmri_encoder import FmriEncoder, window_batch

    fmri_encoder = FmriEncoder.from_pretrained(contrastive).requires_grad_(False)
    segment, volume = np.divmod(np.arange(series.shape[0] * series.shape[1]), series.shape[1])
    found = []
    with torch.inference_mode():
        for start in range(0, len(segment), BATCH):
            rows = slice(start, start + BATCH)
            window = window_batch(series, segment[rows], volume[rows], encoder.window, encoder.shift)
            found.append(fmri_encoder.pool(fmri_encoder(window)).numpy())
    return np.concatenate(found)


def _movies(frames: list[Path]) -> list[np.ndarray]:
    """Open stimuli (T, F, H, W, 3) uint8, all of one kind of clip."""
    movies = [load_array(path) for path in frames]
    shapes = {movie.shape[1:] for movie in movies}
    if len(shapes) != 1:
        raise InputError(
            f"--frames: found clips of shapes {sorted(shapes)}, expected those of at least one training segment, all "
            "alike; rerun stimuli"
        )
    return movies


def _write(out: Path, movies: list[np.ndarray], which: np.ndarray) -> None:
    """Write clips by their numbers (N,) over all movies, one at a time."""
    ends = np.cumsum([len(movie) for movie in movies])
    with atomic(out) as path:
        whole = np.lib.format.open_memmap(path, "w+", np.uint8, (len(which), *movies[0].shape[1:]))
        for row, clip in enumerate(which):
            movie = int(np.searchsorted(ends, clip, side="right"))
            whole[row] = movies[movie][clip - (ends[movie] - len(movies[movie]))]
        whole.flush()
        del whole
