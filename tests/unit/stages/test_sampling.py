"""Sampling clips from test fMRI."""

import dataclasses
import os
import shutil
import signal

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_diffusion import ENCODER, FRAMES, SIDE, bold, encoder, stable_diffusion, stock_unet, targets

from mindreel.diffusion import conditioning, fmri_controls, sampler
from mindreel.errors import InputError
from mindreel.networks.fmri_encoder import FmriEncoder
from mindreel.networks.video_unet import inflate
from mindreel.sections import Sampling
from mindreel.stages import sampling, sampling_movie
from mindreel.video import write_film, write_mp4

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
    def sample(
        name: str = "clips",
        control: str = "fmri",
        subject: str = "1",
        segments: list[int] | None = None,
        **changes: object,
    ) -> np.ndarray:
        job = {"subject": subject, "control": control, "segments": segments, "cfg": settings(**changes)}
        sampling.sample(**inputs, **job, out=tmp_path / f"{name}.npy", scratch=tmp_path / "scratch" / name)
        return np.load(tmp_path / f"{name}.npy")

    return sample


def assert_same_clips(made: np.ndarray, expected: np.ndarray) -> None:
    """To the rounding of float32: one grey level, in fewer than one value of a hundred."""
    difference = np.abs(made.astype(int) - expected.astype(int))
    assert made.shape == expected.shape and difference.max() <= 1 and (difference > 0).mean() < 0.01


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
        ("DDIMScheduler", 1.0),
        ("DPMSolverMultistepScheduler", 0.0),
        ("EulerAncestralDiscreteScheduler", 0.0),
    ],
)
def test_results_do_not_depend_on_batches_shards_or_their_order(run, tmp_path, scheduler, eta):
    whole = run("whole", scheduler=scheduler, eta=eta, batch_size=8)
    assert_same_clips(run("single", scheduler=scheduler, eta=eta, batch_size=1), whole)
    for segment in (1, 0):
        run(f"shard-{segment}", segments=[segment], scheduler=scheduler, eta=eta, batch_size=3)
    shards = [tmp_path / f"shard-{segment}.npy" for segment in (0, 1)]
    sampling.gather(shards=shards, out=tmp_path / "gathered.npy")
    assert_same_clips(np.load(tmp_path / "gathered.npy"), whole)


def test_noise_belongs_to_seed_subject_clip_and_sample():
    def drawn(*which: object) -> float:
        return torch.randn(1, generator=sampler.clip_generator(*which)).item()

    which = [(0, "1", 2), (1, "1", 2), (0, "2", 2), (0, "12", 2), (0, "1", 3), (0, "1", 2, 2), (0, "", 2)]
    assert len({drawn(*one) for one in which}) == len(which)
    assert drawn(0, "1", 2) == drawn(0, "1", np.int64(2), 1)


def test_further_samples_and_other_subjects_differ(run):
    first = run("first")
    others = [run("second", control="fmri_2"), run("third", control="fmri_3"), run("other", subject="2")]
    assert len({clips.tobytes() for clips in (first, *others)}) == 4
    assert all(clips.shape == first.shape for clips in others)


