"""The page from made-up but complete inputs: nothing missing, nothing outside, nothing unescaped."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import made_up
import numpy as np
import pandas as pd
import pytest

from mindreel import artifacts, config
from mindreel.errors import InputError
from mindreel.reporting import figures, gallery, labels, scores
from mindreel.stages import report

ROOT = Path(__file__).parents[3]


class Page(HTMLParser):
    """Collect tags, attributes and text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict]:
        return [a for name, a in self.tags if name == tag and all(a.get(k) == v for k, v in wanted.items())]


def films(page: Page) -> list[dict]:
    """The gallery's films, not those that the page opens with."""
    return [video for video in page.all("video") if video.get("class") != "opener"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict:
    rng, root = np.random.default_rng(3), tmp_path_factory.mktemp("page")
    return made_up.whole(root, rng, experiments=["mind-video"], subjects=["1", "2"], volumes=6, shown=4)


@pytest.fixture(scope="module")
def html(made) -> str:
    return made["page"]["out"].read_text()


@pytest.fixture(scope="module")
def parsed(html) -> Page:
    return Page(html)


@pytest.fixture
def results(made) -> list[scores.Result]:
    return [scores.load(folder, made["page"]["clips"]) for folder in made["page"]["metrics"]]


def test_page_needs_nothing_beside_it(parsed, html):
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "poster", "srcset", "data", "action"):
            address = attributes.get(name) or ""
            kept = ("data:", "#", "../../../docs/diagnosis.md")  # the last is a link to read, not a part of the page
            assert not address or address.startswith(kept), (tag, name, address[:80])
        assert tag not in ("link", "iframe", "object") or attributes.get("href") == "data:,"
    style = re.sub(r"data:[^\"')]*", "", html)
    assert "@import" not in style and not re.search(r"url\((?!data:)", style)
    assert not re.search(r"""(?:fetch|import)\s*\(""", style)


def test_links_within_the_page_lead_somewhere(parsed):
    places = {a["id"] for _, a in parsed.tags if "id" in a}
    assert len(places) == sum("id" in a for _, a in parsed.tags)
    for _, attributes in parsed.tags:
        named = [attributes.get("aria-labelledby")] if "aria-labelledby" in attributes else []
        named += [attributes["href"][1:]] if (attributes.get("href") or "").startswith("#") else []
        assert set(named) <= places


def test_the_page_opens_with_clips_from_best_to_worst(parsed, html, made, results):
    """Six, or all if there are fewer, above everything that is said; the subjects take turns."""
    openers = [video for video in parsed.all("video") if video.get("class") == "opener"]
    assert len(openers) == 6 and all(video["src"].startswith("data:video/mp4;base64,") for video in openers)
    assert html.index('class="opener"') < html.index("<p>") and html.index('class="opener"') < html.index('id="what"')
    assert [video["aria-label"].split(",")[0] for video in openers] == ["Subject 1", "Subject 2"] * 3
    first = gallery.ranks(results[0])[results[0].metrics[0]]
    shown = gallery.opening(
        results, [np.load(path) for path in made["page"]["frames"]], [["a"]] * 99, made["page"]["cfg"]
    )
    assert [film["rank"] for film in shown] == [1, 3, 5, 8, 10, 12] and sorted(first) == list(range(1, 13))


def test_low_scores_lead_to_the_diagnosis(html, root):
    assert 'href="../../../docs/diagnosis.md"' in html and (root / "docs" / "diagnosis.md").exists()


def test_every_clip_of_the_gallery_has_its_film_and_all_conditions(parsed, made):
    videos = films(parsed)
    assert len(videos) == 4
    assert all(video["src"].startswith("data:video/mp4;base64,") for video in videos)
    cards = parsed.all("li", **{"class": "card"})
    shown = {(c["data-experiment"], c["data-subject"], c["data-clip"]) for c in cards}
    assert len(shown) == 4 and {s for _, s, _ in shown} == {"1", "2"}
    for label in ("seen", "from fMRI", "shuffled fMRI", "random training clip", "true captions (ceiling)"):
        assert parsed.text.count(label) >= 2 * 4  # on the film and in the details
    assert parsed.text.count("red fish; random fish") == 4


def test_film_shows_what_was_seen_then_the_reconstruction_then_the_controls(parsed, made, tmp_path):
    import av

    card, video = parsed.all("li", **{"class": "card"})[0], films(parsed)[0]
    (tmp_path / "clip.mp4").write_bytes(base64.b64decode(video["src"].split(",", 1)[1]))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        film = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(float)
    true = np.concatenate([np.load(path) for path in made["page"]["frames"]])
    clip, step = int(card["data-clip"]), 192 + gallery.SEAM
    assert card["data-subject"] == "1" and film.shape[1:3] == (3 * 192 + 2 * gallery.SEAM, 2 * 192 + gallery.SEAM)
    wanted = [true, *(np.load(path) for path in made["page"]["clips"][: len(made_up.CONDITIONS)])]
    for place, array in enumerate(wanted):
        top, left = (1 + step * n for n in divmod(place, 2))
        panel = film[:, top : top + 192 : 3, left : left + 192 : 3][:, :64, :64]
        assert np.abs(panel - array[clip]).mean() < 14, place
    others = [np.abs(film[:, 1:192:3, 1:192:3] - a).mean() for a in true if not np.array_equal(a, true[clip])]
    assert min(others) > 14


