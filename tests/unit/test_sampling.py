"""Sampling clips from test fMRI."""

import av
import numpy as np
import pytest
import torch
from tiny_diffusion import ENCODER, FRAMES, SIDE, bold, encoder, stable_diffusion, targets

from mindreel import sampling
from mindreel.config import Sampling
from mindreel.encoder import FmriEncoder
from mindreel.errors import InputError
from mindreel.unet import inflate
from mindreel.video import write_mp4

SEGMENTS, VOLUMES = 2, 4


def settings(**changes: object) -> Sampling:
    defaults = {
        "scheduler": "DDIMScheduler",
        "steps": 2,
        "guidance_scale": 4.0,
        "eta": 0.0,
        "negative": "test-mean",
        "noise_beta": 0.25,
        "batch_size": 4,
        "seed": 0,
    }
    return Sampling(**{**defaults, **changes})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampling")
    model = stable_diffusion(folder / "sd")
    encoder(folder / "cotrained" / "encoder")
    inflate(model / "unet", "sparse-causal", "frames").save_pretrained(folder / "cotrained" / "unet")
    return {
        "cotrained": folder / "cotrained",
        "model": model,
        "bold": bold(folder / "test.npy", SEGMENTS, VOLUMES),
        "train_bold": bold(folder / "train.npy", 3, 5, seed=9, mean=1.0),
        "empty": targets(folder / "targets", 1, 4)[0],
        "encoder": ENCODER,
    }


@pytest.fixture
def run(inputs, tmp_path):
    def sample(name: str = "clips", control: str = "fmri", **changes: object) -> np.ndarray:
        out, scratch = tmp_path / f"{name}.npy", tmp_path / "scratch" / name
        sampling.sample(**inputs, control=control, out=out, scratch=scratch, cfg=settings(**changes))
        return np.load(out)

    return sample


def test_clips(run, tmp_path):
    clips = run()
    assert clips.shape == (SEGMENTS * VOLUMES, FRAMES, 2 * SIDE, 2 * SIDE, 3) and clips.dtype == np.uint8
    assert clips.std() > 2 and 20 < clips.mean() < 235  # not saturated: the comparisons below can fail
    assert len({clip.tobytes() for clip in clips}) == len(clips)
    assert list((tmp_path / "scratch" / "clips").iterdir()) == []
    np.testing.assert_array_equal(run("again"), clips)
    assert not np.array_equal(run("seed", seed=1), clips)


@pytest.mark.parametrize(
    ("scheduler", "eta"),
    [
        ("DDIMScheduler", 0.0),
        ("DDIMScheduler", 1.0),
        ("DPMSolverMultistepScheduler", 0.0),
        ("EulerAncestralDiscreteScheduler", 0.0),
    ],
)
def test_results_do_not_depend_on_the_batch_size(run, scheduler, eta):
    whole = run("whole", scheduler=scheduler, eta=eta, batch_size=8).astype(int)
    parts = run("parts", scheduler=scheduler, eta=eta, batch_size=3).astype(int)
    assert np.abs(whole - parts).max() <= 1  # rounding
    assert (whole != parts).mean() < 0.01


def test_negative_conditions_differ(run, inputs):
    made = {kind: run(kind, negative=kind) for kind in ("test-mean", "train-mean", "null-condition")}
    assert len({clips.tobytes() for clips in made.values()}) == 3
    # at scale 1 the negative condition has no weight
    unguided = [run(f"{kind}-1", negative=kind, guidance_scale=1.0).astype(int) for kind in made]
    assert max(np.abs(clips - unguided[0]).max() for clips in unguided) <= 1


def test_negative_is_the_encoded_mean_of_the_fmri(inputs):
    brain = FmriEncoder.from_pretrained(inputs["cotrained"] / "encoder")
    series, null = np.load(inputs["bold"]), torch.zeros(5, 12)
    made = sampling.negative_condition("train-mean", brain, series, inputs["train_bold"], null, 2)
    mean = np.load(inputs["train_bold"]).reshape(-1, series.shape[2]).mean(0)
    expected = brain(torch.from_numpy(np.stack([mean, mean])[None]))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    made = sampling.negative_condition("test-mean", brain, series + 3, inputs["train_bold"], null, 2)
    assert (made - expected).abs().max() > 1e-3


def test_stopped_sampling_goes_on_at_the_next_batch(run, monkeypatch):
    whole = run("whole")
    decode, calls = sampling.decode, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(*args)

    monkeypatch.setattr(sampling, "decode", failing)
    with pytest.raises(KeyboardInterrupt):
        run("halves")
    np.testing.assert_array_equal(run("halves"), whole)
    assert len(calls) == 3  # the first batch was kept


def test_a_partial_file_of_other_settings_is_begun_anew(run, monkeypatch):
    decode, calls = sampling.decode, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(*args)

    monkeypatch.setattr(sampling, "decode", failing)
    with pytest.raises(KeyboardInterrupt):
        run("halves", seed=1)
    np.testing.assert_array_equal(run("halves"), run("whole"))


