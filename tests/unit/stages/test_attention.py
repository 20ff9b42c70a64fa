"""Attention per patch, spread to voxels and summed per part; integrated gradients: against direct computation."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from mindreel import artifacts, sections
from mindreel.brain import cifti, surface
from mindreel.errors import InputError
from mindreel.learning import integrated_gradients
from mindreel.networks import fmri_encoder, masked_autoencoder
from mindreel.stages import attention

VOXELS, SIZE, LAYERS = 75, 8, (1, 3)  # 10 patches, the last one with 5 padding voxels
MODEL = {"voxels": VOXELS, "patch_size": SIZE, "width": 16, "depth": 3, "heads": 2, "mlp_ratio": 1.0}


CATEGORIES = {"dogs": ("dog",), "pets": ("Dog", "cat"), "cars": ("car",)}


def settings(**changes):
    whole = {"layers": LAYERS, "batch_size": 3, "gradient_steps": 4, "categories": CATEGORIES}
    return sections.Attention(**whole | changes)


@pytest.fixture
def inputs(tmp_path):
    return made_inputs(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Inputs, and the maps made of them; not to be changed."""
    arguments = made_inputs(tmp_path_factory.mktemp("attention"))
    attention.maps(**arguments)
    return arguments


def made_inputs(tmp_path):
    torch.manual_seed(5)
    rng = np.random.default_rng(5)
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    masked_autoencoder.MaskedAutoencoder(**MODEL, **decoder).save_pretrained(tmp_path / "mbm")
    head = {"window": 2, "tokens": 4, "token_width": 6, "dropout": 0.0}
    fmri_encoder.FmriEncoder(**MODEL, **head).save_pretrained(tmp_path / "contrastive")
    fmri_encoder.FmriEncoder(**MODEL, **head).save_pretrained(tmp_path / "cotrain/encoder")
    series = rng.normal(size=(2, 5, VOXELS)).astype(np.float32)
    artifacts.save_array(tmp_path / "test.npy", series)
    atlas = surface.atlas()
    chosen = atlas[atlas.group != "rest"].sample(VOXELS, random_state=5).sort_values("rank", kind="stable")
    artifacts.save_table(tmp_path / "voxels.tsv", chosen)
    texts = (["a dog on the grass"] * 3 + ["two cats"] * 2, ["a dog and a cat"] * 2 + ["the sea"] * 3)
    for name, of_segment in zip(("one", "two"), texts, strict=True):
        rows = [(v, f, t if f == 1 else "a boat") for v, t in enumerate(of_segment) for f in range(3)]
        artifacts.save_table(tmp_path / f"{name}.tsv", pd.DataFrame(rows, columns=["volume", "frame", "caption"]))
        artifacts.save_array(tmp_path / f"true/{name}/clip.npy", rng.normal(size=(5, 3, 6)).astype(np.float32))
    return {
        "mbm": tmp_path / "mbm",
        "contrastive": tmp_path / "contrastive",
        "cotrained": tmp_path / "cotrain",
        "bold": tmp_path / "test.npy",
        "voxels": tmp_path / "voxels.tsv",
        "captions": [tmp_path / "one.tsv", tmp_path / "two.tsv"],
        "true_features": tmp_path / "true",
        "out": tmp_path / "attention",
        "encoder": sections.Encoder(window=2, shift=1, tokens=4, token_width=6),
        "cfg": settings(),
    }