def test_panels_stand_two_in_a_row_on_white():
    panels = [np.full((2, 80, 100, 3), shade, np.uint8) for shade in (10, 20, 30)]
    film = gallery.grid(panels)  # enlarged twice
    assert film.shape == (2, 2 * 160 + gallery.SEAM, 2 * 200 + gallery.SEAM, 3)
    assert film[0, 0, 0, 0] == 10 and film[0, 0, -1, 0] == 20 and film[0, -1, 0, 0] == 30
    assert (film[0, -1, -1] == 255).all() and (film[0, 162, 0] == 255).all()


def test_gallery_is_mixed_and_has_best_median_and_worst_by_every_leading_metric(results):
    result = results[0]
    placed = gallery.ranks(result)
    own = result.clips[result.clips.condition == "fmri"].set_index("clip")
    assert placed.mse.idxmin() == own.mse.idxmin()  # errors: less is better
    assert placed.nway_image_2way.idxmin() == own.nway_image_2way.idxmax()
    assert sorted(placed.ssim_rgb_uniform7) == list(range(1, 13))
    clips = gallery.chosen(result, placed, 12)
    assert sorted(clips) == list(range(12))
    clips = gallery.chosen(result, placed, 10)
    assert len(set(clips)) == 10
    for metric in result.metrics[:1]:
        assert {1, 12} <= set(placed[metric].loc[clips])
    assert placed.ssim_rgb_uniform7[clips[0]] == 1 and placed.ssim_rgb_uniform7[clips[2]] == 12


def test_spread_is_from_best_to_worst_and_mixed():
    ranks = gallery.mixed([int(rank) for rank in gallery.spread_ranks(100, 10)])
    assert ranks[0] == 0 and ranks[2] == 99 and sorted(ranks)[0] == 0 and len(set(ranks)) == 10
    assert 30 < ranks[1] < 70
    assert np.diff(sorted(ranks)).max() <= 12
    assert sorted(gallery.spread_ranks(5, 60)) == [0, 1, 2, 3, 4]


def test_scores_and_ranks_of_a_card_are_those_of_the_tables(parsed, results):
    for card in parsed.all("li", **{"class": "card"}):
        result = next(r for r in results if r.subject == card["data-subject"])
        row = result.clips[(result.clips.condition == "fmri") & (result.clips["clip"] == int(card["data-clip"]))].iloc[
            0
        ]
        shown, ranks = json.loads(card["data-scores"]), json.loads(card["data-ranks"])
        assert set(shown) == {*result.metrics, "mse"} == set(ranks)
        assert all(shown[m] == pytest.approx(row[m], abs=1e-5) for m in shown)
        assert all(1 <= rank <= int(card["data-of"]) == 12 for rank in ranks.values())


def test_captions_are_escaped(html, parsed):
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 1 or "alert" not in html
    assert len(parsed.all("script")) == 1


def test_captions_begin_with_that_of_the_middle_frame(tmp_path):
    rows = [(t, f, f"volume {t} frame {f // 2}") for t in (1, 0) for f in range(6)]
    artifacts.save_table(tmp_path / "c.tsv", pd.DataFrame(rows, columns=["volume", "frame", "caption"]))
    told = scores.captions(tmp_path / "c.tsv")
    assert told == [[f"volume {t} frame {f}" for f in (1, 0, 2)] for t in (0, 1)]


def test_every_picture_and_film_has_words(parsed):
    assert all(len(image["alt"]) > 20 for image in parsed.all("img"))
    assert all(len(video["aria-label"]) > 20 for video in parsed.all("video"))
    assert len(parsed.all("img")) == 3 + 1 + 3 + 2 * 2 + 2 * 2  # ours, the sample sheet, roi, attention, bold


def test_every_table_has_a_caption_heads_and_files(parsed, made):
    names = [t["name"] for t in artifacts.load_json(made["tables"]["out"] / "index.json")["tables"]]
    shown = [a["id"].removeprefix("table-") for a in parsed.all("table") if "id" in a]
    assert sorted(shown) == sorted(names) and len(names) >= 12
    links = {a["download"]: a["href"] for a in parsed.all("a") if "download" in a}
    for name in names:
        for kind in ("tsv", "tex"):
            text = base64.b64decode(links[f"{name}.{kind}"].split(",", 1)[1]).decode()
            assert text == (made["tables"]["out"] / f"{name}.{kind}").read_text()
    assert all(a.get("scope") in ("row", "col", "rowgroup") for a in parsed.all("th"))
    assert all("aria-labelledby" in a or "aria-label" in a for a in parsed.all("table"))


