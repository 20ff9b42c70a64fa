"""Parts of the micro models' training that need no training."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn

from mindreel.errors import InputError
from mindreel.small_world import drawing, micro_clips, micro_text, micro_training, micro_vae, zoo


@pytest.fixture(scope="module")
def clips():
    return micro_clips.render_clips(3, seed=5)


def test_an_unknown_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--only: no such model: gan; there are vae, clip, captioner, image-class"):
        zoo.build(out=tmp_path, only=["vae", "gan"])
    assert not list(tmp_path.iterdir())


def test_clips_hang_on_the_seed_alone(clips):
    again, other = micro_clips.render_clips(3, seed=5), micro_clips.render_clips(3, seed=6)
    assert clips.frames.shape == (3, micro_clips.FRAMES, micro_clips.SIDE, micro_clips.SIDE, 3)
    assert np.array_equal(clips.frames, again.frames) and clips.captions == again.captions
    assert clips.captions != other.captions


def test_captions_read_back_whole_but_for_the_longest():
    captions = sorted({drawing.Scene(*kind).caption for kind in drawing.KINDS})
    tokenizer = micro_text.clip_tokenizer()
    tokens = micro_text.tokenize(tokenizer, captions)
    assert tokens.shape == (len(captions), micro_text.TOKENS)
    read = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    cut = {caption: text for caption, text in zip(captions, read, strict=True) if caption != text}
    assert all("triangle" in caption and caption.startswith(text) for caption, text in cut.items())
    assert len(cut) < 0.05 * len(captions)


def test_pixels_are_normalised_as_the_saved_processor_does(clips):
    from transformers import VideoMAEImageProcessorPil

    processor = VideoMAEImageProcessorPil(
        size={"shortest_edge": micro_clips.SIDE},
        crop_size={"height": micro_clips.SIDE, "width": micro_clips.SIDE},
        image_mean=list(micro_clips.IMAGENET_MEAN),
        image_std=list(micro_clips.IMAGENET_STD),
    )
    expected = processor(list(clips.frames[0]), return_tensors="pt").pixel_values[0]
    found = micro_clips.normalise(
        micro_clips.to_pixels(clips.frames[0]), micro_clips.IMAGENET_MEAN, micro_clips.IMAGENET_STD
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_ssim_against_scikit_image(clips):
    one, other = clips.frames[0, 0], clips.frames[1, 0]
    expected = np.mean([
        structural_similarity(a / 127.5 - 1, b / 127.5 - 1, data_range=2, win_size=7, use_sample_covariance=False)
        for a, b in zip(np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0), strict=True)
    ])  # fmt: skip
    a, b = (micro_clips.to_pixels(frame[None]).double() for frame in (one, other))
    assert micro_vae.ssim_uniform7(a, b).item() == pytest.approx(expected, abs=1e-6)


def test_fit_learns_and_averages():
    """A line: its slope is found, and the average lags behind what it averages."""
    torch.manual_seed(0)
    model, averaged = nn.Linear(1, 1), nn.Linear(1, 1)
    averaged.load_state_dict(model.state_dict())
    x = torch.linspace(-1, 1, 20)[:, None]
    micro_training.fit(model, lambda step: (model(x) - 3 * x).square().mean(), 300, 0.1, "line", averaged)
    assert model.weight.item() == pytest.approx(3, abs=0.05)
    assert averaged.weight.item() == pytest.approx(3, abs=0.5)
    assert averaged.weight.item() != model.weight.item()
