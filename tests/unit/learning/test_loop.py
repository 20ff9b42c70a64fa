"""Schedule, optimiser, resume files."""

import multiprocessing
import os
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboardX.proto import event_pb2
from torch import nn

from mindreel import distributed
from mindreel.device import precision
from mindreel.errors import InputError
from mindreel.learning import loop
from mindreel.sections import Optimizer

CFG = Optimizer(
    steps=12, batch_size=4, lr=1e-2, warmup=3, weight_decay=0.1, betas=(0.9, 0.95), clip_grad=1.0, checkpoint_s=1e9
)


def toy_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 1))


def train_step(optimizer, loss, cfg, step, samples=None) -> None:
    """What every training's loop does once its loss is there."""
    loop.set_lr(optimizer, loop.cosine_lr(step + 0.5, cfg))
    loop.finite(loss.detach(), "loss", "toy", step, samples)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(loop.weights(optimizer), cfg.clip_grad)
    loop.finite(norm, "gradient norm", "toy", step, samples)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def toy_training(
    scratch: Path, cfg: Optimizer = CFG, kill_at: int | None = None, settings: str = ""
) -> tuple[nn.Module, loop.Run]:
    model = toy_model()
    optimizer = loop.adamw({model: 1.0}, cfg)
    run = loop.Run(scratch, {"model": model}, optimizer, cfg, settings)
    for step in run.steps("toy"):
        rng = loop.step_rng(0, step)
        loss = model(torch.from_numpy(rng.standard_normal((4, 5), np.float32))).square().mean()
        train_step(optimizer, loss, cfg, step)
        run.log(step, loss=loss.item())
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
    return model, run


def test_schedule() -> None:
    assert loop.cosine_lr(0, CFG) == 0
    assert loop.cosine_lr(1.5, CFG) == pytest.approx(0.5e-2)
    assert loop.cosine_lr(3, CFG) == pytest.approx(1e-2)
    assert loop.cosine_lr(7.5, CFG) == pytest.approx(0.5e-2)
    assert loop.cosine_lr(12, CFG) == pytest.approx(0, abs=1e-12)


def test_schedule_equals_released() -> None:
    data = np.load(Path(__file__).parents[2] / "data" / "lr_schedule" / "data.npz")
    cfg = CFG.model_copy(update={"steps": 500, "warmup": 40, "lr": 2.5e-4})
    ours = [loop.cosine_lr(float(epoch), cfg) for epoch in data["epoch"]]
    np.testing.assert_allclose(ours, data["lr"], atol=1e-12)


def test_step_rng_depends_on_seed_and_step_only() -> None:
    first = loop.step_rng(1, 5).random(), torch.rand(1)
    torch.rand(7)
    assert (loop.step_rng(1, 5).random(), torch.rand(1)) == first
    assert loop.step_rng(1, 6).random() != first[0]
    assert loop.step_rng(2, 5).random() != first[0]


