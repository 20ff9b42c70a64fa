"""Targets with CLIP and Stable Diffusion at toy size: right vectors in the right places, reproducible views."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import AutoencoderKL
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from mindreel.errors import InputError
from mindreel.sections import Targets
from mindreel.stages.targets import CROP_AREA, augment, embed, random_crop, read_synonyms

CFG = Targets(batch_size=5, image_views=2, synonym_share=0.5, swap_words=1, text_views=3, seed=0)
CAPTIONS = ["a red star moving left", "a blue fish growing", "a green boat spinning in the sky", ""]
TOKENS = 24


def tokenizer() -> CLIPTokenizer:
    """Letters and a few merges: captions of every length, one of them too long."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    pieces += ["re", "in", "ing</w>", "in</w>"]
    merges = [("r", "e"), ("i", "n"), ("in", "g</w>"), ("i", "n</w>")]
    return CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, model_max_length=TOKENS)


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory):
    """Folders clip/ and diffusion/ with random networks."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    words = tokenizer()
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        vocab_size=len(words),
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        initializer_factor=10.0,
        **size,
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=16, initializer_factor=10.0, **size)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    clip = CLIPModel(config)
    clip.half().save_pretrained(folder / "clip")  # as the micro models are
    words.save_pretrained(folder / "clip")
    square = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder / "clip")
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
    )  # fmt: skip
    vae.save_pretrained(folder / "diffusion" / "vae")
    CLIPTextModel(text).save_pretrained(folder / "diffusion" / "text_encoder")
    words.save_pretrained(folder / "diffusion" / "tokenizer")
    return folder


@pytest.fixture
def segment(tmp_path):
    """Two volumes of four frames with a caption each, and synonyms."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "seg1.npy", rng.integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8))
    captions = [CAPTIONS[i] for i in (0, 0, 1, 2, 2, 3, 0, 1)]
    table = pd.DataFrame({"volume": np.repeat([0, 1], 4), "frame": np.tile(np.arange(4), 2), "caption": captions})
    table.to_csv(tmp_path / "seg1.tsv", sep="\t", index=False)
    (tmp_path / "synonyms.tsv").write_text("word\tsynonyms\nred\tcrimson\nboat\tvessel\n")
    return tmp_path, captions


def run(segment, models_folder, out="targets", name="seg1", cfg=CFG):
    embed(
        frames=segment / f"{name}.npy", captions=segment / f"{name}.tsv", clip=models_folder / "clip",
        diffusion=models_folder / "diffusion", synonyms=segment / "synonyms.tsv", out=segment / out, cfg=cfg,
    )  # fmt: skip
    return {name: np.load(segment / out / f"{name}.npy") for name in ("image", "text", "states", "empty", "latents")}


def test_shapes_and_types(segment, models_folder):
    made = run(segment[0], models_folder)
    assert {k: (v.shape, v.dtype.name) for k, v in made.items()} == {
        "image": ((2, 4, 3, 8), "float32"),
        "text": ((2, 4, 4, 8), "float32"),
        "states": ((2, TOKENS, 16), "float16"),
        "empty": ((TOKENS, 16), "float16"),
        "latents": ((2, 4, 4, 16, 16), "float16"),
    }
    for name in ("image", "text"):
        np.testing.assert_allclose(np.linalg.norm(made[name], axis=-1), 1, atol=1e-6)


@torch.no_grad()
def test_view_0_is_the_picture_and_the_caption_one_at_a_time(segment, models_folder):
    folder, captions = segment
    made = run(folder, models_folder)
    clip = CLIPModel.from_pretrained(models_folder / "clip").float().eval()
    prepare, words = CLIPImageProcessorPil.from_pretrained(models_folder / "clip"), tokenizer()
    frames = np.load(folder / "seg1.npy")
    for volume, frame in ((0, 0), (0, 3), (1, 1), (1, 3)):
        pixels = prepare(frames[volume, frame], return_tensors="pt")["pixel_values"]
        expected = clip.visual_projection(clip.vision_model(pixels).pooler_output)[0]
        np.testing.assert_allclose(made["image"][volume, frame, 0], expected / expected.norm(), atol=1e-5)
        ids = words(captions[4 * volume + frame], truncation=True, return_tensors="pt")["input_ids"]  # no padding
        expected = clip.text_projection(clip.text_model(ids).pooler_output)[0]
        np.testing.assert_allclose(made["text"][volume, frame, 0], expected / expected.norm(), atol=1e-5)
    distances = np.linalg.norm(made["text"][0, 0, 0] - made["text"][0, 2:, 0], axis=-1)
    assert (distances > 0.01).all()  # other captions are elsewhere


