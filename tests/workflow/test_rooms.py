"""The package's rooms are layers: each imports only what lies below it, and stages know nothing of each other."""

import pytest

from mindreel.plan import fingerprint

# Room -> the rooms below it that its modules may import. All may import the root's modules.
LAYERS = {
    "brain": (),
    "networks": (),
    "plan": (),
    "scoring": ("networks",),
    "small_world": ("brain", "networks", "diffusion"),
    "dataset": ("brain",),
    "diffusion": ("networks",),
    "learning": ("networks", "diffusion", "scoring"),
    "reporting": ("brain", "plan", "scoring"),
    "stages": ("brain", "dataset", "diffusion", "learning", "networks", "plan", "reporting", "scoring", "small_world"),
}
TOP = ("cli", "__main__", "reconstruct")  # modules of the root that stand above all rooms
SIMULATE = ("small_world.drawing", "small_world.cortex", "small_world.scanner")


@pytest.fixture(scope="module")
def imports():
    """Module -> the modules of the package that it imports."""
    files = sorted(fingerprint.PACKAGE.rglob("*.py"))
    names = [path.relative_to(fingerprint.PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in files]
    return {name: fingerprint.imports(name, all_modules=True) for name in names if not name.endswith("__init__")}


def room_of(module):
    return module.rpartition(".")[0]


def test_rooms_are_layers(imports):
    for module, imported in imports.items():
        for other in imported:
            here, there = room_of(module), room_of(other)
            if module in TOP or here == there:
                continue
            assert other not in TOP, f"{module} imports {other}, which stands above it"
            assert not there or here, f"{module} is at the root and imports {other}, in a room"
            assert not there or there in LAYERS[here], f"{module} imports {other}; {here} may import {LAYERS[here]}"


def test_no_module_imports_itself_by_way_of_others(imports):
    for module in imports:
        reached, pending = set(), list(imports[module])
        while pending:
            name = pending.pop()
            if name not in reached:
                reached.add(name)
                pending += imports.get(name, ())
        assert module not in reached, f"{module} is in a circle of imports"


def test_stages_do_not_import_each_other(imports):
    """A further action of a stage (roi_lag) may import its stage."""
    for module, imported in imports.items():
        if room_of(module) == "stages":
            others = [name for name in imported if room_of(name) == "stages" and not module.startswith(f"{name}_")]
            assert not others, f"{module} imports {others}"


def test_what_simulates_shares_nothing_with_what_is_tested_on_it(imports):
    for module in SIMULATE:
        assert set(imports[module]) <= {*SIMULATE, "errors", "artifacts", "sections", "brain.surface"}


def test_rooms_re_export_nothing():
    """A name that a room hands on would hide from the fingerprint the module that it comes from."""
    for room in LAYERS:
        assert (fingerprint.PACKAGE / room / "__init__.py").read_text() == ""
