"""Noise, objective, guidance, schedule, and the clips they are trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from tiny_diffusion import CHANNELS, FRAMES, SIDE, TOKENS, WIDTH, scheduler, stock_unet, targets

from mindreel.diffusion import objective, sampler
from mindreel.errors import InputError
from mindreel.networks.video_unet import inflate
from mindreel.sections import Sampling

DATA = Path(__file__).parents[2] / "data" / "ddim_schedule" / "data.npz"


@pytest.fixture(scope="module")
def unet():
    return inflate(stock_unet(), "sparse-causal", "frames")


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.75, 1.0])
def test_noise_has_variance_one_and_correlation_beta(beta):
    noise = objective.clip_noise((400, FRAMES, 4, 4, 4), beta, torch.Generator().manual_seed(0))
    frames = noise.transpose(0, 1).flatten(1).numpy()  # (F, 25600)
    assert abs(frames.mean()) < 0.02
    covariance = np.cov(frames)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=0.04)
    np.testing.assert_allclose(covariance[~np.eye(FRAMES, dtype=bool)], beta, atol=0.04)


def test_noise_is_not_shared_between_clips_or_places():
    noise = objective.clip_noise((2, FRAMES, 4, 16, 16), 1.0, torch.Generator().manual_seed(0))
    assert abs(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) < 0.05
    assert noise[0, 0].unique().numel() == noise[0, 0].numel()


def test_training_and_sampling_draw_dependent_noise():
    """What the UNet first sees is noise whose frames correlate by beta: in training around clips, here of zeros."""
    seen = []

    def watch(latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(latents / latents.std((1, 2, 3, 4), keepdim=True))
        return torch.zeros_like(latents)

    shape, beta = (FRAMES, 4, 8, 8), 0.5
    noise_schedule = scheduler()
    torch.manual_seed(0)
    objective.objective(watch, DDPMScheduler.from_config(noise_schedule.config), torch.zeros(50, *shape), None, beta)
    cfg = Sampling(
        scheduler="", steps=1, guidance_scale=1, eta=0, negative="none", noise_beta=beta, batch_size=50, seed=0
    )
    noise = [sampler.clip_generator(0, "1", number) for number in range(50)]
    sampler.denoise(watch, noise_schedule, shape, noise, cfg, torch.device("cpu"))
    for noisy in seen:
        correlation = np.corrcoef(noisy.transpose(0, 1).flatten(1).numpy())
        np.testing.assert_allclose(correlation[~np.eye(FRAMES, dtype=bool)], beta, atol=0.05)
    assert len(seen) == 2


def test_guidance():
    negative, positive = torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(0))
    both = torch.cat([negative, positive])
    torch.testing.assert_close(objective.guide(both, 1.0), positive)
    torch.testing.assert_close(objective.guide(both, 0.0), negative)
    torch.testing.assert_close(objective.guide(both, 12.5), negative + 12.5 * (positive - negative), atol=1e-4, rtol=0)
    same = torch.cat([positive, positive])
    torch.testing.assert_close(objective.guide(same, 12.5), positive)


def test_ddim_of_stable_diffusion(tmp_path):
    known = {key: torch.from_numpy(value) for key, value in np.load(DATA).items()}
    scheduler().save_pretrained(tmp_path / "scheduler")
    ddim = objective.load_scheduler(tmp_path, DDIMScheduler)
    torch.testing.assert_close(ddim.alphas_cumprod, known["alphas_cumprod"])
    for steps in (5, 10, 50, 200):
        ddim.set_timesteps(steps)
        assert ddim.timesteps.tolist() == known[f"timesteps_{steps}"].tolist()
    assert ddim.timesteps.tolist() == [*range(996, 0, -5), 1][:200]
    for timestep in (996, 501, 1):
        previous = ddim.step(known["e"], timestep, known["x"]).prev_sample
        torch.testing.assert_close(previous, known[f"step_t{timestep}_prev"], atol=1e-5, rtol=1e-5)
    noisy = objective.training_scheduler(tmp_path).add_noise(known["x"], known["noise"], known["add_noise_t"])
    torch.testing.assert_close(noisy, known["add_noise"], atol=1e-6, rtol=1e-6)


def test_scheduler_of_a_folder_without_one(tmp_path):
    with pytest.raises(InputError, match=r"scheduler_config.json"):
        objective.training_scheduler(tmp_path)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_objective_wants_what_the_scheduler_says(prediction_type):
    """A model that knows the answer has loss 0; here it reads it off the noisy latents."""
    noise_schedule = DDPMScheduler.from_config(scheduler(prediction_type=prediction_type).config)
    latents = torch.randn((3, FRAMES, CHANNELS, SIDE, SIDE), generator=torch.Generator().manual_seed(0))

    def oracle(noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        alpha = noise_schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * latents) / (1 - alpha).sqrt()
        answers = {
            "epsilon": noise,
            "sample": latents,
            "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,
        }
        return answers[prediction_type]

    torch.manual_seed(0)
    assert objective.objective(oracle, noise_schedule, latents, None, 0.25) < 1e-4
    torch.manual_seed(0)
    assert objective.objective(lambda *a: oracle(*a) + 1, noise_schedule, latents, None, 0.25) == pytest.approx(
        1, abs=0.01
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_min_snr_is_one_weighting_of_the_clips_error_however_it_is_predicted(prediction_type):
    """The error of the noise, of v or of the clip, weighted, is min(s, gamma) times the squared error of the clip."""
    noise_schedule = DDPMScheduler.from_config(scheduler(prediction_type=prediction_type).config)
    timesteps = torch.tensor([0, 50, 200, 400, 700, 999])
    alpha = noise_schedule.alphas_cumprod[timesteps]
    ratio = alpha / (1 - alpha)
    assert ratio[0] > 5 > ratio[-1]
    # an error of 1 in the clip, the noisy clip being what it is, is one of so much in what is predicted
    clip_error = {"epsilon": ratio, "v_prediction": 1 / (1 - alpha), "sample": torch.ones(6)}[prediction_type]
    weighted = objective.min_snr_weights(noise_schedule, timesteps, 5.0) * clip_error
    torch.testing.assert_close(weighted, ratio.clamp(max=5.0))


def test_min_snr_weighs_the_loss():
    noise_schedule = DDPMScheduler.from_config(scheduler().config)
    latents = torch.zeros((64, FRAMES, CHANNELS, SIDE, SIDE))

    def silent(noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        seen.append(timesteps)
        return torch.zeros_like(noisy)  # its squared error is the noise's variance, 1

    def loss(gamma: float | None) -> torch.Tensor:
        torch.manual_seed(0)
        return objective.objective(silent, noise_schedule, latents, None, 0.0, gamma)

    seen = []
    assert loss(None) == pytest.approx(1, abs=0.02)
    expected = objective.min_snr_weights(noise_schedule, seen[0], 0.5).mean()
    assert expected < 0.8 and loss(0.5) == pytest.approx(expected.item(), rel=0.05)
    torch.testing.assert_close(loss(1e9), loss(None))


def test_one_batch_can_be_overfitted():
    unet = inflate(stock_unet(), "sparse-causal", "frames")
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, FRAMES, CHANNELS, SIDE, SIDE), generator=generator)
    states = torch.randn((1, TOKENS, WIDTH), generator=generator)
    noise_schedule = DDPMScheduler.from_config(scheduler().config)
    optimizer = torch.optim.Adam(unet.parameters(), lr=4e-3)
    losses = []
    for _ in range(30):
        torch.manual_seed(1)  # the same noise and timestep each time
        loss = objective.objective(unet, noise_schedule, latents, states, 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]


def test_condition_dropout():
    states, empty = torch.ones(2000, TOKENS, WIDTH), torch.zeros(TOKENS, WIDTH)
    dropped = objective.replace_some(states, empty, 0.1, np.random.default_rng(0))
    assert set(dropped.mean((1, 2)).tolist()) == {0.0, 1.0}
    assert (dropped == 0).all((1, 2)).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(objective.replace_some(states, empty, 0.0, np.random.default_rng(0)), states)


def test_clips_are_found_by_segment_and_volume(tmp_path, unet):
    folders = targets(tmp_path, segments=2, volumes=5)
    clips = objective.Clips(folders, unet)
    segment, volume = clips.draw(10, np.random.default_rng(0))
    assert sorted(zip(segment.tolist(), volume.tolist(), strict=True)) == [(s, v) for s in range(2) for v in range(5)]
    latents, states = clips.gather(clips.latents, segment, volume), clips.gather(clips.states, segment, volume)
    assert latents.dtype == torch.float32 and states.shape == (10, TOKENS, WIDTH)
    np.testing.assert_array_equal(latents[3], np.load(folders[segment[3]] / "latents.npy")[volume[3]])
    np.testing.assert_array_equal(states[3], np.load(folders[segment[3]] / "states.npy")[volume[3]])
    assert len(clips.draw(25, np.random.default_rng(0))[0]) == 25


def test_targets_that_do_not_fit(tmp_path, unet):
    folders = targets(tmp_path, segments=2, volumes=5)
    np.save(folders[1] / "latents.npy", np.zeros((4, FRAMES, CHANNELS, SIDE, SIDE), np.float16))
    with pytest.raises(InputError, match=r"seg2/latents.npy: found shape \(4, 6, 4, 8, 8\)"):
        objective.Clips(folders, unet)
    np.save(folders[0] / "states.npy", np.zeros((5, TOKENS, WIDTH + 1), np.float16))
    with pytest.raises(InputError, match=r"seg1/states.npy: .*expected \(5, 5, 12\)"):
        objective.Clips(folders, unet)
