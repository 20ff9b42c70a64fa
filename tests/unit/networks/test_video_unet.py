"""The inflated UNet: parity with the released code, identities with the stock UNet, who sees whom."""

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_diffusion import CHANNELS, FRAMES, SIDE, TOKENS, WIDTH, optimizer, scheduler, stock_unet

from mindreel.diffusion import objective
from mindreel.errors import InputError
from mindreel.learning import loop
from mindreel.networks.video_unet import FrameAttention, VideoUNet, deflate, inflate, load_released

DATA = Path(__file__).parents[2] / "data" / "unet3d_tiny"


def clip(frames: int = FRAMES, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random latents (B, F, C, h, w) and states (B, L, D)."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((batch, frames, CHANNELS, SIDE, SIDE), generator=generator)
    return latents, torch.randn((batch, TOKENS, WIDTH), generator=generator)


def randomise_temporal(video: VideoUNet) -> VideoUNet:
    """Give the temporal attention an effect."""
    torch.manual_seed(7)
    for block in video.blocks():
        torch.nn.init.normal_(block.attn_temp.to_out[0].weight, std=0.3)
    return video


@pytest.fixture(scope="module")
def released() -> VideoUNet:
    return load_released(DATA / "config.json", DATA / "weights.safetensors").requires_grad_(False)


@pytest.fixture(scope="module")
def known() -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(DATA / "data.npz").items()}


@pytest.mark.parametrize(
    ("latents", "timestep", "rows", "frames", "expected"),
    [
        ("x", "t", 2, 6, "out"),
        ("x", "t_batch", 2, 6, "out_t"),
        ("x", "t", 2, 2, "out_f2"),
        ("odd_x", "t", 1, 3, "odd_out"),
    ],
)
def test_parity_with_released_code(released, known, latents, timestep, rows, frames, expected):
    video = known[latents][:, :, :frames].transpose(1, 2)
    predicted = released(video, known[timestep], known["ctx"][:rows]).transpose(1, 2)
    torch.testing.assert_close(predicted, known[expected], atol=1e-4, rtol=0)


