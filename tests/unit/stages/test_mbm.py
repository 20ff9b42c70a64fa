"""Masked brain modelling: augmentation, learning, resume, the three ways to start."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mindreel.errors import InputError
from mindreel.learning import loop
from mindreel.networks import patch_model
from mindreel.networks.masked_autoencoder import MaskedAutoencoder
from mindreel.networks.position_encoding import sincos
from mindreel.sections import DoubleContrast, Mbm, Optimizer, Pretrain
from mindreel.stages import mbm

OPTIMIZER = Optimizer(
    steps=8, batch_size=6, lr=1e-3, warmup=2, weight_decay=0.05, betas=(0.9, 0.95), clip_grad=0.8, checkpoint_s=1e9
)
HCP = Pretrain(
    patch_size=8, width=16, depth=2, heads=2, mlp_ratio=1.0, decoder_width=8, decoder_depth=1,
    decoder_heads=2, mask_ratio=0.75, mix_share=0.5, double_contrast=None, gradient_checkpointing=False,
    compile=False,
    optimizer=OPTIMIZER, seed=4,
)  # fmt: skip
CFG = Mbm(init="hcp", mask_ratio=0.75, mix_share=0.5, double_contrast=None, optimizer=OPTIMIZER, seed=4)


@pytest.fixture
def segments(tmp_path: Path, rng: np.random.Generator) -> Path:
    """60 HCP-like segments of 36 voxels that follow three factors."""
    folder = tmp_path / "hcp"
    folder.mkdir()
    bold = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 36))
    np.save(folder / "segments.npy", (bold / bold.std()).astype(np.float16))
    run = dict(subject="100307", run="rest", shard="segments.npy", first=0, segments=60, volumes=600)
    pd.DataFrame([run]).to_csv(folder / "runs.tsv", sep="\t", index=False)
    return folder


@pytest.fixture
def bold(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A subject's training series: 2 segments, 10 volumes, 29 voxels."""
    np.save(tmp_path / "train.npy", rng.standard_normal((2, 10, 29)).astype(np.float32))
    return tmp_path / "train.npy"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(value, weights(b)[key]) for key, value in weights(a).items())


CONTRAST = DoubleContrast(masked_weight=0.7, cross_weight=0.5, self_weight=0.3, temperature=0.1)


def with_steps(cfg: Pretrain | Mbm, steps: int, lr: float = 1e-3, batch_size: int = 6) -> Pretrain | Mbm:
    changed = OPTIMIZER.model_copy(update={"steps": steps, "lr": lr, "batch_size": batch_size})
    return cfg.model_copy(update={"optimizer": changed})


def test_pretraining_learns(segments: Path, tmp_path: Path) -> None:
    cfg = with_steps(HCP, 150, lr=1e-2, batch_size=60)
    mbm.pretrain(segments=segments, out=tmp_path / "mbm", scratch=tmp_path / "scratch", cfg=cfg)
    history = pd.read_csv(tmp_path / "mbm" / "history.tsv", sep="\t")
    assert list(history) == ["step", "loss", "lr"]
    assert len(history) == 150
    assert history.loss[-20:].mean() < 0.7 * history.loss[:5].mean()  # three factors can be read off any patch
    assert history.lr.argmax() in (1, 2)
    model, bold = MaskedAutoencoder.from_pretrained(tmp_path / "mbm"), np.load(segments / "segments.npy")
    assert model.config["voxels"] == 36
    with torch.no_grad():
        error = model(torch.from_numpy(bold.astype(np.float32)), 0.75, torch.rand(60, 5))
    assert error < 0.8 * bold.astype(np.float32).var(0).mean()  # of predicting each voxel's mean


def test_pretraining_with_double_contrast_learns(segments: Path, tmp_path: Path) -> None:
    cfg = with_steps(HCP, 60, lr=1e-2).model_copy(update={"double_contrast": CONTRAST})
    mbm.pretrain(segments=segments, out=tmp_path / "mbm", scratch=tmp_path / "scratch", cfg=cfg)
    history = pd.read_csv(tmp_path / "mbm" / "history.tsv", sep="\t")
    assert history.loss[-10:].mean() < 0.7 * history.loss[:5].mean()
    assert not any("contrast" in key for key in weights(tmp_path / "mbm"))  # the model is the same as without


