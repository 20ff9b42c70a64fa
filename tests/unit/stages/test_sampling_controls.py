"""Controls that are clips already."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from tiny_diffusion import ENCODER, WIDTH, bold, encoder, stable_diffusion, targets

from mindreel import config, controls, sections
from mindreel.errors import InputError
from mindreel.networks.fmri_encoder import FmriEncoder, window_batch
from mindreel.stages.sampling_controls import control, nearest

FRAMES, SIDE = 3, 4


def movie(path, volumes, first):
    """Every clip one grey level, from `first` on: (T, F, H, W, 3) uint8."""
    levels = np.arange(first, first + volumes, dtype=np.uint8)
    np.save(path, np.broadcast_to(levels[:, None, None, None, None], (volumes, FRAMES, SIDE, SIDE, 3)))
    return path


@pytest.fixture
def world(tmp_path):
    """What a control is made from: training movies of 5 and 3 clips with targets of 2 views, a test movie of 4."""
    rng = np.random.default_rng(0)
    found = {
        "contrastive": encoder(tmp_path / "contrastive"),
        "bold": bold(tmp_path / "test.npy", 1, 4),
        "train_frames": [movie(tmp_path / "seg1.npy", 5, 0), movie(tmp_path / "seg2.npy", 3, 5)],
        "test_frames": [movie(tmp_path / "test1.npy", 4, 100)],
        "train_targets": [tmp_path / "targets" / name for name in ("seg1", "seg2")],
        "encoder": ENCODER,
    }
    for folder, volumes in zip(found["train_targets"], (5, 3), strict=True):
        folder.mkdir(parents=True)
        image = rng.standard_normal((volumes, FRAMES, 2, WIDTH))
        np.save(folder / "image.npy", (image / np.linalg.norm(image, axis=-1, keepdims=True)).astype(np.float16))
    return found


def decoded(world):
    series = np.load(world["bold"])
    fmri_encoder = FmriEncoder.from_pretrained(world["contrastive"])
    with torch.inference_mode():
        return fmri_encoder(window_batch(series, np.zeros(4, int), np.arange(4), 2, 1)).mean(1).numpy()


def test_retrieved_are_the_clips_that_were_told(world, tmp_path):
    """Training clips whose whole frames (view 0) have the very embedding that is decoded from a test window."""
    expected = [6, 1, 4, 4]  # the last two windows are both the last volume, twice
    known = np.concatenate([np.load(folder / "image.npy") for folder in world["train_targets"]]).astype(np.float32)
    for clip, own in zip(expected, decoded(world), strict=True):
        known[clip, :, 0] = own / np.linalg.norm(own)
    for folder, image in zip(world["train_targets"], np.split(known, [5]), strict=True):
        np.save(folder / "image.npy", image)
    control(control="retrieved", **world, out=tmp_path / "retrieved.npy")
    clips = np.load(tmp_path / "retrieved.npy")
    assert clips.shape == (4, FRAMES, SIDE, SIDE, 3) and clips.dtype == np.uint8
    assert (clips == clips[:, :1, :1, :1, :1]).all() and clips[:, 0, 0, 0, 0].tolist() == expected


def test_nearest_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    mine, known = rng.standard_normal((5, 8)), rng.standard_normal((7, 3, 8))
    known /= np.linalg.norm(known, axis=2, keepdims=True)
    cosines = [[np.mean([a @ f / np.linalg.norm(a) for f in frames]) for frames in known] for a in mine]
    assert nearest(mine, known.mean(1)).tolist() == np.argmax(cosines, 1).tolist()


def test_random_clips_are_training_clips_by_seed_and_subject(world, tmp_path):
    true = [movie(tmp_path / "test1.npy", 40, 100), movie(tmp_path / "test2.npy", 60, 100)]

    def drawn(subject, seed):
        which = {"subject": subject, "seed": seed, "out": tmp_path / "random.npy"}
        control(control="random", train_frames=world["train_frames"], test_frames=true, **which)
        return np.load(tmp_path / "random.npy")[:, 0, 0, 0, 0].tolist()

    first = drawn("1", 0)
    assert len(first) == 100 and set(first) == set(range(8))  # every training clip, no test clip
    assert drawn("1", 0) == first
    assert len({tuple(drawn(*which)) for which in (("1", 0), ("2", 0), ("12", 0), ("1", 1))}) == 4


def test_the_vae_control_is_what_the_vae_shows_of_the_true_clips(tmp_path):
    model = stable_diffusion(tmp_path / "model")
    folders = targets(tmp_path / "targets", 2, 3)
    true = np.zeros((3, 6, 16, 16, 3), np.uint8)
    frames = [tmp_path / "test1.npy", tmp_path / "test2.npy"]
    for path in frames:
        np.save(path, true)
    control(control="vae", test_targets=folders, test_frames=frames, model=model, out=tmp_path / "vae.npy")
    decoder = AutoencoderKL.from_pretrained(model / "vae")
    latents = np.concatenate([np.load(folder / "latents.npy") for folder in folders]).astype(np.float32)
    with torch.inference_mode():
        shown = decoder.decode(torch.from_numpy(latents[4]) / decoder.config.scaling_factor).sample
    expected = ((shown + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(np.load(tmp_path / "vae.npy")[4].astype(float) - expected).max() <= 1


def test_misfits_are_refused(world, tmp_path):
    out = tmp_path / "out.npy"
    with pytest.raises(InputError, match=r"found \(T, F\) \[\(3, 3\), \(5, 3\)\] and \[\(5, 3\), \(3, 3\)\]"):
        control(control="retrieved", **{**world, "train_targets": world["train_targets"][::-1]}, out=out)
    for folder in world["train_targets"]:
        np.save(folder / "image.npy", np.load(folder / "image.npy")[..., :7])
    with pytest.raises(InputError, match=rf"embeddings of width {WIDTH}, those of the targets have 7"):
        control(control="retrieved", **world, out=out)
    np.save(tmp_path / "odd.npy", np.zeros((3, 2, 8, 8, 3), np.uint8))
    odd = {**world, "train_frames": [*world["train_frames"], tmp_path / "odd.npy"]}
    with pytest.raises(InputError, match=r"--train-frames: found clips of shapes"):
        control(control="random", **odd, out=out)
    other = {**world, "test_frames": [tmp_path / "odd.npy"]}
    with pytest.raises(InputError, match=r"clip 0 has the shape \(3, 4, 4, 3\), expected 3 clips of \(2, 8, 8, 3\)"):
        control(control="random", **other, out=out)
    with pytest.raises(InputError, match=r"--control vae: give --test-targets, --model too"):
        control(control="vae", **world, out=out)
    with pytest.raises(InputError, match=r"found 'text', expected one of retrieved, random, vae"):
        control(control="text", **world, out=out)
    assert not out.exists()


def test_every_control_that_can_be_asked_for_has_a_name_and_a_meaning(root):
    choices = sections.Sampling.model_json_schema()["properties"]["controls"]["items"]["enum"]
    assert [controls.MODEL, *choices] == list(controls.CONDITIONS)
    assert config.load(root / "config.yaml").experiments["mind-video"].sampling.controls == tuple(choices)
    with pytest.raises(InputError, match=r"controls: Value error, name every control once"):
        raw = config.load(root / "config.yaml").experiments["mind-video"].sampling.model_dump_json()
        config.parse_section(sections.Sampling, raw.replace('"mean"', '"shuffled"'))
