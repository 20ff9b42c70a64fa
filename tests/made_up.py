"""Made-up but complete inputs of the report."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mindreel import artifacts, config
from mindreel.brain import surface
from mindreel.small_world import drawing
from mindreel.stages import report

ROOT = Path(__file__).parents[1]
STRANGE = "a <b>red</b> fish & 'chips' <script>alert(1)</script>"
CONDITIONS = ("fmri", "shuffled", "random", "text")
SHARED = "text"  # known to no subject


def inputs(
    root: Path, rng: np.random.Generator, *, experiments: list[str], subjects: list[str], volumes: int, shown: int
) -> dict[str, dict]:
    """Write every input of the report under `root`: the arguments of its actions tables, draw and page."""
    settings = config.load(ROOT / "config.yaml", ROOT / "config/demo.yaml")
    artifacts.save_json(root / "config.json", settings.model_dump(mode="json"))
    report.provenance(config=root / "config.json", out=root / "provenance.json")
    made = {name: [] for name in ("frames", "captions", "metrics", "clips", "selections", "attention", "pictures")}
    boards = []
    for number in (1, 2):
        scenes = drawing.storyboard(volumes, rng)
        boards += scenes
        made["frames"].append(root / f"stimuli/test{number}.npy")
        artifacts.save_array(made["frames"][-1], np.stack([drawing.clip(scene, 3, 64) for scene in scenes]))
        rows = [(t, f, STRANGE if t == 0 else scene.caption) for t, scene in enumerate(scenes) for f in range(6)]
        made["captions"].append(root / f"captions/test{number}.tsv")
        artifacts.save_table(made["captions"][-1], pd.DataFrame(rows, columns=["volume", "frame", "caption"]))
    for subject in subjects:
        for experiment in experiments:
            folder, clips = _scored(root, experiment, subject, boards, volumes, rng)
            made["metrics"].append(folder)
            made["clips"] += clips
        made["attention"].append(_attention(root / f"attention/mind-video/sub-{subject}"))
        made["pictures"].append(_pictures(root / f"pictures/bold/sub-{subject}", ["tsnr", "runs"]))
        made["pictures"].append(_pictures(root / f"pictures/attention/mind-video/sub-{subject}", ["flat", "areas"]))
    made["selections"].append(_selection(root / f"roi/mind-video/sub-{subjects[0]}", rng))
    made["pictures"].append(_pictures(root / f"pictures/roi/mind-video/sub-{subjects[0]}", ["r", "t", "selected"]))
    generator = root / "generator/mind-video"
    generator.mkdir(parents=True)
    Image.fromarray(rng.integers(0, 255, (64, 96, 3), np.uint8)).save(generator / "samples.png")
    names = {"experiments": experiments, "subjects": subjects, "metrics": made["metrics"]}
    tables = {
        **names,
        "selections": made["selections"],
        "attention": made["attention"],
        "comparison": _comparison(root / "metrics/comparison.tsv", subjects),
        "audit": audit(root / "audit", [("test1", 3, 5, 7, "same picture", "seg2, volume 4", 0.0)]),
        "published": ROOT / "resources/published.tsv",
        "provenance": root / "provenance.json",
        **_benchmarks(root / "logs"),
        "out": root / "report/tables",
    }
    draw = {**names, "histories": _histories(root), "out": root / "report/figures"}
    page = {
        **names,
        "results": root / "made-up",
        **{name: made[name] for name in ("clips", "frames", "captions", "pictures")},
        "generators": [generator],
        "provenance": root / "provenance.json",
        "drawn": draw["out"],
        "tables": tables["out"],
        "out": root / "report/index.html",
        "cfg": settings.report.model_copy(update={"clips": shown}),
    }
    return {"tables": tables, "draw": draw, "page": page}


def whole(root: Path, rng: np.random.Generator, **sizes) -> dict[str, dict]:
    """`inputs`, and the report from them."""
    made = inputs(root, rng, **sizes)
    report.tables(**made["tables"])
    report.draw(**made["draw"])
    report.page(**made["page"])
    return made


def audit(folder: Path, spanning: list[tuple]) -> Path:
    """A leak audit that found these scenes."""
    columns = ["segment", "scene", "first", "last", "why", "where", "rms"]
    artifacts.save_table(folder / "scenes.tsv", pd.DataFrame(spanning, columns=columns))
    facts = {"test_clips": 80, "train_clips": 7200, "test_scenes": 24, "clips_same_picture": 1, "clips_same_content": 2}
    facts |= {"scenes_spanning": 1, "median_pixel_rms": 0.1, "median_ordinary_rms": 0.15}
    artifacts.save_json(folder / "summary.json", facts | {"limits": {"clip_limit": 0.98}})
    return folder


def _scored(root: Path, experiment: str, subject: str, boards: list, volumes: int, rng: np.random.Generator) -> tuple:
    """Clips of every condition and a metrics folder; every third reconstruction is of another scene."""
    order = rng.permutation(len(boards))
    guesses = [boards[order[i]] if i % 3 == 0 else scene for i, scene in enumerate(boards)]
    others = [boards[i] for i in order]
    made = {"fmri": guesses, "shuffled": others, "random": others[::-1], "text": boards}
    files, tables = [], []
    for condition, scenes in made.items():
        noisy = np.stack([drawing.clip(scene, 3, 64) for scene in scenes]) + rng.normal(
            0, 6, (len(boards), 6, 64, 64, 3)
        )
        folder = root / f"sampling/{experiment}"
        files.append((folder if condition == SHARED else folder / f"sub-{subject}") / f"{condition}.npy")
        artifacts.save_array(files[-1], np.clip(noisy, 0, 255).astype(np.uint8))
        right = np.array([a == b for a, b in zip(scenes, boards, strict=True)])
        tables.append(
            pd.DataFrame(
                {
                    "condition": condition,
                    "clip": np.arange(len(boards)),
                    "segment": np.repeat(["test1", "test2"], volumes),
                    "volume": np.tile(np.arange(volumes), 2),
                    "scene": np.arange(len(boards)) // 3,
                    "ssim_rgb_uniform7": np.clip(0.2 + 0.4 * right + rng.normal(0, 0.08, len(boards)), 0, 1),
                    "nway_image_2way": np.clip(0.75 + 0.2 * right + rng.normal(0, 0.05, len(boards)), 0, 1),
                    "nway_image_2way_sampled": np.clip(0.75 + 0.2 * right, 0, 1),
                    "nway_video_50way": np.clip(0.1 + 0.5 * right + rng.normal(0, 0.05, len(boards)), 0, 1),
                    "mse": 0.1 - 0.05 * right + rng.normal(0, 0.01, len(boards)),
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    folder = root / f"metrics/{experiment}/sub-{subject}"
    artifacts.save_table(folder / "clips.tsv", table)
    artifacts.save_table(folder / "summary.tsv", _summary(table))
    classes = [
        {"condition": c, "clip": i, "image": f"red fish; {c} fish", "video": "fish moving left; fish growing"}
        for c in ("true", *CONDITIONS)
        for i in range(len(boards))
    ]
    artifacts.save_table(folder / "classes.tsv", pd.DataFrame(classes))
    return folder, files


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for metric in table.columns[5:]:
        means = table.groupby("condition")[metric].mean()
        for condition in CONDITIONS:
            value, difference = means[condition], means["fmri"] - means[condition]
            known = condition != "fmri"
            rows.append(
                {
                    "metric": metric,
                    "condition": condition,
                    "value": value,
                    "sd": 0.1,
                    "ci_low": value - 0.04,
                    "ci_high": value + 0.04,
                    "chance": {"nway_image_2way": 0.75, "nway_video_50way": 3 / 52}.get(metric, np.nan),
                    "difference": difference if known else np.nan,
                    "difference_ci_low": difference - 0.05 if known else np.nan,
                    "difference_ci_high": difference + 0.05 if known else np.nan,
                    "p": 0.0005 if known else np.nan,
                }
            )
    return pd.DataFrame(rows)


def _comparison(path: Path, subjects: list[str]) -> Path:
    tested = {"difference": -0.1, "difference_ci_low": -0.2, "difference_ci_high": 0.01, "t": -2.0}
    tested |= {"p_t": 0.01, "p_paired": 0.0001, "p_t_holm": 0.06, "p_paired_holm": 0.0004}
    rows = [
        {"metric": m, "experiment": "window-1", "subject": s, "against": "mind-video", "value": 0.2, "reference": 0.3}
        | tested
        for s in subjects
        for m in ("ssim_rgb_uniform7", "nway_video_2way_sampled", "psnr", "clip_cosine_pairwise")
    ]
    artifacts.save_table(path, pd.DataFrame(rows))
    return path


def _benchmarks(logs: Path) -> dict:
    logs.mkdir(parents=True)
    (logs / "sub-1.tsv").write_text("s\th:m:s\tmax_rss\tcpu_time\n247.2\t0:04:07\t930.9\t224.4\n")
    return {"logs": logs, "benchmarks": [rf"cotrain={logs.as_posix()}/sub\-([^/]+)\.tsv"]}


def _histories(root: Path) -> list[Path]:
    steps = np.arange(50)
    loss = pd.DataFrame({"step": steps, "loss": 4 * np.exp(-steps / 20), "lr": 1e-3})
    found = loss.assign(image_top1=steps / 100, image_top5=steps / 60, chance_image_top1=0.02)
    paths = {root / "contrastive/mind-video/sub-1/history.tsv": found, root / "mbm/mind-video/hcp/history.tsv": loss}
    for path, table in paths.items():
        artifacts.save_table(path, table)
    return list(paths)


def _selection(folder: Path, rng: np.random.Generator) -> Path:
    atlas = surface.atlas()
    visual = (atlas.group != "rest").to_numpy()
    responsive = visual & (rng.random(len(atlas)) < 0.4)
    r = np.where(responsive, rng.uniform(0.2, 0.6, len(atlas)), rng.normal(0, 0.06, len(atlas)))
    t = 14 * r
    selected = t > 4
    voxels = atlas[selected].assign(r=r[selected], t=t[selected], p=1e-9)
    artifacts.save_table(folder / "voxels.tsv", voxels.sort_values("rank", kind="stable"))
    counts = {"tested": 59412, "excluded": 0, "significant": int((t > 3).sum()), "selected": int(selected.sum())}
    artifacts.save_json(folder / "summary.json", counts)
    return folder


def _attention(folder: Path) -> Path:
    names = ("VisCent", "VisPeri")
    rows = [(s, n, name, 10, 1.0, 0.5, 1.0) for s in ("mbm", "cotrain") for n in (1, 4) for name in names]
    columns = ["stage", "layer", "network", "voxels", "sum", "share", "relative"]
    artifacts.save_table(folder / "networks.tsv", pd.DataFrame(rows, columns=columns))
    rows = [("cotrain", n, over, 10, n / 10) for n in (1, 4) for over in ("voxels", "networks")]
    columns = ["stage", "layer", "over", "number", "spearman"]
    artifacts.save_table(folder / "agreement.tsv", pd.DataFrame(rows, columns=columns))
    return folder


def _pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (60, 30), "white").save(folder / f"{name}.png")
    listed = [
        {"name": name, "alt": f"picture {name} of {'/'.join(folder.parts[-2:])}", "wide": False} for name in names
    ]
    artifacts.save_json(folder / "index.json", {"words": f"words of {folder.name}", "figures": listed})
    return folder
