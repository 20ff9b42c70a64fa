"""Tuning the inflated UNet with captions."""

import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_diffusion import FRAMES, SIDE, optimizer, stable_diffusion, targets

from mindreel.artifacts import load_table
from mindreel.diffusion import objective
from mindreel.errors import InputError
from mindreel.networks.video_unet import VideoUNet, inflate
from mindreel.sections import Generator
from mindreel.stages import generator


def settings(steps: int, **changes: object) -> Generator:
    defaults = {
        "attention": "sparse-causal",
        "norm_over": "frames",
        "frame_positions": False,
        "trained": ("attn1", "attn_temp"),
        "condition_dropout": 0.2,
        "noise_beta": 0.25,
        "min_snr_gamma": None,
        "optimizer": optimizer(steps),
        "seed": 0,
    }
    return Generator(**{**defaults, **changes})


@pytest.fixture(autouse=True)
def _quick_sheet(monkeypatch):
    monkeypatch.setitem(generator.SHEET, "steps", 2)


@pytest.fixture
def inputs(tmp_path):
    return {"model": stable_diffusion(tmp_path / "sd"), "targets": targets(tmp_path / "targets", 2, 4)}


def test_only_the_named_parts_are_tuned(tmp_path, inputs):
    out = tmp_path / "generator"
    generator.train(**inputs, out=out, scratch=tmp_path / "scratch", cfg=settings(3))
    assert sorted(path.name for path in out.iterdir()) == [
        ".mindreel",
        "config.json",
        "history.tsv",
        "model.safetensors",
        "samples.png",
    ]
    before = inflate(inputs["model"] / "unet", "sparse-causal", "frames").state_dict()
    tuned = VideoUNet.from_pretrained(out)
    for name, value in tuned.state_dict().items():
        if ".attn1." in name or "attn_temp.to_out" in name:
            assert not torch.equal(value, before[name]), name
        elif "attn_temp" not in name and "norm_temp" not in name:
            assert torch.equal(value, before[name]), name
    history = load_table(out / "history.tsv")
    assert list(history["step"]) == [0, 1, 2] and (history["loss"] > 0).all()


def test_killed_and_restarted_ends_bit_identical(tmp_path, inputs, monkeypatch):
    generator.train(**inputs, out=tmp_path / "whole", scratch=tmp_path / "scratch-1", cfg=settings(4))
    whole, calls = objective.objective, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(*args)

    monkeypatch.setattr(objective, "objective", stopped)
    torch.manual_seed(1)  # what the process did before must not matter
    again = {**inputs, "out": tmp_path / "halves", "scratch": tmp_path / "scratch-2", "cfg": settings(4)}
    with pytest.raises(SystemExit):
        generator.train(**again)
    assert not (tmp_path / "halves").exists()
    generator.train(**again)
    assert len(calls) == 4
    whole, halves = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halves"))
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert (tmp_path / "whole/history.tsv").read_text() == (tmp_path / "halves/history.tsv").read_text()


def test_sample_sheet_shows_training_clips_and_samples_from_their_captions(tmp_path, inputs):
    generator.train(**inputs, out=tmp_path / "out", scratch=tmp_path / "scratch", cfg=settings(1))
    sheet = np.asarray(Image.open(tmp_path / "out" / "samples.png")).astype(float)
    side = 2 * SIDE  # the VAE doubles
    assert sheet.shape == (generator.SHEET_CLIPS * 2 * side, FRAMES * side, 3)
    rows = sheet.reshape(generator.SHEET_CLIPS, 2, side, FRAMES, side, 3)
    assert all(rows[clip, row].std() > 2 for clip in range(generator.SHEET_CLIPS) for row in (0, 1))
    # other captions, the same latents: the upper rows stay, the lower ones change
    other = targets(tmp_path / "other", 2, 4)
    for folder in other:
        np.save(folder / "states.npy", np.load(folder / "states.npy")[::-1])
    generator.train(
        model=inputs["model"], targets=other, out=tmp_path / "again", scratch=tmp_path / "s", cfg=settings(1)
    )
    changed = np.asarray(Image.open(tmp_path / "again" / "samples.png")).astype(float).reshape(rows.shape)
    assert (changed[:, 0] == rows[:, 0]).all() and all((changed[:, 1] != rows[:, 1]).any((1, 2, 3, 4)))


def test_a_folder_without_a_decoder_is_refused_before_training(tmp_path, inputs):
    (inputs["model"] / "vae" / "config.json").unlink()
    with pytest.raises(InputError, match=r"vae: found no config.json.*fetch.stable_diffusion"):
        generator.train(**inputs, out=tmp_path / "out", scratch=tmp_path / "scratch", cfg=settings(1))


def test_every_setting_acts(tmp_path, inputs, monkeypatch):
    """No key of the section is without effect."""
    monkeypatch.setattr(generator, "sample_sheet", lambda *_: np.zeros((1, 1, 3), np.uint8))
    changes = [
        *({"attention": "plain"}, {"attention": "first-and-previous"}, {"norm_over": "frame"}),
        *({"frame_positions": True}, {"trained": ("attn1",)}, {"condition_dropout": 1.0}, {"noise_beta": 1.0}),
        *({"min_snr_gamma": 0.5}, {"optimizer": optimizer(1, lr=2e-3, batch_size=2)}, {"seed": 1}),
    ]
    base = {"optimizer": optimizer(1, batch_size=2)}
    made = set()
    for change in [{}, *changes]:
        cfg = settings(1, **base | change)
        generator.train(**inputs, out=tmp_path / "out", scratch=tmp_path / "s", cfg=cfg)
        made.add((tmp_path / "out" / "model.safetensors").read_bytes())
    assert len(made) == 1 + len(changes)
    assert {key for change in changes for key in change} == set(Generator.model_fields)
