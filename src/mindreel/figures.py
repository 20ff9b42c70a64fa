"""The report's figures: read artifacts, draw them, hand back pictures that can be put into the page."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pandas as pd

from mindreel import gallery, plots, surface
from mindreel.artifacts import load_json, load_table
from mindreel.errors import InputError

TRAININGS = ("mbm", "contrastive", "generator", "cotrain")


def picture(path: Path, alt: str) -> dict:
    """A figure for the page: data address, size (pixels), alternative text."""
    content, width, height = gallery.webp(path)
    return {"src": gallery.data_uri(content, "image/webp"), "width": width, "height": height, "alt": alt}


def drawn(draw: Callable[[Path], None], alt: str) -> dict:
    """Draw into a temporary PNG and hand it back as a figure for the page."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        draw(path)
        return picture(path, alt)


def scores(rows: list[dict]) -> dict:
    """Value, interval, control and chance of every metric, but not of the sampled twins."""
    several = len({row["experiment"] for row in rows}) > 1
    table = pd.DataFrame(
        {
            "metric": row["metric"],
            "row": f"{row['experiment']}, subject {row['subject']}" if several else f"subject {row['subject']}",
            "value": row["value"],
            "low": row["low"],
            "high": row["high"],
            "control": np.nan if row["control"] is None else row["control"],
            "chance": row["chance"],
        }
        for row in rows
        if not row["sampled"]
    )
    alt = "Scores of every metric with 95% intervals, beside shuffled fMRI and chance; the table has the numbers."
    return drawn(lambda path: plots.scores(table, path), alt)


def read_maps(path: Path) -> dict[str, np.ndarray]:
    """Read a `.dscalar.nii` as (59412,) float32 maps by name."""
    values = surface.read_cifti(path)
    names = nib.load(path).header.get_axis(0).name
    return dict(zip(names, values, strict=True))


def selection(folder: Path, experiment: str, subject: str) -> dict:
    """The voxel selection of a subject: counts, map of the reproducibility, selected voxels, histogram of t."""
    maps = read_maps(folder / "reproducibility.dscalar.nii")
    if lacking := {"r", "t", "-log10 p", "selected"} - maps.keys():
        raise InputError(f"{folder}/reproducibility.dscalar.nii: lacks the maps {sorted(lacking)}; rerun roi")
    voxels, summary = load_table(folder / "voxels.tsv"), load_json(folder / "summary.json")
    r, t, selected = maps["r"], maps["t"], maps["selected"] > 0
    counts = {key: value for key, value in summary.items() if isinstance(value, int) and not isinstance(value, bool)}
    t = np.where(t == 0, np.nan, t)  # not tested
    significant = counts.get("significant", 0)
    passed = np.argsort(-maps["-log10 p"], kind="stable")[:significant]
    threshold = min((float(value) for value in t[passed] if value > 0), default=None)
    note = f"{significant:,} significant,\n{len(voxels):,} selected"
    seen = np.where(np.isfinite(r) & (r != 0), r, np.nan)
    groups = voxels.groupby("group", sort=False).size() if len(voxels) else pd.Series(dtype=int)
    return {
        "experiment": experiment,
        "subject": subject,
        "counts": counts,
        "groups": {str(name): int(count) for name, count in groups.items()},
        "figures": [
            drawn(
                lambda path: plots.cortex(seen, path, title="Reproducibility", label="r between repeats"),
                f"Flat map of subject {subject}'s cortex: correlation between repeated runs of the same movie.",
            ),
            drawn(
                lambda path: plots.cortex(np.where(selected, r, np.nan), path, title="Selected voxels", label="r"),
                f"Flat map of subject {subject}: the {len(voxels):,} selected voxels, coloured by reproducibility.",
            ),
            drawn(
                lambda path: plots.histogram(t, path, title="Test", label="t", threshold=threshold, note=note),
                f"Histogram of the t values of subject {subject}; {note}.".replace("\n", " "),
            ),
        ],
    }


def attention(folder: Path, experiment: str, subject: str) -> dict:
    """Attention of the encoder: flat maps, bars per network, and the leading networks in words."""
    table = load_table(folder / "networks.tsv")
    leading = []
    for (stage, layer), part in table.groupby(["stage", "layer"], sort=False):
        best = part.nlargest(3, "share")
        names = ", ".join(f"{row.network} {100 * row.share:.0f}%" for row in best.itertuples())
        leading.append({"stage": stage, "layer": layer, "names": names})
    words = "; ".join(f"{entry['stage']} layer {entry['layer']}: {entry['names']}" for entry in leading)
    alts = (
        f"Flat maps of the attention that subject {subject}'s voxels receive, one per learning stage and layer.",
        f"Bars of attention per Yeo-17 network of subject {subject}. Largest shares: {words}.",
    )
    pictures = [picture(folder / name, alt) for name, alt in zip(("maps.png", "networks.png"), alts, strict=True)]
    return {"experiment": experiment, "subject": subject, "leading": leading, "figures": pictures}


def training_title(path: Path) -> str:
    """Name a training by its history's path: …/mbm/mind-video/sub-1/history.tsv -> mbm · mind-video · sub-1."""
    parts = path.parent.parts
    first = next((i for i, part in enumerate(parts) if part in TRAININGS), max(0, len(parts) - 2))
    return " · ".join(parts[first:])


def training(histories: list[Path]) -> dict | None:
    """Curves of every training that has made a step."""
    tables = {training_title(path): load_table(path) for path in histories}
    tables = {title: table for title, table in tables.items() if len(table)}
    if not tables:
        return None
    last = [f"{title}: {table.step.iloc[-1] + 1} steps" for title, table in tables.items()]
    return drawn(lambda path: plots.training_curves(tables, path), "Training curves. " + "; ".join(last) + ".")


def motion(paths: list[Path]) -> list[dict]:
    """Head motion, one figure per subject."""
    subjects: dict[str, dict[str, pd.DataFrame]] = {}
    for path in paths:
        runs = subjects.setdefault(path.parent.name.removeprefix("sub-"), {})
        runs[path.name.removesuffix("_motion.tsv")] = load_table(path)
    found = []
    for subject, runs in subjects.items():
        moved = np.concatenate([table.framewise_displacement.dropna() for table in runs.values()])
        words = f"median {np.median(moved):.2f} mm, largest {moved.max():.2f} mm over {len(runs)} runs"
        alt = f"Framewise displacement of subject {subject}: {words}."
        figure = drawn(lambda path, runs=runs: plots.motion(runs, path), alt)
        found.append({"subject": subject, "words": words, "figure": figure})
    return found