def test_every_subjects_own_pictures_are_shown(parsed):
    alts = [image["alt"] for image in parsed.all("img")]
    for subject in (1, 2):
        assert {f"picture tsnr of bold/sub-{subject}", f"picture areas of mind-video/sub-{subject}"} <= set(alts)
    assert [alt for alt in alts if alt.endswith("mind-video/sub-1")][:3] == [
        f"picture {name} of mind-video/sub-1" for name in ("r", "t", "selected")
    ]
    assert parsed.text.count("words of sub-2") == 2


def test_scores_stand_beside_controls_chance_and_interval(parsed, made):
    text = re.sub(r"\s+", " ", parsed.text)
    summary = pd.read_csv(made["page"]["metrics"][0] / "summary.tsv", sep="\t").set_index(["metric", "condition"])
    for condition in made_up.CONDITIONS:
        assert labels.number(float(summary.loc[("ssim_rgb_uniform7", condition), "value"])) in text
    assert "0.750" in text and "< 0.001" in text and "simulated world" in text
    assert "1 of 80 test clips" in text and "7,200 training clips" in text and "seg2, volume 4" in text
    assert "4 min 7 s" in text and "931 MiB" in text


def test_page_says_which_experiments_use_test_data():
    settings = config.load(ROOT / "config.yaml", ROOT / "config/demo.yaml")
    kinds = {name: labels.describe(settings, name) for name in settings.experiments}
    assert kinds["mind-video"]["uses_test"] and kinds["mind-video"]["kind"] == "transductive"
    assert not kinds["mind-video-inductive"]["uses_test"] and kinds["mind-video-inductive"]["kind"] == "inductive"
    assert "sampling.negative: test-mean → train-mean" in kinds["mind-video-inductive"]["differences"]
    assert not any("sampling.controls" in told for kind in kinds.values() for told in kind["differences"])


def test_clips_of_another_shape_are_an_error(made, tmp_path):
    array = np.load(made["page"]["clips"][0])[:-1]
    wrong = tmp_path / "sampling/mind-video/sub-1/fmri.npy"
    artifacts.save_array(wrong, array)
    clips = [*made["page"]["clips"], wrong]
    with pytest.raises(InputError, match=r"fmri.npy: found shape \(11, 6, 64, 64, 3\), expected \(12, 6, 64, 64, 3\)"):
        report.page(**made["page"] | {"clips": clips, "out": tmp_path / "x.html"})


def test_page_does_without_what_there_is_not(made, tmp_path):
    """One experiment has nothing to be compared with; no training, brain map or benchmark need be there."""
    empty = tmp_path / "comparison.tsv"
    empty.write_text(made["tables"]["comparison"].read_text().splitlines()[0] + "\n")
    nothing = {"attention": [], "logs": tmp_path, "comparison": empty, "audit": made_up.audit(tmp_path / "audit", [])}
    report.tables(**made["tables"] | nothing | {"out": tmp_path / "tables"})
    report.draw(**made["draw"] | {"histories": [], "out": tmp_path / "figures"})
    lean = {"tables": tmp_path / "tables", "drawn": tmp_path / "figures", "pictures": [], "generators": []}
    cfg = made["page"]["cfg"].model_copy(update={"clips": 1})
    report.page(**made["page"] | lean | {"out": tmp_path / "x.html", "cfg": cfg})
    page = Page((tmp_path / "x.html").read_text())
    places = {a["id"] for _, a in page.tags if "id" in a}
    assert not {"ablations", "brain", "quality", "table-audit_scenes", "table-agreement"} & places
    assert {"scores", "gallery", "audit", "table-audit", "table-cost"} <= places and len(films(page)) == 2
    assert all(a["href"][1:] in places for a in page.all("a") if a.get("href", "").startswith("#"))


def test_provenance_is_whole(made):
    found = artifacts.load_json(made["page"]["provenance"])
    assert found["packages"]["numpy"] == np.__version__
    assert config.Config.model_validate(found["config"]).dataset == "demo"
    assert found["hardware"]["cores"] >= 1 and len(found["config_hash"]) == 12


def test_retrieval_is_drawn_where_it_was_logged(made):
    tables = {figures.training_title(path): artifacts.load_table(path) for path in made["draw"]["histories"]}
    assert list(tables) == ["contrastive, mind-video, sub-1", "mbm, mind-video, hcp"]
    drawn, alt = figures.retrieval(tables)
    assert len([a for a in drawn.axes if a.lines]) == 1 and "image, first 49%, image, among 5 82%" in alt
    assert figures.retrieval({"mbm": tables["mbm, mind-video, hcp"]}) is None
    drawn, _ = figures.training(tables)
    assert [a.get_ylabel() for a in drawn.axes[:2]] == ["loss", "loss"]
    assert figures.training({"none": tables["mbm, mind-video, hcp"].iloc[:0]}) is None
    smooth = figures.smooth(np.r_[np.zeros(100), np.ones(100)])
    assert smooth[0] == 0 and smooth[-1] == 1 and 0.4 < smooth[100] < 0.6 and (np.diff(smooth) >= 0).all()
