"""BLIP at toy size: every frame gets its caption, equal frames the same one, and only once."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipTextConfig,
    BlipVisionConfig,
)

from mindreel.errors import InputError
from mindreel.sections import Captions
from mindreel.stages.captions import describe, unique_frames

CFG = Captions(backend="transformers", batch_size=4, max_tokens=6, beams=1)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
WORDS = [*SPECIAL, "a", "red", "blue", "green", "star", "fish", "boat", "moving", "left", "right"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """Folder of a random BLIP whose captions depend on the picture."""
    folder = tmp_path_factory.mktemp("captioner")
    torch.manual_seed(3)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = BlipTextConfig(
        vocab_size=len(WORDS), encoder_hidden_size=16, max_position_embeddings=16, pad_token_id=0, sep_token_id=3,
        eos_token_id=3, bos_token_id=5, initializer_range=1.0, **size,
    )  # fmt: skip
    vision = BlipVisionConfig(image_size=32, patch_size=16, initializer_range=1.0, **size)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


@pytest.fixture
def frames(tmp_path):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (3, 6, 32, 32, 3), dtype=np.uint8)
    array[2] = array[0]  # a repeated volume
    np.save(tmp_path / "seg1.npy", array)
    return tmp_path / "seg1.npy"


def test_one_caption_per_frame_as_the_model_says(blip, frames, tmp_path):
    describe(frames=frames, model=blip, out=tmp_path / "seg1.tsv", cfg=CFG)
    table = pd.read_csv(tmp_path / "seg1.tsv", sep="\t", keep_default_na=False)
    assert list(table.columns) == ["volume", "frame", "caption"]
    np.testing.assert_array_equal(table.volume, np.repeat(np.arange(3), 6))
    np.testing.assert_array_equal(table.frame, np.tile(np.arange(6), 3))
    assert table.caption[:6].tolist() == table.caption[12:].tolist()
    assert table.caption.nunique() > 3  # so that a mix-up of frames would show
    assert not table.caption.str.contains(r"\[").any()

    # one frame at a time, by hand
    model = BlipForConditionalGeneration.from_pretrained(blip).eval()
    tokenizer, prepare = BertTokenizer.from_pretrained(blip), BlipImageProcessorPil.from_pretrained(blip)
    array = np.load(frames)
    for row in (0, 4, 5, 9, 11):
        pixels = prepare(array[row // 6, row % 6], return_tensors="pt")["pixel_values"]
        tokens = model.generate(pixels, max_new_tokens=CFG.max_tokens, do_sample=False)
        assert table.caption[row] == tokenizer.decode(tokens[0, 1:], skip_special_tokens=True)


def test_beams_change_what_is_found(blip, frames, tmp_path):
    describe(frames=frames, model=blip, out=tmp_path / "greedy.tsv", cfg=CFG)
    describe(frames=frames, model=blip, out=tmp_path / "beams.tsv", cfg=CFG.model_copy(update={"beams": 4}))
    greedy, beams = (pd.read_csv(tmp_path / f"{n}.tsv", sep="\t", keep_default_na=False) for n in ("greedy", "beams"))
    assert (greedy.caption != beams.caption).any()


def test_unique_frames_rebuild_all():
    frames = np.random.default_rng(1).integers(0, 2, (40, 2, 1, 3), dtype=np.uint8)
    first, same_as = unique_frames(frames)
    np.testing.assert_array_equal(frames[first][same_as], frames)
    assert len(first) == len(np.unique(frames.reshape(40, -1), axis=0)) < 40
    assert (np.diff(first) > 0).all()


def test_wrong_array_is_refused(blip, tmp_path):
    np.save(tmp_path / "seg1.npy", np.zeros((3, 6, 32, 32, 3), np.float32))
    with pytest.raises(InputError, match=r"seg1\.npy: found float32 .* expected uint8"):
        describe(frames=tmp_path / "seg1.npy", model=blip, out=tmp_path / "seg1.tsv", cfg=CFG)


def test_missing_model_names_the_key(frames, tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*fetch\.captioner"):
        describe(frames=frames, model=tmp_path / "nowhere", out=tmp_path / "seg1.tsv", cfg=CFG)


def test_missing_weights_are_refused(blip, frames, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(blip, broken)
    weights = load_file(broken / "model.safetensors")
    lost = next(name for name in weights if "vision_model.encoder" in name)
    save_file({k: v for k, v in weights.items() if k != lost}, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"1 weights of BlipForConditionalGeneration are missing .{lost}"):
        describe(frames=frames, model=broken, out=tmp_path / "seg1.tsv", cfg=CFG)


def test_lavis_without_its_environment_says_which_one(blip, frames, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lavis", None)  # not importable, as in the main environment
    monkeypatch.setitem(sys.modules, "lavis.models", None)
    cfg = CFG.model_copy(update={"backend": "lavis"})
    with pytest.raises(InputError, match=r"captions\.backend.*envs/lavis\.yaml"):
        describe(frames=frames, model=blip, out=tmp_path / "seg1.tsv", cfg=cfg)
