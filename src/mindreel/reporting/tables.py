"""The report's tables: what stands in them, as numbers and for people."""

import numpy as np
import pandas as pd

from mindreel.controls import MODEL
from mindreel.reporting import labels
from mindreel.reporting.labels import condition_label, leads, metric_title, number, p_text, signed
from mindreel.reporting.latex import Table, missing
from mindreel.reporting.scores import Result
from mindreel.scoring.statistics import PAIRWISE

# The published tables' names of our metrics, and their titles.
PUBLISHED = {
    "ssim": ("ssim_rgb_uniform7", "SSIM"),
    "image_2way": ("nway_image_2way", "image 2-way"),
    "image_50way": ("nway_image_50way", "image 50-way"),
    "video_2way": ("nway_video_2way", "video 2-way"),
    "video_50way": ("nway_video_50way", "video 50-way"),
    "psnr": ("psnr", "PSNR (dB)"),
}

# ---------------------------------------------------------------------------------------------------- scores


def headline(results: list[Result], published: pd.DataFrame, simulated: bool) -> Table:
    """Reconstructions, controls, chance and published methods: a row each, a column per metric of the papers."""
    experiments = list(dict.fromkeys(r.experiment for r in results))
    first = [r for r in results if r.experiment == experiments[0]]
    subjects = f"mean of {len(first)}" if len(first) > 1 else first[0].subject
    rows = [_own(name, [r for r in results if r.experiment == name], MODEL, "value", subjects) for name in experiments]
    rows = [{"group": "Reconstructed from fMRI", **row} for row in rows]
    for condition in first[0].conditions[1:]:
        row = _own(condition_label(condition), first, condition, "value", subjects)
        rows.append({"group": f"Controls of {experiments[0]}", **row})
    chance = _own("what clips score that say nothing", first, MODEL, "chance", "–")
    rows.append({"group": "Chance", **chance, "source": "3 / (N + 2); pictures: against clips of other scenes"})
    place = "on CC2017 (Wen et al. 2018)" + (": another data set, not comparable" if simulated else "")
    for row in _methods(published):
        rows.append({"group": f"Published {place}", **row})
    data = pd.DataFrame(rows)
    shown = data.drop(columns="group").rename(columns={short: title for short, (_, title) in PUBLISHED.items()})
    titles = [title for _, title in PUBLISHED.values()]
    shown[titles] = shown[titles].map(number)
    shown = shown.rename(columns=_TITLES)
    caption = (
        "Scores beside controls, chance and published numbers. SSIM with the papers' window on colour frames; N-way "
        "accuracy succeeds if any of the true clip's three best classes wins, so 2-way chance is 0.75. Own accuracies "
        "are expectations over all trials."
    )
    return Table("headline", caption, data, shown, titles, list(data.group))


_TITLES = {"system": "System", "subjects": "Subjects", "source": "Source", "experiment": "Experiment"}
_TITLES |= {"subject": "Subject"}


def _own(system: str, results: list[Result], condition: str, column: str, subjects: str) -> dict:
    """A row of the headline: means over subjects of a column of their summaries."""
    row: dict = {"system": system, "subjects": subjects}
    for short, (metric, _) in PUBLISHED.items():
        parts = [r.summary[(r.summary.metric == metric) & (r.summary.condition == condition)][column] for r in results]
        values = np.concatenate([part.to_numpy(float) for part in parts])
        row[short] = values.mean() if len(values) else np.nan
    return row | {"source": "this run"}


def _methods(published: pd.DataFrame) -> list[dict]:
    """Published methods: the mean of the subjects if all have the same metrics, else the subject with most of them."""
    rows = []
    for system, part in published[published.kind == "method"].groupby("system", sort=False):
        wide = part.pivot(index="subject", columns="metric", values="value").reindex(columns=list(PUBLISHED))
        counts = wide.notna().sum(axis=1)
        if len(wide) > 1 and wide.notna().nunique().le(1).all():
            values, subjects = wide.astype(float).mean().to_dict(), f"mean of {len(wide)}"
        else:
            subjects = str(counts.idxmax())
            values = {metric: _plain(value) for metric, value in wide.loc[counts.idxmax()].items()}
        source = "; ".join(dict.fromkeys(part.source))
        rows.append({"system": system, "subjects": subjects, **values, "source": source})
    return rows


