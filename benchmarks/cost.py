"""What a run cost: time and memory per rule, from the benchmark files below logs/.

python benchmarks/cost.py logs/demo
"""

import sys
from pathlib import Path

import pandas as pd


def cost(logs: Path) -> pd.DataFrame:
    """One row per stage: jobs, total wall and processor seconds, the longest job, the largest memory (MB)."""
    rows = []
    for path in logs.rglob("*.tsv"):
        table = pd.read_csv(path, sep="\t", na_values="-")
        if "max_rss" in table:
            rows.append({"stage": path.relative_to(logs).parts[0].split(".")[0], **table.iloc[-1]})
    columns = {"jobs": ("s", "size"), "wall_s": ("s", "sum"), "cpu_s": ("cpu_time", "sum"), "longest_s": ("s", "max")}
    found = pd.DataFrame(rows).groupby("stage").agg(**columns, max_rss_mb=("max_rss", "max"))
    return found.sort_values("cpu_s", ascending=False).round(0).astype("Int64")


if __name__ == "__main__":
    table = cost(Path(sys.argv[1] if len(sys.argv) > 1 else "logs/demo"))
    print(table.to_string())
    minutes, memory = table.cpu_s.sum() / 60, table.max_rss_mb.max()
    print(f"\n{table.jobs.sum()} jobs, {minutes:.1f} processor minutes, at most {memory} MB")
