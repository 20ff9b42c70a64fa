"""Schedule, optimiser, resume files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mindreel import training
from mindreel.config import Optimizer

CFG = Optimizer(
    steps=12, batch_size=4, lr=1e-2, warmup=3, weight_decay=0.1, betas=(0.9, 0.95), clip_grad=1.0, checkpoint_s=1e9
)


def toy_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 1))


def toy_training(
    scratch: Path, cfg: Optimizer = CFG, kill_at: int | None = None, settings: str = ""
) -> tuple[nn.Module, training.Run]:
    model = toy_model()
    optimizer = training.adamw({model: 1.0}, cfg)
    run = training.Run(scratch, {"model": model}, optimizer, cfg, settings)
    for step in run.steps("toy"):
        rng = training.step_rng(0, step)
        loss = model(torch.from_numpy(rng.standard_normal((4, 5), np.float32))).square().mean()
        training.update(optimizer, loss, cfg, step, "toy")
        run.log(step, loss=loss.item())
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
    return model, run


def test_schedule() -> None:
    assert training.cosine_lr(0, CFG) == 0
    assert training.cosine_lr(1.5, CFG) == pytest.approx(0.5e-2)
    assert training.cosine_lr(3, CFG) == pytest.approx(1e-2)
    assert training.cosine_lr(7.5, CFG) == pytest.approx(0.5e-2)
    assert training.cosine_lr(12, CFG) == pytest.approx(0, abs=1e-12)


def test_schedule_equals_released() -> None:
    data = np.load(Path(__file__).parents[1] / "data" / "lr_schedule" / "data.npz")
    cfg = CFG.model_copy(update={"steps": 500, "warmup": 40, "lr": 2.5e-4})
    ours = [training.cosine_lr(float(epoch), cfg) for epoch in data["epoch"]]
    np.testing.assert_allclose(ours, data["lr"], atol=1e-12)


def test_step_rng_depends_on_seed_and_step_only() -> None:
    first = training.step_rng(1, 5).random(), torch.rand(1)
    torch.rand(7)
    assert (training.step_rng(1, 5).random(), torch.rand(1)) == first
    assert training.step_rng(1, 6).random() != first[0]
    assert training.step_rng(2, 5).random() != first[0]


def test_adamw_groups() -> None:
    slow, fast = nn.Linear(3, 3), nn.Linear(3, 3)
    fast.weight.requires_grad_(False)
    groups = training.adamw({slow: 1.0, fast: 10.0}, CFG).param_groups
    described = [(g["lr_scale"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups]
    assert described == [(1.0, 0.1, [(3, 3)]), (1.0, 0.0, [(3,)]), (10.0, 0.0, [(3,)])]


def test_update_scales_the_rate_and_clips() -> None:
    slow, fast = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    optimizer = training.adamw({slow: 1.0, fast: 10.0}, CFG)
    before = slow.weight.detach().clone()
    training.update(optimizer, 1e6 * (slow.weight.sum() + fast.weight.sum()), CFG, 3, "toy")
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([training.cosine_lr(3.5, CFG), 10 * training.cosine_lr(3.5, CFG)])
    assert not torch.equal(slow.weight, before)
    moment = optimizer.state[slow.weight]["exp_avg"]
    assert moment.norm() <= 0.1 * CFG.clip_grad + 1e-6
    assert slow.weight.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_loss_stops_with_its_step_and_leaves_the_weights(bad: float) -> None:
    model = toy_model()
    optimizer = training.adamw({model: 1.0}, CFG)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match=r"toy: loss (nan|inf) at step 7"):
        training.update(optimizer, model(torch.ones(4, 5)).mean() * bad, CFG, 7, "toy")
    parameter = model[0].weight
    with pytest.raises(FloatingPointError, match=r"gradient norm .* at step 8"):  # of a finite loss
        training.update(optimizer, (parameter * 0).abs().sqrt().sum(), CFG, 8, "toy")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("kill_at", [0, 5, 11])
def test_killed_and_restarted_ends_the_same(kill_at: int, tmp_path: Path) -> None:
    straight, whole = toy_training(tmp_path / "a")
    with pytest.raises(SystemExit) as stop:
        toy_training(tmp_path / "b", kill_at=kill_at)
    assert stop.value.code == training.EXIT_PREEMPTED
    resumed, run = toy_training(tmp_path / "b")
    assert run.start == kill_at + 1
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert run.table().equals(whole.table())
    run.finish()
    assert list((tmp_path / "b").iterdir()) == []


def saved_often(scratch: Path, kill_at: int = 5) -> Path:
    with pytest.raises(SystemExit):  # a resume file after every step
        toy_training(scratch, CFG.model_copy(update={"checkpoint_s": 1e-9}), kill_at=kill_at)
    return scratch / "resume.safetensors"


def damage_end(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 255]) + content[-8:]


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", damage_end])
def test_a_damaged_resume_file_gives_way_to_the_previous(damage, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = saved_often(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    resumed, run = toy_training(tmp_path)
    assert run.start == 5  # one step earlier
    assert "passed over" in capsys.readouterr().err
    straight, _ = toy_training(tmp_path / "straight")
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_both_resume_files_damaged_starts_anew(tmp_path: Path) -> None:
    file = saved_often(tmp_path)
    file.write_bytes(b"")
    file.with_name("resume-previous.safetensors").write_bytes(b"x" * 100)
    assert toy_training(tmp_path)[1].start == 0


def test_a_resume_file_of_other_settings_is_not_used(tmp_path: Path) -> None:
    saved_often(tmp_path)
    assert toy_training(tmp_path, CFG.model_copy(update={"lr": 2e-2}))[1].start == 0
    saved_often(tmp_path, kill_at=8)
    assert toy_training(tmp_path, settings="other")[1].start == 0


def test_stamp_changes_with_its_inputs(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.npy", tmp_path / "model"
    file.write_text("1")
    folder.mkdir()
    os.utime(file, (2, 2))
    first = training.stamp(file, folder)
    assert training.stamp(file, folder) == first
    assert training.stamp(folder, file) != first
    os.utime(file, (1, 1))
    assert training.stamp(file, folder) != first


def test_logged_steps(tmp_path: Path) -> None:
    model = toy_model()
    cfg = CFG.model_copy(update={"steps": 2000})
    run = training.Run(tmp_path, {"model": model}, training.adamw({model: 1.0}, cfg), cfg)
    assert [step for step in range(2000) if run.due(step, 700)] == [0, 700, 1400, 1999]
    assert sum(run.due(step) for step in range(2000)) == 501
    assert run.due(1999)


def test_sigterm_from_outside(tmp_path: Path) -> None:
    """A process that a cluster tells to stop saves, and ends with the code that says so."""
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); import test_training as t; from pathlib import Path\n"
        "from mindreel import training\n"
        "old = training.update\n"
        "training.update = lambda *a: (old(*a), print('step', flush=True), time.sleep(0.05))\n"
        "t.toy_training(Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        process.terminate()
        process.stdout.read()
        assert process.wait(timeout=60) == training.EXIT_PREEMPTED
    straight, _ = toy_training(tmp_path / "straight")
    resumed, run = toy_training(tmp_path)
    assert run.start > 0
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