def _plain(value: object) -> float | str:
    """A published cell: a number, or a range as text."""
    try:
        return float(value)  # type: ignore[arg-type]
    except ValueError:
        return str(value)


def scores(results: list[Result]) -> list[Table]:
    """Every metric of every experiment and subject beside chance and controls: leading, further and sampled metrics."""
    whole = pd.concat(
        [r.summary.assign(experiment=r.experiment, subject=r.subject) for r in results], ignore_index=True
    )
    index = ["metric", "experiment", "subject", "condition"]
    whole = whole[index + [name for name in whole.columns if name not in index]]
    metrics = list(dict.fromkeys(whole.metric))
    sampled = [name for name in metrics if name.endswith("_sampled")]
    parts = {
        "scores": ([m for m in metrics if leads(m)], "The papers' metrics"),
        "scores_more": ([m for m in metrics if not leads(m) and m not in sampled], "Further metrics"),
        "scores_sampled": (sampled, "Accuracies from random trials, as published numbers are made"),
    }
    caption = (
        "{}: value with the 95% interval of a block bootstrap over scenes, chance, and the controls' values. An "
        "asterisk marks a control that the reconstructions beat: the 95% interval of the difference lies above zero."
    )
    made = []
    for name, (wanted, title) in parts.items():
        data = whole[whole.metric.isin(wanted)]
        if len(data):
            shown = _beside(data, wanted)
            made.append(Table(name, caption.format(title), data, shown, list(shown.columns[3:])))
    return [*made, *_advantages(whole)]