@torch.no_grad()
def test_states_are_those_of_the_middle_frame_and_of_the_empty_caption(segment, models_folder):
    folder, captions = segment
    made = run(folder, models_folder)
    encoder = CLIPTextModel.from_pretrained(models_folder / "diffusion" / "text_encoder").eval()

    def states(text):
        ids = tokenizer()(text, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        return encoder(ids["input_ids"])[0][0]

    for volume in range(2):
        np.testing.assert_allclose(made["states"][volume], states(captions[4 * volume + 2]), atol=5e-3)
    np.testing.assert_allclose(made["empty"], states(""), atol=5e-3)
    assert np.abs(made["states"].astype(float) - made["empty"]).max() > 0.1


@torch.no_grad()
def test_latents_are_scaled_posterior_means(segment, models_folder):
    folder, _ = segment
    made = run(folder, models_folder)
    vae = AutoencoderKL.from_pretrained(models_folder / "diffusion" / "vae").eval()
    frame = np.load(folder / "seg1.npy")[1, 2]
    pixels = torch.tensor(frame / 255 * 2 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
    expected = vae.encode(pixels).latent_dist.mean[0] * 0.5
    np.testing.assert_allclose(made["latents"][1, 2], expected, atol=2e-3)


def test_views_differ_and_depend_on_seed_and_segment_only(segment, models_folder):
    folder, _ = segment
    first, again = run(folder, models_folder), run(folder, models_folder, out="again")
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert np.abs(first["image"][:, :, 0] - first["image"][:, :, 1]).max() > 1e-3
    assert np.abs(first["image"][:, :, 1] - first["image"][:, :, 2]).max() > 1e-3
    assert (first["text"][0, 0, 0] != first["text"][0, 0, 1:]).any()
    for suffix in ("npy", "tsv"):
        shutil.copy(folder / f"seg1.{suffix}", folder / f"seg2.{suffix}")
    other = run(folder, models_folder, out="other", name="seg2")
    np.testing.assert_array_equal(first["latents"], other["latents"])
    np.testing.assert_allclose(first["image"][:, :, 0], other["image"][:, :, 0], atol=1e-6)
    assert (first["image"][:, :, 1] != other["image"][:, :, 1]).any()
    seeded = run(folder, models_folder, out="seeded", cfg=CFG.model_copy(update={"seed": 1}))
    assert (first["image"][:, :, 1] != seeded["image"][:, :, 1]).any()


def test_augment_replaces_a_share_and_swaps_words():
    synonyms = {"red": ["crimson", "scarlet"], "boat": ["ship"]}
    rng = np.random.default_rng(0)
    text = "a Red boat in the sky"
    assert augment(text, synonyms, rng, 0.0, 0) == text
    assert augment(text, synonyms, rng, 1.0, 0) in {"a crimson ship in the sky", "a scarlet ship in the sky"}
    many = [augment("boat " * 100, synonyms, rng, 0.2, 0).split().count("ship") for _ in range(50)]
    assert np.mean(many) == pytest.approx(20, abs=2)
    swapped = augment(text, synonyms, rng, 0.0, 1).split()
    assert sorted(swapped) == sorted(text.split())
    assert sum(a != b for a, b in zip(swapped, text.split(), strict=True)) == 2
    assert augment("boat", synonyms, rng, 0.0, 3) == "boat" and augment("", synonyms, rng, 1.0, 3) == ""


def test_random_crop_is_square_of_the_right_size_anywhere():
    picture = np.arange(40 * 60, dtype=np.int64).reshape(40, 60, 1).repeat(3, 2)
    rng = np.random.default_rng(0)
    crops = [random_crop(picture, rng) for _ in range(300)]
    sides = np.array([c.shape[0] for c in crops])
    assert all(c.shape[0] == c.shape[1] for c in crops)
    assert sides.min() >= int(40 * CROP_AREA[0] ** 0.5) and sides.max() <= 40 and len(set(sides)) > 5
    corners = np.array([divmod(c[0, 0, 0], 60) for c in crops])
    assert corners[:, 1].min() == 0 and (corners[:, 1] + sides).max() == 60  # both edges are reached
    for (top, left), crop in zip(corners, crops, strict=True):
        np.testing.assert_array_equal(crop, picture[top : top + len(crop), left : left + len(crop)])


def test_shipped_synonyms_are_single_words_that_cover_the_small_world():
    from pathlib import Path

    from mindreel.small_world import drawing

    synonyms = read_synonyms(Path(__file__).parents[3] / "resources" / "synonyms.tsv")
    assert {
        *drawing.OBJECTS,
        *drawing.COLOURS,
        *drawing.BACKGROUNDS,
        "moving",
        *list(drawing.MOTIONS),
    } <= synonyms.keys()
    for word, others in synonyms.items():
        assert others and all(o and o == o.lower() and " " not in o and o != word for o in others), word


def test_misfits_are_refused(segment, models_folder):
    folder, _ = segment
    table = pd.read_csv(folder / "seg1.tsv", sep="\t")
    table.iloc[:-1].to_csv(folder / "seg1.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match=r"seg1\.tsv: found 7 rows, expected 8"):
        run(folder, models_folder)
    table.iloc[::-1].to_csv(folder / "seg1.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="in order"):
        run(folder, models_folder)
    (folder / "synonyms.tsv").write_text("red,crimson\n")
    table.to_csv(folder / "seg1.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match=r"synonyms\.tsv: found columns red,crimson"):
        run(folder, models_folder)
    assert not (folder / "targets").exists()
