"""Pictures of one subject: where responses repeat, what was selected, how good the scans are, what is attended to.

Every action writes a folder: each picture as PNG (300 dpi) and SVG in the size it is printed at, and `index.json`,
which lists them with their alternative texts.
"""

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mindreel.artifacts import load_array, load_json, load_table
from mindreel.brain import cifti, surface
from mindreel.errors import InputError
from mindreel.reporting import cortex_views, figures_brain, figures_scan, style

LIMIT_MM = 0.5  # a framewise displacement above this counts as motion
DEMEANED = 1.0  # a run whose median tSNR is below this came without its mean
AREAS = 16  # that have their own bar, by number of voxels
LEARNING = {"mbm": "after MBM", "contrastive": "after contrastive", "cotrain": "after co-training"}
R_LABEL = "r between repeats (Pearson, no unit)"
RATIO_LABEL = "attention received / evenly spread attention (ratio; grey: not selected)"
GRADIENTS = "integrated gradients"
RANK_LABEL = "rank among the selected voxels (%; grey: not selected)"
CATEGORY_LABEL = "clips of the category / all clips (ratio; grey: not selected)"
AREA_LABEL = "clips of the category (how many) / all clips (ratio)"


def selection(*, maps: Path, summary: Path, out: Path) -> None:
    """Draw a subject's reproducibility (r, t) and selected voxels on the cortex, and the histograms.

    Parameters
    ----------
    maps : Path
        reproducibility.dscalar.nii of `roi select`.
    summary : Path
        Its summary.json.
    out : Path
        Folder: r, t, selected, inflated, histograms (.png, .svg), index.json.
    """
    found, counts = read_maps(maps), load_json(summary)
    if lacking := {"r", "t", "p", "selected"} - found.keys():
        raise InputError(f"{maps}: lacks the maps {sorted(lacking)}; rerun roi")
    chosen = found["selected"] > 0
    tested = (found["r"] != 0) | (found["t"] != 0) | (found["p"] < 1)
    r, t = (np.where(tested, found[name], np.nan) for name in ("r", "t"))
    segments, thresholds = len(counts["segments"]), {name: counts[name] for name in ("t_significant", "t_selected")}
    of_r, of_t = (cortex_views.scale(values, cmap="RdBu_r") for values in (r, t))
    of_chosen = cortex_views.scale(r[chosen], cmap="viridis", centre=None)
    untested: dict[str, Any] = {"grey": "not tested", "lightness": figures_brain.DARKER}
    middle, most = _middle(r[chosen])
    counted = f"{chosen.sum():,} of {tested.sum():,} tested vertices"
    best = ", ".join(f"{area} {number}" for area, number in _largest(surface.atlas().area[chosen]))
    whose = _whose(maps.parent)
    figures = {
        "r": (
            figures_brain.flat_map(r, title=f"{whose}: r between repeats", label=R_LABEL, shown=of_r, **untested),
            f"Flat maps of both hemispheres: correlation between repeated runs of the same movie, up to {most:.2f}.",
        ),
        "t": (
            figures_brain.flat_map(
                t,
                title=f"{whose}: t of r over {segments} segments",
                label=f"t ({segments - 1} degrees of freedom)",
                shown=of_t,
                **untested,
            ),
            f"Flat maps of both hemispheres: t of the correlation over {segments} segments; significant from "
            f"{thresholds['t_significant']:.1f}.",
        ),
        "selected": (
            figures_brain.flat_map(
                np.where(chosen, r, np.nan),
                title=f"{whose}: {chosen.sum():,} selected vertices",
                label=R_LABEL,
                shown=of_chosen,
                grey="not selected",
            ),
            f"Flat maps of both hemispheres: the selected vertices, {counted}, coloured by r (median {middle:.2f}). "
            f"Most are in {best}.",
        ),
        "inflated": (
            figures_brain.inflated(
                r, title=f"{whose}: r between repeats", label=R_LABEL, shown=of_r, lightness=figures_brain.DARKER
            ),
            "Inflated hemispheres from the side, the middle, behind and below: correlation between repeated runs.",
        ),
        "histograms": (
            figures_scan.histograms(
                r, t, chosen, **thresholds, freedom=segments - 1, title=f"{whose}: reproducibility"
            ),
            f"Histograms of r and t of {tested.sum():,} tested vertices; significant from t "
            f"{thresholds['t_significant']:.2f}, selected from {thresholds['t_selected']:.2f}.",
        ),
    }
    style.save_folder(out, figures, f"{counted}, median r {middle:.2f}")