@pytest.mark.parametrize("voxels", [32, 29])
def test_double_contrast_equals_a_plain_loop(voxels: int) -> None:
    torch.manual_seed(1)
    model = MaskedAutoencoder.from_config(HCP, voxels).eval()
    bold, noise = torch.randn(4, voxels), torch.rand(4, 2, 4)
    with torch.no_grad():
        loss = mbm.DoubleContrastive(model, CONTRAST)(bold, 0.5, noise).item()
        first, second = (model.reconstruct(bold, 0.5, noise[:, view])[0].flatten(1)[:, :voxels] for view in (0, 1))
        masked = model(bold, 0.5, noise[:, 0]).item()
    first, second, bold = (view.double().numpy() for view in (first, second, bold))

    def similarity(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))

    cross = itself = 0.0
    for i in range(4):
        to_second = [np.exp(similarity(first[i], second[j]) / 0.1) for j in range(4)]
        to_original = [np.exp(similarity(first[i], bold[j]) / 0.1) for j in range(4)]
        cross -= np.log(to_second[i] / sum(to_second)) / 4
        itself -= np.log(to_original[i] / sum(to_original)) / 4
    assert loss == pytest.approx(0.7 * masked + 0.5 * cross + 0.3 * itself, rel=1e-5)


def test_double_contrast_knows_which_sample_is_which() -> None:
    torch.manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(5, 7), dim=1)
    assert mbm.contrast(rows, rows, 0.1) < 0.1 < np.log(5) < mbm.contrast(rows, rows.roll(1, 0), 0.1)


