import shutil

import pytest

from mindreel.plan import fingerprint as module


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with rooms: a stage that imports a module of a room, which imports one at the root."""
    files = {
        "stages/stage.py": '"""Doc."""\nfrom mindreel.room import shared\n\nX = shared.Y  # why\n',
        "room/shared.py": 'from mindreel.base import f\n\n\ndef g():\n    """Doc."""\n    return f()\n',
        "room/other.py": "Z = 1\n",
        "base.py": 'def f():\n    """Doc."""\n    return 1\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "PACKAGE", tmp_path)

    def changed(name, old, new):
        before = fresh()
        path = tmp_path / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return fresh() != before

    def fresh():
        module._code.cache_clear()
        module.imports.cache_clear()
        return module.fingerprint("stage")

    yield changed
    module._code.cache_clear()
    module.imports.cache_clear()


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("stages/stage.py", "# why", "# because", False),
        ("stages/stage.py", "Doc.", "Other words.", False),
        ("room/shared.py", "Doc.", "Other words.", False),
        ("stages/stage.py", "shared.Y", "shared.W", True),
        ("room/shared.py", "return f()", "return f() + 1", True),
        ("base.py", "return 1", "return 2", True),
        ("room/other.py", "Z = 1", "Z = 2", False),
    ],
)
def test_only_code_that_runs_counts(package, name, old, new, expected):
    assert package(name, old, new) is expected


TRAININGS = {"mbm", "contrastive", "generator", "cotrain"}
SAMPLING = {"sampling", "sampling_movie", "sampling_controls"}
ON_A_DEVICE = {*TRAININGS, *SAMPLING, "targets", "captions", "features", "attention", "metrics_folder"}


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("brain/slice_timing.py", {"bold"}),
        ("device.py", ON_A_DEVICE),
        ("learning/loop.py", TRAININGS),
        ("scoring/scene_cuts.py", {"contrastive", "metrics", "metrics_folder", "audit"}),
        ("sections.py", set()),
    ],
)
def test_an_edit_reruns_exactly_the_stages_that_import_it_through_rooms(tmp_path, monkeypatch, edited, expected):
    copy = tmp_path / "mindreel"
    shutil.copytree(module.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "page"))
    monkeypatch.setattr(module, "PACKAGE", copy)
    stages = [path.stem for path in sorted((copy / "stages").glob("[a-z]*.py"))]

    def fingerprints():
        module._code.cache_clear()
        module.imports.cache_clear()
        return {stage: module.fingerprint(stage) for stage in stages}

    before = fingerprints()
    (copy / edited).write_text((copy / edited).read_text() + "\n\nEDITED = 1\n")
    after = fingerprints()
    module._code.cache_clear()
    module.imports.cache_clear()
    assert {stage for stage in stages if after[stage] != before[stage]} == expected
