"""The pairs of contrastive learning: windows of fMRI, and CLIP's embeddings of what was shown; how batches are drawn.

Clip n is volume n % T of row n // T; N = S T clips of F frames, K cached views of a frame or caption, view 0 unaltered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mindreel.artifacts import load_array
from mindreel.errors import InputError
from mindreel.learning import loop
from mindreel.networks.fmri_encoder import windows
from mindreel.scoring.scene_cuts import scenes
from mindreel.sections import Contrastive, Encoder

MODALITIES = ("image", "text")


@dataclass(frozen=True)
class Pairs:
    """All clips, in memory or memory-mapped.

    Attributes
    ----------
    learned, held_out : clips to learn from, and clips kept out (int64).
    similar : (N, N) bool, see `similar_clips`.
    middle : per modality (N, E) float32, the unaltered view of the middle frame.
    views : F and K of every modality to be met.
    volumes : (N, W) int64, which of all S T volumes a clip's window holds.
    """

    learned: np.ndarray
    held_out: np.ndarray
    similar: np.ndarray
    middle: dict[str, np.ndarray]
    voxels: int
    views: dict[str, tuple[int, int]]
    volumes: np.ndarray
    fetch_volumes: Callable[[np.ndarray], torch.Tensor]
    fetch_views: dict[str, Callable[[np.ndarray], torch.Tensor]]

    def windows(self, clips: np.ndarray) -> torch.Tensor:
        """(n,) int -> (n, W, V) float32."""
        return self.fetch_volumes(self.volumes[clips])

    def embeddings(self, rows: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """What `draw_views` chose: per modality (n, E) float32."""
        return {name: self.fetch_views[name](rows[name]) for name in rows}


def open_pairs(
    bold: Path, targets: list[Path], frames: list[Path], encoder: Encoder, cfg: Contrastive, device: torch.device
) -> Pairs:
    """Open a subject's train.npy (S, T, V), the S rows' targets and movies.

    Raises
    ------
    InputError
        If they do not fit one another.
    """
    series = load_array(bold)
    banks = {name: [load_array(Path(folder) / f"{name}.npy") for folder in targets] for name in MODALITIES}
    _check(series, banks, targets, frames, encoder.token_width)
    first = series.shape[1] * np.arange(len(series))
    learned, held_out = split(targets, series.shape[1], cfg.held_out)
    middle = {
        name: np.concatenate([array[:, array.shape[1] // 2, 0] for array in bank]) for name, bank in banks.items()
    }
    flat = {name: np.concatenate([a.reshape(-1, a.shape[-1]) for a in banks[name]]) for name in cfg.modalities}
    return Pairs(
        learned=learned,
        held_out=held_out,
        similar=similar_clips(middle["image"], cfg.similarity_limit, scene_numbers(frames, cfg.scene_cut)),
        middle=middle,
        voxels=series.shape[2],
        views={name: banks[name][0].shape[1:3] for name in cfg.modalities},
        volumes=(windows(series, encoder.window, encoder.shift) + first[:, None, None]).reshape(-1, encoder.window),
        fetch_volumes=loop.fetcher(series.reshape(-1, series.shape[2]), device),
        fetch_views={name: loop.fetcher(array, device) for name, array in flat.items()},
    )


def split(targets: list[Path], volumes: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips to learn from, and those of the last `held_out` segments, which may have several rows (repeats).

    Parameters
    ----------
    targets : list of Path
        Of every row.
    """
    segments = list(dict.fromkeys(targets))
    if held_out >= len(segments):
        raise InputError(
            f"contrastive.held_out: found {held_out} of {len(segments)} training segments, expected fewer; lower it"
        )
    kept = set(segments[: len(segments) - held_out])
    learned = np.repeat([folder in kept for folder in targets], volumes)
    return np.flatnonzero(learned), np.flatnonzero(~learned)


def scene_numbers(frames: list[Path], cut: float) -> np.ndarray:
    """The scene of every clip, (N,) int; rows with the same movie have the same scenes."""
    numbers: dict[Path, np.ndarray] = {}
    for path in frames:
        if path not in numbers:
            start = max((last.max() + 1 for last in numbers.values()), default=0)
            numbers[path] = start + scenes(load_array(path), cut)
    return np.concatenate([numbers[path] for path in frames])