def quality(*, tsnr: list[Path], out: Path, motion: list[Path] | None = None) -> None:
    """Draw how good a subject's scans are: head motion of raw runs, temporal signal-to-noise ratio of all.

    Parameters
    ----------
    tsnr : list of Path
        {segment}_{repeat}_tsnr.npy of `bold clean`, (59412,) float32 each, in the order to draw them.
    motion : list of Path
        {segment}_{repeat}_motion.tsv of the raw runs.
    out : Path
        Folder: tsnr, runs and, of raw runs, motion (.png, .svg), index.json.
    """
    ratios = {path.name.removesuffix("_tsnr.npy"): load_array(path) for path in tsnr}
    ratios = {name: ratio for name, ratio in ratios.items() if np.nanmedian(np.abs(ratio)) >= DEMEANED}
    moved = {path.name.removesuffix("_motion.tsv"): load_table(path) for path in motion or []}
    figures, words, whose = {}, [], _whose(tsnr[0].parent)
    if moved:
        steps = np.concatenate([table.framewise_displacement_mm.to_numpy(float)[1:] for table in moved.values()])
        words.append(
            f"framewise displacement: median {np.median(steps):.2f} mm, largest {steps.max():.2f} mm over {len(moved)} "
            f"runs, {100 * np.mean(steps > LIMIT_MM):.1f}% of the volumes above {LIMIT_MM:g} mm"
        )
        drawn = figures_scan.motion(moved, title=f"{whose}: head motion", limit_mm=LIMIT_MM)
        figures["motion"] = (drawn, f"Translation, rotation and framewise displacement of the head. {words[-1]}.")
    if ratios:
        over_runs = _median(np.stack(list(ratios.values())))
        middle, _ = _middle(over_runs)
        words.append(f"temporal SNR: median over the cortex {middle:.0f}")
        figures["tsnr"] = (
            figures_brain.flat_map(
                over_runs,
                title=f"{whose}: temporal SNR, median over {len(ratios)} runs",
                label="temporal SNR (mean / deviation, no unit)",
                shown=cortex_views.scale(over_runs, cmap="viridis", centre=None),
                grey="constant or outside the image",
            ),
            f"Flat maps of both hemispheres: temporal signal-to-noise ratio, median {middle:.0f}.",
        )
    else:
        words.append("no temporal SNR: the runs came without their mean")
    if ratios or moved:
        drawn = figures_scan.run_quality(moved, ratios, title=f"{whose}: every run", limit_mm=LIMIT_MM)
        figures["runs"] = (drawn, f"Spread of every run. {'; '.join(words)}.")
    style.save_folder(out, figures, "; ".join(words))


