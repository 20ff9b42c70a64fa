"""The report's tables: what stands in them, as numbers, for people and as LaTeX."""

from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest

from mindreel import artifacts
from mindreel.reporting import labels, latex, scores, tables
from mindreel.reporting.labels import metric_title

ROOT = Path(__file__).parents[3]
METRICS = {"ssim_rgb_uniform7": 0.3, "nway_image_2way": 0.8, "nway_top1_image_2way": 0.6, "mse": 0.1, "psnr": 9.0}
METRICS |= {"nway_image_2way_sampled": 0.8}
COLUMNS = ["value", "ci_low", "ci_high", "chance", "difference", "difference_ci_low", "difference_ci_high", "p"]


def result(subject="1", add=0.0, **changed):
    rows = [
        {"metric": m, "condition": c, **dict.fromkeys(COLUMNS, v + add)} | changed.get(c, {})
        for m, v in METRICS.items()
        for c in ("fmri", "shuffled", "text")
    ]
    return scores.Result("mind-video", subject, pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame(), {})


@pytest.fixture(scope="module")
def published():
    return artifacts.load_table(ROOT / "resources/published.tsv")


def test_only_the_papers_metrics_lead():
    one = result()
    assert one.metrics == ["ssim_rgb_uniform7", "nway_image_2way"]
    assert one.all_metrics == ["ssim_rgb_uniform7", "nway_image_2way", "nway_top1_image_2way", "mse", "psnr"]
    made = {t.name: t for t in tables.scores([one])}
    assert list(made) == ["scores", "scores_more", "scores_sampled", "advantages"]
    assert list(made["scores_more"].shown.Metric) == ["image 2-way, one true class", "mean squared error", "PSNR (dB)"]
    assert list(made["scores_sampled"].data.metric.unique()) == ["nway_image_2way_sampled"]
    assert tables.verdict([one]) == {"won": 2, "of": 2, "control": "shuffled fMRI"}  # more metrics are no more wins
    assert tables.verdict([result(shuffled={"difference_ci_low": -0.1})])["won"] == 0


def test_a_control_gets_its_mark_only_if_clearly_beaten():
    (table, *_) = tables.scores([result(text={"difference_ci_low": -0.1})])
    row = table.shown.iloc[0]
    assert row["shuffled fMRI"] == "0.300*" and row["true captions (ceiling)"] == "0.300"
    assert list(row.index) == [
        "Metric", "Experiment", "Subject", "From fMRI", "95% interval", "Chance", "shuffled fMRI",
        "true captions (ceiling)",
    ]  # fmt: skip
    advantages = tables.scores([result(text={"difference_ci_low": -0.1, "difference": -0.2})])[-1].shown
    assert list(advantages.Control.unique()) == ["shuffled fMRI", "true captions (ceiling)"]
    assert list(advantages[advantages.Control == "true captions (ceiling)"].Advantage) == ["−0.200", "−0.200"]
    assert advantages.Advantage[0] == "+0.300*"


def test_headline_has_the_mean_of_subjects_controls_chance_and_published_methods(published):
    table = tables.headline([result(), result("2", add=0.1)], published, simulated=False)
    data = table.data.set_index("system")
    assert list(dict.fromkeys(table.groups)) == [
        "Reconstructed from fMRI", "Controls of mind-video", "Chance", "Published on CC2017 (Wen et al. 2018)"
    ]  # fmt: skip
    assert data.loc["mind-video", "ssim"] == pytest.approx(0.35) and data.loc["mind-video", "subjects"] == "mean of 2"
    assert np.isnan(data.loc["mind-video", "video_2way"]) and data.loc["shuffled fMRI", "psnr"] == pytest.approx(9.05)
    assert data.loc["MinD-Video", "ssim"] == pytest.approx((0.171 + 0.171 + 0.187) / 3)
    assert data.loc["NeuroCine"][["subjects", "ssim", "image_50way"]].tolist() == ["1", 0.225, 0.186]
    assert data.loc["NEURONS 2025", "video_50way"] == "0.246 to 0.262"
    assert (data.source.astype(str) != "").all() and len(data.loc[["MinD-Video"]]) == 1
    assert not data.index.str.contains("ablation|without|released").any()
    other = tables.headline([result()], published, simulated=True)
    assert "not comparable" in other.groups[-1] and other.data.subjects[0] == "1"