def similar_clips(embeddings: np.ndarray, limit: float, scene: np.ndarray) -> np.ndarray:
    """Which clips are too alike to be each other's negatives: of one scene, or alike to CLIP.

    Parameters
    ----------
    embeddings : (N, E) float32
        L2-normalised.
    limit : float
        Cosine above which two clips are alike.
    scene : (N,)
        Int.

    Returns
    -------
    (N, N) bool; True on the diagonal.
    """
    similar = embeddings @ embeddings.T > limit
    similar |= scene[:, None] == scene
    return similar


def draw_batch(similar: np.ndarray, clips: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw some of `clips`, no two alike, greedily in random order; once none is left, any others.

    Clips that had to be taken although they are alike are not used as each other's negatives (`duplicates`).

    Parameters
    ----------
    similar : (N, N)
        Bool.

    Returns
    -------
    (count,) int64, all different.
    """
    order = rng.permutation(clips)
    free = np.ones(len(similar), bool)
    chosen: list[int] = []
    for clip in order:
        if free[clip]:
            chosen.append(clip)
            free &= ~similar[clip]
        if len(chosen) == count:
            return np.array(chosen)
    rest = order[~np.isin(order, chosen)]
    return np.concatenate([np.array(chosen, np.int64), rest[: count - len(chosen)]])


def duplicates(similar: np.ndarray, clips: np.ndarray) -> torch.Tensor:
    """Pairs of a batch that are alike without being the same: (B, B) bool."""
    alike = torch.from_numpy(similar[np.ix_(clips, clips)])
    return alike.fill_diagonal_(False)


def held_out_targets(
    pairs: Pairs, limit: float, device: torch.device
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the n held-out clips are to be found by.

    Parameters
    ----------
    limit : float
        Cosine of two targets above which they are not told apart; nor are those of one scene.

    Returns
    -------
    targets : per modality (n, E) float32, L2-normalised.
    ignored : per modality (n, n) bool, False on the diagonal.
    """
    scene = duplicates(pairs.similar, pairs.held_out).to(device)
    targets = {name: torch.from_numpy(middle[pairs.held_out]).to(device) for name, middle in pairs.middle.items()}
    return targets, {name: scene | (t @ t.T > limit).fill_diagonal_(False) for name, t in targets.items()}


def draw_views(
    clips: np.ndarray, views: dict[str, tuple[int, int]], crop_probability: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """One random frame per clip; of it, the whole image or a random crop, and any wording of its caption.

    Parameters
    ----------
    clips : (B,)
        Int.
    views : dict
        F and K of every modality.

    Returns
    -------
    (B,) int64 per modality: rows of the (N F K, E) embeddings.
    """
    frames = next(iter(views.values()))[0]
    frame = rng.integers(frames, size=len(clips))
    rows = {}
    for name, (_, count) in views.items():
        if name == "image":
            crop = rng.random(len(clips)) < crop_probability
            view = np.where(crop & (count > 1), rng.integers(1, max(2, count), size=len(clips)), 0)
        else:
            view = rng.integers(count, size=len(clips))
        rows[name] = (clips * frames + frame) * count + view
    return rows


def _check(
    series: np.ndarray, banks: dict[str, list[np.ndarray]], targets: list[Path], frames: list[Path], width: int
) -> None:
    """Targets must match the fMRI before anything is trained."""
    segments, volumes, _ = series.shape
    if len(targets) != segments or len(frames) != segments:
        raise InputError(
            f"contrastive: {len(targets)} target folders and {len(frames)} movies for {segments} segments of fMRI; "
            "give --targets and --frames once per training segment, in the sample sheet's order"
        )
    for name, bank in banks.items():
        for folder, array in zip(targets, bank, strict=True):
            if array.shape[0] != volumes or array.shape[-1] != width or array.shape[1:3] != bank[0].shape[1:3]:
                raise InputError(
                    f"{folder}/{name}.npy: shape {array.shape}, expected ({volumes}, frames, views, {width}); "
                    "rerun targets, or set encoder.token_width to the width of CLIP's embeddings"
                )
    for path in frames:
        if len(load_array(path)) != volumes:
            raise InputError(f"{path}: {len(load_array(path))} volumes, the fMRI has {volumes}; rerun stimuli")
