from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mindreel.small_world import drawing

AWAY = 9.0  # an object that far off is out of the picture


def changed(scene: drawing.Scene, time_s: float = 0.9) -> np.ndarray:
    """Where the object is: (64, 64) bool, pixels that differ clearly from the background."""
    with_object, without = (drawing.draw(s, time_s, 64).astype(int) for s in (scene, replace(scene, x=AWAY)))
    return np.abs(with_object - without).max(-1) > 40


def test_every_kind_of_scene_can_be_seen():
    looks = {kind[:3] for kind in drawing.KINDS}
    hidden = [look for look in looks if changed(drawing.Scene(*look, "left")).mean() < 0.1]
    assert len(looks) == 12 * (8 * 6 - len(drawing.UNSEEN)) and not hidden


def test_no_kind_is_one_of_the_unseen_and_every_word_is_used():
    assert not {(colour, background) for _, colour, background, _ in drawing.KINDS} & drawing.UNSEEN
    for position, words in enumerate((drawing.OBJECTS, drawing.COLOURS, drawing.BACKGROUNDS, drawing.MOTIONS)):
        assert {kind[position] for kind in drawing.KINDS} == set(words)


def test_drawn_scenes_are_kinds_and_stay_in_the_picture(rng):
    for _ in range(300):
        scene = drawing.random_scene(rng)
        assert (scene.object, scene.colour, scene.background, scene.motion) in drawing.KINDS
        for time_s in (0.0, 1.0, 1.99):
            x, y, _, _ = drawing.pose(scene, time_s)
            assert 0.2 < x < 0.8 and 0.2 < y < 0.8


def test_a_caption_names_everything():
    assert drawing.Scene("car", "red", "sea", "left").caption == "a red car moving left on the sea"
    captions = {drawing.Scene(*kind).caption for kind in drawing.KINDS}
    assert len(captions) == len(drawing.KINDS)


@pytest.mark.parametrize(("motion", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)])
def test_an_object_moves_as_its_caption_says(motion, axis, sign):
    scene = drawing.Scene("circle", "red", "sky", motion)
    first, last = (np.argwhere(changed(scene, t)).mean(0) for t in (0.05, 1.95))
    moved = (last - first) / 64
    assert moved[axis] * sign == pytest.approx(drawing.TRAVEL * 0.95, abs=0.04)
    assert abs(moved[1 - axis]) < 0.03


def test_a_growing_object_grows():
    scene = drawing.Scene("heart", "red", "sky", "growing")
    assert changed(scene, 1.95).sum() > 2 * changed(scene, 0.05).sum()


@pytest.mark.parametrize("thing", drawing.OBJECTS)
def test_one_sees_every_object_spin(thing):
    frames = drawing.clip(drawing.Scene(thing, "red", "sky", "spinning"), 3, 64).astype(int)
    assert frames.shape == (6, 64, 64, 3)
    assert (np.abs(frames[0] - frames[-1]).max(-1) > 40).mean() > 0.02


def test_cuts_are_larger_than_any_change_within_a_scene(rng):
    board = drawing.storyboard(120, rng)
    frames = np.concatenate([drawing.clip(scene, 3, 32) for scene in board]) / 255
    step = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    cut = np.zeros(len(step), bool)
    cut[5::6] = [a != b for a, b in pairwise(board)]
    assert cut.sum() > 20
    assert step[cut].min() > step[~cut].max()


def test_a_storyboard_keeps_its_rules(rng):
    board = drawing.storyboard(200, rng, shortest=2, longest=4)
    starts = [0] + [i for i in range(1, 200) if board[i] != board[i - 1]]
    lengths = np.diff(starts)
    assert len(board) == 200 and set(lengths) == {2, 3, 4}
    for before, after in pairwise(starts):
        assert board[before].object != board[after].object and board[before].background != board[after].background


def test_the_same_seed_draws_the_same_storyboard():
    boards = [drawing.storyboard(20, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert boards[0] == boards[1] != boards[2]


def test_an_unknown_background_is_named():
    with pytest.raises(ValueError, match="found 'moon', expected one of sky"):
        drawing.draw(drawing.Scene("car", "red", "moon", "left"), 0.0, 32)
