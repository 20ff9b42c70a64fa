"""What the documentation says is there, is there."""

import importlib.util
import re

import pytest

PAGES = ("README.md", "CONTRIBUTING.md", "results/README.md", "resources/zoo/README.md", "benchmarks/README.md")


def pages(root):
    return [*(root / name for name in PAGES), *sorted((root / "docs").glob("*.md"))]


def anchors(text):
    """The anchors that a page's headings have on a forge."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(root):
    for page in pages(root):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if link.startswith("http"):
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {link} does not exist"
            assert not anchor or anchor in anchors(target.read_text()), f"{page.name}: {link} has no such heading"


def test_files_named_in_words_exist(root):
    """Source files, written as code."""
    name = re.compile(
        r"`((?:src|tests|workflow|docs|config|envs|benchmarks)/[\w./-]+\.(?:py|smk|md|yaml|tsv|png|svg))`"
    )
    for page in pages(root):
        for path in name.findall(page.read_text()):
            assert (root / path).exists() or "NAME" in path, f"{page.name}: {path} does not exist"


@pytest.fixture(scope="module")
def pipeline(root):
    spec = importlib.util.spec_from_file_location("pipeline", root / "docs" / "pipeline.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pipeline_is_drawn_from_the_plan(root, pipeline):
    drawn = pipeline.svg(pipeline.reduced(pipeline.stages(pipeline.rule_graph())))
    assert (root / "docs" / "pipeline.svg").read_text() == drawn, "run python docs/pipeline.py"


def test_every_stage_has_its_heading(root, pipeline):
    headings = set(re.findall(r"^## (\w+)$", (root / "docs" / "stages.md").read_text(), re.M))
    rules = {path.stem for path in (root / "workflow" / "rules").glob("*.smk")} - {"common"}
    assert rules == headings
    assert set(pipeline.NOTES) == rules - {"fetch"}  # nothing is fetched in the demo
