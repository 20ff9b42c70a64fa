"""HCP runs to windows: of which voxels, which volumes, what is skipped and why, what is kept in memory."""

import json
import tracemalloc

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, ScalarAxis

from mindreel.brain import surface
from mindreel.brain.hcp_windows import open_windows, read_index
from mindreel.config import parse_section
from mindreel.dataset.sheet import by_subject
from mindreel.errors import InputError
from mindreel.sections import Hcp
from mindreel.stages import hcp

CFG = Hcp(pattern="{subject}/*.dtseries.nii", tr_s=0.72, areas=("V2", "V1"), window=10)


@pytest.fixture(scope="module")
def kept():
    """The vertices of V1 to V3: all that tiny files hold."""
    return surface.atlas()[surface.atlas()["area"].isin(["V1", "V2", "V3"])]


@pytest.fixture(scope="module")
def tiny(kept):
    """Their brain-model axis, left before right."""
    sides = [
        BrainModelAxis.from_surface(kept.loc[kept.hemisphere == side, "vertex"], surface.MESH, name=name)
        for name, side in zip(surface.HEMISPHERES, "LR", strict=True)
    ]
    return sides[0] + sides[1]


def write(path, series, axis, tr_s=0.72):
    surface.save_dtseries(path, series, tr_s, axis)
    return path


def cut(tmp_path, *runs, subject="100307", cfg=CFG):
    out = tmp_path / "hcp" / f"sub-{subject}"
    hcp.segments(subject=subject, runs=list(runs), out=out, cfg=cfg)
    return out


def gather(tmp_path, *subjects, cfg=CFG):
    folder = tmp_path / "hcp"
    tables = {"index": folder / "runs.tsv", "skipped": folder / "skipped.tsv", "summary": folder / "summary.json"}
    hcp.gather(subjects=list(subjects), **tables, cfg=cfg)
    return folder


def reasons(folder):
    return pd.read_csv(folder / "skipped.tsv", sep="\t").set_index("run")["reason"]


def test_areas_in_the_given_order_left_before_right():
    voxels = hcp.area_voxels(("V2", "V1"))
    first = int((voxels["area"] == "V2").sum())
    assert (voxels["area"][:first] == "V2").all() and (voxels["area"][first:] == "V1").all()
    assert len(voxels) == surface.atlas()["area"].isin(["V1", "V2"]).sum()
    for part in (slice(first), slice(first, None)):
        assert (np.diff(voxels["grayordinate"][part]) > 0).all()  # all of the left hemisphere come first
        assert set(voxels["hemisphere"][part]) == {"L", "R"}


def test_the_papers_voxel_count():
    """V1 to V4 of both hemispheres, as many as the reference's Glasser labels have."""
    assert len(hcp.area_voxels(("V1", "V2", "V3", "V4"))) == 4183


def test_windows_against_a_direct_computation(tmp_path, rng):
    """A whole cortex: windows averaged, then one mean and one deviation per run."""
    index = hcp.area_voxels(CFG.areas)["grayordinate"].to_numpy()
    runs, expected = [], []
    for number, volumes in enumerate((25, 12)):
        series = (1000 * (number + 1) + 7 * rng.normal(size=(volumes, surface.VERTICES))).astype(np.float32)
        runs.append(write(tmp_path / f"run{number}.dtseries.nii", series, surface.brain_model_axis()))
        windows = [series[start : start + 10, index].astype(float).mean(axis=0) for start in range(0, volumes - 9, 10)]
        expected.append((np.stack(windows) - np.mean(windows)) / np.std(windows))
    folder = cut(tmp_path, *runs)
    found = np.load(folder / "segments.npy", mmap_mode="r")
    assert found.shape == (3, len(index)) and found.dtype == np.float16
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=2e-3, atol=2e-3)
    table = pd.read_csv(folder / "runs.tsv", sep="\t")
    assert table["run"].tolist() == list(map(str, runs))
    assert table["first"].tolist() == [0, 2] and table["segments"].tolist() == [2, 1]
    assert table["volumes"].tolist() == [25, 12]
    assert len(reasons(folder)) == 0


def test_the_order_of_structures_does_not_matter(tmp_path, tiny, rng):
    """Right hemisphere first, subcortex between: the same vertices are found."""
    series = rng.normal(size=(20, tiny.size)).astype(np.float32)
    (_, left, one), (_, right, other) = tiny.iter_structures()
    thalamus = BrainModelAxis.from_mask(np.ones((3, 3, 3), bool), name="thalamus_left", affine=np.eye(4))
    shuffled = np.hstack([series[:, right], rng.normal(size=(20, 27)).astype(np.float32), series[:, left]])
    a = cut(tmp_path, write(tmp_path / "a.dtseries.nii", series, tiny), subject="a")
    b = cut(tmp_path, write(tmp_path / "b.dtseries.nii", shuffled, other + thalamus + one), subject="b")
    assert np.array_equal(np.load(a / "segments.npy"), np.load(b / "segments.npy"))