def test_adamw_groups() -> None:
    slow, fast = nn.Linear(3, 3), nn.Linear(3, 3)
    fast.weight.requires_grad_(False)
    groups = loop.adamw({slow: 1.0, fast: 10.0}, CFG).param_groups
    described = [(g["lr_scale"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups]
    assert described == [(1.0, 0.1, [(3, 3)]), (1.0, 0.0, [(3,)]), (10.0, 0.0, [(3,)])]


def test_a_step_scales_the_rate_and_clips() -> None:
    slow, fast = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    optimizer = loop.adamw({slow: 1.0, fast: 10.0}, CFG)
    before = slow.weight.detach().clone()
    train_step(optimizer, 1e6 * (slow.weight.sum() + fast.weight.sum()), CFG, 3)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([loop.cosine_lr(3.5, CFG), 10 * loop.cosine_lr(3.5, CFG)])
    assert not torch.equal(slow.weight, before)
    moment = optimizer.state[slow.weight]["exp_avg"]
    assert moment.norm() <= 0.1 * CFG.clip_grad + 1e-6
    assert slow.weight.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_loss_stops_with_its_step_and_leaves_the_weights(bad: float) -> None:
    model = toy_model()
    optimizer = loop.adamw({model: 1.0}, CFG)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match=r"toy: loss (nan|inf) at step 7 \(samples 3, 1\)"):
        train_step(optimizer, model(torch.ones(4, 5)).mean() * bad, CFG, 7, np.array([3, 1]))
    parameter = model[0].weight
    with pytest.raises(FloatingPointError, match=r"gradient norm .* at step 8"):  # of a finite loss
        train_step(optimizer, (parameter * 0).abs().sqrt().sum(), CFG, 8)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("kill_at", [0, 5, 11])
def test_killed_and_restarted_ends_the_same(kill_at: int, tmp_path: Path) -> None:
    straight, whole = toy_training(tmp_path / "a")
    with pytest.raises(SystemExit) as stop:
        toy_training(tmp_path / "b", kill_at=kill_at)
    assert stop.value.code == loop.EXIT_PREEMPTED
    resumed, run = toy_training(tmp_path / "b")
    assert run.start == kill_at + 1
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert run.table().equals(whole.table())
    run.finish()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["tensorboard"]


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
    first = loop.stamp(file, folder)
    assert loop.stamp(file, folder) == first
    assert loop.stamp(folder, file) != first
    os.utime(file, (1, 1))
    assert loop.stamp(file, folder) != first


def test_logged_steps(tmp_path: Path) -> None:
    model = toy_model()
    cfg = CFG.model_copy(update={"steps": 2000})
    run = loop.Run(tmp_path, {"model": model}, loop.adamw({model: 1.0}, cfg), cfg)
    assert [step for step in range(2000) if run.due(step, 700)] == [0, 700, 1400, 1999]
    assert sum(run.due(step) for step in range(2000)) == 501
    assert run.due(1999)


def slow_training(scratch: Path, cfg: Optimizer) -> None:
    """A toy training that takes its time, in a process of its own."""
    set_lr = loop.set_lr
    loop.set_lr = lambda *options: (set_lr(*options), time.sleep(0.01))
    toy_training(scratch, cfg)


FORK = multiprocessing.get_context("fork")  # nothing has to be imported anew


def wait_for_save(process: multiprocessing.Process, file: Path) -> None:
    """Until the process has saved once more, or ended."""
    before = file.stat().st_mtime_ns if file.exists() else None
    while process.is_alive() and (not file.exists() or file.stat().st_mtime_ns == before):
        time.sleep(0.001)


def test_killed_without_warning_at_random_moments_ends_the_same(tmp_path: Path, rng: np.random.Generator) -> None:
    cfg = CFG.model_copy(update={"steps": 80, "checkpoint_s": 1e-9})  # a resume file after every step
    codes = []
    for moment in rng.uniform(0, 0.1, size=3):
        process = FORK.Process(target=slow_training, args=(tmp_path / "a", cfg))
        process.start()
        wait_for_save(process, tmp_path / "a" / "resume.safetensors")
        time.sleep(moment)
        process.kill()
        process.join()
        codes.append(process.exitcode)
    assert -signal.SIGKILL in codes
    resumed, run = toy_training(tmp_path / "a", cfg)
    assert run.start > 0
    straight, whole = toy_training(tmp_path / "b", cfg)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert run.table().equals(whole.table())
    run.finish()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["tensorboard"]  # nor anything half-written


def test_what_a_killed_save_left_is_removed_by_the_next_start(tmp_path: Path) -> None:
    for name in (".4711.resume.safetensors", ".tmpLTOGBz", "notes.txt"):
        (tmp_path / name).write_text("half")
    toy_training(tmp_path, CFG)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert (tmp_path / "notes.txt").exists()


def test_batch_shares_make_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.share(5) == slice(0, 5)
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares += range(12)[distributed.share(12)]
    assert shares == list(range(12))
    with pytest.raises(InputError, match="batch of 10 cannot be shared evenly by 3 processes"):
        distributed.share(10)


@pytest.mark.parametrize("room", [0, 10**6])
def test_rows_are_the_same_wherever_the_data_lie(room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float16))
    data = np.load(tmp_path / "a.npy", mmap_mode="r")
    monkeypatch.setattr(loop, "room", lambda device: room)
    fetch = loop.fetcher(data, torch.device("cpu"))
    rows = np.array([4999, 0, 4096, 17])
    assert fetch(rows).dtype == torch.float32
    np.testing.assert_array_equal(fetch(rows), np.asarray(data[rows], np.float32))


def events(folder: Path) -> list[tuple[int, str, float]]:
    """(step, name, value) of every scalar in the folder's one file of TensorBoard events."""
    (file,) = folder.iterdir()
    content, found = file.read_bytes(), []
    while content:
        (size,) = struct.unpack_from("<Q", content)  # then its checksum, the event, the event's checksum
        event = event_pb2.Event.FromString(content[12 : 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        content = content[16 + size :]
    return found


def test_tensorboard_shows_every_logged_step_once(tmp_path: Path) -> None:
    saved_often(tmp_path, kill_at=5)
    first = events(tmp_path / "tensorboard")
    assert [step for step, *_ in first] == list(range(6))
    _, run = toy_training(tmp_path)
    run.finish()
    shown = events(tmp_path / "tensorboard")
    assert [(step, name) for step, name, _ in shown] == [(step, "loss") for step in range(12)]
    np.testing.assert_allclose([value for *_, value in shown], run.table().loss, rtol=1e-6)
    toy_training(tmp_path, settings="other")  # another training starts anew
    assert len(events(tmp_path / "tensorboard")) == 12


def test_a_stopped_training_is_tried_again(root: Path) -> None:
    """Snakemake repeats a job that ends with EXIT_PREEMPTED: the profile that is added to all others allows it."""
    assert yaml.safe_load((root / "profiles" / "default" / "config.yaml").read_text())["retries"] >= 1


@pytest.mark.parametrize(("kind", "dtype"), [("auto", torch.float32), ("float32", None), ("bfloat16", torch.bfloat16)])
def test_precision(kind: str, dtype: torch.dtype | None) -> None:
    a = torch.ones(2, 2)
    with precision(torch.device("cpu"), kind):
        assert (a @ a).dtype == (dtype or torch.float32)


def test_bar_shows_samples_per_second(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    _, run = toy_training(tmp_path)
    assert "samples/s=" in run.bar.postfix and "loss=" in run.bar.postfix


def test_sigterm_from_outside(tmp_path: Path) -> None:
    """A process that a cluster tells to stop saves, and ends with the code that says so."""
    cfg = CFG.model_copy(update={"steps": 80, "checkpoint_s": 0.05})
    process = FORK.Process(target=slow_training, args=(tmp_path / "a", cfg))
    process.start()
    wait_for_save(process, tmp_path / "a" / "resume.safetensors")
    process.terminate()
    process.join()
    assert process.exitcode == loop.EXIT_PREEMPTED
    resumed, run = toy_training(tmp_path / "a", cfg)
    assert run.start > 0
    straight, _ = toy_training(tmp_path / "b", cfg)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
