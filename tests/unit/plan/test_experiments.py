import pytest
import yaml

from mindreel import config
from mindreel.errors import InputError
from mindreel.plan.experiments import STAGES, owner


@pytest.fixture(scope="module")
def raw(root):
    return yaml.safe_load((root / "config.yaml").read_text())


def owners(raw, overlay, experiment):
    loaded = config.validate(config.merge(raw, overlay))
    return {stage: owner(loaded, experiment, stage) for stage in STAGES}


def owns(found, experiment):
    return {stage for stage, name in found.items() if name == experiment}


def test_guidance_owns_only_sampling_and_metrics(raw):
    assert owns(owners(raw, {}, "no-adversarial-guidance"), "no-adversarial-guidance") == {"sampling", "metrics"}


def test_window_shares_the_pretraining(raw):
    mine = owns(owners(raw, {}, "window-3"), "window-3")
    assert mine == {"contrastive", "cotrain", "sampling", "metrics", "attention"}


def test_voxel_selection_shares_what_knows_no_subject(raw):
    mine = owns(
        owners(raw, {"experiments": {"loose": {"base": "mind-video", "roi": {"alpha": 0.05}}}}, "loose"), "loose"
    )
    assert mine == set(STAGES) - {"pretrain", "generator", "captioned", "decoded"}


@pytest.mark.parametrize(
    "own",
    [
        {"mbm": {"optimizer": {"lr": 1.0e-4}, "mask_ratio": 0.5, "mix_share": 0.1, "seed": 7}},
        {"mbm": {"init": "scratch"}},
        {"subjects": {2: {"mbm": {"mask_ratio": 0.5}}}},
        {"roi": {"alpha": 0.05}, "subjects": {2: {"roi": {"alpha": 0.1}}}},
    ],
)
def test_tuning_otherwise_keeps_the_pretraining(raw, own):
    """Days of HCP pretraining do not hang on how a subject is tuned."""
    overlay = {"experiments": {"other": {"base": "mind-video", **own}}}
    mine = owns(owners(raw, overlay, "other"), "other")
    assert mine >= {"mbm", "contrastive", "cotrain"} and not mine & {"pretrain", "generator"}
    loaded = config.validate(config.merge(raw, overlay)).experiments
    assert loaded["other"].pretrain == loaded["mind-video"].pretrain == loaded["other"].of_subject("2").pretrain


def test_pretraining_otherwise_owns_all_that_rests_on_it(raw):
    overlay = {"experiments": {"other": {"base": "mind-video", "pretrain": {"mask_ratio": 0.5}}}}
    assert owns(owners(raw, overlay, "other"), "other") == set(STAGES) - {"roi", "generator", "captioned", "decoded"}


def test_no_subject_has_a_pretraining_of_its_own(raw):
    overlay = {"experiments": {"odd": {"base": "mind-video", "subjects": {2: {"pretrain": {"seed": 1}}}}}}
    with pytest.raises(InputError, match=r"odd\.subjects\.2\.pretrain"):
        config.validate(config.merge(raw, overlay))


def test_generator_change_keeps_the_encoder(raw):
    overlay = {"experiments": {"noisy": {"base": "mind-video", "generator": {"noise_beta": 0.25}}}}
    assert owns(owners(raw, overlay, "noisy"), "noisy") == set(STAGES) - {
        "roi",
        "pretrain",
        "mbm",
        "contrastive",
        "decoded",
    }


def test_a_setting_of_one_subject_counts(raw):
    own = {"2": {"contrastive": {"dropout": 0.1}}}
    overlay = {"experiments": {"odd": {"base": "mind-video", "subjects": own}}}
    mine = owns(owners(raw, overlay, "odd"), "odd")
    assert mine == {"contrastive", "cotrain", "sampling", "metrics", "attention"}


def test_oldest_ancestor_is_found_across_one_that_differs(raw):
    overlay = {
        "experiments": {
            "twice": {"base": "window-3", "encoder": {"window": 2}},
            "thrice": {"base": "window-3", "sampling": {"steps": 10}},
        }
    }
    assert set(owners(raw, overlay, "twice").values()) == {"mind-video"}
    thrice = owners(raw, overlay, "thrice")
    assert thrice["cotrain"] == "window-3" and thrice["sampling"] == "thrice"


def test_an_equal_setting_written_out_again_changes_nothing(raw):
    overlay = {"experiments": {"same": {"base": "mind-video", "sampling": {"steps": 200}}}}
    assert set(owners(raw, overlay, "same").values()) == {"mind-video"}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"sampling": {"controls": ["shuffled"]}}, {"sampling", "metrics"}),
        ({"subjects": {2: {"sampling": {"controls": []}}}}, {"sampling", "metrics"}),
        ({"sampling": {"samples": 3, "shard": "all"}}, set()),
        ({"subjects": {2: {"sampling": {"samples": 3}}}}, set()),
        ({"sampling": {"steps": 10}}, {"captioned", "sampling", "metrics"}),
        ({"subjects": {2: {"sampling": {"steps": 10}}}}, {"sampling", "metrics"}),  # captions know no subject
        ({"sampling": {"negative": "none"}}, {"captioned", "sampling", "metrics"}),
    ],
)
def test_clips_belong_to_whom_their_settings_make_differ(raw, own, expected):
    overlay = {"experiments": {"other": {"base": "mind-video", **own}}}
    assert owns(owners(raw, overlay, "other"), "other") == expected
