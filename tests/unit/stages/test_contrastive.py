"""Contrastive learning: losses, augmentation, learning, resume, settings."""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from mindreel.errors import InputError
from mindreel.learning import loop
from mindreel.networks.fmri_encoder import FmriEncoder, window_batch
from mindreel.networks.masked_autoencoder import MaskedAutoencoder
from mindreel.sections import Contrastive, Encoder, Optimizer, SelfContrast
from mindreel.stages import contrastive

SEGMENTS, VOLUMES, VOXELS, FRAMES, WIDTH = 3, 14, 40, 2, 12
ENCODER = Encoder(window=2, shift=0, tokens=4, token_width=WIDTH)
SELF = SelfContrast(mask_share=0.2, mask_weight=1.0, interpolate_share=1 / 3, interpolate_weight=1.0)
CFG = Contrastive(
    modalities=("image", "text"),
    sparsify=0.2,
    crop_probability=0.5,
    dropout=0.1,
    similarity_limit=0.9,
    scene_cut=0.1,
    self_contrast=None,
    held_out=0,
    seed=2,
    optimizer=Optimizer(
        steps=8,
        batch_size=10,
        lr=3e-3,
        warmup=2,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        clip_grad=1.0,
        checkpoint_s=1e9,
    ),
)
NONE = torch.zeros(6, 6, dtype=torch.bool)


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


def make_subject(folder: Path, rng: np.random.Generator) -> dict[str, object]:
    """fMRI that is a linear image of the CLIP embeddings, movies of a scene per volume, and a random MBM."""
    truth = unit(rng.standard_normal((SEGMENTS, VOLUMES, WIDTH)))
    bold = truth @ rng.standard_normal((WIDTH, VOXELS)) + 0.1 * rng.standard_normal((SEGMENTS, VOLUMES, VOXELS))
    np.save(folder / "train.npy", (bold / bold.std((0, 1))).astype(np.float32))
    targets, frames = [], []
    for segment in range(SEGMENTS):
        targets.append(folder / f"seg{segment}")
        frames.append(folder / f"seg{segment}.npy")
        targets[-1].mkdir()
        for name in ("image", "text"):
            jitter = 0.03 * rng.standard_normal((VOLUMES, FRAMES, 3, WIDTH))
            np.save(targets[-1] / f"{name}.npy", unit(truth[segment][:, None, None] + jitter))
        grey = np.resize(np.array([0, 255], np.uint8), VOLUMES)[:, None, None, None, None]
        np.save(frames[-1], np.broadcast_to(grey, (VOLUMES, FRAMES, 2, 2, 3)))
    torch.manual_seed(0)
    MaskedAutoencoder(
        voxels=VOXELS, patch_size=8, width=16, depth=2, heads=2, mlp_ratio=1.0, decoder_width=8, decoder_depth=1,
        decoder_heads=2,
    ).save_pretrained(folder / "mbm")  # fmt: skip
    own = {"mbm": folder / "mbm", "bold": folder / "train.npy", "targets": targets, "frames": frames}
    return own | {"encoder": ENCODER}


@pytest.fixture
def subject(tmp_path: Path, rng: np.random.Generator) -> dict[str, object]:
    torch.set_num_threads(1)
    return make_subject(tmp_path, rng)


def settings(steps: int = 8, **changes: object) -> Contrastive:
    optimizer = CFG.optimizer.model_copy(update={"steps": steps})
    return CFG.model_copy(update={"optimizer": optimizer} | changes)


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.tsv", sep="\t")