def test_blocks_cover_every_column_once(rng):
    columns = rng.permutation(60000)[:4000]
    covered = []
    for first, last, wanted in hcp.blocks(columns):
        assert last - first <= hcp.BLOCK
        assert first == columns[wanted].min() and last == columns[wanted].max() + 1
        covered.extend(wanted)
    assert sorted(covered) == list(range(len(columns)))


def unusable(tmp_path, kept, tiny, rng):
    """Every kind of run that cannot be used, with the reason it must get."""
    series = 1000 + rng.normal(size=(20, tiny.size)).astype(np.float32)

    def path(name):
        return tmp_path / f"{name}.dtseries.nii"

    left, right = (model for _, _, model in tiny.iter_structures())
    broken = series.copy()
    broken[7, kept["area"] == "V1"] = np.nan
    dead = series.copy()
    dead[:, (kept["area"] == "V1") & (kept["hemisphere"] == "R")] = 0
    whole = write(path("whole"), series, tiny).read_bytes()
    path("truncated").write_bytes(whole[:-1000])
    path("noise").write_bytes(b"not an image" * 100)
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 20), np.float32), np.eye(4)), path("volume"))
    maps = Cifti2Image(series[:2], header=(ScalarAxis(["a", "b"]), tiny))
    maps.to_filename(path("maps"))
    dense = BrainModelAxis.from_surface(np.arange(100), 164000, name=surface.HEMISPHERES[0])
    return {
        write(path("short"), series[:9], tiny): "9 volumes, hcp.window needs 10",
        write(path("flat"), np.full_like(series, 5), tiny): "V2 (L) is constant: all its values are 5",
        write(path("dead"), dead, tiny): "V1 (R) is constant: all its values are 0",
        write(path("broken"), broken, tiny): "of the values are not finite",
        write(path("slow"), series, tiny, tr_s=1.0): "its TR is 1 s, hcp.tr_s says 0.72 s",
        write(path("left"), series[:, : len(left)], left): f"has no {surface.HEMISPHERES[1]}",
        write(
            path("cropped"), series[:, 300:], left[300:] + right
        ): "lacks 115 of the 619 vertices of V2 (L), 176 in all",
        write(path("mesh"), series[:, :100], dense): "a mesh of 164000 vertices",
        path("truncated"): "cannot be read whole",
        path("noise"): "cannot be read",
        path("volume"): "expected a dense CIFTI time series (.dtseries.nii), found another NIfTI",
        path("maps"): "its axes are SCALARS x BRAIN_MODELS",
        path("missing"): "cannot be read",
    }


def test_unusable_runs_are_skipped_each_with_its_reason(tmp_path, kept, tiny, rng):
    bad = unusable(tmp_path, kept, tiny, rng)
    good = tmp_path / "whole.dtseries.nii"
    runs = list(bad)
    folder = cut(tmp_path, *runs[:3], good, *runs[3:])
    found = reasons(folder)
    assert list(found.index) == list(map(str, runs))
    for run, reason in bad.items():
        assert reason in found[str(run)], run
    assert pd.read_csv(folder / "runs.tsv", sep="\t")["run"].tolist() == [str(good)]
    assert len(np.load(folder / "segments.npy")) == 2


