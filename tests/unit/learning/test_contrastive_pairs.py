"""How batches of contrastive learning are drawn."""

from pathlib import Path

import numpy as np
import pytest

from mindreel.errors import InputError
from mindreel.learning import contrastive_pairs


def alone(count: int) -> np.ndarray:
    """A scene for every clip."""
    return np.arange(count)


def test_batches_hold_no_similar_clips(rng: np.random.Generator) -> None:
    twins = np.repeat(np.eye(20), 3, axis=0)  # 20 pictures, each in 3 volumes
    by_clip = contrastive_pairs.similar_clips(twins, 0.95, alone(60))
    by_scene = contrastive_pairs.similar_clips(np.eye(60), 0.95, np.repeat(alone(20), 3))
    assert np.array_equal(by_clip, by_scene) and by_clip.sum() == 60 * 3
    clips = np.arange(9, 60)  # the others are held out
    drawn = [contrastive_pairs.draw_batch(by_clip, clips, 15, rng) for _ in range(20)]
    for batch in drawn:
        assert len({clip // 3 for clip in batch}) == 15
        assert not contrastive_pairs.duplicates(by_clip, batch).any()
    assert len(np.unique(drawn)) > 45 and np.min(drawn) >= 9  # every clip gets its turn


def test_a_batch_that_cannot_be_filled_takes_what_is_left(rng: np.random.Generator) -> None:
    similar = contrastive_pairs.similar_clips(np.repeat(np.eye(4), 3, axis=0), 0.95, alone(12))
    clips = contrastive_pairs.draw_batch(similar, np.arange(12), 10, rng)
    assert len(set(clips)) == 10
    assert len({clip // 3 for clip in clips[:4]}) == 4  # first those that differ
    ignored = contrastive_pairs.duplicates(similar, clips)
    assert ignored.any()
    assert not ignored.diagonal().any()
    expected = np.equal.outer(clips // 3, clips // 3) & ~np.eye(10, dtype=bool)
    np.testing.assert_array_equal(ignored, expected)


def test_similarity_limit_changes_what_may_meet() -> None:
    pair = np.array([[1.0, 0.0], [2.0, 1.0] / np.sqrt(5)])  # cosine 0.894
    assert contrastive_pairs.similar_clips(pair, 0.85, alone(2))[0, 1]
    assert not contrastive_pairs.similar_clips(pair, 0.9, alone(2))[0, 1]


def test_scenes_are_counted_through_and_shared_by_rows_of_one_movie(tmp_path: Path) -> None:
    frames = np.zeros((4, 2, 3, 3, 3), np.uint8)
    frames[2:] = 200
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", frames)
    rows = [tmp_path / f"{name}.npy" for name in "aab"]
    assert contrastive_pairs.scene_numbers(rows, 0.1).tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3]
    assert contrastive_pairs.scene_numbers(rows, 0.9).tolist() == [0] * 8 + [1] * 4


def test_the_last_segments_are_held_out_with_all_their_rows() -> None:
    rows = [Path(name) for name in "aabbcc"]
    learned, held_out = contrastive_pairs.split(rows, 3, 1)
    assert learned.tolist() == list(range(12)) and held_out.tolist() == list(range(12, 18))
    learned, held_out = contrastive_pairs.split(rows, 3, 0)
    assert learned.tolist() == list(range(18)) and len(held_out) == 0
    with pytest.raises(InputError, match="held_out: found 3 of 3 training segments, expected fewer"):
        contrastive_pairs.split(rows, 3, 3)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_views(probability: float, rng: np.random.Generator) -> None:
    shape = (10, 3, 4)  # clips, frames, views
    clips = np.repeat(np.arange(10), 40)
    drawn = contrastive_pairs.draw_views(clips, {"image": (3, 4), "text": (3, 4)}, probability, rng)
    drawn_from = [np.unravel_index(rows, shape) for rows in drawn.values()]
    clip, frame, view = (np.stack(parts) for parts in zip(*drawn_from, strict=True))
    assert (clip == clips).all()
    assert (frame[0] == frame[1]).all() and set(frame[0]) == {0, 1, 2}  # image and caption are of one frame
    assert set(view[1]) == {0, 1, 2, 3}
    crops = view[0][view[0] > 0]
    assert len(crops) / len(clips) == pytest.approx(probability, abs=0.12)
    assert set(crops) == ({1, 2, 3} if probability else set())


def test_without_cached_views_the_picture_and_its_caption_are_used(rng: np.random.Generator) -> None:
    drawn = contrastive_pairs.draw_views(np.arange(5), {"image": (2, 1), "text": (2, 1)}, 1.0, rng)
    assert all((rows // 2 == np.arange(5)).all() for rows in drawn.values())
