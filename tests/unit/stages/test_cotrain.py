"""Tuning encoder and generator together."""

import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_diffusion import ENCODER, VOXELS, bold, encoder, optimizer, stable_diffusion, targets

from mindreel.diffusion import objective
from mindreel.errors import InputError
from mindreel.networks.fmri_encoder import FmriEncoder
from mindreel.networks.video_unet import VideoUNet, inflate
from mindreel.sections import Cotrain
from mindreel.stages import cotrain


def settings(steps: int, **changes: object) -> Cotrain:
    defaults = {
        "trained": ("attn2",),
        "condition_dropout": 0.1,
        "mean_dropout": 0.1,
        "noise_beta": 0.0,
        "encoder_lr_scale": 2.0,
        "sparsify": 0.2,
        "precision": "auto",
        "gradient_checkpointing": False,
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


def weights_of(inputs):
    """What training starts from, under the names of `weights`."""
    encoder = load_file(inputs["encoder"] / "model.safetensors")
    unet = load_file(inputs["generator"] / "model.safetensors")
    return {f"encoder.{k}": v for k, v in encoder.items()} | {f"unet.{k}": v for k, v in unet.items()}


def test_the_whole_encoder_and_the_named_parts_are_tuned(tmp_path, inputs):
    out = tmp_path / "cotrain"
    cotrain.train(**inputs, out=out, scratch=tmp_path / "scratch", cfg=settings(4))
    assert sorted(path.name for path in out.iterdir()) == [".mindreel", "encoder", "history.tsv", "unet"]
    before = FmriEncoder.from_pretrained(inputs["encoder"])
    after = dict(FmriEncoder.from_pretrained(out / "encoder").named_parameters())
    still = {name for name, value in before.named_parameters() if torch.equal(after[name], value)}
    # behind zero output projections nothing moves in the first step, and little later; all else does
    assert not {name for name in still if "temporal" not in name}
    before = VideoUNet.from_pretrained(inputs["generator"]).state_dict()
    for name, value in VideoUNet.from_pretrained(out / "unet").state_dict().items():
        assert torch.equal(value, before[name]) == (".attn2." not in name), name


def test_forgotten_windows_are_the_mean_fmri(rng):
    bold = torch.ones(1000, 2, 3)
    forgotten = cotrain.forget(bold, 0.3, rng)
    rows = (forgotten == 0).flatten(1)
    assert torch.equal(rows.all(1), rows.any(1)), "a window is forgotten whole"
    assert 0.25 < rows.all(1).float().mean() < 0.35
    assert torch.equal(cotrain.forget(bold, 0.0, rng), bold)


def test_gradient_checkpointing_changes_memory_only(tmp_path, inputs, monkeypatch):
    kept = {}

    def trained(name: str, **changes: object) -> dict[str, torch.Tensor]:
        def counted(*args):
            sizes = []
            hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t)
            with hooks:
                loss = whole(*args)
            kept[name] = sum(sizes)
            return loss

        monkeypatch.setattr(objective, "objective", counted)
        cotrain.train(**inputs, out=tmp_path / name, scratch=tmp_path / f"s-{name}", cfg=settings(2, **changes))
        return weights(tmp_path / name)

    whole = objective.objective
    plain, saving = trained("plain"), trained("saving", gradient_checkpointing=True)
    assert kept["saving"] < 0.5 * kept["plain"]
    for name, value in plain.items():
        torch.testing.assert_close(saving[name], value, atol=1e-6, rtol=1e-5, msg=name)


def test_bfloat16_trains_float32_weights_close_by(tmp_path, inputs):
    made = {}
    for kind in ("auto", "float32", "bfloat16"):
        cfg = settings(1, precision=kind)
        cotrain.train(**inputs, out=tmp_path / kind, scratch=tmp_path / f"s-{kind}", cfg=cfg)
        made[kind] = weights(tmp_path / kind)
    assert all(torch.equal(made["auto"][key], made["float32"][key]) for key in made["auto"])  # no GPU here
    start = weights_of(inputs)
    moved = [key for key in start if not torch.equal(made["float32"][key], start[key])]
    steps = [torch.cat([(made[kind][key] - start[key]).flatten() for key in moved]) for kind in ("float32", "bfloat16")]
    assert not torch.equal(*steps) and torch.cosine_similarity(*steps, dim=0) > 0.9
    assert {value.dtype for value in made["bfloat16"].values()} == {torch.float32}


def test_the_loss_reaches_the_encoder_through_the_tokens(tmp_path, inputs):
    """With the condition always dropped the encoder's weights cannot move."""
    out = tmp_path / "cotrain"
    cotrain.train(**inputs, out=out, scratch=tmp_path / "scratch", cfg=settings(2, condition_dropout=1.0))
    before = FmriEncoder.from_pretrained(inputs["encoder"]).state_dict()
    after = FmriEncoder.from_pretrained(out / "encoder").state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_killed_and_restarted_ends_bit_identical(tmp_path, inputs, monkeypatch):
    cotrain.train(**inputs, out=tmp_path / "whole", scratch=tmp_path / "scratch-1", cfg=settings(4))
    whole, calls = objective.objective, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(*args)

    monkeypatch.setattr(objective, "objective", stopped)
    again = {**inputs, "out": tmp_path / "halves", "scratch": tmp_path / "scratch-2", "cfg": settings(4)}
    with pytest.raises(SystemExit):
        cotrain.train(**again)
    cotrain.train(**again)
    assert len(calls) == 4
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(whole[key], halves[key]) for key in whole)


def test_every_setting_acts(tmp_path, inputs):
    """No key of the section is without effect, but for gradient_checkpointing, which changes memory only."""
    changes = [
        *({"trained": ("attn1",)}, {"condition_dropout": 1.0}, {"noise_beta": 1.0}, {"encoder_lr_scale": 1.0}),
        {"mean_dropout": 1.0},
        *({"sparsify": 0.8}, {"precision": "bfloat16"}, {"optimizer": optimizer(1, lr=2e-3, batch_size=2)}),
        {"seed": 1},
    ]
    base = {"optimizer": optimizer(1, batch_size=2)}
    made = set()
    for change in [{}, *changes]:
        cotrain.train(**inputs, out=tmp_path / "out", scratch=tmp_path / "s", cfg=settings(1, **base | change))
        made.add(tuple((tmp_path / "out" / part / "model.safetensors").read_bytes() for part in ("encoder", "unet")))
    assert len(made) == 1 + len(changes)
    tested = {key for change in changes for key in change} | {"gradient_checkpointing"}
    assert tested == set(Cotrain.model_fields)


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
