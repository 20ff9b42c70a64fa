"""The audit finds what is planted, and nothing where nothing is."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mindreel import artifacts
from mindreel.errors import InputError
from mindreel.sections import Audit
from mindreel.small_world import drawing
from mindreel.stages.audit import leaks, nearest_content, nearest_pixels, thumbnails

CFG = Audit(thumbnail=16, pixel_limit=0.02, clip_limit=0.98, scene_cut=0.1)


def movie(volumes: int, rng: np.random.Generator) -> np.ndarray:
    """A segment of the small world: (T, 6, 64, 64, 3) uint8."""
    return np.stack([drawing.clip(scene, 3, 64) for scene in drawing.storyboard(volumes, rng)])


def embeddings(frames: np.ndarray) -> np.ndarray:
    """What stands for CLIP here: a fixed random projection of the picture, norm 1, (T, F, 40)."""
    flat = thumbnails(frames.reshape(-1, *frames.shape[2:]), 8)
    found = (flat - 0.5) @ np.random.default_rng(9).standard_normal((flat.shape[1], 40)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.reshape(*frames.shape[:2], -1)


@pytest.fixture(scope="module")
def movies():
    rng = np.random.default_rng(3)
    return {name: movie(10, rng) for name in ("seg1", "seg2", "test1", "test2")}


def run(folder, movies):
    for name, frames in movies.items():
        artifacts.save_array(folder / f"{name}.npy", frames)
        found = embeddings(frames)
        if name.startswith("seg"):
            artifacts.save_array(folder / "targets" / name / "image.npy", np.stack([found, 0 * found], 2))
        else:
            artifacts.save_array(folder / "features" / name / "clip.npy", found)
    leaks(
        train_frames=[folder / f"{name}.npy" for name in movies if name.startswith("seg")],
        test_frames=[folder / f"{name}.npy" for name in movies if name.startswith("test")],
        train_targets=[folder / "targets" / name for name in movies if name.startswith("seg")],
        test_features=folder / "features",
        out=folder / "audit",
        cfg=CFG,
    )
    tables = [pd.read_csv(folder / "audit" / f"{name}.tsv", sep="\t") for name in ("clips", "scenes")]
    return *tables, artifacts.load_json(folder / "audit" / "summary.json")


def test_nothing_is_found_in_movies_that_share_nothing(movies, tmp_path):
    clips, scenes, summary = run(tmp_path, movies)
    assert len(clips) == 20 and clips.same_picture.sum() == 0 and scenes.empty
    assert summary["clips_same_picture"] == summary["scenes_spanning"] == 0
    assert summary["test_clips"] == summary["train_clips"] == 20
    assert summary["median_pixel_rms"] > CFG.pixel_limit


def test_a_planted_test_clip_is_found_where_it_was_put(movies, tmp_path):
    seg2 = movies["seg2"].copy()
    seg2[4] = movies["test2"][7]
    clips, scenes, summary = run(tmp_path, {**movies, "seg2": seg2})
    row = clips[(clips.segment == "test2") & (clips.volume == 7)].iloc[0]
    assert row.same_picture == 1 and row.same_content == 1 and row.pixel_rms == 0
    assert row.clip_cosine == pytest.approx(1, abs=1e-5)
    assert (row.pixel_segment, row.pixel_volume) == ("seg2", 4) == (row.clip_segment, row.clip_volume)
    assert row.ordinary_rms > CFG.pixel_limit  # no other scene of the test set comes so near
    assert summary["clips_same_picture"] >= 1 and summary["scenes_spanning"] == 1
    assert scenes.why.tolist() == ["same picture"] and scenes["where"].tolist() == ["seg2, volume 4"]
    assert scenes["first"][0] <= 7 <= scenes["last"][0]
    others = clips[clips.scene != row.scene]
    assert others.same_picture.sum() == 0  # nobody else is accused


def test_a_copy_that_was_made_smaller_and_recompressed_is_found(movies, tmp_path):
    seg1 = movies["seg1"].copy()
    for f, frame in enumerate(movies["test1"][2]):
        small = Image.fromarray(frame).resize((40, 40)).resize((64, 64))
        small.save(tmp_path / "frame.jpg", quality=70)
        seg1[9, f] = np.asarray(Image.open(tmp_path / "frame.jpg"))
    clips, _, _ = run(tmp_path, {**movies, "seg1": seg1})
    row = clips[(clips.segment == "test1") & (clips.volume == 2)].iloc[0]
    assert row.same_picture == 1 and row.pixel_rms > 0 and row.pixel_segment == "seg1" and row.pixel_volume == 9


def test_a_scene_that_goes_on_over_the_split_is_found(movies, tmp_path):
    rng = np.random.default_rng(11)
    scene = np.stack([drawing.clip(drawing.storyboard(1, rng)[0], 3, 64)] * 2)  # a scene of two volumes
    drifting = np.clip(scene + np.arange(2)[:, None, None, None, None] * 8, 0, 255).astype(np.uint8)
    seg1 = np.concatenate([movies["seg1"], drifting[:1, ::-1]])  # backwards, so that it ends where the next starts
    test2 = np.concatenate([drifting[1:], movies["test2"]])
    clips, scenes, summary = run(tmp_path, {**movies, "seg1": seg1, "test2": test2})
    assert clips.same_picture.sum() == 0 and summary["scenes_spanning"] == 1
    row = scenes.iloc[0]
    assert row.segment == "test2" and row["first"] == 0
    assert row.why == "goes on from the end of" and row["where"] == "seg1"


def test_blank_pictures_are_no_evidence(movies, tmp_path):
    dark = {name: frames.copy() for name, frames in movies.items()}
    dark["seg1"][-1] = dark["test1"][0] = 3  # one ends in black, the other begins with it
    clips, scenes, _ = run(tmp_path, dark)
    assert np.isnan(clips.pixel_rms[0]) and clips.same_picture.sum() == 0 and scenes.empty


def test_nearest_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    a, b = rng.random((5, 12)).astype(np.float32), rng.random((9, 12)).astype(np.float32)
    distance, which = nearest_pixels(a, b)
    expected = np.sqrt(((a[:, None] - b) ** 2).mean(2))
    np.testing.assert_array_equal(which, expected.argmin(1))
    np.testing.assert_allclose(distance, expected.min(1), rtol=1e-5)
    cosine, which = nearest_content(a, b)
    np.testing.assert_array_equal(which, (a @ b.T).argmax(1))
    np.testing.assert_allclose(cosine, (a @ b.T).max(1))


def test_misfits_are_refused(movies, tmp_path):
    run(tmp_path, movies)
    artifacts.save_array(tmp_path / "features/test1/clip.npy", np.zeros((3, 6, 40), np.float32))
    options = {"train_frames": [tmp_path / "seg1.npy"], "train_targets": [tmp_path / "targets/seg1"], "cfg": CFG}
    options |= {"test_features": tmp_path / "features", "out": tmp_path / "other"}
    with pytest.raises(InputError, match=r"test1\.npy: found \(T, F\) = \(10, 6\), but CLIP embeddings of \(3, 6\)"):
        leaks(test_frames=[tmp_path / "test1.npy"], **options)
    with pytest.raises(InputError, match="no training or no test segments"):
        leaks(test_frames=[], **options)
    assert not (tmp_path / "other").exists()
