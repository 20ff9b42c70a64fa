"""Folders of pictures: whole, listed, with alternative texts that say what is there; nothing is left of a failure."""

import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from mindreel import artifacts
from mindreel.brain import surface
from mindreel.errors import InputError
from mindreel.reporting import figures_brain, style
from mindreel.stages import pictures

MOTION = [*(f"trans_{x}_mm" for x in "xyz"), *(f"rot_{x}_rad" for x in "xyz"), "framewise_displacement_mm"]


@pytest.fixture(autouse=True)
def blank(monkeypatch):
    """What the pictures look like is test_plots' and test_brainmap's business, and drawing takes seconds."""
    monkeypatch.setattr(figures_brain, "PIXEL_MM", dict.fromkeys(figures_brain.PIXEL_MM, 4.0))
    monkeypatch.setattr(figures_brain, "PANEL_MM", 4.0)
    monkeypatch.setattr(style, "DPI", 40)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made, their files are empty."""

    def touch(figure, out, name):
        for suffix in ("png", "svg"):
            (out / f"{name}.{suffix}").touch()

    monkeypatch.setattr(style, "save_print", touch)


@pytest.fixture
def roi(tmp_path, rng):
    visual = (surface.atlas().group != "rest").to_numpy()
    r = np.where(visual, rng.uniform(0.2, 0.6, surface.VERTICES), rng.normal(0, 0.05, surface.VERTICES))
    t = 14 * r
    selected = t > 7
    untested = np.arange(surface.VERTICES) % 100 == 0
    selected &= ~untested
    maps = {"r": r, "t": t, "-log10 p": np.abs(t), "p": np.full(len(r), 0.5), "selected": selected.astype(float)}
    for name, value in (("r", 0), ("t", 0), ("p", 1)):
        maps[name][untested] = value
    surface.save_dscalar(tmp_path / "reproducibility.dscalar.nii", maps)
    counts = {"segments": ["seg1", "seg2", "seg3"], "t_significant": 5.0, "t_selected": 7.0}
    artifacts.save_json(tmp_path / "summary.json", counts)
    return tmp_path, selected


def check(folder, names):
    """Every picture is there in both forms and listed, and nothing else; return the index."""
    index = artifacts.load_json(folder / "index.json")
    assert [f["name"] for f in index["figures"]] == names
    files = {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")} | {"index.json"}
    assert {path.name for path in folder.iterdir()} == {*files, ".mindreel"}
    assert all(len(f["alt"]) > 30 for f in index["figures"])
    return index


def test_selection_is_drawn_whole(roi):
    folder, selected = roi
    maps, summary = folder / "reproducibility.dscalar.nii", folder / "summary.json"
    pictures.selection(maps=maps, summary=summary, out=folder / "out")
    index = check(folder / "out", ["r", "t", "selected", "inflated", "histograms"])
    tested = surface.VERTICES - len(range(0, surface.VERTICES, 100))
    assert f"{selected.sum():,} of {tested:,} tested" in index["words"]
    area = surface.atlas().area[selected].value_counts().index[0]
    assert area in index["figures"][2]["alt"] and "2 degrees of freedom" in (folder / "out/t.svg").read_text()
    assert not any(f["wide"] for f in index["figures"])


def test_a_lacking_map_leaves_nothing_behind(roi):
    folder, _ = roi
    surface.save_dscalar(folder / "few.dscalar.nii", {"r": np.zeros(surface.VERTICES)})
    with pytest.raises(InputError, match=r"lacks the maps \['p', 'selected', 't'\]; rerun roi"):
        pictures.selection(maps=folder / "few.dscalar.nii", summary=folder / "summary.json", out=folder / "out")
    assert not list(folder.glob("*out*"))


@pytest.fixture
def scans(tmp_path, rng):
    paths = {"tsnr": [], "motion": []}
    for run in ("seg1_1", "seg1_2"):
        ratio = rng.gamma(9, 8, surface.VERTICES).astype(np.float32)
        ratio[:100] = np.nan
        artifacts.save_array(tmp_path / f"{run}_tsnr.npy", ratio)
        steps = pd.DataFrame(rng.normal(0, 0.1, (30, 7)), columns=MOTION).abs()
        steps.loc[7, "framewise_displacement_mm"] = 0.9
        artifacts.save_table(tmp_path / f"{run}_motion.tsv", steps)
        paths["tsnr"].append(tmp_path / f"{run}_tsnr.npy")
        paths["motion"].append(tmp_path / f"{run}_motion.tsv")
    return tmp_path, paths


def test_quality_of_raw_and_other_runs(scans):
    folder, paths = scans
    pictures.quality(**paths, out=folder / "raw")
    index = check(folder / "raw", ["motion", "tsnr", "runs"])
    assert "largest 0.90 mm over 2 runs, 3.4% of the volumes above 0.5 mm" in index["words"]  # 2 of 58 steps
    pictures.quality(tsnr=paths["tsnr"], out=folder / "other")
    assert "displacement" not in check(folder / "other", ["tsnr", "runs"])["words"]


def test_a_failure_in_the_middle_leaves_nothing_behind(scans, monkeypatch):
    folder, paths = scans

    def fail(figure, out, name):
        (out / f"{name}.png").touch()
        if name == "runs":
            raise OSError("disk full")

    monkeypatch.setattr(pictures.style, "save_print", fail)
    with pytest.raises(OSError, match="disk full"):
        pictures.quality(**paths, out=folder / "out")
    assert not list(folder.glob("*out*"))


def test_demeaned_runs_have_no_tsnr(scans, undrawn):
    folder, paths = scans
    for path in paths["tsnr"]:
        artifacts.save_array(path, np.full(surface.VERTICES, 1e-4, np.float32))
    pictures.quality(tsnr=paths["tsnr"], out=folder / "out")
    assert "came without their mean" in check(folder / "out", [])["words"]
    pictures.quality(**paths, out=folder / "raw")
    check(folder / "raw", ["motion", "runs"])


def test_median_over_runs_leaves_out_what_a_run_lacks():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(pictures._median(values), [2.0, 5.0, np.nan])


@pytest.fixture(scope="module")
def attended(tmp_path_factory):
    """What `attention maps` writes, of 600 voxels; animals look twice as much at V1 as others, there are no people."""
    folder, rng = tmp_path_factory.mktemp("attention") / "sub-3", np.random.default_rng(0)
    atlas = surface.atlas()
    chosen = atlas[atlas.group != "rest"].sample(600, random_state=1).grayordinate
    v1 = (atlas.area[chosen] == "V1").to_numpy()

    def maps(*names, factor=1.0):
        found = {name: np.zeros(surface.VERTICES) for name in names}
        for values in found.values():
            values[chosen] = rng.uniform(0.5, 1.5, len(chosen)) / len(chosen) * np.where(v1, factor, 1)
        return found

    layers = [f"{stage}-layer{layer}" for stage in ("mbm", "contrastive", "cotrain") for layer in (1, 4)]
    gradients = [f"{stage}-integrated-gradients" for stage in ("contrastive", "cotrain")]
    found = maps(*layers)
    surface.save_dscalar(folder / "attention.dscalar.nii", found)
    surface.save_dscalar(folder / "gradients.dscalar.nii", maps(*gradients))
    of_animals = maps(*(f"animals-{name}" for name in layers + gradients), factor=2.0)
    surface.save_dscalar(folder / "categories.dscalar.nii", of_animals)
    rows = [(s, n, over, 9, 0.25) for s in ("contrastive", "cotrain") for n in (1, 4) for over in ("voxels", "areas")]
    table = pd.DataFrame(rows, columns=["stage", "layer", "over", "number", "spearman"])
    artifacts.save_table(folder / "agreement.tsv", table)
    save_categories(folder, animals=12, people=0)
    return folder, found


def save_categories(folder, **clips):
    rows = [(name, count, "some, words") for name, count in clips.items()]
    artifacts.save_table(folder / "categories.tsv", pd.DataFrame(rows, columns=["category", "clips", "words"]))


ATTENTION = ["flat", "inflated", "networks", "areas", "gradients", "agreement"]


def test_attention_is_drawn_whole(attended, tmp_path, monkeypatch):
    def save(figure, out, name):  # half the time; that both forms are written is tested above
        with matplotlib.rc_context(style.PRINT):
            figure.savefig(out / f"{name}.svg", dpi=40)
        (out / f"{name}.png").touch()

    monkeypatch.setattr(style, "save_print", save)
    folder, maps = attended
    pictures.attention(attention=folder, out=tmp_path / "out")
    index = check(tmp_path / "out", [*ATTENTION, "categories", "category-gradients", "category-areas"])
    alts = {figure["name"]: figure["alt"] for figure in index["figures"]}
    assert all(f["wide"] for f in index["figures"]) and "600 voxels" in alts["flat"]
    last = pd.Series(maps["cotrain-layer4"]).groupby(surface.atlas().area).sum()
    assert f"{last.idxmax()} {100 * last.max() / last.sum():.0f}%" in alts["areas"]
    assert "0.25 over voxels" in alts["agreement"] and "0.25 over areas" in index["words"]
    assert "animals (12) most in V1 (+" in alts["category-areas"]
    svg = (tmp_path / "out/category-areas.svg").read_text()
    assert "Subject 3" in svg and "animals (12)" in svg and "people" not in svg
    assert "after co-training" in (tmp_path / "out/areas.svg").read_text()


def test_without_clips_of_a_category_there_are_no_figures_of_it(attended, tmp_path, undrawn):
    folder = Path(shutil.copytree(attended[0], tmp_path / "sub-3", ignore=shutil.ignore_patterns("categories.d*")))
    save_categories(folder, people=0)
    pictures.attention(attention=folder, out=tmp_path / "out")
    check(tmp_path / "out", ATTENTION)


def test_attention_maps_of_another_name_are_an_error(tmp_path):
    surface.save_dscalar(tmp_path / "attention.dscalar.nii", {"first": np.zeros(surface.VERTICES)})
    with pytest.raises(InputError, match=r"no map is named like mbm-layer1, found first"):
        pictures.attention(attention=tmp_path, out=tmp_path / "out")


def test_shares_are_the_direct_sums(rng):
    part = rng.choice(["a", "b", "c"], surface.VERTICES)
    values = np.where(rng.random(surface.VERTICES) < 0.1, rng.random(surface.VERTICES), np.nan)
    values[part == "c"] = np.nan
    table = pictures.shares({("mbm", "layer 1"): values}, part, ["b", "a", "c"]).set_index("part")
    assert list(table.index) == ["b", "a"] and table.share.sum() == pytest.approx(1)
    assert table.share["a"] == pytest.approx(np.nansum(values[part == "a"]) / np.nansum(values))
    assert table.voxels["b"] == np.isfinite(values[part == "b"]).sum()
