"""Everything to one page that needs nothing beside it, its tables and figures, and the record of how it was made."""

from pathlib import Path

import numpy as np
import yaml

from mindreel.artifacts import atomic, load_array, load_json, load_table, save_json
from mindreel.config import Config
from mindreel.controls import CONDITIONS, MODEL
from mindreel.plan import provenance as record
from mindreel.reporting import costs, figures, gallery, latex, scores, style
from mindreel.reporting import tables as tabulated
from mindreel.reporting.labels import condition_label, describe, leads, metric_title, number
from mindreel.reporting.scores import in_order, names_of
from mindreel.sections import Report


def provenance(*, config: Path, out: Path) -> None:
    """Write what the run was made with: configuration, code, packages, machine (JSON).

    Parameters
    ----------
    config : Path
        The resolved configuration, JSON.
    out : Path
        JSON.
    """
    save_json(out, record.collect(load_json(config)))


def tables(
    *,
    experiments: list[str],
    subjects: list[str],
    metrics: list[Path],
    selections: list[Path],
    attention: list[Path],
    comparison: Path,
    audit: Path,
    published: Path,
    provenance: Path,
    logs: Path,
    benchmarks: list[str],
    out: Path,
) -> None:
    """Write every table of the report as TSV and as LaTeX (booktabs).

    Parameters
    ----------
    experiments : list of str
        Names, in the order they are shown.
    subjects : list of str
        Names, in the order they are shown.
    metrics : list of Path
        Folders …/metrics/{owner}/sub-{subject}.
    selections : list of Path
        Folders …/roi/{owner}/sub-{subject}.
    attention : list of Path
        Folders …/attention/{owner}/sub-{subject}.
    comparison : Path
        Table of `metrics compare`: experiments against the first.
    audit : Path
        Folder of `audit leaks`.
    published : Path
        Published numbers: kind (method, ablation, part of the data), system, subject, metric, value, source.
    provenance : Path
        JSON written by `report provenance`.
    logs : Path
        Folder of the benchmark files.
    benchmarks : list of str
        RULE=REGEX, the paths of every rule's benchmark files.
    out : Path
        Folder: NAME.tsv and NAME.tex of every table, index.json.
    """
    made = load_json(provenance)
    config = Config.model_validate(made["config"])
    scored = [scores.load(folder) for folder in in_order(metrics, experiments, subjects)]
    known = load_table(published)
    tables = [tabulated.experiments([describe(config, name) for name in experiments])]
    tables.append(tabulated.headline(scored, known, config.simulate is not None))
    tables += tabulated.scores(scored)
    compared = tabulated.comparison(load_table(comparison))
    tables += [compared] if compared is not None else []
    tables += tabulated.audit(load_json(audit / "summary.json"), load_table(audit / "scenes.tsv"))
    tables.append(tabulated.selection([figures.selection_counts(folder, *names_of(folder)) for folder in selections]))
    for name, table in (("networks", tabulated.networks), ("agreement", tabulated.agreement)):
        rows = [load_table(f / f"{name}.tsv").assign(**_who(f)) for f in attention if (f / f"{name}.tsv").exists()]
        tables += [table(rows)] if rows else []
    tables.append(tabulated.published(known))
    tables.append(tabulated.cost(costs.of_rules(logs, benchmarks)))
    tables.append(tabulated.packages(made))
    latex.save([table for table in tables if table is not None], out)


def _who(folder: Path) -> dict[str, str]:
    return dict(zip(("experiment", "subject"), names_of(folder), strict=True))


def draw(*, experiments: list[str], subjects: list[str], metrics: list[Path], histories: list[Path], out: Path) -> None:
    """Draw the figures of scores and trainings (PNG, 300 dpi, and SVG).

    Parameters
    ----------
    experiments : list of str
        Names, in the order they are shown.
    subjects : list of str
        Names, in the order they are shown.
    metrics : list of Path
        Folders …/metrics/{owner}/sub-{subject}.
    histories : list of Path
        history.tsv of every training.
    out : Path
        Folder: scores, training and, if there is any, retrieval (.png, .svg), index.json.
    """
    found = [scores.load(folder) for folder in in_order(metrics, experiments, subjects)]
    curves = {figures.training_title(path): load_table(path) for path in histories}
    drawn = {"scores": figures.scores(found), "training": figures.training(curves)}
    drawn["retrieval"] = figures.retrieval(curves)
    style.save_folder(out, {name: made for name, made in drawn.items() if made is not None})


