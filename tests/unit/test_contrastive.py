"""Contrastive learning: loss, batches, views, learning, resume, checks."""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from mindreel import contrastive, training
from mindreel.config import Contrastive, Encoder, Optimizer
from mindreel.encoder import FmriEncoder, MaskedAutoencoder, window_batch
from mindreel.errors import InputError

SEGMENTS, VOLUMES, VOXELS, FRAMES, WIDTH = 3, 14, 40, 2, 12
ENCODER = Encoder(window=2, shift=0, tokens=4, token_width=WIDTH)
CFG = Contrastive(
    modalities=("image", "text"),
    sparsify=0.2,
    crop_probability=0.5,
    dropout=0.1,
    similarity_limit=0.9,
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


@pytest.fixture
def subject(tmp_path: Path, rng: np.random.Generator) -> dict[str, object]:
    """fMRI that is a linear image of the CLIP embeddings, and a random MBM."""
    torch.set_num_threads(1)
    truth = unit(rng.standard_normal((SEGMENTS, VOLUMES, WIDTH)))
    bold = truth @ rng.standard_normal((WIDTH, VOXELS)) + 0.1 * rng.standard_normal((SEGMENTS, VOLUMES, VOXELS))
    np.save(tmp_path / "train.npy", (bold / bold.std((0, 1))).astype(np.float32))
    targets = []
    for segment in range(SEGMENTS):
        folder = tmp_path / f"seg{segment}"
        folder.mkdir()
        for name in ("image", "text"):
            jitter = 0.03 * rng.standard_normal((VOLUMES, FRAMES, 3, WIDTH))
            np.save(folder / f"{name}.npy", unit(truth[segment][:, None, None] + jitter))
        targets.append(folder)
    torch.manual_seed(0)
    MaskedAutoencoder(
        voxels=VOXELS, patch_size=8, width=16, depth=2, heads=2, mlp_ratio=1.0, decoder_width=8, decoder_depth=1,
        decoder_heads=2,
    ).save_pretrained(tmp_path / "mbm")  # fmt: skip
    return {"mbm": tmp_path / "mbm", "bold": tmp_path / "train.npy", "targets": targets, "encoder": ENCODER}


def with_steps(steps: int) -> Contrastive:
    return CFG.model_copy(update={"optimizer": CFG.optimizer.model_copy(update={"steps": steps})})


def test_the_encoder_learns_to_retrieve(subject: dict, tmp_path: Path) -> None:
    contrastive.train(**subject, out=tmp_path / "out", scratch=tmp_path / "s", cfg=with_steps(150))
    history = pd.read_csv(tmp_path / "out" / "history.tsv", sep="\t")
    assert history.step.tolist() == [*range(0, 150, 20), 149]
    last = history.iloc[-3:].mean()
    assert last.image_top1 > 5 * last.chance_top1
    assert last.text_top1 > 5 * last.chance_top1
    assert last.chance_top5 == pytest.approx(0.5)
    assert last.loss < 0.5 * history.loss[0]
    model = FmriEncoder.from_pretrained(tmp_path / "out")
    segment, volume = np.divmod(np.arange(SEGMENTS * VOLUMES), VOLUMES)
    bold = window_batch(np.load(subject["bold"]), segment, volume, 2, 0)
    image = np.concatenate([np.load(folder / "image.npy")[:, 1, 0] for folder in subject["targets"]])
    with torch.no_grad():
        embedding = F.normalize(model.pool(model(bold)), dim=1).numpy()
    hits = (embedding @ image.T).argmax(1) == np.arange(len(image))
    assert hits.mean() > 0.4  # chance 1 / 42


def test_killed_and_restarted_ends_the_same(subject: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contrastive.train(**subject, out=tmp_path / "straight", scratch=tmp_path / "a", cfg=CFG)
    update = training.update

    def killed(optimizer, loss, cfg, step, what) -> None:
        update(optimizer, loss, cfg, step, what)
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training, "update", killed)
    with pytest.raises(SystemExit) as stop:
        contrastive.train(**subject, out=tmp_path / "killed", scratch=tmp_path / "b", cfg=CFG)
    assert stop.value.code == training.EXIT_PREEMPTED
    monkeypatch.setattr(training, "update", update)
    contrastive.train(**subject, out=tmp_path / "killed", scratch=tmp_path / "b", cfg=CFG)
    straight, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "killed"))
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    histories = [(tmp_path / name / "history.tsv").read_bytes() for name in ("straight", "killed")]
    assert histories[0] == histories[1]
    assert list((tmp_path / "b").iterdir()) == []  # the resume file is gone


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