def test_released_weights_with_zero_temporal_output(known):
    video = load_released(DATA / "config.json", DATA / "weights.safetensors").requires_grad_(False)
    for block in video.blocks():
        block.attn_temp.to_out[0].weight.zero_()
        block.attn_temp.to_out[0].bias.zero_()
    predicted = video(known["x"].transpose(1, 2), 481, known["ctx"]).transpose(1, 2)
    torch.testing.assert_close(predicted, known["distinct_zeroed_out"], atol=1e-4, rtol=0)
    still = known["same2d_x"][:, None].expand(-1, 6, -1, -1, -1)
    predicted = video(still, 481, known["ctx"])
    torch.testing.assert_close(predicted[:, 3], known["same2d_out"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm_over", ["frames", "frame"])
@pytest.mark.parametrize("attention", ["sparse-causal", "first-and-previous", "plain"])
def test_one_frame_is_the_stock_unet(attention, norm_over):
    latents, states = clip(frames=1)
    timesteps = torch.tensor([10, 700])
    with torch.no_grad():
        expected = stock_unet()(latents[:, 0], timesteps, states).sample
        predicted = inflate(stock_unet(), attention, norm_over)(latents, timesteps, states)
    assert expected.abs().mean() > 0.01
    torch.testing.assert_close(predicted[:, 0], expected, atol=1e-5, rtol=0)


def test_freshly_inflated_plain_clip_is_the_stock_unet_per_frame():
    latents, states = clip()
    with torch.no_grad():
        expected = stock_unet()(latents.flatten(0, 1), 300, states.repeat_interleave(FRAMES, 0)).sample
        predicted = inflate(stock_unet(), "plain", "frame")(latents, 300, states)
    torch.testing.assert_close(predicted.flatten(0, 1), expected, atol=1e-5, rtol=0)


def test_shared_group_norm_mixes_frames():
    latents, states = clip()
    with torch.no_grad():
        apart = inflate(stock_unet(), "plain", "frame")(latents, 300, states)
        together = inflate(stock_unet(), "plain", "frames")(latents, 300, states)
    assert (apart - together).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("attention", "changed", "reached"),
    [
        ("sparse-causal", 5, {5}),  # its own query only
        ("sparse-causal", 2, {2, 3, 4, 5}),  # and on through the layers
        ("first-and-previous", 5, {5}),
        ("first-and-previous", 0, {0, 1, 2, 3, 4, 5}),
        ("plain", 2, {2}),
    ],
)
def test_which_frames_a_change_reaches(attention, changed, reached):
    video = inflate(stock_unet(), attention, "frame")
    latents, states = clip()
    other = latents.clone()
    other[:, changed] += 1
    with torch.no_grad():
        difference = (video(latents, 300, states) - video(other, 300, states)).abs().amax((0, 2, 3, 4))
    assert {frame for frame in range(FRAMES) if difference[frame] > 1e-4} == reached
    assert all(difference[frame] < 1e-6 for frame in range(FRAMES) if frame not in reached)


def test_sparse_causal_attends_the_two_frames_before():
    attended = FrameAttention(6)._attended(torch.arange(12.0).reshape(12, 1, 1))  # 2 clips of 6 frames, 1 token
    pairs = [[0, 0], [0, 0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert attended.squeeze(-1).tolist() == pairs + [[6 + a, 6 + b] for a, b in pairs]
    attended = FrameAttention(4, "first-and-previous")._attended(torch.arange(4.0).reshape(4, 1, 1))
    assert attended.squeeze(-1).tolist() == [[0, 0], [0, 0], [0, 1], [0, 2]]


def test_temporal_attention_lets_late_frames_reach_early_ones():
    video = randomise_temporal(inflate(stock_unet(), "plain", "frame"))
    latents, states = clip()
    other = latents.clone()
    other[:, 5] += 1
    with torch.no_grad():
        difference = (video(latents, 300, states) - video(other, 300, states)).abs().amax((0, 2, 3, 4))
    assert difference[0] > 1e-4


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 5, 5), (7, 3, 10), (16, 8, 5)])
def test_any_number_of_frames_and_any_size(frames, height, width):
    """A clip of one picture stays one picture, whatever its size and however often it is shown."""
    video = inflate(stock_unet(), "sparse-causal", "frames")
    picture = torch.randn((1, 1, CHANNELS, height, width), generator=torch.Generator().manual_seed(0))
    states = clip(batch=1)[1]
    with torch.no_grad():
        alone = video(picture, 300, states)
        shown = video(picture.expand(-1, frames, -1, -1, -1), 300, states)
        stock = stock_unet()(picture[:, 0], 300, states).sample
    assert shown.shape == (1, frames, CHANNELS, height, width)
    torch.testing.assert_close(alone[:, 0], stock, atol=1e-5, rtol=0)
    torch.testing.assert_close(shown, alone.expand_as(shown), atol=1e-4, rtol=0)


def test_clips_of_a_batch_do_not_mix():
    video = randomise_temporal(inflate(stock_unet(), "sparse-causal", "frames"))
    latents, states = clip()
    with torch.no_grad():
        both = video(latents, torch.tensor([5, 900]), states)
        second = video(latents[1:], torch.tensor([900]), states[1:])
    torch.testing.assert_close(both[1:], second, atol=1e-5, rtol=0)


def test_save_and_load(tmp_path):
    video = randomise_temporal(inflate(stock_unet(), "first-and-previous", "frame", frame_positions=True))
    video.save_pretrained(tmp_path / "unet")
    assert sorted(file.name for file in (tmp_path / "unet").iterdir()) == ["config.json", "model.safetensors"]
    again = VideoUNet.from_pretrained(tmp_path / "unet")
    latents, states = clip()
    with torch.no_grad():
        torch.testing.assert_close(again(latents, 3, states), video(latents, 3, states), atol=0, rtol=0)
    assert (again.attention, again.norm_over, again.frame_positions) == ("first-and-previous", "frame", True)