@pytest.mark.parametrize(("segments", "volumes"), [(5, 240), (2, 40), (2, 10), (1, 20), (3, 4)])
def test_derangement_keeps_away_from_neighbours(segments, volumes):
    source = sampling.derangement(segments, volumes, 5, np.random.default_rng(0))
    clip = np.arange(segments * volumes)
    assert sorted(source) == clip.tolist()
    near = (source // volumes == clip // volumes) & (np.abs(source - clip) <= 5)
    assert not near.any()
    assert not np.array_equal(source, sampling.derangement(segments, volumes, 5, np.random.default_rng(1)))


def test_derangement_of_few_clips():
    source = sampling.derangement(1, 5, 5, np.random.default_rng(0))
    assert sorted(source) == [0, 1, 2, 3, 4] and (source != np.arange(5)).all()
    with pytest.raises(InputError, match="at least 2 clips"):
        sampling.derangement(1, 1, 5, np.random.default_rng(0))


def test_shuffled_takes_other_fmri_and_the_same_noise(run, inputs, tmp_path):
    shuffled = run("shuffled", control="shuffled")
    source = sampling.derangement(SEGMENTS, VOLUMES, sampling.NEIGHBOURS, np.random.default_rng(0))
    assert (source != np.arange(len(source))).all()
    series = np.load(inputs["bold"])
    # without the window's neighbours the shuffled fMRI can be written out as a data set of its own
    one = ENCODER.model_copy(update={"window": 2, "shift": VOLUMES})  # every window: the segment's last volume
    np.save(tmp_path / "swapped.npy", series[::-1])
    swapped = {**inputs, "bold": tmp_path / "swapped.npy", "encoder": one}
    sampling.sample(**swapped, control="fmri", out=tmp_path / "a.npy", scratch=tmp_path / "a", cfg=settings())
    same = {**inputs, "encoder": one}
    sampling.sample(**same, control="shuffled", out=tmp_path / "b.npy", scratch=tmp_path / "b", cfg=settings())
    crossed = source // VOLUMES != np.arange(len(source)) // VOLUMES
    made, expected = np.load(tmp_path / "b.npy").astype(int), np.load(tmp_path / "a.npy").astype(int)
    assert crossed.any() and np.abs(made - expected)[crossed].max() <= 1
    assert not np.array_equal(shuffled, run("fmri"))


def test_decode_rounds_and_clips():
    class Identity:
        class config:
            scaling_factor = 0.5

        def decode(self, latents):
            return type("Decoded", (), {"sample": latents[:, :3]})

    levels = torch.tensor([-9.0, -1.0, 0.0, 0.0030, 0.0050, 1.0, 9.0]) / 2
    latents = levels[None, None, None, None].expand(1, 2, 4, 1, -1)
    made = sampling.decode(Identity(), latents)
    assert made.shape == (1, 2, 1, 7, 3)
    assert made[0, 0, 0, :, 0].tolist() == [0, 0, 128, 128, 128, 255, 255]
    # 0.0050 is 128.14; 0.0118 would be 129.0: nothing is truncated from 127.9 either
    near = torch.full((1, 1, 4, 1, 1), (127.9 / 127.5 - 1) / 2)
    assert sampling.decode(Identity(), near).ravel().tolist() == [128, 128, 128]


def test_wrong_choices(run, inputs, tmp_path):
    with pytest.raises(InputError, match=r"sampling.scheduler: .*'NoScheduler'"):
        run(scheduler="NoScheduler")
    with pytest.raises(InputError, match="fmri, shuffled"):
        run(control="mean")
    arguments = {**inputs, "control": "fmri", "out": tmp_path / "o.npy", "scratch": tmp_path / "s", "cfg": settings()}
    with pytest.raises(InputError, match=r"encoder.window"):
        sampling.sample(**{**arguments, "encoder": ENCODER.model_copy(update={"window": 1})})


def test_film_shows_true_left_and_made_right(tmp_path):
    made, seen = np.full((4, 2, 32, 32, 3), 200, np.uint8), np.full((2, 2, 32, 32, 3), 40, np.uint8)
    np.save(tmp_path / "clips.npy", made)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", seen)
    frames = [tmp_path / "a.npy", tmp_path / "b.npy"]
    sampling.film(clips=tmp_path / "clips.npy", frames=frames, out=tmp_path / "film.mp4", fps=3.0)
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].average_rate == 3
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert shown.shape == (8, 32, 64, 3)
    assert abs(shown[:, :, :30].mean() - 40) < 5 and abs(shown[:, :, 34:].mean() - 200) < 5
    with pytest.raises(InputError, match="does not fit"):
        sampling.film(clips=tmp_path / "clips.npy", frames=frames[:1], out=tmp_path / "film.mp4", fps=3.0)


def test_film_of_odd_size_or_nothing(tmp_path):
    with pytest.raises(InputError, match="even"):
        write_mp4(tmp_path / "odd.mp4", np.zeros((2, 31, 32, 3), np.uint8), 3)
    with pytest.raises(InputError, match="no frames"):
        write_mp4(tmp_path / "none.mp4", np.zeros((0, 32, 32, 3), np.uint8), 3)
