"""The report in a real browser: it is quiet, fits a phone, plays, sorts, and can be used without a mouse."""

from itertools import pairwise

import chromium
import made_up
import numpy as np
import page_checks
import pytest

COMMAND = chromium.find()
pytestmark = page_checks.needs_browser

SHOWN = "[...document.querySelectorAll('.card')].filter(card => !card.hidden)"
CHOOSE = """(id, value) => {
  const box = document.getElementById(id);
  box.value = value;
  box.dispatchEvent(new Event("change"));
}"""
STOPS = """
[...document.querySelectorAll("a, button, select, summary, .scroll[tabindex]")].filter(e => e.checkVisibility())
  .map((e, i) => e.dataset.stop = i)
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rng, root = np.random.default_rng(3), tmp_path_factory.mktemp("page")
    sizes = {"experiments": ["mind-video", "no-adversarial-guidance"], "subjects": ["1"], "volumes": 4, "shown": 16}
    return made_up.whole(root, rng, **sizes)["page"]["out"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = chromium.Browser(COMMAND, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def choose(browser, **values):
    for name, value in values.items():
        browser.run(f"({CHOOSE})({name!r}, {value!r})")


@page_checks.widths
def test_page_is_quiet_fits_and_can_be_read(browser, page, width):
    page_checks.check(browser, page, width, "made_up")


def test_films_play_and_pause(browser, page):
    browser.open(page, 1440)
    browser.wait("[...document.querySelectorAll('.opener')].every(v => !v.paused && v.currentTime > 0)")
    first = "document.querySelector('.card video')"
    browser.run(f"{first}.scrollIntoView({{block: 'center'}})")
    browser.wait(f"!{first}.paused && {first}.currentTime > 0.1")
    assert browser.run(f"{first}.videoWidth") == 2 * 192 + 4
    assert browser.run("[...document.querySelectorAll('video')].filter(v => v.error).length") == 0
    button = "document.querySelector('.card .play')"
    assert browser.run(f"{button}.getAttribute('aria-label')").startswith("Pause clip ")
    browser.run(f"{button}.click()")
    browser.wait(f"{first}.paused && {button}.textContent === 'Play'")
    browser.run(f"{button}.click()")
    browser.wait(f"!{first}.paused")
    browser.run("document.getElementById('play').click()")
    browser.wait("[...document.querySelectorAll('video')].every(v => v.paused)")
    assert browser.run("document.getElementById('play').textContent") == "Play all"
    assert browser.problems == []


def test_nothing_moves_where_motion_is_not_wanted(browser, page):
    browser.open(page, 1440, reduced_motion=True)
    browser.run("document.querySelector('.card video').scrollIntoView()")
    browser.run("new Promise(done => setTimeout(done, 400))")
    assert browser.run("[...document.querySelectorAll('video')].every(v => v.paused && v.currentTime === 0)")
    assert browser.run("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    browser.run("document.querySelector('.card .play').click()")  # who asks for it gets it
    browser.wait("!document.querySelector('.card video').paused")


@pytest.mark.parametrize("metric", ["ssim_rgb_uniform7", "nway_video_50way", "mse"])
def test_clips_are_sorted_by_any_metric(browser, page, metric):
    browser.open(page, 1440)
    choose(browser, metric=metric, order="best")
    ranks = f"{SHOWN}.map(card => JSON.parse(card.dataset.ranks)['{metric}'])"
    scores = f"{SHOWN}.map(card => JSON.parse(card.dataset.scores)['{metric}'])"
    best = browser.run(ranks)
    assert best == sorted(best) and best[0] == 1
    one = browser.run(
        f"{SHOWN}.filter(card => card.dataset.experiment === 'mind-video')[0].querySelector('.rank').textContent"
    )
    assert f"{browser.run(scores)[0]:.3f}" in one or "rank 1 of 8" in one
    choose(browser, experiment="mind-video")
    values = browser.run(scores)
    assert values == sorted(values, reverse=metric != "mse")
    choose(browser, order="worst")
    assert browser.run(scores) == sorted(values, reverse=metric == "mse")
    choose(browser, order="median")
    away = [abs(rank - 4.5) for rank in browser.run(ranks)]
    assert away == sorted(away) and away[0] == 0.5
    choose(browser, order="movie")
    clips = browser.run(f"{SHOWN}.map(card => +card.dataset.clip)")
    assert clips == sorted(clips) and browser.problems == []


def test_gallery_begins_with_twelve_and_shows_all_on_demand(browser, page):
    browser.open(page, 1440)
    assert browser.run(f"{SHOWN}.length") == 12
    assert browser.run("document.getElementById('count').textContent") == "12 of 16 clips"
    browser.run("document.getElementById('more').click()")
    assert browser.run(f"{SHOWN}.length") == 16
    assert browser.run("document.activeElement.className") == "play"  # of the first clip that was hidden
    choose(browser, experiment="no-adversarial-guidance")
    assert browser.run("document.getElementById('count').textContent") == "8 clips"


def test_details_show_every_control(browser, page):
    browser.open(page, 1440)
    film = "document.querySelector('.card .film')"
    low = browser.run(f"{film}.offsetHeight / {film}.offsetWidth")
    browser.run("document.querySelector('.card details').open = true")
    high = browser.run(f"{film}.querySelector('video').offsetHeight / {film}.offsetWidth")
    assert low == pytest.approx(0.5, abs=0.02) and high == pytest.approx(1.5, abs=0.03)
    assert browser.run(f"{film}.offsetHeight >= {film}.querySelector('video').offsetHeight")
    rows = browser.run(
        "[...document.querySelector('.card table').querySelectorAll('tbody th')].map(e => e.textContent)"
    )
    assert rows == ["seen", "from fMRI", "shuffled fMRI", "random training clip", "true captions (ceiling)"]


def test_every_control_is_reached_by_keyboard_and_seen_to_be(browser, page):
    browser.open(page, page_checks.PHONE)
    browser.run("document.body.focus()")
    wanted = {str(stop) for stop in browser.run(STOPS)}
    seen, dull = set(), []
    for _ in range(len(wanted) + 5):
        browser.press("Tab", 9)
        stop, outline = browser.run(
            "[document.activeElement.dataset.stop, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if stop is not None:
            seen.add(stop)
            dull += [stop] if outline == "none" else []
    assert seen == wanted and dull == []
    assert any(browser.run("[...document.querySelectorAll('.scroll')].map(e => e.tabIndex === 0)"))  # wide tables too


def test_page_can_be_read_aloud(browser, page):
    browser.open(page, 1440)
    assert browser.run("document.documentElement.lang") == "en" and browser.run("document.title")
    for landmark in ("header", "nav", "main", "footer"):
        assert browser.run(f"document.querySelectorAll('{landmark}').length") == 1
    levels = browser.run("[...document.querySelectorAll('h1, h2, h3')].map(e => +e.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert browser.run("[...document.images].every(image => image.alt.length > 20)")
    heads = browser.run("[...document.querySelectorAll('table')].filter(t => !t.querySelector('th[scope]')).length")
    assert heads == 0
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n["ignored"]}
    assert any(role == "table" and name.startswith("Scores beside controls") for role, name in named)
    roles = {role for role, _ in named}
    assert {"main", "navigation", "table", "columnheader", "rowheader", "combobox", "button"} <= roles
