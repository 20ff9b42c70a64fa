"""Encoder and masked autoencoder: parity with the released code, identities, effects."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mindreel.errors import InputError
from mindreel.networks.fmri_encoder import FmriEncoder, sparsify, window_batch, windows
from mindreel.networks.masked_autoencoder import MaskedAutoencoder
from mindreel.networks.position_encoding import sincos
from mindreel.sections import Encoder
from mindreel.stages.mbm_import import from_released

DATA = Path(__file__).parents[2] / "data"
SMALL = {"patch_size": 8, "width": 16, "depth": 3, "heads": 2, "mlp_ratio": 1.0}
DECODER = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
HEAD = {"tokens": 5, "token_width": 12, "dropout": 0.0}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def released(name: str) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    config = json.loads((DATA / name / "config.json").read_text())
    model = from_released(config, load_file(DATA / name / "weights.safetensors"))
    return model, dict(np.load(DATA / name / "data.npz"))


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def autoencoder(voxels: int, **changes: int) -> MaskedAutoencoder:
    return randomised(MaskedAutoencoder(voxels=voxels, **SMALL, **DECODER, **changes))


def encoder(voxels: int = 21, window: int = 2) -> FmriEncoder:
    return randomised(FmriEncoder(voxels=voxels, window=window, **SMALL, **HEAD))


# Parity ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.0])
def test_autoencoder_equals_released(ratio: float) -> None:
    model, data = released("mae_forward")
    bold, noise = torch.from_numpy(data["x"][:, 0]), torch.from_numpy(data[f"r{ratio}/noise"])
    with torch.no_grad():
        restored, removed = model.reconstruct(bold, ratio, noise)
        visible = noise.argsort(dim=1)[:, : int(8 * (1 - ratio))]
        latent = model.encode(bold, visible)
        loss = model(bold, ratio, noise)
    np.testing.assert_array_equal(removed, data[f"r{ratio}/mask"].astype(bool))
    np.testing.assert_allclose(latent, data[f"r{ratio}/latent"], atol=1e-5)
    np.testing.assert_allclose(restored, data[f"r{ratio}/pred"], atol=1e-5)
    np.testing.assert_allclose(loss, data[f"r{ratio}/loss"], atol=1e-5)


def test_autoencoder_gradients_equal_released() -> None:
    model, data = released("mae_forward")
    model(torch.from_numpy(data["x"][:, 0]), 0.75, torch.from_numpy(data["r0.75/noise"])).backward()
    theirs = {
        "embed.weight": data["grad/patch_embed.proj.weight"][:, 0],
        "blocks.0.spatial.qkv.weight": data["grad/blocks.0.attn.qkv.weight"],
        "mask_token": data["grad/mask_token"],
        "predict.bias": data["grad/decoder_pred.bias"],
    }
    ours = dict(model.named_parameters())
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name].grad, gradient, atol=1e-5)


def test_encoder_equals_released() -> None:
    model, data = released("fmri_encoder_w2")
    bold = torch.from_numpy(data["x"])
    with torch.no_grad():
        np.testing.assert_allclose(model(bold), data["out64"], atol=1e-5)
        np.testing.assert_allclose(model.features(bold).flatten(0, 1), data["act_norm"], atol=1e-5)


def test_encoder_gradients_equal_released() -> None:
    model, data = released("fmri_encoder_w2")
    (model(torch.from_numpy(data["x"])) * torch.from_numpy(data["g"])).sum().backward()
    ours = dict(model.named_parameters())
    for name, theirs in {
        "blocks.0.temporal.qkv.weight": "grad/blocks.0.attn_temp.qkv.weight",
        "blocks.2.norm_temporal.weight": "grad/blocks.2.norm_temp.weight",
        "head.token_map.weight": "grad/proj_head.channel_mapper.weight",
        "head.refine.weight": "grad/proj_head.fc.weight",
    }.items():
        np.testing.assert_allclose(ours[name].grad, data[theirs], rtol=1e-4, atol=1e-4)


def test_positions_equal_released() -> None:
    data = np.load(DATA / "sincos_pos_embed" / "data.npz")
    np.testing.assert_allclose(sincos(8, 64), data["mindvis_64_8"][1:], atol=1e-6)
    rows = sincos(282, 1024)[[0, 1, 99, 281]]
    np.testing.assert_allclose(rows, data["mindvis_1024_282_rows"][1:], atol=1e-6)


@pytest.mark.parametrize(("tag", "patches"), [("same", 8), ("up", 11), ("down", 5)])
def test_from_mbm_loads_what_the_released_code_loads(tag: str, patches: int, tmp_path: Path) -> None:
    data = np.load(DATA / "encoder_load_from_mae" / "data.npz")
    weights = load_file(DATA / "encoder_load_from_mae" / "weights.safetensors")
    config = json.loads((DATA / "mae_forward" / "config.json").read_text()) | {"decoder_depth": 1}
    source = from_released(config, weights)
    source.save_pretrained(tmp_path)
    cfg = Encoder(window=2, shift=0, tokens=5, token_width=12)
    model = FmriEncoder.from_mbm(tmp_path, cfg, voxels=16 * patches, dropout=0.0)
    state, own = source.state_dict(), model.state_dict()
    both = [key for key in own if key in state and own[key].shape == state[key].shape]
    loaded = {key for key in both if torch.equal(own[key], state[key])}
    count = len(data[f"changed_{tag}"]) - 1  # our encoder has no class token
    assert len(loaded | {"positions"}) == count
    if tag == "same":
        np.testing.assert_array_equal(model.positions, data["pos_embed_same"][0, 1:])
    else:  # the released code stretches them; ours are those of the new patches
        assert torch.equal(model.positions, sincos(patches, 64))
        assert data[f"pos_embed_{tag}"].shape[1] == patches + 1


# Masking and padding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("voxels", "patches"), [(32, 4), (33, 5), (31, 4), (8, 1)])
def test_padding_wraps_and_is_none_where_the_count_divides(voxels: int, patches: int) -> None:
    model = autoencoder(voxels)
    bold = torch.randn(2, voxels)
    cut = model.patches(bold)
    assert cut.shape == (2, patches, 8)
    assert torch.equal(cut.flatten(1)[:, :voxels], bold)
    assert torch.equal(cut.flatten(1)[:, voxels:], bold[:, : patches * 8 - voxels])


def test_a_whole_extra_patch_can_be_asked_for() -> None:
    model = autoencoder(32, patches=5)  # as released checkpoints have
    bold = torch.randn(2, 32)
    assert torch.equal(model.patches(bold)[:, 4], bold[:, :8])
    assert torch.isfinite(model(bold, 0.75))


@pytest.mark.parametrize("voxels", [32, 37])
def test_loss_is_the_mean_over_removed_patches_without_padding(voxels: int) -> None:
    model, bold = autoencoder(voxels), torch.randn(3, voxels)
    patches = model.config["patches"]
    noise = torch.rand(3, patches)
    with torch.no_grad():
        restored, removed = model.reconstruct(bold, 0.75, noise)
        loss = model(bold, 0.75, noise).item()
    errors = []
    for sample in range(3):
        for patch in range(patches):
            if removed[sample, patch]:
                target = bold[sample, 8 * patch : 8 * patch + 8].numpy()  # shorter in the last patch
                errors.append(np.mean((restored[sample, patch, : len(target)].numpy() - target) ** 2))
    assert removed[:, -1].any()
    assert loss == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 2), (0.7, 3), (0.5, 5), (0.0, 10)])
def test_kept_patches(ratio: float, kept: int) -> None:
    _, removed = autoencoder(80).reconstruct(torch.randn(4, 80), ratio)
    assert (~removed).sum(1).tolist() == [kept] * 4
    if ratio:
        assert not torch.equal(removed[0], removed[1])


def test_removed_patches_are_not_seen() -> None:
    model, bold, noise = autoencoder(40), torch.randn(2, 40), torch.rand(2, 5)
    restored, removed = model.reconstruct(bold, 0.6, noise)
    other = torch.where(removed.repeat_interleave(8, dim=1), torch.randn(2, 40), bold)
    assert not torch.equal(other, bold)
    assert torch.equal(model.reconstruct(other, 0.6, noise)[0], restored)
    seen = torch.where(removed.repeat_interleave(8, dim=1), bold, bold + 1)
    assert not torch.allclose(model.reconstruct(seen, 0.6, noise)[0], restored)


# The encoder for windows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3])
def test_fresh_encoder_equals_the_mbm_encoder(window: int, tmp_path: Path) -> None:
    source = autoencoder(21)
    source.save_pretrained(tmp_path)
    cfg = Encoder(window=window, shift=0, tokens=5, token_width=12)
    model = FmriEncoder.from_mbm(tmp_path, cfg, voxels=21, dropout=0.0).eval()
    bold = torch.randn(2, window, 21)
    features = model.features(bold)
    for volume in range(window):
        torch.testing.assert_close(features[:, volume], source.encode(bold[:, volume]), atol=1e-6, rtol=1e-5)


def test_temporal_attention_joins_volumes() -> None:
    model, bold = encoder(), torch.randn(1, 2, 21)
    other = bold.clone()
    other[:, 1] += 1
    assert not torch.allclose(model.features(bold)[:, 0], model.features(other)[:, 0])


def test_gradient_checkpointing_changes_no_gradient() -> None:
    model, bold, gradients = encoder(), torch.randn(2, 2, 21), []
    for switch in (False, True):
        model.gradient_checkpointing = switch
        model.zero_grad()
        model(bold).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_another_voxel_count_keeps_all_but_what_depends_on_it() -> None:
    model = encoder(21)
    assert model.for_voxels(21) == (model, [])
    other, notes = model.for_voxels(22)  # still three patches
    assert notes == ["21 voxels in 3 patches become 22 in 3"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    other, notes = model.for_voxels(40)
    assert notes[1:] == ["positions: of the new patches", "head.token_map.weight: new"]
    assert torch.equal(other.positions, sincos(5, 16)) and torch.equal(
        other.head.refine.weight, model.head.refine.weight
    )
    assert other(torch.randn(1, 2, 40)).shape == (1, 5, 12)


def test_head_is_volume_major() -> None:
    model, bold = encoder(), torch.randn(2, 2, 21)
    features, head = model.features(bold), model.head
    joined = torch.cat([features[:, 0], features[:, 1]], dim=1)  # (B, 2 P, D)
    mapped = torch.einsum("lp,bpd->bld", head.token_map.weight, joined) @ head.project.weight.T
    expected = mapped + torch.nn.functional.gelu(mapped) @ head.refine.weight.T
    torch.testing.assert_close(model(bold), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.pool(expected), expected.sum(1) / 5)


def test_dropout_acts_in_training_only() -> None:
    model = FmriEncoder(voxels=21, window=2, **SMALL, **{**HEAD, "dropout": 0.5})
    bold = torch.randn(2, 2, 21)
    assert not torch.equal(model.train()(bold), model(bold))
    assert torch.equal(model.eval()(bold), model(bold))


def test_attention_received() -> None:
    model, bold = encoder(), torch.randn(2, 2, 21)
    received = model.attention(bold, (3, 1))
    assert received.shape == (2, 2, 2, 3)
    torch.testing.assert_close(received.sum(-1), torch.ones(2, 2, 2))
    block = model.blocks[0]
    x = block.norm_spatial(model.embed(model.patches(bold.flatten(0, 1))) + model.positions)
    query, key = (x @ block.spatial.qkv.weight.T + block.spatial.qkv.bias).split(16, dim=-1)[:2]
    heads = [(query[..., h : h + 8] @ key[..., h : h + 8].mT / 8**0.5).softmax(-1).mean(1) for h in (0, 8)]
    torch.testing.assert_close(received[:, :, 1].flatten(0, 1), sum(heads) / 2)
    with pytest.raises(InputError, match=r"found \[4\].*1 to 3"):
        model.attention(bold, (1, 4))


# Saving and loading ---------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    model, bold = encoder(), torch.randn(2, 2, 21)
    model.save_pretrained(tmp_path)
    assert torch.equal(FmriEncoder.from_pretrained(tmp_path)(bold), model(bold))
    with pytest.raises(InputError, match="holds a FmriEncoder, expected a MaskedAutoencoder"):
        MaskedAutoencoder.from_pretrained(tmp_path)


def test_loading_is_strict(tmp_path: Path) -> None:
    encoder().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    save_file({k: v for k, v in state.items() if k != "norm.bias"}, file)
    with pytest.raises(InputError, match=r"Lacking: \['norm.bias'\]"):
        FmriEncoder.from_pretrained(tmp_path)
    FmriEncoder.from_pretrained(tmp_path, missing=("norm.bias",))
    save_file(state | {"stranger": torch.zeros(1)}, file)
    with pytest.raises(InputError, match=r"Unknown: \['stranger'\]"):
        FmriEncoder.from_pretrained(tmp_path)
    save_file(state | {"head.token_map.weight": torch.zeros(5, 4)}, file)
    with pytest.raises(InputError, match=r"head.token_map.weight \(5, 4\), expected \(5, 6\)"):
        FmriEncoder.from_pretrained(tmp_path)


def test_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a model folder"):
        FmriEncoder.from_pretrained(tmp_path)
    encoder().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="no readable weights"):
        FmriEncoder.from_pretrained(tmp_path)


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="takes 21 voxels, the fMRI has 20"):
        encoder()(torch.randn(1, 2, 20))
    with pytest.raises(InputError, match="windows of 2 volumes, found 3"):
        encoder()(torch.randn(1, 3, 21))


# Windows and augmentation ---------------------------------------------------------------------------------------------


def test_windows_clamp_to_the_last_volume() -> None:
    index = windows(np.zeros((2, 5, 1)), window=2, shift=1)
    assert index.shape == (2, 5, 2)
    assert index[1].tolist() == [[1, 2], [2, 3], [3, 4], [4, 4], [4, 4]]
    assert windows(np.zeros((1, 3, 1)), window=1, shift=0)[0, :, 0].tolist() == [0, 1, 2]


def test_window_batch_stays_in_its_segment() -> None:
    series = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
    batch = window_batch(series, np.array([0, 1, 0]), np.array([4, 0, 1]), window=2, shift=1)
    assert batch.dtype == torch.float32
    expected = np.stack([series[0, [4, 4]], series[1, [1, 2]], series[0, [2, 3]]])
    np.testing.assert_array_equal(batch, expected)


@pytest.mark.parametrize("batch", [1, 3])
def test_sparsify_zeroes_other_voxels_in_each_sample(batch: int) -> None:
    bold = torch.ones(batch, 2, 50)
    sparse = sparsify(bold, 0.2, np.random.default_rng(0))
    zero = sparse == 0
    assert zero.sum(-1).tolist() == [[10, 10]] * batch
    assert torch.equal(zero[:, 0], zero[:, 1])  # the whole window
    assert bold.all()  # the input is left alone
    if batch > 1:
        assert not torch.equal(zero[0], zero[1])
    assert torch.equal(sparsify(bold, 0.0, np.random.default_rng(0)), bold)


def test_fresh_tokens_start_near_the_mean_over_positions() -> None:
    torch.manual_seed(0)
    model = FmriEncoder(voxels=40, window=2, tokens=6, token_width=12, dropout=0.0, **SMALL).eval()
    tokens = model(torch.randn(5, 2, 40))
    near = torch.nn.functional.cosine_similarity(tokens, model.pool(tokens)[:, None], dim=-1)
    assert near.min() > 0.9
