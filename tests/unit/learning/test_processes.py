"""Every training in two processes, as a launcher starts them, against the same training in one."""

import multiprocessing
import os
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_diffusion import ENCODER, TOKENS, VOXELS, WIDTH, bold, optimizer, stable_diffusion, targets

from mindreel import distributed
from mindreel.networks.fmri_encoder import FmriEncoder
from mindreel.networks.video_unet import inflate
from mindreel.sections import Contrastive, Cotrain, DoubleContrast, Generator, Mbm, Pretrain, SelfContrast
from mindreel.stages import contrastive, cotrain, generator, mbm

STEPS, SEGMENTS, VOLUMES = 20, 2, 8
TRAININGS = ("pretrain", "double_contrast", "tune", "contrastive", "self_contrast", "generator", "cotrain")
MASKED = {"mask_ratio": 0.5, "mix_share": 0.5, "double_contrast": None, "optimizer": optimizer(STEPS, 1e-3, 6)}
SIZES = Pretrain(
    **MASKED, patch_size=8, width=16, depth=2, heads=2, mlp_ratio=1.0, decoder_width=8, decoder_depth=1,
    decoder_heads=2, gradient_checkpointing=True, compile=False, seed=1,
)  # fmt: skip
CONTRAST = DoubleContrast(masked_weight=0.7, cross_weight=0.5, self_weight=0.3, temperature=0.1)
LEARN = Contrastive(
    modalities=("image", "text"), sparsify=0.2, crop_probability=0.5, dropout=0.5, similarity_limit=0.9, scene_cut=0.1,
    self_contrast=None, held_out=1, optimizer=optimizer(STEPS, 1e-3, 6), seed=1,
)  # fmt: skip
SELF = SelfContrast(mask_share=0.2, mask_weight=1.0, interpolate_share=0.5, interpolate_weight=1.0)
SPEAK = Generator(
    attention="sparse-causal", norm_over="frames", frame_positions=False, trained=("attn1", "attn_temp"),
    condition_dropout=0.3, noise_beta=0.25, min_snr_gamma=5.0, optimizer=optimizer(STEPS, 1e-3, 2), seed=1,
)  # fmt: skip
TOGETHER = Cotrain(
    trained=("attn2",), condition_dropout=0.3, mean_dropout=0.3, noise_beta=0.25, encoder_lr_scale=2.0, sparsify=0.2,
    precision="auto", gradient_checkpointing=False, optimizer=optimizer(STEPS, 1e-3, 2), seed=1,
)  # fmt: skip


def make_inputs(folder: Path, rng: np.random.Generator) -> None:
    """Segments of HCP, a subject, two segments' targets and frames, models of random weights."""
    (folder / "hcp").mkdir()
    np.save(folder / "hcp" / "segments.npy", rng.standard_normal((30, 36)).astype(np.float16))
    run = dict(subject="1", run="rest", shard="segments.npy", first=0, segments=30, volumes=300)
    pd.DataFrame([run]).to_csv(folder / "hcp" / "runs.tsv", sep="\t", index=False)
    bold(folder / "train.npy", SEGMENTS, VOLUMES)
    for segment in targets(folder / "targets", SEGMENTS, VOLUMES):
        for name in ("image", "text"):
            views = rng.standard_normal((VOLUMES, 2, 3, WIDTH)).astype(np.float32)
            np.save(segment / f"{name}.npy", views / np.linalg.norm(views, axis=-1, keepdims=True))
        np.save(folder / f"{segment.name}.npy", rng.integers(256, size=(VOLUMES, 2, 2, 2, 3), dtype=np.uint8))
    model = stable_diffusion(folder / "sd")
    inflate(model / "unet", "sparse-causal", "frames").save_pretrained(folder / "generator")
    torch.manual_seed(3)
    size = {"voxels": VOXELS, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "mlp_ratio": 1.0}
    FmriEncoder(**size, window=2, tokens=TOKENS, token_width=WIDTH, dropout=0.5).save_pretrained(folder / "encoder")
    mbm.tune(
        bold=folder / "train.npy", out=folder / "mbm", scratch=folder, cfg=Mbm(**MASKED, init="none", seed=1),
        sizes=SIZES,
    )  # fmt: skip


def train_all(inputs: Path, out: Path) -> None:
    """Every training, one after the other, in however many processes this runs."""
    own = {name: {"out": out / name, "scratch": out / "scratch" / name} for name in TRAININGS}
    series = {"bold": inputs / "train.npy"}
    folders = {"targets": sorted((inputs / "targets").iterdir())}
    subject = {
        **series,
        **folders,
        "frames": sorted(inputs.glob("seg*.npy")),
        "mbm": inputs / "mbm",
        "encoder": ENCODER,
    }
    contrasted = SIZES.model_copy(update={"double_contrast": CONTRAST})
    mbm.pretrain(segments=inputs / "hcp", cfg=SIZES, **own["pretrain"])
    mbm.pretrain(segments=inputs / "hcp", cfg=contrasted, **own["double_contrast"])
    mbm.tune(**series, cfg=Mbm(**MASKED, init="scratch", seed=1), sizes=SIZES, **own["tune"])
    contrastive.train(**subject, cfg=LEARN, **own["contrastive"])
    contrastive.train(**subject, cfg=LEARN.model_copy(update={"self_contrast": SELF}), **own["self_contrast"])
    generator.train(model=inputs / "sd", **folders, cfg=SPEAK, **own["generator"])
    models = {"encoder": inputs / "encoder", "generator": inputs / "generator", "model": inputs / "sd"}
    cotrain.train(**models, **series, **folders, encoder_settings=ENCODER, cfg=TOGETHER, **own["cotrain"])


def as_process(rank: int, port: int, inputs: Path, out: Path) -> None:
    """What torchrun tells a process, and what it then does."""
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in place.items()}
    train_all(inputs, out)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("processes")
    make_inputs(folder, np.random.default_rng(0))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    context = multiprocessing.get_context("fork")  # nothing has to be imported anew
    two = [context.Process(target=as_process, args=(rank, port, folder, folder / "two")) for rank in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(generator.SHEET, "steps", 1)
        for process in two:
            process.start()
        train_all(folder, folder / "one")
    for process in two:
        process.join()
    assert [process.exitcode for process in two] == [0, 0]
    return {name: folder / name for name in ("one", "two")}


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_like_one(name: str, results: dict[str, Path]) -> None:
    one, two = (pd.read_csv(results[n] / name / "history.tsv", sep="\t") for n in ("one", "two"))
    assert len(one) == len(two) == STEPS and list(one) == list(two)
    np.testing.assert_allclose(two.loss, one.loss, atol=1e-5)
    weights = [sorted((results[n] / name).rglob("model.safetensors")) for n in ("one", "two")]
    assert len(weights[0]) == (2 if name == "cotrain" else 1)
    for a, b in zip(*weights, strict=True):
        other = load_file(b)
        for key, value in load_file(a).items():
            if not key.endswith("qkv.bias"):  # a key's bias has no gradient but rounding, which AdamW blows up
                torch.testing.assert_close(other[key], value, atol=1e-4, rtol=0, msg=key)


def test_dropout_of_two_processes_is_that_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, dropout = torch.randn(8, 5), distributed.Dropout(0.5)
    torch.manual_seed(0)
    whole = dropout(rows)
    parts = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        torch.manual_seed(0)
        parts.append(dropout(rows[distributed.share(8)]))
    assert torch.equal(torch.cat(parts), whole) and (whole == 0).any()
    assert torch.equal(dropout.eval()(rows), rows)