def attention(*, attention: Path, out: Path) -> None:
    """Draw what a subject's voxels contribute: attention and integrated gradients on the cortex, their agreement.

    Parameters
    ----------
    attention : Path
        Folder of `attention maps`.
    out : Path
        Folder: flat, inflated, networks, areas, gradients, agreement and, if clips have categories, categories,
        category-gradients, category-areas (.png, .svg), index.json.
    """
    whose, atlas = _whose(attention), surface.atlas()
    maps = {key: value for key, value in _received(attention / "attention.dscalar.nii").items() if key[1] != GRADIENTS}
    if not maps:
        found = ", ".join(read_maps(attention / "attention.dscalar.nii"))
        raise InputError(f"{attention}: no map is named like mbm-layer1, found {found}; rerun attention")
    gradients = _received(attention / "gradients.dscalar.nii")
    last_stage, last = list(maps)[-1]
    final = {stage: values for (stage, layer), values in maps.items() if layer == last}
    network = np.array(surface.NETWORKS)[atlas.network]
    networks = shares(maps, network, [*surface.NETWORKS[1:], surface.NETWORKS[0]])
    seen = np.isfinite(maps[last_stage, last])
    largest = [area for area, _ in _largest(atlas.area[seen], AREAS)]
    ordered = list(atlas.drop_duplicates("area").set_index("area").loc[largest].sort_values("rank").index)
    area = np.where(atlas.area.isin(largest), atlas.area, "others")
    areas = shares({(stage, last): values for stage, values in final.items()}, area, [*ordered, "others"])
    strongest = {name: _leading(table) for name, table in (("networks", networks), ("areas", areas))}
    beside: dict[tuple[str, str], np.ndarray] = {}
    for stage in dict.fromkeys(stage for stage, _ in gradients):
        beside |= {(stage, f"attention, {key[1]}"): value for key, value in maps.items() if key[0] == stage}
        beside |= {key: value for key, value in gradients.items() if key[0] == stage}
    agreed = load_table(attention / "agreement.tsv")
    agreed = agreed.assign(stage=agreed.stage.map(LEARNING), layer=[f"layer {n}" for n in agreed.layer])
    over = agreed[(agreed.stage == last_stage) & (agreed.layer == last)].set_index("over").spearman
    agreement = ", ".join(f"{value:.2f} over {name}" for name, value in over.dropna().items()) or "not defined"
    figures = {
        "flat": (
            figures_brain.attention_flat(maps, title=f"{whose}: attention received", label=RATIO_LABEL),
            f"Flat maps of the visual areas: attention that {seen.sum():,} voxels receive, by learning stage and layer."
            f" Largest shares at the end: {strongest['areas']}.",
        ),
        "inflated": (
            figures_brain.attention_inflated(final, title=f"{whose}: attention received, {last}", label=RATIO_LABEL),
            f"Inflated hemispheres from four sides: attention received in {last} after each learning stage.",
        ),
        "networks": (
            figures_brain.share_bars(
                networks,
                title=f"{whose}: attention per network",
                colours=figures_brain.NETWORK_COLOURS,
                unit="Yeo-17 network",
            ),
            f"Bars of attention per Yeo-17 network. Largest shares at the end: {strongest['networks']}.",
        ),
        "areas": (
            figures_brain.share_bars(areas, title=f"{whose}: attention per area", colours={}, unit="Glasser area"),
            f"Bars of attention per Glasser area in {last}, up the visual hierarchy. Largest at the end: "
            f"{strongest['areas']}.",
        ),
        "gradients": (
            figures_brain.ranks_flat(beside, title=f"{whose}: attention beside integrated gradients", label=RANK_LABEL),
            "Flat maps of the visual areas: rank of every voxel by the attention it receives in each layer, and by the "
            "size of its integrated gradients, after contrastive learning and after co-training.",
        ),
        "agreement": (
            figures_brain.agreement(
                agreed,
                _both(final, gradients, last, ordered),
                title=f"{whose}: agreement of attention and integrated gradients",
            ),
            f"Rank correlation of attention with integrated gradients by stage and layer; {last_stage}, {last}: "
            f"{agreement}. Beside it both measures per Glasser area.",
        ),
    }
    words = f"{last_stage}, {last}: {strongest['networks']}; rank correlation with integrated gradients {agreement}"
    style.save_folder(out, figures | _categories(attention, whose, maps, gradients, ordered), words)


