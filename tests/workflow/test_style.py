import re
import subprocess
import sys
from pathlib import Path

import pytest

from mindreel.cli import ACTIONS, ELSEWHERE


def run(root, *command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_snakefmt(root):
    run(root, "snakefmt", "--check", "Snakefile", "workflow")


def test_ruff(root):
    run(root, "ruff", "check", ".")


def test_ruff_format(root):
    run(root, "ruff", "format", "--check", ".")


def test_types(root):
    run(root, "mypy")


def test_spelling(root):
    run(root, "codespell_lib")


def test_snakefile_is_a_table_of_contents(root):
    assert len((root / "Snakefile").read_text().splitlines()) <= 40


def rules(root):
    for path in sorted((root / "workflow" / "rules").glob("*.smk")):
        for text in re.split(r"(?m)^(?= *rule\b)", path.read_text())[1:]:
            yield path.stem, text


def test_every_rule_says_what_it_needs(root):
    for stage, text in rules(root):
        wanted = ["message:", "output:", "shell:"]
        if called := re.search(r"-m mindreel (\w+) ([\w-]+)", text):
            module, _ = ELSEWHERE.get(called.groups(), (stage, None))
            wanted += ["log:", "conda:", "mem_mb=", "runtime=", f'fingerprint("{module}")']
        missing = [part for part in wanted if part not in text]
        assert not missing, f"{stage}: {text.splitlines()[0].strip()} lacks {', '.join(missing)}"


def test_whatever_a_rule_puts_into_a_command_is_quoted(root):
    """But for what the rules themselves say: numbers of threads and GPUs, and options that `flag` names."""
    for stage, text in rules(root):
        command = text.partition("shell:")[2].partition("use rule")[0]
        flags = {f"params.{name}" for name in re.findall(r"(\w+)=(?:flag\(|options|subject_option)", text)}
        inserted = set(re.findall(r"\{([^{}]+)\}", command)) - {"LAUNCH", "threads", "resources.gpu"} - flags
        bare = sorted(name for name in inserted if not name.endswith(":q"))
        assert not bare, f"{stage}: {text.splitlines()[0].strip()} does not quote {', '.join(bare)}"


def test_no_line_of_a_rule_is_long(root):
    for path in [root / "Snakefile", *(root / "workflow").rglob("*.smk")]:
        long = [n for n, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120]
        assert not long, f"{path.name}: lines {long}"


@pytest.mark.parametrize("options", [(), ("--configfile", "config/demo.yaml")])
def test_snakemake_lint(checkout, options):
    checkout.edit("config.yaml", "ignore: []", "ignore: [missing]")
    found = checkout.snakemake("--lint", *options, check=False)
    assert "in a good condition" in found, found


def test_every_rule_calls_an_action_that_exists(root):
    called = {tuple(m) for _, text in rules(root) for m in re.findall(r"-m mindreel (\w+) ([\w-]+)", text)}
    assert called <= {(stage, action) for stage, actions in ACTIONS.items() for action in actions}
    assert {stage for stage, _ in called} | {"zoo"} == set(ACTIONS)


def test_no_rule_of_the_pipeline_reads_the_truth(root):
    for stage, text in rules(root):
        assert stage == "simulate" or "truth" not in text


def test_environments_pin_every_requirement(root):
    for path in Path(root / "envs").glob("*.yaml"):
        pins = re.findall(r"^ {6}- (.+)$", path.read_text(), re.M)
        assert pins and all("==" in pin for pin in pins), path
    shared = {line for line in (root / "requirements.txt").read_text().splitlines() if "==" in line}
    assert set(re.findall(r"^ {6}- (.+)$", (root / "envs" / "mindreel.yaml").read_text(), re.M)) <= shared
