"""What a run cost: time and memory of every rule, from the benchmark files that Snakemake writes."""

import re
from pathlib import Path

import pandas as pd

from mindreel.errors import InputError

COLUMNS = ["rule", "jobs", "wall_s", "longest_s", "cpu_s", "cores", "memory_mib"]


def of_rules(logs: Path, benchmarks: list[str]) -> pd.DataFrame:
    """Sum up the benchmark files of every rule, the costliest first.

    Parameters
    ----------
    logs : Path
        Folder below which the files are.
    benchmarks : list of str
        RULE=REGEX, the paths of a rule's benchmark files; where several match, that with the fewest groups counts,
        and rules with the same files are named together.

    Returns
    -------
    rule, jobs, wall_s (of all jobs one after another), longest_s, cpu_s, cores (busy on average, cpu_s / wall_s) and
    memory_mib (peak resident set of the largest job). A job too short to be measured has no memory.
    """
    named: dict[str, list[str]] = {}
    for entry in benchmarks:
        rule, found, pattern = entry.partition("=")
        if not found:
            raise InputError(f"report: benchmarks are given as RULE=REGEX, found {entry!r}")
        named.setdefault(pattern, []).append(rule)
    named = dict(sorted(named.items(), key=lambda entry: entry[0].count("(")))
    jobs = []
    for path in sorted(Path(logs).rglob("*.tsv")):
        for pattern, rules in named.items():
            if re.fullmatch(pattern, path.as_posix()):
                jobs.append(_job(path) | {"rule": " / ".join(rules)})
                break
    if not jobs:
        return pd.DataFrame(columns=COLUMNS)
    parts = pd.DataFrame(jobs).groupby("rule")
    table = parts.agg(
        jobs=("wall_s", "size"),
        wall_s=("wall_s", "sum"),
        longest_s=("wall_s", "max"),
        cpu_s=("cpu_s", "sum"),
        memory_mib=("memory_mib", "max"),
    )
    table["cores"] = table.cpu_s / table.wall_s.where(table.wall_s > 0)
    return table.sort_values("wall_s", ascending=False, kind="stable").reset_index()[COLUMNS]


def _job(path: Path) -> dict:
    """One benchmark file; of repeated measurements the sum of times and the peak of memory."""
    table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
    if not {"s", "max_rss", "cpu_time"} <= set(table.columns):
        raise InputError(f"{path}: not a benchmark file of Snakemake, found columns {list(table.columns)}; delete it")
    numbers = table[["s", "max_rss", "cpu_time"]].apply(pd.to_numeric, errors="coerce")
    return {
        "wall_s": numbers.s.sum(),
        "cpu_s": numbers.cpu_time.sum(),
        "memory_mib": numbers.max_rss.max(),
    }
