import json

import pytest
import yaml

from mindreel import config, sections
from mindreel.errors import InputError
from mindreel.plan import config_schema

OVERLAYS = {"full": (), "demo": ("config/demo.yaml",), "test": ("config/demo.yaml", "config/test.yaml")}


@pytest.fixture
def raw(root):
    return yaml.safe_load((root / "config.yaml").read_text())


@pytest.mark.parametrize("name", OVERLAYS)
def test_shipped_configurations_are_complete(root, name):
    loaded = config.load(*(root / path for path in ("config.yaml", *OVERLAYS[name])))
    assert loaded.run[0] == "mind-video"


def test_all_errors_at_once_with_their_key_paths(raw):
    wrong = config.merge(raw, {"bold": {"polinomial_order": 4}, "stimuli": {"fps": -3}})
    del wrong["metrics"]["trials"]
    with pytest.raises(InputError) as error:
        config.validate(wrong)
    for part in ("bold.polinomial_order: unknown key", "stimuli.fps", "found -3", "metrics.trials: missing"):
        assert part in str(error.value)


def test_misspelt_key_within_an_experiment_names_the_experiment(raw):
    wrong = config.merge(raw, {"experiments": {"window-3": {"encoder": {"windows": 3}}}})
    with pytest.raises(InputError, match=r"experiments\.window-3\.encoder\.windows: unknown key"):
        config.validate(wrong)


def test_what_differs_for_a_subject(raw):
    whole = config.validate(raw).experiments["mind-video"]
    sizes = {sub: whole.of_subject(sub).contrastive.optimizer.batch_size for sub in "123"}
    assert sizes == {"1": 20, "2": 20, "3": 32}
    assert whole.of_subject("3").contrastive.optimizer.steps == whole.contrastive.optimizer.steps


def test_a_misspelt_key_for_a_subject_is_named(raw):
    own = {1: {"contrastive": {"optimizer": {"batchsize": 32}}}}
    with pytest.raises(InputError, match=r"mind-video.*subjects\.1:.*contrastive\.optimizer\.batchsize: unknown key"):
        config.validate(config.merge(raw, {"experiments": {"mind-video": {"subjects": own}}}))


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"experiments": {"window-3": {"base": "mindvideo"}}}, "no such experiment: 'mindvideo'"),
        ({"experiments": {"mind-video": {"base": "window-3"}}}, "is a circle"),
        ({"run": ["mind-vdeo"]}, "no such experiment: mind-vdeo"),
        ({"stimuli": {"side": 100}}, "multiple of 8"),
    ],
)
def test_contradictions(raw, overlay, message):
    with pytest.raises(InputError, match=message):
        config.validate(config.merge(raw, overlay))


def test_a_section_survives_the_command_line(root):
    roi = config.load(root / "config.yaml").experiments["mind-video"].roi
    assert config.parse_section(sections.Roi, roi.model_dump_json()) == roi


def test_schema_and_reference_are_in_step_with_the_classes(root, tmp_path):
    pages = ("config/schema.json", "config/README.md", "docs/stages.md")
    for page in pages:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text((root / page).read_text())
    config_schema.write(tmp_path)
    for page in pages:
        assert (root / page).read_text() == (tmp_path / page).read_text(), f"{page}: run make schema"


def test_schema_accepts_the_shipped_files_and_rejects_a_misspelt_key(root, raw):
    jsonschema = pytest.importorskip("jsonschema")
    written = json.loads((root / "config" / "schema.json").read_text())
    jsonschema.validate(raw, written)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config.merge(raw, {"experiments": {"window-3": {"encodr": {}}}}), written)


def test_every_key_has_its_line_in_the_reference(root):
    text = (root / "config" / "README.md").read_text()
    assert all(f"| `{key}` |" in text for key, _ in config_schema.all_keys())


def test_no_key_is_unexplained():
    assert [key for key, field in config_schema.all_keys() if not field.description] == []


def test_frames_per_volume_are_whole(raw):
    """3 frames per second and a TR of 1.5 s are 4.5 frames per volume."""
    message = r"fps 3 .*tr_s 1.5 .* is 4.5 frames .* set stimuli.fps to 2.66667 \(4 frames\) or 3.33333"
    with pytest.raises(InputError, match=message):
        config.validate(config.merge(raw, {"data": {"tr_s": 1.5}}))
    assert config.validate(config.merge(raw, {"data": {"tr_s": 1.5}, "stimuli": {"fps": 4}})).frames == 6


@pytest.mark.parametrize("name", ["a b", "../up", "x;touch PWNED", "-dash", "é"])
def test_names_of_experiments_are_plain(raw, name):
    with pytest.raises(InputError, match="expected letters, digits, _ and -"):
        config.validate(config.merge(raw, {"experiments": {name: {"base": "mind-video"}}}))


def test_a_url_of_a_data_set_needs_its_checksum(raw):
    with pytest.raises(InputError, match="dataset_url needs dataset_sha256"):
        config.validate(config.merge(raw, {"fetch": {"dataset_url": "https://example.org/data.tar"}}))
    with pytest.raises(InputError, match=r"fetch\.dataset_url"):
        config.validate(config.merge(raw, {"fetch": {"dataset_url": "http://example.org/data.tar"}}))


def test_an_older_number_that_wins_over_an_overlay_is_named(tmp_path, root):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("experiments: {mind-video: {cotrain: {optimizer: {lr: 1.0e-3}}}}")
    (message,) = config.overridden([root / "config.yaml", overlay], ["mind-video", "neurocine"])
    assert message.startswith("experiments.neurocine.cotrain.optimizer.lr: 2e-05 of") and "0.001" in message
    assert config.overridden([root / "config.yaml", overlay], ["mind-video", "window-3"]) == []
    overlay.write_text("experiments: {mind-video: {cotrain: {optimizer: {lr: 2.0e-5}}}}")
    assert config.overridden([root / "config.yaml", overlay], ["neurocine"]) == []


@pytest.mark.parametrize("overlays", [("demo.yaml",), ("demo.yaml", "test.yaml")])
def test_every_experiment_can_run_in_the_small_worlds(root, overlays):
    """None keeps a number of the papers' size where the overlay changes it for its base."""
    files = [root / "config.yaml", *(root / "config" / name for name in overlays)]
    assert config.overridden(files, list(config.load(*files).experiments)) == []


@pytest.mark.parametrize(("text", "message"), [("- a\n- b", "found a list"), ("a: [", "cannot be read as YAML")])
def test_a_file_that_is_no_configuration(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        config.load(tmp_path / "c.yaml")
