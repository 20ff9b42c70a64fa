"""Features against the networks asked one picture at a time, and flow against motion that is known."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from tiny_networks import save_networks
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessorPil,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from mindreel import artifacts
from mindreel.errors import InputError
from mindreel.scoring.clip_features import flow, nearest_frames
from mindreel.sections import Features
from mindreel.stages.features import extract

CFG = Features(batch_size=2, flow_side=32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """Two arrays of clips and what was found in them."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    arrays = {
        "fmri": rng.integers(0, 256, (3, 6, 32, 32, 3), np.uint8),
        "shuffled": np.zeros((2, 6, 32, 32, 3), np.uint8),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    extract(clips=[folder / "fmri.npy", folder / "shuffled.npy"], **folders, out=folder / "out", cfg=CFG)
    return arrays, folder / "out"


@torch.no_grad()
def test_features_are_what_the_networks_say_of_single_pictures(made, folders):
    arrays, out = made
    clip = arrays["fmri"][2]
    found = {path.stem: np.load(path)[2] for path in (out / "fmri").glob("*.npy")}
    assert found.keys() == {"image", "video", "clip", "latent", "flow"}
    assert all(array.dtype == np.float32 for array in found.values())

    model = ViTForImageClassification.from_pretrained(folders["image_classifier"]).eval()
    prepare = ViTImageProcessorPil.from_pretrained(folders["image_classifier"])
    expected = model(**prepare(clip[4], return_tensors="pt")).logits[0]
    np.testing.assert_allclose(found["image"][4], expected, atol=1e-5)

    model = VideoMAEForVideoClassification.from_pretrained(folders["video_classifier"]).eval()
    prepare = VideoMAEImageProcessorPil.from_pretrained(folders["video_classifier"])
    frames = [clip[int((i + 0.5) * 6 / 16)] for i in range(16)]
    np.testing.assert_allclose(found["video"], model(**prepare(frames, return_tensors="pt")).logits[0], atol=1e-5)

    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    prepare = CLIPImageProcessorPil.from_pretrained(folders["clip"])
    expected = model.get_image_features(**prepare(clip[1], return_tensors="pt")).pooler_output[0]
    np.testing.assert_allclose(found["clip"][1], expected / expected.norm(), atol=1e-5)

    vae = AutoencoderKL.from_pretrained(folders["diffusion"] / "vae").eval()
    pixels = torch.from_numpy(clip[3]).permute(2, 0, 1)[None].float() / 127.5 - 1
    np.testing.assert_allclose(found["latent"], vae.encode(pixels).latent_dist.mean.flatten(), atol=1e-4)


def test_shapes_and_class_names(made):
    arrays, out = made
    for name, array in arrays.items():
        shapes = {path.stem: np.load(path).shape for path in (out / name).glob("*.npy")}
        count = len(array)
        assert shapes["image"] == (count, 6, 24) and shapes["video"] == (count, 24)
        assert shapes["flow"] == (count, 5, 2, 32, 32) and shapes["clip"][:2] == (count, 6)
    labels = artifacts.load_json(out / "labels.json")
    assert labels == {"image": [f"class {i}" for i in range(24)], "video": [f"class {i}" for i in range(24)]}


def test_only_lossless_arrays_are_looked_at(folders, tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "clip.gif")
    with pytest.raises(InputError, match=r"clip\.gif: found a \.gif, expected a lossless array .* metrics folder"):
        extract(clips=[tmp_path / "clip.gif"], **folders, out=tmp_path / "out", cfg=CFG)
    np.save(tmp_path / "clip.npy", np.zeros((2, 6, 32, 32, 3), np.float32))
    with pytest.raises(InputError, match=r"clip\.npy: found float32 .* expected uint8 \(N, F, H, W, 3\)"):
        extract(clips=[tmp_path / "clip.npy"], **folders, out=tmp_path / "out", cfg=CFG)
    assert not (tmp_path / "out").exists()


def moving(down: float, right: float, size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """A clip of a smooth pattern that moves by so many pixels a frame: (1, 3, H, W, 3) uint8."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    frames = []
    for t in range(3):
        y, x = rows - down * t, columns - right * t
        grey = 128 + 60 * np.sin(y / 5) * np.cos(x / 7) + 40 * np.sin((x + y) / 11)
        frames.append(np.repeat(grey[..., None], 3, 2))
    return np.rint(np.stack(frames)).astype(np.uint8)[None]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (0, -2), (1.5, 1)])
@pytest.mark.parametrize("side", [64, 32])
def test_flow_is_the_motion_in_pixels_of_the_clip(down, right, side):
    found = flow(moving(down, right), side)
    assert found.shape == (1, 2, 2, side, side * 96 // 64)
    inner = found[..., side // 6 : -side // 6, side // 6 : -side // 6]
    np.testing.assert_allclose(np.median(inner, (0, 1, 3, 4)), [down, right], atol=0.12)


def test_frames_are_spread_evenly_over_those_a_model_takes():
    assert nearest_frames(6, 6).tolist() == list(range(6))
    chosen = nearest_frames(6, 16)
    assert np.bincount(chosen).tolist() == [3, 2, 3, 3, 2, 3] and all(a <= b for a, b in pairwise(chosen))
    assert nearest_frames(6, 2).tolist() == [1, 4]
