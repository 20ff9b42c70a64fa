"""Tuning encoder and generator together."""

import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_diffusion import ENCODER, VOXELS, bold, encoder, optimizer, stable_diffusion, targets

from mindreel import cotrain, diffusion
from mindreel.config import Cotrain
from mindreel.encoder import FmriEncoder
from mindreel.errors import InputError
from mindreel.unet import VideoUNet, inflate


def settings(steps: int, **changes: object) -> Cotrain:
    defaults = {
        "trained": ("attn2",),
        "condition_dropout": 0.1,
        "noise_beta": 0.0,
        "encoder_lr_scale": 2.0,
        "sparsify": 0.2,
        "optimizer": optimizer(steps),
        "seed": 0,
    }
    return Cotrain(**{**defaults, **changes})


@pytest.fixture
def inputs(tmp_path):
    model = stable_diffusion(tmp_path / "sd")
    inflate(model / "unet", "sparse-causal", "frames").save_pretrained(tmp_path / "generator")
    return {
        "model": model,
        "encoder": encoder(tmp_path / "encoder"),
        "generator": tmp_path / "generator",
        "bold": bold(tmp_path / "train.npy", 2, 4),
        "targets": targets(tmp_path / "targets", 2, 4),
        "encoder_settings": ENCODER,
    }


def weights(folder):
    encoder, unet = (load_file(folder / part / "model.safetensors") for part in ("encoder", "unet"))
    return {f"encoder.{k}": v for k, v in encoder.items()} | {f"unet.{k}": v for k, v in unet.items()}


def test_the_whole_encoder_and_the_named_parts_are_tuned(tmp_path, inputs):
    out = tmp_path / "cotrain"
    cotrain.train(**inputs, out=out, scratch=tmp_path / "scratch", cfg=settings(4))
    assert sorted(path.name for path in out.iterdir()) == ["encoder", "history.tsv", "unet"]
    before = FmriEncoder.from_pretrained(inputs["encoder"])
    after = dict(FmriEncoder.from_pretrained(out / "encoder").named_parameters())
    still = {name for name, value in before.named_parameters() if torch.equal(after[name], value)}
    # behind zero output projections nothing moves in the first step, and little later; all else does
    assert not {name for name in still if "temporal" not in name}
    before = VideoUNet.from_pretrained(inputs["generator"]).state_dict()
    for name, value in VideoUNet.from_pretrained(out / "unet").state_dict().items():
        assert torch.equal(value, before[name]) == (".attn2." not in name), name


def test_the_loss_reaches_the_encoder_through_the_tokens(tmp_path, inputs):
    """With the condition always dropped the encoder's weights cannot move."""
    out = tmp_path / "cotrain"
    cotrain.train(**inputs, out=out, scratch=tmp_path / "scratch", cfg=settings(2, condition_dropout=1.0))
    before = FmriEncoder.from_pretrained(inputs["encoder"]).state_dict()
    after = FmriEncoder.from_pretrained(out / "encoder").state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_killed_and_restarted_ends_bit_identical(tmp_path, inputs, monkeypatch):
    cotrain.train(**inputs, out=tmp_path / "whole", scratch=tmp_path / "scratch-1", cfg=settings(4))
    objective, calls = diffusion.objective, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(*args)

    monkeypatch.setattr(diffusion, "objective", stopped)
    again = {**inputs, "out": tmp_path / "halves", "scratch": tmp_path / "scratch-2", "cfg": settings(4)}
    with pytest.raises(SystemExit):
        cotrain.train(**again)
    cotrain.train(**again)
    assert len(calls) == 4
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


def test_parts_that_do_not_fit(tmp_path, inputs):
    arguments = {**inputs, "out": tmp_path / "out", "scratch": tmp_path / "scratch", "cfg": settings(1)}
    with pytest.raises(InputError, match="once per training segment"):
        cotrain.train(**{**arguments, "targets": inputs["targets"][:1]})
    with pytest.raises(InputError, match="rerun contrastive"):
        cotrain.train(**{**arguments, "encoder_settings": ENCODER.model_copy(update={"window": 3})})
    np.save(tmp_path / "other.npy", np.zeros((2, 4, VOXELS + 1), np.float32))
    with pytest.raises(InputError, match="voxels"):
        cotrain.train(**{**arguments, "bold": tmp_path / "other.npy"})
    assert not (tmp_path / "out").exists()
