"""Checkpoints of the released code: read without running code, converted, adapted to another voxel count."""

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mindreel import cli
from mindreel.errors import InputError
from mindreel.networks.fmri_encoder import FmriEncoder
from mindreel.networks.masked_autoencoder import MaskedAutoencoder
from mindreel.networks.position_encoding import sincos
from mindreel.stages.mbm_import import convert, from_released

DATA = Path(__file__).parents[2] / "data"


def fixture(name: str) -> tuple[dict[str, torch.Tensor], dict]:
    folder = DATA / name
    return load_file(folder / "weights.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.fixture
def mind_vis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint as Mind-Vis saves it: weights, optimiser and a settings object of its own module."""
    weights, config = fixture("mae_forward")
    module = types.ModuleType("config")
    module.Config_MBM_fMRI = type("Config_MBM_fMRI", (), {"__module__": "config"})
    monkeypatch.setitem(sys.modules, "config", module)
    settings = module.Config_MBM_fMRI()
    settings.__dict__ |= {"num_heads": config["num_heads"], "decoder_num_heads": config["decoder_num_heads"], "lr": 1}
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": weights, "config": settings, "epoch": 3, "optimizer": {"state": {}}}, path)
    monkeypatch.delitem(sys.modules, "config")  # whoever reads it does not have it
    return path


def test_mind_vis_becomes_the_same_model(mind_vis: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["mbm", "import", "--checkpoint", str(mind_vis), "--out", str(tmp_path / "out")]) == 0
    assert "nothing had to be adapted" in capsys.readouterr().out
    model, data = MaskedAutoencoder.from_pretrained(tmp_path / "out"), np.load(DATA / "mae_forward" / "data.npz")
    with torch.no_grad():
        loss = model(torch.from_numpy(data["x"][:, 0]), 0.75, torch.from_numpy(data["r0.75/noise"]))
    np.testing.assert_allclose(loss, data["r0.75/loss"], atol=1e-5)


def test_another_voxel_count(mind_vis: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    convert(checkpoint=mind_vis, out=tmp_path / "out", voxels=90)
    said = capsys.readouterr().out
    assert "adapted: 128 voxels in 8 patches become 90 in 6" in said and "decoder_positions: of the new patches" in said
    model = MaskedAutoencoder.from_pretrained(tmp_path / "out")
    assert (model.config["voxels"], model.config["patches"]) == (90, 6)
    assert torch.equal(model.positions, sincos(6, 64))
    weights, config = fixture("mae_forward")
    source = from_released(config, weights).state_dict()
    own = model.state_dict()
    assert all(torch.equal(own[key], source[key]) for key in own if not key.endswith("positions"))
    assert torch.isfinite(model(torch.randn(2, 90), 0.75))


@pytest.mark.parametrize(("voxels", "patches"), [(112, 8), (128, 8), (127, 8), (111, 7)])
def test_the_whole_extra_patch_of_released_models_is_kept(
    voxels: int, patches: int, mind_vis: Path, tmp_path: Path
) -> None:
    """For a count that divides, the released code pads one patch more than it needs."""
    convert(checkpoint=mind_vis, out=tmp_path / "out", voxels=voxels)
    assert MaskedAutoencoder.from_pretrained(tmp_path / "out").config["patches"] == patches


def test_mind_video_becomes_an_encoder_for_windows(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, config = fixture("fmri_encoder_w2")
    torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_voxels": 224}))  # a default that was not used
    convert(checkpoint=tmp_path / "diffusion_pytorch_model.bin", out=tmp_path / "same")
    model, data = FmriEncoder.from_pretrained(tmp_path / "same"), np.load(DATA / "fmri_encoder_w2" / "data.npz")
    with torch.no_grad():
        np.testing.assert_allclose(model(torch.from_numpy(data["x"])), data["out64"], atol=1e-5)
    save_file(weights, tmp_path / "weights.safetensors")
    convert(checkpoint=tmp_path / "weights.safetensors", out=tmp_path / "other", voxels=50)
    assert "head.token_map.weight: new" in capsys.readouterr().out
    other = FmriEncoder.from_pretrained(tmp_path / "other")
    assert other(torch.randn(1, 2, 50)).shape == model(torch.from_numpy(data["x"][:1])).shape
    assert torch.equal(other.blocks[1].temporal.qkv.weight, model.blocks[1].temporal.qkv.weight)


def test_heads_that_nobody_names_must_be_given(tmp_path: Path) -> None:
    weights, _ = fixture("mae_forward")
    weights |= {"nature_img_mask_token": torch.zeros(1, 1, 32), "conv_up.weight": torch.zeros(4, 9, 1, 1)}  # vis_dec's
    torch.save({"module." + key: value for key, value in weights.items()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="give --heads and --decoder-heads"):
        convert(checkpoint=tmp_path / "weights.pth", out=tmp_path / "out")
    convert(checkpoint=tmp_path / "weights.pth", out=tmp_path / "out", heads=4, decoder_heads=4)
    config = MaskedAutoencoder.from_pretrained(tmp_path / "out").config
    assert (config["heads"], config["depth"], config["decoder_depth"], config["width"]) == (4, 2, 2, 64)


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("code of a checkpoint was run",)


def test_pickled_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, _ = fixture("mae_forward")
    torch.save({"model": weights, "config": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"would run code of \S*print"):
        convert(checkpoint=tmp_path / "evil.pth", out=tmp_path / "out")
    assert "was run" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"half of a file", pickle.dumps({"a": 1})])
def test_what_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"no.pth: "):
        convert(checkpoint=tmp_path / "no.pth", out=tmp_path / "out")


def test_another_model_is_named(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(InputError, match=r"holds conv1.weight, but no patch_embed"):
        convert(checkpoint=tmp_path / "resnet.pth", out=tmp_path / "out")