@pytest.mark.parametrize("own", [None, SELF], ids=["mind-video", "neurocine"])
def test_the_encoder_learns_to_find_clips_it_has_not_seen(own: SelfContrast | None, subject: dict, tmp_path) -> None:
    cfg = settings(200, held_out=1, self_contrast=own, dropout=0.0)
    contrastive.train(**subject, out=tmp_path / "out", scratch=tmp_path / "s", cfg=cfg)
    table = history(tmp_path / "out")
    assert table.loss.notna().sum() == 200
    found = table.dropna()  # where held-out clips were looked for
    assert found.step.tolist() == [*range(0, 200, 8), 199]
    last = found.iloc[-3:].mean()
    for name in ("image", "text"):
        assert last[f"chance_{name}_top1"] == pytest.approx(1 / VOLUMES, rel=0.1)
        assert last[f"{name}_top1"] > 3 * last[f"chance_{name}_top1"]
        assert last[f"{name}_top5"] > 0.55 > last[f"chance_{name}_top5"]
    assert table.loss.iloc[-10:].mean() < 0.6 * table.loss[0]
    # what was logged last is what the saved encoder does
    model = FmriEncoder.from_pretrained(tmp_path / "out")
    bold = window_batch(np.load(subject["bold"]), np.full(VOLUMES, 2), np.arange(VOLUMES), 2, 0)
    image = np.load(subject["targets"][2] / "image.npy")[:, 1, 0]
    with torch.no_grad():
        embedding = F.normalize(model.pool(model(bold)), dim=1).numpy()
    hits = (embedding @ image.T).argmax(1) == np.arange(VOLUMES)
    assert hits.mean() == pytest.approx(table.image_top1.iloc[-1], abs=1e-5)


def test_killed_and_restarted_ends_the_same(subject: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings(self_contrast=SELF, held_out=1)
    contrastive.train(**subject, out=tmp_path / "straight", scratch=tmp_path / "a", cfg=cfg)
    finite = loop.finite

    def killed(value, name, what, step, samples) -> torch.Tensor:
        if step == 3 and name == "gradient norm":
            os.kill(os.getpid(), signal.SIGTERM)
        return finite(value, name, what, step, samples)

    monkeypatch.setattr(loop, "finite", killed)
    with pytest.raises(SystemExit) as stop:
        contrastive.train(**subject, out=tmp_path / "killed", scratch=tmp_path / "b", cfg=cfg)
    assert stop.value.code == loop.EXIT_PREEMPTED
    monkeypatch.setattr(loop, "finite", finite)
    contrastive.train(**subject, out=tmp_path / "killed", scratch=tmp_path / "b", cfg=cfg)
    straight, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "killed"))
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    histories = [(tmp_path / name / "history.tsv").read_bytes() for name in ("straight", "killed")]
    assert histories[0] == histories[1]
    assert not list((tmp_path / "b").glob("resume*"))