def test_every_metric_has_a_title():
    names = [*labels.TITLES, "nway_image_50way_top5", "nway_top1_video_2way", "ssim_rgb_uniform7"]
    titles = [metric_title(name) for name in names]
    assert len(set(titles)) == len(names) and not any("_" in title for title in titles)
    assert metric_title("nway_top1_video_2way") == "video 2-way, one true class"
    assert metric_title("nway_image_50way_top5") == "image 50-way, top 5"
    assert metric_title("nway_image_50way_top5_sampled") == "image 50-way, top 5, sampled"
    assert metric_title("ssim_rgb_uniform7") == "SSIM (RGB, uniform7)"


def test_numbers_for_people():
    assert [labels.number(v) for v in (0.12345, -0.5, 12345.6, np.nan, None, "0.1 to 0.2")] == [
        "0.123", "−0.500", "12,346", "–", "–", "0.1 to 0.2"
    ]  # fmt: skip
    assert [labels.signed(v) for v in (0.1, -0.1, np.nan)] == ["+0.100", "−0.100", "–"]
    assert [labels.duration(v) for v in (4.12, 247.2, 7500, np.nan)] == ["4.1 s", "4 min 7 s", "2 h 5 min", "–"]
    assert [labels.memory(v) for v in (310.2, 2048, np.nan)] == ["310 MiB", "2.0 GiB", "–"]
    assert [labels.p_text(v) for v in (0.0004, 0.06, np.nan)] == ["< 0.001", "0.060", "–"]
    assert labels.condition_label("another_one") == "another one"


def test_comparison_shows_corrected_p_of_the_leading_metrics_and_distinctness():
    names = {"experiment": "window-1", "subject": 1, "against": "mind-video", "value": 0.2, "reference": 0.3}
    tested = {"difference": -0.1, "difference_ci_low": -0.2, "difference_ci_high": 0.01, "t": -2.0}
    tested |= {"p_t": 0.01, "p_paired": 0.0001, "p_t_holm": 0.06, "p_paired_holm": 0.0004}
    metrics = ["clip_cosine_pairwise", "ssim_rgb_uniform7", "nway_video_2way_sampled", "psnr"]
    table = pd.DataFrame([{"metric": m, **names, **tested} for m in metrics])
    table.loc[0, ["p_t_holm", "p_paired_holm"]] = np.nan
    made = tables.comparison(table)
    alike, row = made.shown.to_dict("records")
    assert row["Metric"] == "SSIM (RGB, uniform7)" and row["Advantage"] == "−0.100"
    assert (row["p, t-test"], row["p, permutation"]) == ("0.060", "< 0.001*")
    assert alike["Metric"].startswith("likeness of clips") and alike["p, permutation"] == "–"
    assert alike["95% interval"] == "−0.200 to 0.010" and "no test" in made.caption
    assert len(made.data) == 4 and "against mind-video" in made.caption
    assert tables.comparison(table.iloc[2:]) is None and "no test" not in tables.comparison(table.iloc[1:]).caption


def test_agreement_has_a_row_per_stage_and_layer():
    rows = pd.DataFrame(
        [("cotrain", n, over, 10, -n / 10) for n in (1, 24) for over in ("voxels", "areas")],
        columns=["stage", "layer", "over", "number", "spearman"],
    ).assign(experiment="mind-video", subject="1")
    made = tables.agreement([rows, rows.assign(subject="2")])
    assert list(made.shown.columns) == ["Experiment", "Subject", "After", "Layer", "voxels", "areas"]
    assert made.shown.iloc[1].tolist() == ["mind-video", "1", "cotrain", "24", "−2.40", "−2.40"]
    assert len(made.shown) == 4 and len(made.data) == 8