def test_every_voxel_has_its_patch_value():
    patches = np.arange(20.0).reshape(2, 10)
    spread = attention.spread(patches, SIZE, VOXELS)
    assert spread.shape == (2, VOXELS)
    for voxel in range(VOXELS):
        np.testing.assert_array_equal(spread[:, voxel], patches[:, voxel // SIZE])


def test_a_whole_padding_patch_is_dropped():
    spread = attention.spread(np.array([1.0, 2.0, 99.0]), SIZE, 2 * SIZE)
    np.testing.assert_array_equal(spread, np.repeat([1.0, 2.0], SIZE))


def test_too_few_patches_are_an_error():
    with pytest.raises(InputError, match="hold fewer than the 75"):
        attention.spread(np.ones(9), SIZE, VOXELS)


def test_received_is_the_mean_softmax_weight(inputs):
    """Against an explicit loop over windows, heads and queries for the first layer."""
    model = fmri_encoder.FmriEncoder.from_pretrained(inputs["contrastive"])
    series = np.load(inputs["bold"])
    got = attention.received(model, series, inputs["encoder"], inputs["cfg"])
    assert got.shape == (10, 2, 10)
    np.testing.assert_allclose(got.sum(2), 1, rtol=1e-6)
    block, total = model.blocks[0], torch.zeros(10, dtype=torch.float64)
    for segment in series:
        for t in range(5):
            for volume in (min(t + 1, 4), min(t + 2, 4)):
                x = model.embed(model.patches(torch.from_numpy(segment[volume])[None]))[0] + model.positions
                q, k, _ = block.spatial.qkv(block.norm_spatial(x)).view(10, 3, 2, 8).unbind(1)
                for head in range(2):
                    for query in range(10):
                        logits = (k[:, head] @ q[query, head]) / 8**0.5
                        total += torch.softmax(logits, 0).double().detach()
    np.testing.assert_allclose(got[:, 0].mean(0), total / (2 * 5 * 2 * 2 * 10), rtol=1e-5)


def test_uniform_attention_gives_a_uniform_map(inputs):
    model = fmri_encoder.FmriEncoder.from_pretrained(inputs["contrastive"])
    with torch.no_grad():
        for block in model.blocks:
            block.spatial.qkv.weight[: 2 * 16] = 0
            block.spatial.qkv.bias[: 2 * 16] = 0
    got = attention.received(model, np.load(inputs["bold"]), inputs["encoder"], inputs["cfg"])
    np.testing.assert_allclose(attention.spread(got, SIZE, VOXELS), 0.1, rtol=1e-6)


def test_part_sums_are_the_direct_sums(rng):
    values = {stage: {n: rng.random(VOXELS) for n in LAYERS} for stage in attention.STAGES}
    part = pd.Categorical(rng.choice(["b", "c", "a"], VOXELS), ["c", "none of these", "b", "a"])
    table = attention.part_sums(values, part, "network")
    assert list(table.network[:3]) == ["c", "b", "a"] and len(table) == 3 * 2 * 3
    for row in table.itertuples():
        whole = values[row.stage][row.layer]
        inside = [v for v, n in zip(whole, part, strict=True) if n == row.network]
        assert row.voxels == len(inside)
        assert row.sum == pytest.approx(sum(inside))
        assert row.share == pytest.approx(sum(inside) / sum(whole))
        assert row.relative == pytest.approx(np.mean(inside) / np.mean(whole))
    even = attention.part_sums({"mbm": {1: np.full(VOXELS, 0.02)}}, part, "network")
    np.testing.assert_allclose(even.relative, 1)


def test_maps_writes_everything(made):
    out = made["out"]
    values = np.load(out / "attention.npy")
    assert values.shape == (3, 2, VOXELS) and values.dtype == np.float32
    assert np.abs(values[1] - values[2]).max() > 1e-6  # the stages are different models
    image = nib.load(out / "attention.dscalar.nii")
    names = list(image.header.get_axis(0).name)
    assert names == [f"{s}-layer{n}" for s in attention.STAGES for n in LAYERS]
    whole = cifti.read_surface(out / "attention.dscalar.nii")
    chosen = pd.read_csv(made["voxels"], sep="\t").grayordinate.to_numpy()
    np.testing.assert_array_equal(whole[:, chosen].reshape(3, 2, -1), values)
    assert np.count_nonzero(whole[0]) == VOXELS
    assert set(artifacts.load_table(out / "networks.tsv").network) <= set(surface.NETWORKS)
    areas = artifacts.load_table(out / "areas.tsv")
    last = areas[(areas.stage == "cotrain") & (areas.layer == 3)].set_index("area")["sum"]
    atlas = surface.atlas().area[chosen].to_numpy()
    assert last[atlas[0]] == pytest.approx(values[2, 1][atlas == atlas[0]].sum(), rel=1e-4)
    files = {"attention.npy", "gradients.npy", "categories.npy", "networks.tsv", "areas.tsv", "gradients.tsv"}
    files |= {"agreement.tsv", "completeness.tsv", "categories.tsv", ".mindreel"}
    files |= {f"{name}.dscalar.nii" for name in ("attention", "gradients", "categories")}
    assert {path.name for path in out.iterdir()} == files


def test_maps_per_category_are_means_over_its_clips(made):
    table = artifacts.load_table(made["out"] / "categories.tsv").set_index("category")
    assert list(table.clips) == [5, 7, 0] and table.words["pets"] == "Dog, cat"  # of middle frames; a boat is on others
    whole = cifti.read_surface(made["out"] / "categories.dscalar.nii")
    names = list(nib.load(made["out"] / "categories.dscalar.nii").header.get_axis(0).name)
    assert len(names) == 2 * (3 * 2 + 2) and not any("cars" in name for name in names)
    chosen = artifacts.load_table(made["voxels"]).grayordinate.to_numpy()
    model = fmri_encoder.FmriEncoder.from_pretrained(made["contrastive"])
    series = np.load(made["bold"])
    dogs = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    batch = fmri_encoder.window_batch(series, *np.array(dogs).T, 2, 1)
    with torch.no_grad():
        expected = model.attention(batch, LAYERS).mean((0, 1))[1].repeat_interleave(SIZE)[:VOXELS]
    np.testing.assert_allclose(whole[names.index("dogs-contrastive-layer3")][chosen], expected, rtol=1e-4)
    stacked = np.load(made["out"] / "categories.npy")
    np.testing.assert_array_equal(stacked.reshape(-1, VOXELS), whole[:, chosen])
    every = np.load(made["out"] / "gradients.npy")
    of_dogs = whole[names.index("dogs-cotrain-integrated-gradients")][chosen]
    assert (of_dogs > 0).all() and np.abs(of_dogs - every[1]).max() > 1e-6


def test_without_categories_there_are_no_maps_of_them(inputs):
    attention.maps(**inputs | {"cfg": settings(categories={"cars": ("car",)})})
    assert not list(inputs["out"].glob("categories.[nd]*"))
    assert list(artifacts.load_table(inputs["out"] / "categories.tsv").clips) == [0]


def test_words_are_whole_words_with_or_without_s():
    captions = ["Cars, cars!", "a carpet", "a scar", "a CAR.", "oscars"]
    assert list(attention.category_clips(captions, {"cars": ("car",)})["cars"]) == [0, 3]


def gradients_of(inputs, steps=64):
    model = fmri_encoder.FmriEncoder.from_pretrained(inputs["contrastive"])
    with torch.no_grad():  # temporal attention starts at zero: let it matter
        for block in model.blocks:
            block.temporal.out.weight.normal_(0, 0.2)
    series = np.load(inputs["bold"])[:, :3]
    targets = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    return model, series, targets, integrated_gradients.integrated_gradients(model, series, targets, 2, 1, steps, 4)


def test_integrated_gradients_are_the_mean_gradient_times_the_way(inputs):
    """Against a midpoint sum of 400 gradients of one clip; and they share out the whole difference."""
    model, series, targets, (shares, table) = gradients_of(inputs)
    assert shares.shape == (6, 2, VOXELS)
    np.testing.assert_allclose(table.error, 0, atol=2e-3 * np.abs(table.cosine - table.baseline).max())
    clip = torch.from_numpy(series[1, [1, 2]])[None]  # segment 1, volume 0: shift 1
    start = torch.from_numpy(series.mean((0, 1))).expand_as(clip)
    place = ((torch.arange(400) + 0.5) / 400)[:, None, None]
    along = (start + place * (clip - start)).requires_grad_()
    cosine = torch.cosine_similarity(model(along).mean(1), torch.from_numpy(targets[3:4]), dim=1)
    gradient = torch.autograd.grad(cosine.sum(), along)[0].mean(0)
    expected = (gradient * (clip - start)[0]).numpy()
    np.testing.assert_allclose(shares[3], expected, atol=1e-2 * np.abs(expected).max())
    with torch.no_grad():
        ends = [torch.cosine_similarity(model(x).mean(1), torch.from_numpy(targets[3:4])).item() for x in (clip, start)]
    np.testing.assert_allclose(table.loc[3, ["cosine", "baseline"]].astype(float), ends, atol=1e-5)


def test_a_voxel_at_its_mean_gets_nothing(inputs):
    series = np.load(inputs["bold"])
    series[..., 7] = 0.25
    model = fmri_encoder.FmriEncoder.from_pretrained(inputs["contrastive"])
    shares, _ = integrated_gradients.integrated_gradients(model, series, np.eye(10, 6, dtype=np.float32), 2, 1, 2, 16)
    assert (shares[..., 7] == 0).all() and (np.delete(shares, 7, 2) != 0).any((0, 1)).all()


def test_agreement_is_spearmans_over_means_of_groups(rng):
    first, second = rng.random((2, 60))
    group = np.repeat(["x", "y", "z", "w"], 15)
    table = integrated_gradients.agreement(first, second, {"voxels": None, "groups": group}).set_index("over")
    assert table.spearman["voxels"] == pytest.approx(spearmanr(first, second).statistic)
    means = [[v[group == g].mean() for g in "xyzw"] for v in (first, second)]
    assert table.spearman["groups"] == pytest.approx(spearmanr(*means).statistic)
    assert list(table.number) == [60, 4]
    assert integrated_gradients.agreement(first, first**3, {"voxels": None}).spearman[0] == pytest.approx(1)
    assert integrated_gradients.agreement(first, np.ones(60), {"voxels": None}).spearman.isna().all()
    assert integrated_gradients.agreement(first[:2], second[:2], {"voxels": None}).spearman.isna().all()


def test_agreement_names_stage_layer_and_numbers(made):
    table = artifacts.load_table(made["out"] / "agreement.tsv")
    assert set(zip(table.stage, table.layer, strict=True)) == {
        (s, n) for s in ("contrastive", "cotrain") for n in LAYERS
    }
    assert table.groupby("over").number.first()[["voxels", "patches"]].tolist() == [VOXELS, 10]
    values, found = np.load(made["out"] / "attention.npy"), np.load(made["out"] / "gradients.npy")
    row = table[(table.stage == "cotrain") & (table.layer == 1) & (table.over == "voxels")].iloc[0]
    assert row.spearman == pytest.approx(spearmanr(values[2, 0], found[1]).statistic, rel=1e-4)


def test_captions_and_features_of_other_clips_are_errors(inputs, tmp_path):
    with pytest.raises(InputError, match="found 1 tables, expected 2"):
        attention.maps(**inputs | {"captions": inputs["captions"][:1]})
    artifacts.save_array(tmp_path / "true/two/clip.npy", np.ones((5, 3, 4), np.float32))
    with pytest.raises(
        InputError, match=r"two/clip.npy: found an array of shape \(5, 3, 4\), expected \(5, frames, 6\)"
    ):
        attention.maps(**inputs)
    artifacts.save_table(tmp_path / "two.tsv", artifacts.load_table(tmp_path / "two.tsv")[:9])
    with pytest.raises(InputError, match="captions of 3 volumes, expected 5"):
        attention.maps(**inputs)
    assert not inputs["out"].exists()


def test_mbm_stage_is_the_masked_autoencoders_own_attention(inputs):
    model = fmri_encoder.FmriEncoder.from_mbm(inputs["mbm"], inputs["encoder"], VOXELS, 0.0)
    source = masked_autoencoder.MaskedAutoencoder.from_pretrained(inputs["mbm"])
    series = np.load(inputs["bold"])[:1, :2]
    got = attention.received(model, series, inputs["encoder"], inputs["cfg"])
    with torch.no_grad():  # both clips see volume 1 twice: shift 1, clamped
        x = source.embed(source.patches(torch.from_numpy(series[0, 1:2]))) + source.positions
        for number, block in enumerate(source.blocks, start=1):
            if number in LAYERS:
                expected = block.spatial.received(block.norm_spatial(x))[0]
                np.testing.assert_allclose(got[:, LAYERS.index(number)].mean(0), expected, rtol=1e-4)
            x = block(x)


def test_a_layer_too_deep_names_the_key(inputs):
    cfg = settings(layers=(1, 9))
    with pytest.raises(InputError, match=r"attention\.layers"):
        attention.maps(**inputs | {"cfg": cfg})
    assert not inputs["out"].exists()


def test_voxels_of_another_selection_are_an_error(inputs, tmp_path):
    artifacts.save_table(tmp_path / "fewer.tsv", artifacts.load_table(inputs["voxels"])[:-1])
    with pytest.raises(InputError, match=r"found an array of shape \(2, 5, 75\)"):
        attention.maps(**inputs | {"voxels": tmp_path / "fewer.tsv"})