def test_every_setting_acts(subject: dict, tmp_path: Path) -> None:
    """No key of the sections encoder and contrastive is without effect."""
    own = [{"self_contrast": SELF.model_copy(update={key: 0.9})} for key in SelfContrast.model_fields]
    changes = [
        *({"modalities": ("image",)}, {"modalities": ("text",)}, {"sparsify": 0.5}, {"crop_probability": 1.0}),
        *({"dropout": 0.5}, {"similarity_limit": 0.1}, {"scene_cut": 1.0}, {"held_out": 1}, {"seed": 3}),
        *({"self_contrast": SELF}, *own, {"optimizer": CFG.optimizer.model_copy(update={"lr": 1e-3})}),
    ]
    windows = [{"window": 3}, {"shift": 1}, {"tokens": 5}]
    one_scene = np.zeros((VOLUMES, FRAMES, 2, 2, 3), np.uint8)
    one_scene[VOLUMES // 2 :] = 200  # or two
    for path in subject["frames"]:
        np.save(path, one_scene)

    def made(change: dict, encoder: dict) -> bytes:
        options = subject | {"encoder": ENCODER.model_copy(update=encoder)}
        cfg = settings(3).model_copy(update=change)
        contrastive.train(**options, out=tmp_path / "out", scratch=tmp_path / "s", cfg=cfg)
        return (tmp_path / "out" / "model.safetensors").read_bytes()

    results = {made({}, {}), *(made(change, {}) for change in changes), *(made({}, change) for change in windows)}
    assert len(results) == 1 + len(changes) + len(windows)
    assert {key for change in changes for key in change} == set(Contrastive.model_fields)
    # token_width is that of CLIP's embeddings: test_targets_that_do_not_fit_are_named
    assert {key for change in windows for key in change} == set(Encoder.model_fields) - {"token_width"}


# Losses ---------------------------------------------------------------------------------------------------------------


def test_clip_loss_equals_its_definition() -> None:
    torch.manual_seed(0)
    fmri, target = F.normalize(torch.randn(6, 5), dim=1), F.normalize(torch.randn(6, 5), dim=1)
    loss = contrastive.clip_loss(fmri, target, torch.tensor(7.0), NONE).item()
    similarity = np.exp(7.0 * fmri.double().numpy() @ target.double().numpy().T)
    rows = -np.log(np.diag(similarity) / similarity.sum(1)).mean()
    columns = -np.log(np.diag(similarity) / similarity.sum(0)).mean()
    assert loss == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_ignored_pairs_do_not_count() -> None:
    torch.manual_seed(0)
    fmri, target = F.normalize(torch.randn(6, 5), dim=1), F.normalize(torch.randn(6, 5), dim=1)
    twins = target.clone()
    twins[1] = twins[0]
    ignored = NONE.clone()
    ignored[0, 1] = ignored[1, 0] = True
    scale = torch.tensor(20.0)
    kept = [0, 2, 3, 4, 5]
    rows = F.cross_entropy(scale * fmri[[0]] @ twins[kept].T, torch.tensor([0]))  # of sample 0
    alone = contrastive.clip_loss(fmri, twins, scale, ignored)
    assert alone < contrastive.clip_loss(fmri, twins, scale, NONE)
    logits = (scale * fmri @ twins.T).masked_fill(ignored, -torch.inf)
    torch.testing.assert_close(F.cross_entropy(logits[[0]], torch.tensor([0])), rows)
    assert torch.isfinite(contrastive.clip_loss(fmri, twins, scale, ~torch.eye(6, dtype=torch.bool)))


def test_objectives_of_the_papers() -> None:
    torch.manual_seed(0)
    window, masked, interpolated, image, text = (F.normalize(torch.randn(6, 5), dim=1) for _ in range(5))
    scale, targets = torch.tensor(7.0), {"image": image, "text": text}

    def loss(a: torch.Tensor, b: torch.Tensor) -> float:
        return contrastive.clip_loss(a, b, scale, NONE).item()

    mind_video = contrastive.objective(window, targets, scale, NONE, None).item()
    assert mind_video == pytest.approx((loss(window, image) + loss(window, text)) / 2)
    assert contrastive.objective(window, {"text": text}, scale, NONE, None).item() == pytest.approx(loss(window, text))
    cfg = SELF.model_copy(update={"mask_weight": 0.25, "interpolate_weight": 0.75})
    views = torch.stack([window, masked, interpolated], 1).flatten(0, 1)
    neurocine = contrastive.objective(views, targets, scale, NONE, cfg).item()
    met = loss(window, image) + loss(window, text)
    assert neurocine == pytest.approx(met + 0.25 * loss(window, masked) + 0.75 * loss(window, interpolated))


def test_scale_is_learned_and_bounded() -> None:
    scale = contrastive.Scale()
    assert scale().item() == pytest.approx(1 / 0.07) and scale.log.requires_grad
    scale.log.data.fill_(9.0)
    assert scale().item() == pytest.approx(100)


# NeuroCine's augmentation ---------------------------------------------------------------------------------------------


def test_spatial_masking_sets_a_share_of_every_embedding_to_zero() -> None:
    torch.manual_seed(0)
    embedded = torch.rand(5, 2, 7, 20) + 1
    masked = contrastive.mask(embedded, 0.2)
    zero = masked == 0
    assert (zero.sum(-1) == 4).all()
    assert torch.equal(zero[:, 0], zero[:, 1])  # the whole window
    assert not torch.equal(zero[0], zero[1]) and not torch.equal(zero[:, :, 0], zero[:, :, 1])
    assert torch.equal(masked[~zero], embedded[~zero])
    assert torch.equal(contrastive.mask(embedded, 0.0), embedded)


@pytest.mark.parametrize(("window", "share", "replaced"), [(2, 1 / 3, {0, 1}), (2, 0.5, {1}), (3, 0.5, {1, 2})])
def test_temporal_interpolation_is_its_sum(window: int, share: float, replaced: set[int]) -> None:
    torch.manual_seed(0)
    embedded = torch.randn(300, window, 3, 4)
    made = contrastive.interpolate(embedded, share)
    changed = (made != embedded).flatten(2).any(2)
    assert set(changed.sum(1).tolist()) == replaced
    assert changed.float().mean().item() == pytest.approx(share, abs=0.05)
    assert changed.any(0).all()  # each place has its turn
    for sample, i in changed.nonzero().tolist():
        others = [(1 - abs(i - j) / window) * embedded[sample, j] for j in range(window) if j != i]
        torch.testing.assert_close(made[sample, i], sum(others))
    assert torch.equal(contrastive.interpolate(embedded, 0.0), embedded)


def test_three_windows_go_through_the_model_at_once(rng: np.random.Generator) -> None:
    torch.manual_seed(0)
    size = {"voxels": VOXELS, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "mlp_ratio": 1.0}
    model = FmriEncoder(**size, window=2, tokens=4, token_width=WIDTH, dropout=0.0).eval()
    window = torch.randn(5, 2, VOXELS)
    with torch.no_grad():
        half = SELF.model_copy(update={"interpolate_share": 0.5})  # one volume of two
        tokens = contrastive.embed(model, window, half).unflatten(0, (5, 3))
        plain = contrastive.embed(model, window, None)
    torch.testing.assert_close(tokens[:, 0], plain)
    assert all((tokens[:, view] - plain).abs().amax((1, 2)).min() > 1e-3 for view in (1, 2))
    assert not torch.allclose(tokens[:, 1], tokens[:, 2])


# Checks ---------------------------------------------------------------------------------------------------------------


def test_targets_that_do_not_fit_are_named(subject: dict, tmp_path: Path) -> None:
    options = {"out": tmp_path / "out", "scratch": tmp_path / "s", "cfg": CFG}
    with pytest.raises(InputError, match="2 target folders and 3 movies for 3 segments"):
        contrastive.train(**{**subject, "targets": subject["targets"][:2]}, **options)
    with pytest.raises(InputError, match=r"seg0/image.npy: shape \(14, 2, 3, 12\), expected \(14, frames, views, 16\)"):
        contrastive.train(**{**subject, "encoder": ENCODER.model_copy(update={"token_width": 16})}, **options)
    with pytest.raises(InputError, match="held_out: found 3 of 3 training segments"):
        contrastive.train(**subject, **options | {"cfg": settings(held_out=3)})
    with pytest.raises(InputError, match=r"found encoder\.window 1"):
        one = ENCODER.model_copy(update={"window": 1})
        contrastive.train(**subject | {"encoder": one}, **options | {"cfg": settings(self_contrast=SELF)})
    np.save(subject["frames"][0], np.load(subject["frames"][0])[:9])
    with pytest.raises(InputError, match=r"seg0.npy: 9 volumes, the fMRI has 14"):
        contrastive.train(**subject, **options)
    folder = subject["targets"][1]
    np.save(folder / "text.npy", np.load(folder / "text.npy")[:9])
    with pytest.raises(InputError, match=r"seg1/text.npy: shape \(9, "):
        contrastive.train(**subject, **options)
    assert not (tmp_path / "out").exists()
