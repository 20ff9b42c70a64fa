"""Look for what the test set shows that was already in the training movies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from mindreel import artifacts
from mindreel.errors import InputError
from mindreel.scoring.scene_cuts import scenes
from mindreel.sections import Audit

ROWS = 256  # test frames compared at once
BLANK = 4 / 255  # a thumbnail with less contrast (standard deviation) is a blank picture and no evidence of anything

SPANNING = ["segment", "scene", "first", "last", "why", "where", "rms"]


def leaks(
    *,
    train_frames: list[Path],
    test_frames: list[Path],
    train_targets: list[Path],
    test_features: Path,
    out: Path,
    cfg: Audit,
) -> None:
    """Look for every test frame among all training frames, and for scenes that span the split.

    Two frames are the same picture if their thumbnails differ by at most `cfg.pixel_limit`, and have the same content
    if the cosine of their CLIP embeddings is at least `cfg.clip_limit`. The first finds copies, also resized or
    recompressed ones; the second also the same thing filmed again, which need not be a leak. How near the nearest
    frame of another scene of the test set itself is stands beside it, as the measure of what is ordinary in these
    movies. A scene spans the split if a frame of it is also a training frame, or if a training segment ends (starts)
    with the picture with which it starts (ends): no further from it than three quarters of the neighbouring frames
    within scenes are.

    Parameters
    ----------
    train_frames : list of Path
        (T, F, H, W, 3) uint8, one per segment.
    test_frames : list of Path
        (T, F, H, W, 3) uint8, one per segment.
    train_targets : list of Path
        What stage targets made of each training segment: image.npy (T, F, views, E), view 0 the whole frame, norm
        1.
    test_features : Path
        What stage features made of the test segments: SEGMENT/clip.npy (T, F, E), norm 1.
    out : Path
        Folder of

        - clips.tsv: per test clip its segment, volume, scene; the most similar training frame in pixels (pixel_rms,
          pixel_segment, pixel_volume, pixel_frame) and in content (clip_cosine, ...); how near other test scenes come
          (ordinary_rms, ordinary_cosine); same_picture, same_content (0 or 1)
        - scenes.tsv: the test scenes that span the split (segment, scene, first, last volume, why, where, rms)
        - summary.json: shares of clips, numbers of scenes, medians, limits
    cfg : Audit
        Section audit of the configuration.

    Raises
    ------
    InputError
        If frames and embeddings do not belong together, or there is nothing to compare.
    """
    if not train_frames or not test_frames:
        raise InputError("audit: found no training or no test segments; give the stimuli of both")
    train = [
        _segment(path, artifacts.load_array(targets / "image.npy")[:, :, 0], cfg)
        for path, targets in zip(train_frames, train_targets, strict=True)
    ]
    test = [_segment(path, artifacts.load_array(test_features / path.stem / "clip.npy"), cfg) for path in test_frames]
    index = _index(test_frames, test)
    clips = pd.concat([index, _nearest(test, train, train_frames, index["scene"].to_numpy(), cfg)], axis=1)
    spanning = [*_shared(clips), *_continued(test, train, test_frames, train_frames, index)]
    spanning = pd.DataFrame(spanning, columns=SPANNING)
    with artifacts.atomic(out) as folder:
        artifacts.save_table(folder / "clips.tsv", clips)
        artifacts.save_table(folder / "scenes.tsv", spanning)
        artifacts.save_json(folder / "summary.json", _summary(clips, spanning, train, cfg))


def thumbnails(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames (N, H, W, 3) uint8, averaged to (N, side * side * 3) float32 from 0 to 1."""
    from PIL import Image

    small = [
        np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize((side, side), Image.Resampling.BOX))
        for frame in frames
    ]
    return np.stack(small).reshape(len(frames), -1).astype(np.float32) / 255