def _received(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """Maps of attention or gradients by stage and layer (or GRADIENTS), divided by their mean; NaN: not selected."""
    maps = {}
    for name, values in read_maps(path).items():
        if match := re.fullmatch(r"(\w+)-(layer(\d+)|integrated-gradients)", name):
            known = np.where(values > 0, values, np.nan)  # softmax weights and sizes: 0 is not selected
            layer = f"layer {match[3]}" if match[3] else GRADIENTS
            maps[LEARNING.get(match[1], match[1]), layer] = known / np.nanmean(known)
    return maps


def _both(
    final: dict[str, np.ndarray], gradients: dict[tuple[str, str], np.ndarray], last: str, areas: list[str]
) -> pd.DataFrame:
    """Mean of both measures per area, in this order, for every stage that has gradients."""
    area, tables = surface.atlas().area.to_numpy(), []
    for (stage, _), values in gradients.items():
        both = pd.DataFrame({"attention": final[stage], "gradients": values}).groupby(area).mean()
        tables.append(both.loc[areas].rename_axis("part").reset_index().assign(stage=stage, layer=last))
    return pd.concat(tables)


def _categories(
    folder: Path,
    whose: str,
    maps: dict[tuple[str, str], np.ndarray],
    gradients: dict[tuple[str, str], np.ndarray],
    areas: list[str],
) -> dict[str, tuple[Figure, str]]:
    """Figures of the last stage and layer for clips of a category, relative to all clips; none without categories."""
    counts = load_table(folder / "categories.tsv")
    counts = counts[counts.clips > 0].set_index("category").clips
    if not len(counts):
        return {}
    found = read_maps(folder / "categories.dscalar.nii")
    stage, layer = list(maps)[-1]
    key = next(name for name, title in LEARNING.items() if title == stage)
    kinds = {f"attention, {layer}": f"layer{layer.split()[1]}", GRADIENTS: "integrated-gradients"}
    of_all = {f"attention, {layer}": maps[stage, layer], GRADIENTS: gradients[stage, GRADIENTS]}
    ratios, tables = {}, {}
    area = surface.atlas().area
    for title, kind in kinds.items():
        whole, of_kind, columns = of_all[title], {}, {}
        for name, clips in counts.items():
            values = found[f"{name}-{key}-{kind}"]
            values = np.where(np.isfinite(whole), values, np.nan)
            heading = f"{name} ({clips} clips)" if clips > 1 else f"{name} (1 clip)"
            of_kind[heading] = values / np.nanmean(values) / whole
            sums = pd.DataFrame({"area": area, "own": values / np.nanmean(values), "all": whole}).groupby("area").sum()
            columns[f"{name} ({clips})"] = (sums.own / sums["all"]).reindex(areas)
        ratios[title], tables[title] = of_kind, pd.DataFrame(columns)
    named = ", ".join(f"{name} ({clips})" for name, clips in counts.items())
    drawn = {}
    for file, title in (("categories", f"attention, {layer}"), ("category-gradients", GRADIENTS)):
        drawn[file] = (
            figures_brain.ratios_flat(
                ratios[title], title=f"{whose}: {title}, {stage}, per category of clips", label=CATEGORY_LABEL
            ),
            f"Flat maps of the visual areas: {title}, {stage}, for clips of a category relative to all clips. "
            f"Categories by caption, with the number of clips: {named}.",
        )
    most = tables[GRADIENTS]
    rows = [f"{name} most in {most[name].idxmax()} ({100 * most[name].max() - 100:+.0f}%)" for name in most]
    drawn["category-areas"] = (
        figures_brain.area_ratios(tables, title=f"{whose}: {stage}, per category of clips and area", label=AREA_LABEL),
        "Coloured fields: attention and integrated gradients per Glasser area and category of clips, relative to all "
        f"clips. Integrated gradients: {'; '.join(rows)}.",
    )
    return drawn


def shares(maps: dict[tuple[str, str], np.ndarray], part: np.ndarray, order: list[str]) -> pd.DataFrame:
    """Share of the attention that parts of the cortex receive.

    Parameters
    ----------
    maps : (59412,) float
        By stage and layer, NaN: not selected.
    part : (59412,) str
        What each vertex is a part of.
    order : list of str
        The parts, in the order of the rows; those without a voxel are left out.

    Returns
    -------
    table : stage, layer, part, voxels (number), share (of the sum over all voxels)
    """
    rows = []
    for (stage, layer), values in maps.items():
        selected = np.isfinite(values)
        for name in order:
            inside = selected & (part == name)
            if inside.any():
                rows.append((stage, layer, name, int(inside.sum()), values[inside].sum() / values[selected].sum()))
    return pd.DataFrame(rows, columns=["stage", "layer", "part", "voxels", "share"])


def _whose(folder: Path) -> str:
    """The subject of a folder, for a title: …/sub-1 -> Subject 1."""
    name = Path(folder).name
    return f"Subject {name.removeprefix('sub-')}" if name.startswith("sub-") else name


def read_maps(path: Path) -> dict[str, np.ndarray]:
    """Read a `.dscalar.nii` as (59412,) float32 maps by name."""
    values = cifti.read_surface(path)
    return dict(zip(nib.load(path).header.get_axis(0).name, values, strict=True))


def _median(values: np.ndarray) -> np.ndarray:
    """Median over rows, NaN left out: (n, 59412) -> (59412,); NaN where there is nothing else."""
    known = np.isfinite(values).any(axis=0)
    middle = np.full(values.shape[1], np.nan)
    middle[known] = np.nanmedian(values[:, known], axis=0)
    return middle


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Median and maximum of the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return (float(np.median(finite)), float(finite.max())) if finite.size else (np.nan, np.nan)


def _largest(names: pd.Series, count: int = 3) -> list[tuple[str, int]]:
    """The most frequent names and how often they are there; equals by name."""
    counts = names.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return [(str(name), int(number)) for name, number in counts.head(count).items()]


def _leading(table: pd.DataFrame, count: int = 3) -> str:
    """The largest shares of the last stage and layer, in words."""
    last = table[(table.stage == table.stage.iloc[-1]) & (table.layer == table.layer.iloc[-1])]
    named = last[~last.part.isin(["none", "others"])].nlargest(count, "share")
    return ", ".join(f"{row.part} {100 * row.share:.0f}%" for row in named.itertuples())
