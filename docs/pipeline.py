"""Draw the pipeline, docs/pipeline.svg: the stages of the demo's plan and what each is made from.

    python docs/pipeline.py

Snakemake prints the plan's graph of rules. Rules of one file are one stage; an arrow that other arrows already imply is
left out. Stages stand in columns, as far to the right as their longest way from the data.
"""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 110, 54, 92, 38, 8  # pixels
COLOURS = {  # what a stage works on -> its box's fill
    "#e3eefa": ("simulate", "fetch", "stimuli", "captions", "targets"),
    "#e6f4ea": ("bold", "roi", "hcp"),
    "#fdebd9": ("mbm", "contrastive", "generator", "cotrain", "sampling"),
    "#f1e7f7": ("features", "metrics", "audit", "attention", "pictures", "report"),
}
NOTES = {  # in a word or three, below the stage's name
    "simulate": "or your data", "stimuli": "movie to frames", "captions": "frames to words", "targets": "CLIP, latents",
    "bold": "scans to cortex", "roi": "stable voxels", "hcp": "HCP runs", "mbm": "masked model",
    "contrastive": "meets CLIP", "generator": "video diffusion", "cotrain": "tuned together",
    "sampling": "fMRI to clips", "features": "clips to classes", "metrics": "and controls", "audit": "leaks",
    "attention": "which voxels", "pictures": "brain maps", "report": "one page",
}  # fmt: skip


def main() -> None:
    """Write docs/pipeline.svg."""
    (ROOT / "docs" / "pipeline.svg").write_text(svg(reduced(stages(rule_graph()))))


def rule_graph() -> str:
    """The graph of the demo's rules in the dot language."""
    command = [sys.executable, "-m", "snakemake", "--configfile", "config/demo.yaml", "--rulegraph", "dot"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def stages(dot: str) -> dict[str, set[str]]:
    """Stage -> the stages that it is made from."""
    stage_of = {}
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        text = path.read_text()
        names = re.findall(r"^ *rule (\w+):", text, re.M) + re.findall(r"^ *use rule \w+ as (\w+)", text, re.M)
        stage_of |= dict.fromkeys(names, path.stem)
    rules = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    place = {key: stage_of.get(name, name.partition("_")[0]) for key, name in rules.items() if name != "all"}
    graph: dict[str, set[str]] = {stage: set() for stage in place.values()}
    for source, target in re.findall(r"(\d+) -> (\d+)", dot):
        if target in place and place[source] != place[target]:
            graph[place[target]].add(place[source])
    return graph


def upstream(graph: dict[str, set[str]], stage: str) -> set[str]:
    """All stages that a stage rests on."""
    return graph[stage].union(*(upstream(graph, other) for other in graph[stage]))


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without arrows from stages that another arrow's source already rests on."""
    return {
        stage: {a for a in sources if not any(a in upstream(graph, b) for b in sources - {a})}
        for stage, sources in graph.items()
    }


def columns(graph: dict[str, set[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Stages and bends of long arrows, column by column, ordered so that arrows cross little; and every arrow's way."""
    depth: dict[str, int] = {}
    while len(depth) < len(graph):
        ready = [s for s in sorted(graph) if s not in depth and graph[s] <= depth.keys()]
        depth |= {s: max((depth[a] + 1 for a in graph[s]), default=0) for s in ready}
    places: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for stage in sorted(depth):
        places[depth[stage]].append(stage)
    ways = []
    for stage in sorted(graph):
        for source in sorted(graph[stage]):
            bends = [f"{source} {stage} {c}" for c in range(depth[source] + 1, depth[stage])]
            for column, bend in enumerate(bends, depth[source] + 1):
                places[column].append(bend)
            ways.append([source, *bends, stage])
    steps = [step for way in ways for step in pairwise(way)]
    for sweep in range(12):
        order = places if sweep % 2 else places[::-1]
        for before, here in pairwise(order):
            height = {name: (n + 0.5) / len(before) for n, name in enumerate(before)}
            near = {
                x: [height[b if a == x else a] for a, b in steps if x in (a, b) and {a, b} & {*before}] for x in here
            }
            here.sort(key=lambda x: sum(near[x]) / len(near[x]) if near[x] else 0.5)
    return places, ways


def svg(graph: dict[str, set[str]]) -> str:
    """The picture."""
    places, ways = columns(graph)
    tallest = max(map(len, places))
    at = {}
    for column, names in enumerate(places):
        for row, name in enumerate(names):
            at[name] = (MARGIN + column * COLUMN, MARGIN + ROW * (row + (tallest - len(names)) / 2))
    width = 2 * MARGIN + COLUMN * (len(places) - 1) + WIDTH
    height = 2 * MARGIN + ROW * (tallest - 1) + HEIGHT
    fills = {stage: colour for colour, members in COLOURS.items() for stage in members}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'role="img" aria-label="The stages and what each is made from">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
    ]
    for way in ways:
        points = [(at[name][0] + (0 if name in graph else WIDTH / 2), at[name][1] + HEIGHT / 2) for name in way]
        points[0] = (points[0][0] + WIDTH, points[0][1])
        path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
        for (x, y), (to_x, to_y) in pairwise(points):
            middle = (x + to_x) / 2
            path += f" C{middle:.0f} {y:.0f} {middle:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}"
        lines.append(f'<path d="{path}" fill="none" stroke="#9aa5b1" stroke-width="1.4"/>')
    for stage in graph:
        x, y = at[stage]
        text = f'<text x="{x + WIDTH / 2:.0f}" text-anchor="middle"'
        lines += [
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{fills[stage]}" '
            'stroke="#6b7785"/>',
            f'{text} y="{y + 17:.0f}" font-size="14" fill="#1f2933">{stage}</text>',
            f'{text} y="{y + 30:.0f}" font-size="9.5" fill="#52606d">{NOTES[stage]}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