def test_shards_of_different_frames_are_not_gathered(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 2, 8, 8, 3), np.uint8))
    np.save(tmp_path / "b.npy", np.zeros((1, 3, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=r"b.npy: found clips of shape \(3, 8, 8, 3\)"):
        sampling.gather(shards=[tmp_path / "a.npy", tmp_path / "b.npy"], out=tmp_path / "whole.npy")


def test_negative_conditions_differ(run, inputs):
    kinds = ("test-mean", "train-mean", "null-condition", "none")
    made = {kind: run(kind, negative=kind, segments=[0]) for kind in kinds}
    assert len({clips.tobytes() for clips in made.values()}) == 4
    # at scale 1 the negative condition has no weight; with none there is no scale
    unguided = [run(f"{kind}-1", negative=kind, segments=[0], guidance_scale=1.0) for kind in made]
    for clips in unguided:
        assert_same_clips(clips, unguided[0])
    np.testing.assert_array_equal(made["none"], unguided[-1])


def test_negative_is_the_encoded_mean_of_the_fmri(inputs):
    brain = FmriEncoder.from_pretrained(inputs["cotrained"] / "encoder")
    series, null = np.load(inputs["bold"]), torch.zeros(5, 12)
    made = conditioning.negative_condition("train-mean", brain, series, inputs["train_bold"], null, 2)
    mean = np.load(inputs["train_bold"]).reshape(-1, series.shape[2]).mean(0)
    expected = brain(torch.from_numpy(np.stack([mean, mean])[None]))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    made = conditioning.negative_condition("test-mean", brain, series + 3, inputs["train_bold"], null, 2)
    assert (made - expected).abs().max() > 1e-3


def interrupted(monkeypatch, name: str, number: int) -> list:
    """Interrupt a function of denoising when it is called for the `number`-th time; returns a list of all its calls."""
    function, calls = getattr(sampler, name), []

    def failing(*args):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return function(*args)

    monkeypatch.setattr(sampler, name, failing)
    return calls


def test_stopped_sampling_goes_on_at_the_next_batch(run, monkeypatch):
    whole = run("whole")
    calls = interrupted(monkeypatch, "decode", 2)
    with pytest.raises(KeyboardInterrupt):
        run("halves")
    np.testing.assert_array_equal(run("halves"), whole)
    assert len(calls) == 3  # the first batch was kept


def test_a_partial_file_of_other_settings_is_begun_anew(run, monkeypatch):
    interrupted(monkeypatch, "decode", 2)
    with pytest.raises(KeyboardInterrupt):
        run("halves", seed=1)
    np.testing.assert_array_equal(run("halves"), run("whole"))


@pytest.mark.parametrize(("segments", "volumes"), [(5, 240), (2, 40), (2, 10), (1, 20), (3, 4)])
def test_derangement_keeps_away_from_neighbours(segments, volumes):
    source = fmri_controls.derangement(segments, volumes, 5, np.random.default_rng(0))
    clip = np.arange(segments * volumes)
    assert sorted(source) == clip.tolist()
    near = (source // volumes == clip // volumes) & (np.abs(source - clip) <= 5)
    assert not near.any()
    assert not np.array_equal(source, fmri_controls.derangement(segments, volumes, 5, np.random.default_rng(1)))


def test_derangement_of_few_clips():
    source = fmri_controls.derangement(1, 5, 5, np.random.default_rng(0))
    assert sorted(source) == [0, 1, 2, 3, 4] and (source != np.arange(5)).all()
    with pytest.raises(InputError, match="at least 2 clips"):
        fmri_controls.derangement(1, 1, 5, np.random.default_rng(0))


def test_shuffled_takes_other_fmri_and_the_same_noise(run, inputs, tmp_path):
    shuffled = run("shuffled", control="shuffled")
    source = fmri_controls.derangement(SEGMENTS, VOLUMES, fmri_controls.NEIGHBOURS, np.random.default_rng(0))
    assert (source != np.arange(len(source))).all()
    series = np.load(inputs["bold"])
    # without the window's neighbours the shuffled fMRI can be written out as a data set of its own
    one = ENCODER.model_copy(update={"window": 2, "shift": VOLUMES})  # every window: the segment's last volume
    np.save(tmp_path / "swapped.npy", series[::-1])
    swapped = {**inputs, "bold": tmp_path / "swapped.npy", "encoder": one}
    job = {"subject": "1", "cfg": settings()}
    sampling.sample(**swapped, **job, control="fmri", out=tmp_path / "a.npy", scratch=tmp_path / "a")
    same = {**inputs, "encoder": one}
    sampling.sample(**same, **job, control="shuffled", out=tmp_path / "b.npy", scratch=tmp_path / "b")
    crossed = source // VOLUMES != np.arange(len(source)) // VOLUMES
    made, expected = np.load(tmp_path / "b.npy").astype(int), np.load(tmp_path / "a.npy").astype(int)
    assert crossed.any() and np.abs(made - expected)[crossed].max() <= 1
    assert not np.array_equal(shuffled, run("fmri"))


def test_mean_fmri_tells_every_clip_the_same(inputs, run, tmp_path):
    """The mean control is what fMRI that always is the mean gives, with each clip's own noise."""
    series = np.load(inputs["bold"])
    np.save(tmp_path / "flat.npy", np.broadcast_to(series.mean((0, 1)), series.shape).astype(np.float32))
    job = {"subject": "1", "control": "fmri", "cfg": settings(negative="train-mean"), "scratch": tmp_path / "s"}
    sampling.sample(**{**inputs, "bold": tmp_path / "flat.npy"}, **job, out=tmp_path / "flat_clips.npy")
    clips = run("mean", control="mean", negative="train-mean")
    assert_same_clips(clips, np.load(tmp_path / "flat_clips.npy"))
    assert len({clip.tobytes() for clip in clips}) == len(clips)


def test_mean_fmri_pushed_away_from_itself_is_unguided(inputs, run):
    """Guidance between equal conditions changes nothing, so it is left out: half the work."""
    guided = run("guided", control="mean", segments=[0])
    source = conditioning.from_fmri(
        *(inputs[name] for name in ("cotrained", "bold", "train_bold", "empty", "encoder")), settings(), "mean"
    )
    assert source.negative is None
    brain = FmriEncoder.from_pretrained(inputs["cotrained"] / "encoder")
    mean = fmri_controls.encoded_mean(brain, np.load(inputs["bold"]), 2, torch.device("cpu"))
    model = inputs["model"]
    scheduler, vae = sampler.make_scheduler(model, "DDIMScheduler"), sampler.load_vae(model)
    whole = dataclasses.replace(source, negative=mean)
    expected = sampler.make_clips(whole, vae, scheduler, np.arange(VOLUMES), "1", 1, settings())
    assert_same_clips(guided, expected)


def test_decode_rounds_and_clips():
    class Identity:
        class config:
            scaling_factor = 0.5

        def decode(self, latents):
            return type("Decoded", (), {"sample": latents[:, :3]})

    levels = torch.tensor([-9.0, -1.0, 0.0, 0.0030, 0.0050, 1.0, 9.0]) / 2
    latents = levels[None, None, None, None].expand(1, 2, 4, 1, -1)
    made = sampler.decode(Identity(), latents)
    assert made.shape == (1, 2, 1, 7, 3)
    assert made[0, 0, 0, :, 0].tolist() == [0, 0, 128, 128, 128, 255, 255]
    # 0.0050 is 128.14; 0.0118 would be 129.0: nothing is truncated from 127.9 either
    near = torch.full((1, 1, 4, 1, 1), (127.9 / 127.5 - 1) / 2)
    assert sampler.decode(Identity(), near).ravel().tolist() == [128, 128, 128]


def test_wrong_choices(run, inputs, tmp_path):
    with pytest.raises(InputError, match=r"fmri, shuffled, mean, or for further samples fmri_2"):
        run(control="text")
    with pytest.raises(InputError, match="found 'fmri_1'"):
        run(control="fmri_1")
    with pytest.raises(InputError, match=r"--segments: found \[2\], there are 2 test segments"):
        run(segments=[0, 2])
    job = {"subject": "1", "control": "fmri", "out": tmp_path / "o.npy", "scratch": tmp_path / "s", "cfg": settings()}
    with pytest.raises(InputError, match=r"encoder.window"):
        sampling.sample(**{**inputs, **job, "encoder": ENCODER.model_copy(update={"window": 1})})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoScheduler", "diffusers has no scheduler 'NoScheduler'"),
        ("DDIMPipeline", "diffusers has no scheduler 'DDIMPipeline'"),
        ("FlowMatchEulerDiscreteScheduler", "does not fit Stable Diffusion's noise schedule"),
        ("RePaintScheduler", "does not fit Stable Diffusion's noise schedule"),
        ("UnCLIPScheduler", "UnCLIPScheduler refuses"),
    ],
)
def test_schedulers_that_do_not_fit(inputs, name, message):
    with pytest.raises(InputError, match=rf"sampling.scheduler: .*{message}.*; expected for example DDIMScheduler"):
        sampler.make_scheduler(inputs["model"], name)


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_every_scheduler_finds_the_clip_that_the_prediction_knows(inputs, name):
    """With an oracle that reads the noise off the latents any solver ends at the clip, whatever noise it began with."""
    scheduler = sampler.make_scheduler(inputs["model"], name)
    shape = (FRAMES, 4, SIDE, SIDE)
    clip = torch.randn((2, *shape), generator=torch.Generator().manual_seed(5))
    alphas = sampler.make_scheduler(inputs["model"], "DDIMScheduler").alphas_cumprod

    def oracle(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        low = int(timestep)  # some schedulers stop between timesteps
        alpha = torch.lerp(alphas[low], alphas[min(low + 1, 999)], float(timestep) - low)
        return (latents - alpha.sqrt() * clip) / (1 - alpha).sqrt()

    def made(batch: int) -> torch.Tensor:
        torch.manual_seed(batch)  # no scheduler may draw from the global state
        noise = [sampler.clip_generator(0, "1", number) for number in range(2)]
        return sampler.denoise(oracle, scheduler, shape, noise, settings(steps=12), torch.device("cpu"))

    assert (made(0) - clip).abs().mean() < 0.1
    torch.testing.assert_close(made(1), made(0), atol=0, rtol=0)


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


def test_a_killed_job_goes_on(inputs, tmp_path, monkeypatch):
    """SIGKILL in the middle of the second batch: nothing at the output's place, the first batch kept."""
    decode, calls = sampler.decode, []
    job = {"subject": "1", "control": "fmri", "cfg": settings(), "scratch": tmp_path / "s", "out": tmp_path / "o.npy"}

    def killing(*args):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(*args)

    monkeypatch.setattr(sampler, "decode", killing)
    child = os.fork()
    if child == 0:
        sampling.sample(**inputs, **job)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not job["out"].exists() and not calls
    monkeypatch.setattr(sampler, "decode", lambda *args: (calls.append(1), decode(*args))[1])
    sampling.sample(**inputs, **job)
    assert len(calls) == 1 and list(job["scratch"].iterdir()) == []
    monkeypatch.undo()
    sampling.sample(**inputs, **{**job, "scratch": tmp_path / "t", "out": tmp_path / "whole.npy"})
    np.testing.assert_array_equal(np.load(job["out"]), np.load(tmp_path / "whole.npy"))


@pytest.fixture(scope="module")
def told(inputs, tmp_path_factory):
    """What sampling from captions takes: another generator than the co-trained one, and the test segments' targets."""
    folder = tmp_path_factory.mktemp("captions")
    inflate(stock_unet(seed=4), "sparse-causal", "frames").save_pretrained(folder / "generator")
    return {
        "generator": folder / "generator",
        "model": inputs["model"],
        "targets": targets(folder / "targets", SEGMENTS, VOLUMES),
        "control": "text",
    }


def test_captions_are_sampled_as_fmri_is(told, tmp_path):
    job = {**told, "cfg": settings(), "scratch": tmp_path / "s"}
    sampling.captions(**job, out=tmp_path / "text.npy")
    clips = np.load(tmp_path / "text.npy")
    assert clips.shape == (SEGMENTS * VOLUMES, FRAMES, 2 * SIDE, 2 * SIDE, 3) and clips.std() > 2
    sampling.captions(**job, segments=[1], out=tmp_path / "second.npy")
    assert_same_clips(np.load(tmp_path / "second.npy"), clips[VOLUMES:])
    # a caption changes its clip and no other
    states = np.load(told["targets"][1] / "states.npy")
    changed = [told["targets"][0], tmp_path / "changed"]
    shutil.copytree(told["targets"][1], changed[1])
    states[2] += 1
    np.save(changed[1] / "states.npy", states)
    sampling.captions(**{**job, "targets": changed}, out=tmp_path / "changed.npy")
    differ = (np.load(tmp_path / "changed.npy") != clips).mean((1, 2, 3, 4))
    assert differ.argmax() == VOLUMES + 2 and np.delete(differ, VOLUMES + 2).max() < 0.01 < differ.max()
    with pytest.raises(InputError, match="found 'fmri', expected one of text"):
        sampling.captions(**{**job, "control": "fmri"}, out=tmp_path / "no.npy")


@pytest.mark.parametrize(("frames", "overlap"), [(6, 0), (6, 3), (6, 5), (4, 1), (1, 0)])
def test_windows_cover_every_frame_and_end_with_the_movie(frames, overlap):
    for volumes in (1, 2, 7):
        starts = sampler.window_starts(volumes, frames, overlap).tolist()
        covered = [frame for start in starts for frame in range(start, start + frames)]
        assert set(covered) == set(range(volumes * frames))
        assert len(set(starts)) == len(starts) and max(np.diff(starts), default=0) <= frames - overlap
        if overlap == 0:
            assert starts == list(range(0, volumes * frames, frames))


def test_blending_averages_windows_and_conditions():
    """A UNet that answers with its condition: each frame gets the weighted mean of its windows' interpolated ones."""
    unet = lambda latents, timestep, states: states[:, :1, :1, None, None].expand(latents.shape)  # noqa: E731
    positive = torch.tensor([0.0, 6.0, 12.0])[:, None, None]  # the condition is the time in frames
    prediction = sampler.overlapping_windows(unet, positive, None, 1.0, overlap=3, batch_size=2)
    made = prediction(torch.zeros(3, 6, 1, 1, 1), torch.tensor(5)).flatten()
    # windows begin at 0, 3, 6, 9, 12 and answer with that number; their frames weigh 1 2 3 3 2 1
    expected = [0, 0, 0, (3 * 0 + 1 * 3) / 4, (2 * 0 + 2 * 3) / 4, (1 * 0 + 3 * 3) / 4]
    torch.testing.assert_close(made[:6], torch.tensor(expected))
    torch.testing.assert_close(made[-3:], torch.full((3,), 12.0))
    assert (made.diff() >= 0).all()


@pytest.fixture
def segment_movie(inputs, tmp_path, monkeypatch):
    """Run it; return the reconstruction's frames as given to the film (an MP4 is lossy)."""
    shown = {}
    monkeypatch.setattr(
        sampling_movie, "write_mp4", lambda out, frames, fps: shown.update({out.name: np.stack(list(frames))})
    )
    np.save(tmp_path / "test2.npy", np.full((VOLUMES, FRAMES, 2 * SIDE, 2 * SIDE, 3), 40, np.uint8))

    def run(name: str = "movie", first: int = 0, last: int | None = None, **changes: object) -> np.ndarray:
        job = {"frames": tmp_path / "test2.npy", "subject": "1", "segment": 1, "fps": 3.0, "first": first, "last": last}
        places = {"out": tmp_path / f"{name}.mp4", "scratch": tmp_path / "movie"}
        sampling_movie.segment_movie(**inputs, **job, cfg=settings(**changes), **places)
        film = shown[f"{name}.mp4"]
        assert (film[:, :, : 2 * SIDE] == 40).all()
        return film[:, :, 2 * SIDE :]

    return run


def test_a_segment_movie_cut_at_volumes_shows_the_clips(run, segment_movie):
    clips = run("clips", segments=[1])
    frames = clips.reshape(-1, *clips.shape[2:])
    assert_same_clips(segment_movie(overlap=0), frames)
    assert_same_clips(segment_movie(overlap=0, batch_size=3), frames)
    assert_same_clips(segment_movie(overlap=0, first=1, last=2), frames[FRAMES : 3 * FRAMES])


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"])
def test_a_stopped_segment_movie_goes_on_at_the_next_windows(segment_movie, tmp_path, monkeypatch, scheduler):
    """4 volumes, overlap 3: 7 windows in batches of 4 and 3, at each of 3 steps."""
    how = {"overlap": 3, "scheduler": scheduler, "steps": 3, "eta": 0.0}
    calls = interrupted(monkeypatch, "predict", 4)
    with pytest.raises(KeyboardInterrupt):
        segment_movie("halves", **how)
    resumed = segment_movie("halves", **how)
    assert len(calls) == 4 + 3  # three batches were kept, in the middle of a step
    assert list((tmp_path / "movie").iterdir()) == []
    np.testing.assert_array_equal(resumed, segment_movie("whole", **how))
    assert len(calls) == 4 + 3 + 6


@pytest.mark.parametrize(("overlap", "largest"), [(0, 6.0), (3, 1.5), (5, 1.0)])
def test_blending_makes_a_cut_gradual(inputs, overlap, largest):
    """A generator that always paints its condition, here the time in frames: cut, the movie jumps at every volume."""
    scheduler = sampler.make_scheduler(inputs["model"], "DDIMScheduler")

    def painter(latents: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        alpha = scheduler.alphas_cumprod[timestep]
        return (latents - alpha.sqrt() * states[:, :1, :1, None, None]) / (1 - alpha).sqrt()

    positive = torch.tensor([0.0, 6.0, 12.0])[:, None, None]
    prediction = sampler.overlapping_windows(painter, positive, None, 1.0, overlap, batch_size=4)
    noise = [sampler.clip_generator(0, "1", number) for number in range(3)]
    movie = sampler.denoise(prediction, scheduler, (FRAMES, 1, 2, 2), noise, settings(steps=20), torch.device("cpu"))
    steps = movie.flatten(0, 1).mean((1, 2, 3)).diff()
    assert steps.max().item() == pytest.approx(largest, abs=0.15)


def test_a_segment_movie_that_does_not_fit(segment_movie):
    with pytest.raises(InputError, match="0 to 3"):
        segment_movie(first=2, last=4)
    with pytest.raises(InputError, match=r"sampling.overlap: found 6, expected less than the 6 frames"):
        segment_movie(overlap=6)


def test_gif(tmp_path):
    frames = np.zeros((3, 8, 10, 3), np.uint8)
    frames[1] += 255
    write_film(tmp_path / "clip.gif", frames, 4.0)
    with Image.open(tmp_path / "clip.gif") as image:
        assert (image.n_frames, image.size, image.info["duration"], image.info["loop"]) == (3, (10, 8), 250, 0)
    with pytest.raises(InputError, match=r"expected .mp4 or .gif"):
        write_film(tmp_path / "clip.avi", frames, 4.0)