def test_recomputing_changes_nothing(segments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    checkpoint = patch_model.checkpoint
    monkeypatch.setattr(patch_model, "checkpoint", lambda *a, **k: (calls.append(a[0]), checkpoint(*a, **k))[1])
    for name, recompute in {"kept": False, "recomputed": True}.items():
        cfg = HCP.model_copy(update={"gradient_checkpointing": recompute})
        mbm.pretrain(segments=segments, out=tmp_path / name, scratch=tmp_path / "s", cfg=cfg)
        assert len(calls) == recompute * 8 * 3  # steps x blocks
    assert same(tmp_path / "kept", tmp_path / "recomputed")


def test_compiled_training_is_the_same(segments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    real = partial(torch.compile, backend="eager")  # traced as ever, but not turned into machine code
    monkeypatch.setattr(torch, "compile", lambda module: (compiled.append(module), real(module))[1])
    for name, compile in {"plain": False, "compiled": True}.items():
        cfg = HCP.model_copy(update={"compile": compile})
        mbm.pretrain(segments=segments, out=tmp_path / name, scratch=tmp_path / "s", cfg=cfg)
    assert [type(module).__name__ for module in compiled] == ["MaskedAutoencoder"]
    for key, value in weights(tmp_path / "plain").items():
        torch.testing.assert_close(weights(tmp_path / "compiled")[key], value, atol=1e-5, rtol=0)


CHANGES = [
    *({"mask_ratio": 0.75}, {"mix_share": 0.0}, {"seed": 5}, {"double_contrast": CONTRAST}),
    *({"double_contrast": CONTRAST.model_copy(update={key: 0.9})} for key in DoubleContrast.model_fields),
]
OPTIMIZATION = {"steps": 7, "batch_size": 5, "lr": 2e-3, "warmup": 1}
OPTIMIZATION |= {"weight_decay": 0.9, "betas": (0.8, 0.9), "clip_grad": 0.01}


def test_every_setting_of_pretraining_acts(segments: Path, tmp_path: Path) -> None:
    """No key of the section is without effect, but for those that only change how the same is computed."""
    changes = [
        *({"patch_size": 6}, {"width": 20}, {"depth": 1}, {"heads": 4}, {"mlp_ratio": 2.0}, {"decoder_width": 12}),
        *({"decoder_depth": 2}, {"decoder_heads": 1}, *CHANGES),
        *({"optimizer": OPTIMIZER.model_copy(update={key: value})} for key, value in OPTIMIZATION.items()),
    ]
    base = HCP.model_copy(update={"mask_ratio": 0.5})  # so that more than one patch is seen
    results = set()
    for change in [{}, *changes]:
        cfg = base.model_copy(update=change)
        mbm.pretrain(segments=segments, out=tmp_path / "out", scratch=tmp_path / "s", cfg=cfg)
        results.add((tmp_path / "out" / "model.safetensors").read_bytes())
    assert len(results) == len(changes) + 1
    # these two change how the same is computed: test_recomputing_changes_nothing, test_compiled_training_is_the_same
    computed = {"gradient_checkpointing", "compile"}
    assert {key for change in changes for key in change} == set(Pretrain.model_fields) - computed
    # how often it is saved changes no weight: test_training
    assert set(OPTIMIZATION) == set(Optimizer.model_fields) - {"checkpoint_s"}


def test_every_setting_of_tuning_acts(bold: Path, tmp_path: Path) -> None:
    own = [{}, *CHANGES, {"init": "none"}, {"optimizer": OPTIMIZER.model_copy(update={"lr": 2e-3})}]
    base = CFG.model_copy(update={"init": "scratch", "mask_ratio": 0.5})
    results = set()
    for change in own:
        cfg = base.model_copy(update=change)
        mbm.tune(bold=bold, out=tmp_path / "out", scratch=tmp_path / "s", cfg=cfg, sizes=HCP)
        results.add((tmp_path / "out" / "model.safetensors").read_bytes())
    assert len(results) == len(own)
    assert {key for change in own for key in change} == set(Mbm.model_fields)


def test_mix_interpolates_pairs(rng: np.random.Generator) -> None:
    bold = torch.eye(10)
    mixed = mbm.mix(bold, 0.5, rng)
    changed = (mixed != bold).any(1)
    assert changed[:5].sum() >= 4  # a pair may happen to hold the sample itself with a weight near 1
    assert not changed[5:].any()
    assert ((mixed > 0).sum(1) <= 2).all()
    torch.testing.assert_close(mixed.sum(1), torch.ones(10))
    assert (mixed[:5].max(1).values < 1).all()  # never one sample with itself
    assert torch.equal(bold, torch.eye(10))


def test_mix_of_nothing(rng: np.random.Generator) -> None:
    assert torch.equal(mbm.mix(torch.eye(4), 0.0, rng), torch.eye(4))
    assert torch.equal(mbm.mix(torch.eye(1), 1.0, rng), torch.eye(1))  # one sample has no pair


@pytest.mark.parametrize("kill_at", [0, 4])
def test_killed_and_restarted_ends_the_same(
    kill_at: int, segments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mbm.pretrain(segments=segments, out=tmp_path / "straight", scratch=tmp_path / "a", cfg=HCP)
    finite = loop.finite

    def killed(value, name, what, step, samples) -> torch.Tensor:
        if step == kill_at and name == "gradient norm":
            os.kill(os.getpid(), signal.SIGTERM)
        return finite(value, name, what, step, samples)

    monkeypatch.setattr(loop, "finite", killed)
    with pytest.raises(SystemExit) as stop:
        mbm.pretrain(segments=segments, out=tmp_path / "killed", scratch=tmp_path / "b", cfg=HCP)
    assert stop.value.code == loop.EXIT_PREEMPTED
    assert not (tmp_path / "killed").exists()
    monkeypatch.setattr(loop, "finite", finite)
    mbm.pretrain(segments=segments, out=tmp_path / "killed", scratch=tmp_path / "b", cfg=HCP)
    assert same(tmp_path / "straight", tmp_path / "killed")
    for name in ("history.tsv", "config.json"):
        assert (tmp_path / "straight" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert not list((tmp_path / "b").glob("resume*"))


def test_not_a_number_stops_with_the_step_and_the_samples(segments: Path, tmp_path: Path) -> None:
    bold = np.load(segments / "segments.npy")
    bold[17] = np.nan
    np.save(segments / "segments.npy", bold)
    with pytest.raises(FloatingPointError, match=r"mbm pretrain: loss nan at step \d+ \(samples .*\b17\b.*\)"):
        mbm.pretrain(segments=segments, out=tmp_path / "mbm", scratch=tmp_path / "scratch", cfg=HCP)
    assert not (tmp_path / "mbm").exists()


def test_tuning_starts_from_the_pretrained_weights(segments: Path, bold: Path, tmp_path: Path) -> None:
    still = with_steps(CFG, 1, lr=1e-12)
    mbm.pretrain(segments=segments, out=tmp_path / "hcp-mbm", scratch=tmp_path / "s", cfg=HCP)
    out = tmp_path / "sub-mbm"
    mbm.tune(bold=bold, out=out, scratch=tmp_path / "s", cfg=still, pretrained=tmp_path / "hcp-mbm")
    before, after = weights(tmp_path / "hcp-mbm"), weights(out)
    for key in before.keys() - {"positions", "decoder_positions"}:
        torch.testing.assert_close(after[key], before[key], atol=1e-6, rtol=0)
    assert before["positions"].shape == (5, 16)
    assert torch.equal(after["positions"], sincos(4, 16))  # of the subject's 29 voxels
    mbm.tune(bold=bold, out=tmp_path / "moved", scratch=tmp_path / "s", cfg=CFG, pretrained=tmp_path / "hcp-mbm")
    assert not same(out, tmp_path / "moved")


def test_tuning_starts_from_any_folder(segments: Path, bold: Path, tmp_path: Path, capsys) -> None:
    mbm.pretrain(segments=segments, out=tmp_path / "hcp-mbm", scratch=tmp_path / "s", cfg=HCP)
    named = CFG.model_copy(update={"init": "models/released"})
    for name, cfg in {"by-word": CFG, "by-folder": named}.items():
        mbm.tune(bold=bold, out=tmp_path / name, scratch=tmp_path / "s", cfg=cfg, pretrained=tmp_path / "hcp-mbm")
    assert same(tmp_path / "by-word", tmp_path / "by-folder")
    assert "hcp-mbm: adapted: 36 voxels in 5 patches become 29 in 4" in capsys.readouterr().out


@pytest.mark.parametrize("init", ["hpc", "", "Scratch"])
def test_a_start_that_is_none_of_the_names_nor_a_folder_is_refused(init: str) -> None:
    with pytest.raises(ValueError, match=r"hcp\|scratch\|none"):
        Mbm.model_validate(CFG.model_dump() | {"init": init})


def test_random_and_scratch(bold: Path, tmp_path: Path) -> None:
    none, scratch = (CFG.model_copy(update={"init": init}) for init in ("none", "scratch"))
    for name, cfg in {"none": none, "again": none, "scratch": scratch}.items():
        mbm.tune(bold=bold, out=tmp_path / name, scratch=tmp_path / "s", cfg=cfg, sizes=HCP)
    assert same(tmp_path / "none", tmp_path / "again")
    assert not same(tmp_path / "none", tmp_path / "scratch")
    assert len(pd.read_csv(tmp_path / "none" / "history.tsv", sep="\t")) == 0
    assert len(pd.read_csv(tmp_path / "scratch" / "history.tsv", sep="\t")) == 8


@pytest.mark.parametrize(
    ("init", "pretrained"),
    [("hcp", None), ("models/released", None), ("scratch", Path("hcp-mbm")), ("none", Path("hcp-mbm")), ("none", None)],
)
def test_init_and_pretrained_must_agree(init: str, pretrained: Path | None, bold: Path, tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"init": init})
    with pytest.raises(InputError, match=f"mbm.init is '{init}'"):
        mbm.tune(bold=bold, out=tmp_path / "out", scratch=tmp_path / "s", cfg=cfg, pretrained=pretrained)


def test_the_pretrained_sizes_are_kept(segments: Path, bold: Path, tmp_path: Path) -> None:
    mbm.pretrain(segments=segments, out=tmp_path / "hcp-mbm", scratch=tmp_path / "s", cfg=HCP)
    others = HCP.model_copy(update={"patch_size": 4, "depth": 1})
    mbm.tune(
        bold=bold, out=tmp_path / "out", scratch=tmp_path / "s", cfg=CFG, sizes=others, pretrained=tmp_path / "hcp-mbm"
    )
    config = MaskedAutoencoder.from_pretrained(tmp_path / "out").config
    assert (config["patch_size"], config["depth"], config["voxels"]) == (8, 2, 29)