def _beside(data: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """A row per metric, experiment and subject, a column per control."""
    controls = [c for c in dict.fromkeys(data.condition) if c != MODEL]
    rows = []
    places = data[["experiment", "subject"]].drop_duplicates().itertuples(index=False)
    places = list(places)
    for metric in metrics:
        for experiment, subject in places:
            part = data[(data.metric == metric) & (data.experiment == experiment) & (data.subject == subject)]
            part = part.set_index("condition")
            if MODEL not in part.index:
                continue
            own = part.loc[MODEL]
            row = {"Metric": metric_title(metric), "Experiment": experiment, "Subject": subject}
            row |= {"From fMRI": number(own.value), "95% interval": f"{number(own.ci_low)} to {number(own.ci_high)}"}
            row |= {"Chance": number(own.chance)}
            for control in controls:
                known = control in part.index
                mark = "*" if known and part.loc[control].difference_ci_low > 0 else ""
                row[condition_label(control)] = number(part.loc[control].value) + mark if known else "–"
            rows.append(row)
    return pd.DataFrame(rows)


def _advantages(whole: pd.DataFrame) -> list[Table]:
    """The reconstructions' advantage over every control, by the leading metrics."""
    data = whole[whole.metric.map(leads) & (whole.condition != MODEL)]
    if not len(data):
        return []
    data = data.assign(place=pd.factorize(data.metric)[0]).sort_values("place", kind="stable").drop(columns="place")
    data = data.drop(columns=["sd", "sd_trials", "ci_low", "ci_high", "chance", "mismatched"], errors="ignore")
    shown = pd.DataFrame(
        {
            "Metric": metric_title(row.metric),
            "Experiment": row.experiment,
            "Subject": row.subject,
            "Control": condition_label(row.condition),
            "Control's value": number(row.value),
            "Advantage": signed(row.difference) + ("*" if row.difference_ci_low > 0 else ""),
            "95% interval": f"{number(row.difference_ci_low)} to {number(row.difference_ci_high)}",
            "p": p_text(row.p),
        }
        for row in data.itertuples()
    )
    caption = (
        "Advantage of the reconstructions over every control: positive is better, also for errors and ranks. Intervals "
        "are 95%, from the same bootstrap draws for both; p is one-sided, for reconstructions no better than the "
        "control; an asterisk marks an interval above zero."
    )
    return [Table("advantages", caption, data, shown, list(shown.columns[4:]))]


def verdict(results: list[Result]) -> dict | None:
    """In how many comparisons of leading metrics the reconstructions beat the first control, clear of zero."""
    control = next((c for r in results for c in r.conditions if c != MODEL), None)
    if control is None:
        return None
    parts = [r.summary[(r.summary.condition == control) & r.summary.metric.map(leads)] for r in results]
    rows = pd.concat(parts)
    return {"won": int((rows.difference_ci_low > 0).sum()), "of": len(rows), "control": condition_label(control)}


def comparison(table: pd.DataFrame) -> Table | None:
    """Experiments against the first, by the leading metrics and by how distinct their clips are; all in the TSV."""
    names = table.metric.astype(str)
    part = table[names.map(leads) | (names == PAIRWISE)]
    if not len(part):
        return None
    part = part.assign(place=pd.factorize(part.metric)[0]).sort_values("place", kind="stable")
    shown = pd.DataFrame(
        {
            "Metric": metric_title(row.metric),
            "Experiment": row.experiment,
            "Subject": str(row.subject),
            "Value": number(row.value),
            "Reference": number(row.reference),
            "Advantage": signed(row.difference),
            "95% interval": f"{number(row.difference_ci_low)} to {number(row.difference_ci_high)}",
            "p, t-test": p_text(row.p_t_holm) + ("*" if row.p_t_holm < 0.05 else ""),
            "p, permutation": p_text(row.p_paired_holm) + ("*" if row.p_paired_holm < 0.05 else ""),
        }
        for row in part.itertuples()
    )
    against = part.against.iloc[0]
    caption = (
        f"Experiments against {against}; positive is better. Two-sample t-test over clips, as in the papers, and "
        "paired permutation test over scenes, both corrected by Holm over the rows of a metric; an asterisk marks p "
        "below 0.05. Intervals are 95%, from a paired block bootstrap over scenes."
    )
    if (part.metric == PAIRWISE).any():
        caption += (
            " Clips of different scenes that look alike in CLIP space (the lower, the better) are what guidance away "
            "from a mean is to prevent; their values depend on each other, so they have an interval and no test."
        )
    return Table("comparison", caption, table, shown, list(shown.columns[3:]))


def published(table: pd.DataFrame) -> Table:
    """All published numbers: a row per system, subject and source."""
    wide: dict[tuple, dict] = {}
    for row in table.astype(str).itertuples():
        key = (row.system, row.subject, row.source)
        wide.setdefault(key, {})[row.metric] = row.value
    shown = pd.DataFrame(
        {
            "System": system,
            "Subject": subject,
            **{title: missing(values.get(short)) for short, (_, title) in PUBLISHED.items()},
            "Source": source,
        }
        for (system, subject, source), values in wide.items()
    )
    caption = (
        "Published numbers on CC2017 (Wen et al. 2018), from the papers and, where marked, from later papers' "
        "comparison tables. Definitions of SSIM and the choice of frames differ between papers."
    )
    return Table("published", caption, table, shown, [title for _, title in PUBLISHED.values()])


# ---------------------------------------------------------------------------------------------------- the rest


def experiments(described: list[dict]) -> Table:
    """The experiments, what they differ in, and whether guidance sees the test set."""
    rows = []
    for each in described:
        differs = f"from {each['base']}: {'; '.join(each['differences']) or 'nothing'}" if each["base"] else "complete"
        differs += f"; same clips as {each['shared']}" if each["shared"] else ""
        rows.append(
            {
                "Experiment": each["name"],
                "Differs": differs,
                "Negative condition": each["negative"],
                "Kind": each["kind"],
                "What that means": each["meaning"],
            }
        )
    shown = pd.DataFrame(rows)
    data = shown.rename(columns=lambda title: title.lower().replace(" ", "_"))
    return Table("experiments", "The experiments, and whether guidance sees the test set.", data, shown)


def audit(summary: dict, scenes: pd.DataFrame) -> list[Table]:
    """The leak audit in numbers, and the scenes that span the split."""
    flat = {name: value for name, value in summary.items() if not isinstance(value, dict)}
    flat |= {f"limit_{name}": value for name, value in summary.get("limits", {}).items()}
    data = pd.DataFrame({"fact": list(flat), "value": list(flat.values())})
    whole = data.value.map(lambda value: float(value).is_integer())
    shown = pd.DataFrame(
        {
            "Fact": [name.replace("_", " ") for name in data.fact],
            "Value": [f"{int(v):,}" if w else number(v) for v, w in zip(data.value, whole, strict=True)],
        }
    )
    caption = "Leak audit: every test frame was looked for among all training frames."
    made = [Table("audit", caption, data, shown, ["Value"])]
    if len(scenes):
        shown = pd.DataFrame(
            {
                "Segment": row.segment,
                "Volumes": f"{row.first} to {row.last}",
                "Why": row.why,
                "Where": missing(row.where),
            }
            for row in scenes.itertuples()
        )
        made.append(Table("audit_scenes", "Test scenes that span the split.", scenes, shown))
    return made


def selection(rows: list[dict]) -> Table:
    """Selected voxels of every subject: experiment, subject, counts of the selection and per group of areas."""
    data = pd.DataFrame(rows)
    shown = data.copy()
    for name in shown.columns[2:]:
        shown[name] = [missing(None if pd.isna(v) else f"{int(v):,}") for v in data[name]]
    shown = shown.rename(columns=lambda name: _TITLES.get(name, str(name).replace("_", " ")))
    caption = "Voxel selection: vertices tested, significant, selected, and the selected ones by group of areas."
    return Table("selection", caption, data, shown, list(shown.columns[2:]))


def networks(rows: list[pd.DataFrame]) -> Table:
    """Attention per Yeo-17 network, all stages and layers in the TSV; shown: the last stage and layer, by share.

    `rows` : networks.tsv of every subject with experiment and subject
    """
    data = pd.concat(rows, ignore_index=True)
    parts = []
    for (experiment, subject), part in data.groupby(["experiment", "subject"], sort=False):
        end = part[part.stage == part.stage.iloc[-1]]
        end = end[end.layer == end.layer.max()].nlargest(5, "share")
        parts += [
            {
                "Experiment": experiment,
                "Subject": subject,
                "Network": row.network,
                "Voxels": f"{row.voxels:,}",
                "Share (%)": number(100 * row.share, 1),
                "Of even attention": number(row.relative, 2),
            }
            for row in end.itertuples()
        ]
    caption = "The five Yeo-17 networks with most attention in the last layer at the end of learning."
    shown = pd.DataFrame(parts)
    return Table("attention", caption, data, shown, list(shown.columns[3:]))


def agreement(rows: list[pd.DataFrame]) -> Table:
    """How far attention and integrated gradients agree: agreement.tsv of every subject with experiment and subject."""
    data = pd.concat(rows, ignore_index=True)
    over = list(dict.fromkeys(data.over))
    index = ["experiment", "subject", "stage", "layer"]
    wide = data.pivot(index=index, columns="over", values="spearman").reindex(data[index].drop_duplicates())[over]
    shown = wide.map(lambda value: number(value, 2)).reset_index().astype({"layer": str})
    shown = shown.rename(columns=_TITLES | {"stage": "After", "layer": "Layer"})
    caption = (
        "Rank correlation (Spearman) of the attention that is received with the size of integrated gradients, over "
        "voxels, patches, Yeo-17 networks and Glasser areas. Where it is low, attention does not say what the output "
        "rests on."
    )
    return Table("agreement", caption, data, shown, over)


def cost(data: pd.DataFrame) -> Table:
    """Time and memory of every rule, and in all."""
    parts = [data]
    if len(data):
        sums, peaks = data[["jobs", "wall_s", "cpu_s"]].sum(), data[["longest_s", "memory_mib"]].max()
        whole = {"rule": "in all", **sums, **peaks, "cores": sums.cpu_s / sums.wall_s}
        parts.append(pd.DataFrame([whole]).astype({"jobs": int}))
    shown = pd.DataFrame(
        {
            "Rule": row.rule,
            "Jobs": f"{row.jobs:,}",
            "Time": labels.duration(row.wall_s),
            "Longest job": labels.duration(row.longest_s),
            "CPU time": labels.duration(row.cpu_s),
            "Cores busy": number(row.cores, 1),
            "Peak memory": labels.memory(row.memory_mib),
        }
        for row in pd.concat(parts).itertuples()
    )
    caption = (
        "Cost per rule: time of all its jobs one after another, its longest job, CPU time, how many cores were busy on "
        "average, and the largest job's resident memory. Jobs ran side by side, so the run took less."
    )
    shown = shown if len(shown) else pd.DataFrame(columns=["Rule"])
    return Table("cost", caption, data, shown, list(shown.columns[1:]))


def packages(made: dict) -> Table:
    """Versions of the packages."""
    data = pd.DataFrame({"package": list(made["packages"]), "version": list(made["packages"].values())})
    shown = data.rename(columns=str.capitalize)
    return Table(
        "packages", f"Packages of the run (mindreel {made['mindreel']}, Python {made['python']}).", data, shown
    )
