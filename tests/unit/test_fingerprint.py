import pytest

from mindreel import fingerprint as module


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two modules, the first importing the second."""
    (tmp_path / "stage.py").write_text('"""Doc."""\nfrom mindreel import shared\n\nX = shared.Y  # why\n')
    (tmp_path / "shared.py").write_text('def f():\n    """Doc."""\n    return 1\n')
    (tmp_path / "other.py").write_text("Z = 1\n")
    monkeypatch.setattr(module, "PACKAGE", tmp_path)

    def changed(name, old, new):
        before = fresh()
        path = tmp_path / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return fresh() != before

    def fresh():
        module._code.cache_clear()
        module._imports.cache_clear()
        return module.fingerprint("stage")

    yield changed
    module._code.cache_clear()
    module._imports.cache_clear()


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("stage.py", "# why", "# because", False),
        ("stage.py", "Doc.", "Other words.", False),
        ("shared.py", "Doc.", "Other words.", False),
        ("stage.py", "shared.Y", "shared.W", True),
        ("shared.py", "return 1", "return 2", True),
        ("other.py", "Z = 1", "Z = 2", False),
    ],
)
def test_only_code_that_runs_counts(package, name, old, new, expected):
    assert package(name, old, new) is expected


def test_stages_do_not_import_each_other():
    from mindreel.cli import ACTIONS

    for stage in ACTIONS:
        others = module.modules_of(stage) & (set(ACTIONS) - {stage})
        assert not others, f"{stage} imports {others}"