def page(
    *,
    results: Path,
    experiments: list[str],
    subjects: list[str],
    metrics: list[Path],
    clips: list[Path],
    frames: list[Path],
    captions: list[Path],
    generators: list[Path],
    pictures: list[Path],
    provenance: Path,
    drawn: Path,
    tables: Path,
    out: Path,
    cfg: Report,
) -> None:
    """Write the report: one HTML file with every figure, table and clip inside.

    Parameters
    ----------
    results : Path
        Folder of the data set's results, results/{dataset}.
    experiments : list of str
        Names, in the order they are shown.
    subjects : list of str
        Names, in the order they are shown.
    metrics : list of Path
        Folders …/metrics/{owner}/sub-{subject}.
    clips : list of Path
        …/sampling/{owner}/sub-{subject}/{condition}.npy, (N, F, H, W, 3) uint8.
    frames : list of Path
        Of the test segments, in the order of the clips: (T, F, H, W, 3) uint8; volume, frame, caption.
    captions : list of Path
        Of the test segments, in the order of the clips: (T, F, H, W, 3) uint8; volume, frame, caption.
    generators : list of Path
        Folders of stage generator.
    pictures : list of Path
        Folders …/pictures/{stage}/…, of the stages roi, attention and bold.
    provenance : Path
        JSON written by `report provenance`.
    drawn : Path
        Folder of `report draw`.
    tables : Path
        Folder of `report tables`.
    out : Path
        HTML.
    cfg : Report
        Section report of the configuration.

    Raises
    ------
    InputError
        If clips, frames, captions and metrics do not belong together.
    """
    made = load_json(provenance)
    config = Config.model_validate(made["config"])
    true = [load_array(path) for path in frames]
    clip_captions = [clip for path in captions for clip in scores.captions(path)]
    scored = [scores.load(folder, clips, config) for folder in in_order(metrics, experiments, subjects)]
    scores.check(scored, true, clip_captions)
    known = latex.load(tables)
    audit = tables / "audit.tsv"
    content = {
        "dataset": results.name,
        "diagnosis": "../../../docs/diagnosis.md",  # of the repository in which the page was made
        "simulated": config.simulate is not None,
        "made": made,
        "config_text": yaml.safe_dump(made["config"], sort_keys=False, allow_unicode=True),
        "facts": facts(config, scored, subjects, true),
        "tables": known,
        "verdict": tabulated.verdict(scored),
        "conditions": conditions(scored),
        "own": {f["name"]: f for f in figures.pictures(drawn)["figures"]},
        "audit": dict(load_table(audit).itertuples(index=False)) if audit.exists() else None,
        "opening": gallery.opening(scored, true, clip_captions, cfg),
        "cards": gallery.cards(scored, true, clip_captions, cfg, config.data.tr_s),
        "metrics": {m: metric_title(m) for m in scored[0].metrics},
        "more_metrics": {m: metric_title(m) for m in scored[0].all_metrics if not leads(m)},
        "subjects": list(dict.fromkeys(r.subject for r in scored)),
        "shown": list(dict.fromkeys(r.experiment for r in scored)),
        "brain": {stage: figures.of_stage(pictures, stage) for stage in ("roi", "attention", "bold")},
        "sheets": figures.samples(generators),
    }
    html = _template().render(content)
    with atomic(out) as path:
        path.write_text(html, encoding="utf-8")


def _template():
    import jinja2

    loader = jinja2.PackageLoader("mindreel.reporting", "page")
    strict = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    strict.lstrip_blocks = True
    strict.filters |= {"number": number, "address": gallery.text_uri}
    return strict.get_template("index.html.j2")


def facts(config: Config, scored: list[scores.Result], subjects: list[str], true: list[np.ndarray]) -> dict:
    """The numbers of the opening paragraph."""
    clips, frames, height, width, _ = scored[0].arrays[MODEL].shape
    return {
        "subjects": len(subjects),
        "experiments": len({r.experiment for r in scored}),
        "segments": len(true),
        "clips": clips,
        "frames": frames,
        "side": f"{width} × {height}",
        "seconds": config.data.tr_s,
        "scenes": int(scored[0].clips.loc[scored[0].clips.condition == MODEL, "scene"].nunique()),
    }


def conditions(scored: list[scores.Result]) -> list[dict]:
    """Every condition that was scored, in words."""
    names = dict.fromkeys(name for result in scored for name in result.conditions)
    return [
        {"label": condition_label(name), "meaning": CONDITIONS[name].meaning if name in CONDITIONS else ""}
        for name in names
    ]