def test_retrieval_ranks() -> None:
    target = torch.eye(6)
    fmri = F.normalize(torch.tensor([[9, 0, 0, 0, 0, 0], [5, 3, 0, 0, 4, 0]] * 3, dtype=torch.float32), dim=1)
    assert contrastive.retrieval_ranks(fmri, target, NONE)[:2].tolist() == [0, 2]
    ignored = NONE.clone()
    ignored[1, 0] = True
    assert contrastive.retrieval_ranks(fmri, target, ignored)[1] == 1
    assert contrastive.retrieval_ranks(torch.ones(6, 6), target, NONE).tolist() == [5] * 6  # ties count against it


def test_batches_hold_no_similar_clips(rng: np.random.Generator) -> None:
    scenes = np.repeat(np.eye(20), 3, axis=0)  # 20 scenes of 3 volumes
    similar = contrastive.similar_clips(scenes, 0.95)
    assert similar.sum() == 60 * 3
    drawn = [contrastive.draw_batch(similar, 15, rng) for _ in range(20)]
    for clips in drawn:
        assert len({clip // 3 for clip in clips}) == 15
        assert not contrastive.duplicates(similar, clips).any()
    assert len(np.unique(drawn)) > 50  # every clip gets its turn


def test_a_batch_that_cannot_be_filled_takes_what_is_left(rng: np.random.Generator) -> None:
    similar = contrastive.similar_clips(np.repeat(np.eye(4), 3, axis=0), 0.95)
    clips = contrastive.draw_batch(similar, 10, rng)
    assert len(set(clips)) == 10
    assert len({clip // 3 for clip in clips[:4]}) == 4  # first those that differ
    ignored = contrastive.duplicates(similar, clips)
    assert ignored.any()
    assert not ignored.diagonal().any()
    expected = np.equal.outer(clips // 3, clips // 3) & ~np.eye(10, dtype=bool)
    np.testing.assert_array_equal(ignored, expected)


def test_similarity_limit_changes_what_may_meet() -> None:
    pair = unit(np.array([[1.0, 0.0], [1.0, 0.5]]))  # cosine 0.894
    assert contrastive.similar_clips(pair, 0.85)[0, 1]
    assert not contrastive.similar_clips(pair, 0.9)[0, 1]


def views_drawn(crop_probability: float, rng: np.random.Generator) -> np.ndarray:
    """Banks whose values say where they come from: segment, volume, frame, view."""
    s, t, f, v = np.meshgrid(range(2), range(5), range(3), range(4), indexing="ij")
    bank = np.stack([s, t, f, v], axis=-1).astype(np.float32)
    banks = {"image": list(bank), "text": list(bank)}
    segment, volume = np.repeat([0, 1], 100), np.tile(np.arange(5), 40)
    drawn = contrastive.draw_views(banks, segment, volume, crop_probability, rng)
    both = np.stack([drawn["image"].numpy(), drawn["text"].numpy()])  # (modality, B, 4)
    assert (both[:, :, 0] == segment).all()
    assert (both[:, :, 1] == volume).all()
    assert (both[0, :, 2] == both[1, :, 2]).all()  # image and caption are of one frame
    assert set(both[0, :, 2]) == {0, 1, 2}
    assert set(both[1, :, 3]) == {0, 1, 2, 3}
    return both[0, :, 3]


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_views(probability: float, rng: np.random.Generator) -> None:
    view = views_drawn(probability, rng)
    assert (view > 0).mean() == pytest.approx(probability, abs=0.12)
    assert set(view[view > 0]) == ({1, 2, 3} if probability else set())


def test_text_alone(subject: dict, tmp_path: Path) -> None:
    cfg = CFG.model_copy(update={"modalities": ("text",)})
    contrastive.train(**subject, out=tmp_path / "out", scratch=tmp_path / "s", cfg=cfg)
    history = pd.read_csv(tmp_path / "out" / "history.tsv", sep="\t")
    assert "text_top1" in history
    assert "image_top1" not in history


def test_targets_that_do_not_fit_are_named(subject: dict, tmp_path: Path) -> None:
    options = {"out": tmp_path / "out", "scratch": tmp_path / "s", "cfg": CFG}
    with pytest.raises(InputError, match="2 target folders for 3 segments"):
        contrastive.train(**{**subject, "targets": subject["targets"][:2]}, **options)
    with pytest.raises(InputError, match=r"seg0/image.npy: shape \(14, 2, 3, 12\), expected \(14, frames, views, 16\)"):
        contrastive.train(**{**subject, "encoder": ENCODER.model_copy(update={"token_width": 16})}, **options)
    folder = subject["targets"][1]
    np.save(folder / "text.npy", np.load(folder / "text.npy")[:9])
    with pytest.raises(InputError, match=r"seg1/text.npy: shape \(9, "):
        contrastive.train(**subject, **options)
    assert not (tmp_path / "out").exists()