def test_audit_has_a_table_of_scenes_only_if_any_span_the_split(tmp_path):
    def made(spanning):
        folder = made_up.audit(tmp_path, spanning)
        return tables.audit(artifacts.load_json(folder / "summary.json"), artifacts.load_table(folder / "scenes.tsv"))

    facts, scenes = made([("test1", 3, 5, 7, "same picture", "seg2, volume 4", 0.0)])
    assert scenes.shown.iloc[0].tolist() == ["test1", "5 to 7", "same picture", "seg2, volume 4"]
    assert dict(facts.shown.to_numpy())["train clips"] == "7,200" and dict(facts.shown.to_numpy())["limit clip limit"]
    assert len(made([])) == 1


def test_latex_escapes_and_groups():
    shown = pd.DataFrame({"Name": ["a_b & 50%", "a_b & 50%", "μ → {x}"], "Value": ["−0.1*", "–", "< 0.001"]})
    plain = latex.Table("some", "Of #1 ~ here^there \\ now.", shown, shown, ["Value"])
    text = latex.latex(plain)
    assert text.isascii() and text.count("{") == text.count("}")
    for part in (r"\toprule", r"\bottomrule", r"a\_b \& 50\% & $-$0.1$^{*}$ \\", r"$\mu$ $\to$ \{x\} & $<$ 0.001 \\"):
        assert part in text
    assert "\n & -- \\\\\n\\addlinespace" in text and r"\begin{tabular}{lr}" in text and "resizebox" not in text
    assert r"Of \#1 \textasciitilde{} here\textasciicircum{}there \textbackslash{} now." in text
    grouped = latex.latex(latex.Table("some", "", shown, shown, [], ["one", "two & a half", "two & a half"]))
    body = grouped.splitlines()
    first, second = (body.index(rf"\multicolumn{{2}}{{l}}{{\emph{{{g}}}}} \\") for g in ("one", r"two \& a half"))
    assert body[second - 1] == r"\midrule" and second - first == 3 and grouped.count(r"a\_b") == 2
    wide = pd.DataFrame({str(i): ["x"] for i in range(9)})
    assert r"\resizebox{\linewidth}{!}{%" in latex.latex(latex.Table("wide", "", wide, wide))


def test_tables_are_kept_as_they_were_told(tmp_path):
    data, shown = pd.DataFrame({"x": [1.23456789], "y": [np.nan]}), pd.DataFrame({"X": ["1.235"], "Y": ["–"]})
    latex.save([latex.Table("one", "Words.", data, shown, ["X"])], tmp_path / "tables")
    found = latex.load(tmp_path / "tables")["one"]
    assert found["tsv"] == "x\ty\n1.23457\t\n" and found["tex"].startswith(r"\begin{table}")
    assert found["columns"] == [{"title": "X", "right": True}, {"title": "Y", "right": False}]
    assert found["rows"] == [["1.235", "–"]] and found["caption"] == "Words."


def test_published_numbers_each_have_a_source(published):
    table = pd.read_csv(ROOT / "resources/published.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert list(table.columns) == ["kind", "system", "subject", "metric", "value", "source"]
    assert (table.map(str.strip) != "").all(axis=None)
    assert set(table.metric) <= set(tables.PUBLISHED) and set(table.kind) == {"method", "ablation", "part"}
    assert not table.duplicated(["system", "subject", "metric", "source"]).any()
    numbers = table.value.str.split(" to ").explode().astype(float)
    assert ((numbers > 0) & (numbers < 1) | table.metric.loc[numbers.index].eq("psnr")).all()
    full = table[(table.system == "MinD-Video") & (table.subject == "3")].set_index("metric").value
    assert full.to_dict() == {
        "ssim": "0.187", "image_2way": "0.812", "image_50way": "0.193", "video_2way": "0.846", "video_50way": "0.216"
    }  # fmt: skip
    shown = tables.published(published).shown.set_index(["System", "Subject"])
    assert shown.loc[("MinD-Video", "3"), "video 50-way"] == "0.216" and (shown.Source != "–").all()