def test_inflate_from_half_precision_folder_and_back(tmp_path):
    stock_unet().half().save_pretrained(tmp_path)
    video = inflate(tmp_path, "sparse-causal", "frames")
    assert {p.dtype for p in video.parameters()} == {torch.float32}
    flat = deflate(video)
    assert type(flat) is UNet2DConditionModel
    for name, value in stock_unet().half().state_dict().items():
        torch.testing.assert_close(flat.state_dict()[name], value.float(), atol=0, rtol=0)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_inflate_takes_a_released_folder_as_it_is(tmp_path, known, suffix):
    shutil.copy(DATA / "config.json", tmp_path)
    file = tmp_path / f"diffusion_pytorch_model.{suffix}"
    with pytest.raises(InputError, match=r"no diffusion_pytorch_model.safetensors or .bin"):
        inflate(tmp_path, "sparse-causal", "frames")
    if suffix == "bin":
        torch.save(load_file(DATA / "weights.safetensors"), file)
    else:
        shutil.copy(DATA / "weights.safetensors", file)
    video = inflate(tmp_path, "sparse-causal", "frames").requires_grad_(False)
    predicted = video(known["x"].transpose(1, 2), known["t"], known["ctx"]).transpose(1, 2)
    torch.testing.assert_close(predicted, known["out"], atol=1e-4, rtol=0)


def test_released_weights_that_do_not_fit(tmp_path):
    weights = load_file(DATA / "weights.safetensors")
    removed = next(name for name in weights if "attn_temp" in name)
    del weights[removed]
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=rf"Lacking: .*{removed}"):
        load_released(DATA / "config.json", tmp_path / "weights.safetensors")


def test_inflate_without_a_model(tmp_path):
    with pytest.raises(InputError, match=r"fetch.stable_diffusion"):
        inflate(tmp_path, "plain", "frame")


def test_train_only():
    video = inflate(stock_unet(), "sparse-causal", "frames")
    video.train_only(("attn1", "attn_temp"))
    names = {name for name, parameter in video.named_parameters() if parameter.requires_grad}
    assert names and all(".attn1." in name or ".attn_temp." in name for name in names)
    blocks = len(list(video.blocks()))
    assert sum(name.endswith("to_q.weight") for name in names) == 2 * blocks
    held = {id(p) for p in video.trained().parameters()}
    assert held == {id(p) for p in video.parameters() if p.requires_grad}


def test_frame_positions_tell_frames_apart_and_leave_a_single_frame_alone():
    latents, states = clip()
    same = latents[:, :1].expand_as(latents)  # without positions all frames of a clip of one picture are alike
    single = latents[:, :1]
    blind = inflate(stock_unet(), "sparse-causal", "frame")
    told = inflate(stock_unet(), "sparse-causal", "frame", frame_positions=True)
    with torch.no_grad():
        alike, apart = (model(same, 300, states) for model in (blind, told))
        torch.testing.assert_close(told(single, 300, states), blind(single, 300, states))
    torch.testing.assert_close(alike[:, 0], alike[:, 5], atol=1e-5, rtol=0)
    assert all((apart[:, i] - apart[:, i + 1]).abs().max() > 1e-3 for i in range(FRAMES - 1))


@pytest.mark.slow
def test_a_unet_of_stable_diffusions_size_inflates_trains_a_step_saves_and_reloads(tmp_path):
    """860 million parameters, random: all of it within 16 GiB, on a CPU."""
    UNet2DConditionModel(sample_size=64, cross_attention_dim=768).half().save_pretrained(tmp_path / "unet")
    video = inflate(tmp_path / "unet", "sparse-causal", "frames")
    stock = sum(p.numel() for name, p in video.named_parameters() if "_temp" not in name)
    assert stock == 859_520_964
    video.train_only(("attn1", "attn2", "attn_temp"))
    video.unet.enable_gradient_checkpointing()
    torch.manual_seed(0)
    latents, states = torch.randn(1, 6, 4, 32, 32), torch.randn(1, 77, 768)
    cfg = optimizer(1)
    loss = objective.objective(video, DDPMScheduler.from_config(scheduler().config), latents, states, 0.0)
    loss.backward()
    loop.adamw({video: 1.0}, cfg).step()
    video.requires_grad_(False)
    video.save_pretrained(tmp_path / "video")
    predicted = video(latents, 500, states)
    assert predicted.shape == latents.shape and predicted.isfinite().all()
    del video
    again = VideoUNet.from_pretrained(tmp_path / "video").requires_grad_(False)
    torch.testing.assert_close(again(latents, 500, states), predicted, atol=0, rtol=0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 16 * 2**20  # KiB