def test_gather_lists_all_and_copies_nothing(tmp_path, tiny, rng):
    bad = tmp_path / "bad.dtseries.nii"
    bad.write_bytes(b"nothing")
    runs = [
        write(tmp_path / f"{i}.dtseries.nii", rng.normal(size=(volumes, tiny.size)), tiny)
        for i, volumes in enumerate((30, 12, 25))
    ]
    files = {"001": [*runs[:2], bad], "NA": [bad], "3": [runs[2]]}
    folders = [cut(tmp_path, *paths, subject=subject) for subject, paths in files.items()]
    folder = gather(tmp_path, *folders)
    table = read_index(folder)
    assert table["shard"].tolist() == ["sub-001/segments.npy", "sub-001/segments.npy", "sub-3/segments.npy"]
    assert table["subject"].tolist() == ["001", "001", "3"] and table["segments"].tolist() == [3, 1, 2]
    skipped = pd.read_csv(folder / "skipped.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert skipped["subject"].tolist() == ["001", "NA"] and skipped["reason"].str.contains("cannot be read").all()
    summary = json.loads((folder / "summary.json").read_text())
    voxels = hcp.area_voxels(CFG.areas)
    assert summary == {
        "voxels": len(voxels),
        "voxels_per_area": {area: int((voxels.area == area).sum()) for area in ("V2", "V1")},
        "segments": 6,
        "segment_s": 7.2,
        "subjects": 2,
        "subjects_without_a_run": 1,
        "runs": 3,
        "runs_skipped": 2,
    }
    opened = open_windows(folder)
    expected = np.concatenate([np.load(folders[0] / "segments.npy"), np.load(folders[2] / "segments.npy")])
    assert opened.shape == expected.shape and np.array_equal(opened[:], expected)
    assert not [path for path in folder.iterdir() if path.suffix == ".npy"]


def test_no_usable_run_at_all_is_an_error_and_leaves_no_index(tmp_path, tiny, rng):
    short = write(tmp_path / "short.dtseries.nii", rng.normal(size=(9, tiny.size)), tiny)
    folders = [cut(tmp_path, short, subject="1"), cut(tmp_path, short, subject="2")]
    with pytest.raises(InputError, match=r"none of 2 HCP runs could be used; the first, .*short.*: 9 volumes"):
        gather(tmp_path, *folders)
    assert sorted(path.name for path in (tmp_path / "hcp").iterdir()) == ["sub-1", "sub-2"]


def test_shards_of_other_areas_are_refused(tmp_path, tiny, rng):
    run = write(tmp_path / "run.dtseries.nii", rng.normal(size=(20, tiny.size)), tiny)
    folder = cut(tmp_path, run)
    with pytest.raises(InputError, match=r"2 windows of \d+ voxels, expected 2 of \d+ by their indices and hcp.areas"):
        gather(tmp_path, folder, cfg=CFG.model_copy(update={"areas": ("V1",)}))
    assert [path.name for path in (tmp_path / "hcp").iterdir()] == [folder.name]


def test_an_area_that_the_atlas_lacks_is_named_with_its_neighbours(tmp_path):
    """Before any run is opened, and nothing, whole or partial, is written."""
    wrong = CFG.model_copy(update={"areas": ("V1", "V9")})
    with pytest.raises(InputError, match=r"hcp.areas: no such Glasser area: V9; near: .*V"):
        cut(tmp_path, tmp_path / "absent.dtseries.nii", cfg=wrong)
    with pytest.raises(InputError, match=r"hcp.areas: no such Glasser area: V9"):
        gather(tmp_path, cfg=wrong)
    assert not list(tmp_path.rglob("*"))


def test_memory_does_not_grow_with_the_runs_length_or_number(tmp_path, tiny, rng):
    """Ten times the volumes and three times the runs cost less than half of one run's size more."""
    cfg = CFG.model_copy(update={"window": 40})  # windows themselves are small

    def peak(volumes, count):
        series = rng.normal(size=(volumes, tiny.size)).astype(np.float32)
        run = write(tmp_path / f"{volumes}.dtseries.nii", series, tiny)
        size = series.nbytes
        del series
        tracemalloc.start()
        try:
            cut(tmp_path, *[run] * count, cfg=cfg)
            return tracemalloc.get_traced_memory()[1], size
        finally:
            tracemalloc.stop()

    cut(tmp_path, cfg=cfg)  # the atlas is loaded once
    (short, _), (long, size) = peak(40, 1), peak(400, 3)
    assert long - short < 0.5 * size, f"{long - short} bytes more, a run is {size}"


def test_array_writer_grows_over_many_blocks(tmp_path, rng):
    blocks = [rng.normal(size=(rows, 3)).astype(np.float16) for rows in (1, 0, 1200, 7)]
    with hcp.array_writer(tmp_path / "a.npy", 3, np.float16) as append:
        for block in blocks:
            append(block)
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.concatenate(blocks))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{subject}/r*.dtseries.nii", {"100307": 2, "sub-2_x": 1}),
        ("{subject}/**/*r?.dtseries.nii", {"100307": 3, "sub-2_x": 1}),
        ("{subject}/MNI/Results/r?/{subject}_*.dtseries.nii", {"100307": 1}),
        ("sub-{subject}/*.dtseries.nii", {"2_x": 1}),
        ("flat/{subject}_*.dtseries.nii", {"a": 1, "b": 2}),
        ("nothing/{subject}.nii", {}),
    ],
)
def test_runs_are_found_by_subject(tmp_path, monkeypatch, pattern, expected):
    runs = (
        "100307/r1",
        "100307/r2",
        "100307/MNI/Results/r3/100307_r3",
        "sub-2_x/r1",
        "flat/a_1",
        "flat/b_1",
        "flat/b_2_c",
    )
    for name in runs:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.dtseries.nii").touch()
    monkeypatch.chdir(tmp_path)
    for prefix in ("", f"{tmp_path}/"):
        found = by_subject(prefix + pattern)
        assert {subject: len(files) for subject, files in found.items()} == expected
        assert all(file.startswith(prefix) for files in found.values() for file in files)


def test_a_pattern_without_the_subject_is_refused():
    with pytest.raises(InputError, match=r"pattern: String should match pattern .*subject"):
        parse_section(Hcp, CFG.model_copy(update={"pattern": "resources/hcp/*/*.dtseries.nii"}).model_dump_json())


def test_another_subjects_file_in_a_subjects_folder_is_left_out(tmp_path):
    for name in ("1/1_a.nii", "1/2_a.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert by_subject(f"{tmp_path}/{{subject}}/{{subject}}_*.nii") == {"1": [f"{tmp_path}/1/1_a.nii"]}


def test_a_subjects_name_that_no_file_name_should_have(tmp_path):
    (tmp_path / "jane doe").mkdir()
    (tmp_path / "jane doe/a.nii").touch()
    with pytest.raises(InputError, match=r"'jane doe' is not made of letters, digits, _ and -; change"):
        by_subject(f"{tmp_path}/{{subject}}/*.nii")