def nearest_pixels(frames: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square difference to the nearest of the others, and which it is: (N, D), (M, D) to (N,), (N,)."""
    products = frames @ others.T
    squares = (frames**2).sum(1)[:, None] - 2 * products + (others**2).sum(1)
    which = squares.argmin(1)
    return np.sqrt(np.square(frames - others[which]).mean(1)), which  # the expansion above loses the last digits


def nearest_content(frames: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine to the most similar of the others, and which it is: (N, E), (M, E) of norm 1 to (N,), (N,)."""
    similarity = frames @ others.T
    which = similarity.argmax(1)
    return similarity[np.arange(len(frames)), which], which


def _segment(frames: Path, embedded: np.ndarray, cfg: Audit) -> dict[str, np.ndarray]:
    """Thumbnails (T, F, D), embeddings (T, F, E) and scenes (T,) of a segment."""
    pictures = artifacts.load_array(frames)
    if pictures.shape[:2] != embedded.shape[:2]:
        raise InputError(
            f"{frames}: found (T, F) = {pictures.shape[:2]}, but CLIP embeddings of {embedded.shape[:2]}; rerun "
            "targets and features"
        )
    flat = thumbnails(pictures.reshape(-1, *pictures.shape[2:]), cfg.thumbnail)
    return {
        "pixels": flat.reshape(*pictures.shape[:2], -1),
        "content": np.asarray(embedded, np.float32),
        "scene": scenes(pictures, cfg.scene_cut),
    }


def _index(paths: list[Path], test: list[dict[str, np.ndarray]]) -> pd.DataFrame:
    parts, offset = [], 0
    for path, segment in zip(paths, test, strict=True):
        volume = np.arange(len(segment["scene"]))
        parts.append(pd.DataFrame({"segment": path.stem, "volume": volume, "scene": segment["scene"] + offset}))
        offset += segment["scene"][-1] + 1
    return pd.concat(parts, ignore_index=True)


def _nearest(test: list[dict], train: list[dict], paths: list[Path], scene: np.ndarray, cfg: Audit) -> pd.DataFrame:
    """One row per test clip: its frame that is nearest to any training frame, in both spaces."""
    frames = test[0]["pixels"].shape[1]
    where = np.concatenate(
        [np.stack(np.divmod(np.arange(s["scene"].size * frames), frames), 1) for s in train]
    )  # (M, 2): volume, frame
    segment = np.repeat([path.stem for path in paths], [s["scene"].size * frames for s in train])
    columns: dict[str, np.ndarray] = {}
    for space, function, key, sign, name in (
        ("pixels", nearest_pixels, "pixel", 1, "rms"),
        ("content", nearest_content, "clip", -1, "cosine"),
    ):
        mine, others = (_flat([s[space] for s in part]) for part in (test, train))
        distance, which = _in_rows(function, mine, others, f"{space} against training")
        seen = _contrast(test) if space == "pixels" else np.ones(len(mine), bool)
        ranked = np.where(seen, sign * distance, np.inf).reshape(-1, frames)
        best = np.arange(len(ranked)) * frames + ranked.argmin(1)
        columns |= {
            f"{key}_{name}": np.where(np.isfinite(ranked.min(1)), distance[best], np.nan),
            f"{key}_segment": segment[which[best]],
            f"{key}_volume": where[which[best], 0],
            f"{key}_frame": where[which[best], 1],
            f"ordinary_{name}": _ordinary(function, mine, np.repeat(scene, frames), sign).reshape(-1, frames).min(1)
            * sign,
        }
    columns["same_picture"] = (columns["pixel_rms"] <= cfg.pixel_limit).astype(int)
    columns["same_content"] = (columns["clip_cosine"] >= cfg.clip_limit).astype(int)
    return pd.DataFrame(columns)


def _contrast(segments: list[dict]) -> np.ndarray:
    """Which frames are not blank: (N,) bool."""
    return _flat([s["pixels"] for s in segments]).std(1) > BLANK


def _flat(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])


def _in_rows(function, mine: np.ndarray, others: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
    starts = tqdm(range(0, len(mine), ROWS), desc=label, mininterval=2)
    parts = [function(mine[start : start + ROWS], others) for start in starts]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _ordinary(function, mine: np.ndarray, scene: np.ndarray, sign: int) -> np.ndarray:
    """Sign times the distance of every test frame to the nearest one of another test scene: (N,)."""
    found = np.full(len(mine), np.nan)
    for number in np.unique(scene):
        inside = scene == number
        if not inside.all():
            found[inside] = sign * function(mine[inside], mine[~inside])[0]
    return found


def _shared(clips: pd.DataFrame) -> list[tuple]:
    """Test scenes with a frame that is also a training frame."""
    rows = []
    for (segment, scene), part in clips.groupby(["segment", "scene"], sort=False):
        same = part[part.same_picture == 1]
        if len(same):
            best = same.loc[same.pixel_rms.idxmin()]
            where = f"{best.pixel_segment}, volume {best.pixel_volume}"
            rows.append((segment, scene, part.volume.min(), part.volume.max(), "same picture", where, best.pixel_rms))
    return rows


def _continued(
    test: list[dict], train: list[dict], test_paths: list[Path], train_paths: list[Path], index: pd.DataFrame
) -> list[tuple]:
    """Test scenes that go on in a training segment, or come out of one."""
    limit = _ordinary_step([*test, *train])
    rows = []
    for mine, path in zip(test, test_paths, strict=True):
        part = index[index.segment == path.stem]
        for other, other_path in zip(train, train_paths, strict=True):
            for before, after, scene, why in (
                (other, mine, part.scene.iloc[0], "goes on from the end of"),
                (mine, other, part.scene.iloc[-1], "goes on at the start of"),
            ):
                pictures = np.stack([before["pixels"][-1, -1], after["pixels"][0, 0]])
                step = float(np.sqrt(np.square(pictures[1] - pictures[0]).mean()))
                if step <= limit and pictures.std(1).min() > BLANK:
                    volumes = part.volume[part.scene == scene]
                    rows.append((path.stem, scene, volumes.min(), volumes.max(), why, other_path.stem, step))
    return rows


def _ordinary_step(segments: list[dict]) -> float:
    """Difference of thumbnails (root mean square) that three quarters of neighbours within scenes do not exceed."""
    steps = []
    for segment in segments:
        frames = _flat([segment["pixels"]])
        scene = np.repeat(segment["scene"], segment["pixels"].shape[1])
        steps.append(np.sqrt(np.square(np.diff(frames, axis=0)).mean(1))[np.diff(scene) == 0])
    return float(np.percentile(np.concatenate(steps), 75))


def _summary(clips: pd.DataFrame, spanning: pd.DataFrame, train: list[dict], cfg: Audit) -> dict:
    return {
        "test_clips": len(clips),
        "train_clips": sum(len(segment["scene"]) for segment in train),
        "test_scenes": int(clips.scene.nunique()),
        "clips_same_picture": int(clips.same_picture.sum()),
        "clips_same_content": int(clips.same_content.sum()),
        "scenes_spanning": int(spanning[["segment", "scene"]].drop_duplicates().shape[0]),
        "median_pixel_rms": float(clips.pixel_rms.median()),
        "median_ordinary_rms": float(clips.ordinary_rms.median()),
        "median_clip_cosine": float(clips.clip_cosine.median()),
        "median_ordinary_cosine": float(clips.ordinary_cosine.median()),
        "limits": cfg.model_dump(mode="json"),
    }
