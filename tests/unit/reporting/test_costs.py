"""Benchmark files of Snakemake to the cost of every rule."""

import numpy as np
import pytest

from mindreel.errors import InputError
from mindreel.reporting import costs

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def written(path, seconds, memory, cpu):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + f"{seconds}\t0:00:01\t{memory}\t1\t1\t1\t0\t0\t50\t{cpu}\n")


def test_jobs_of_a_rule_are_added_up_and_the_costliest_stands_first(tmp_path):
    logs = tmp_path / "logs"
    written(logs / "cotrain/a/sub-1.tsv", 100, 900, 90)
    written(logs / "cotrain/a/sub-2.tsv", 140, 700, 150)
    written(logs / "simulate/seg1.tsv", 2, "-", "-")  # too short to be measured
    written(logs / "simulate/sub-1.tsv", 8, 50, 4)
    (logs / "cotrain/a/history.tsv").write_text("step\tloss\n")  # of no rule
    root = logs.as_posix()
    table = costs.of_rules(
        logs,
        [
            rf"movie={root}/simulate/([^/]+)\.tsv",
            rf"subject={root}/simulate/sub\-1\.tsv",
            rf"cotrain={root}/cotrain/([^/]+)/sub\-([^/]+)\.tsv",
            rf"twin={root}/cotrain/([^/]+)/sub\-([^/]+)\.tsv",
        ],
    ).set_index("rule")
    assert list(table.index) == ["cotrain / twin", "subject", "movie"]
    assert table.loc["cotrain / twin"].to_dict() == {
        "jobs": 2, "wall_s": 240, "longest_s": 140, "cpu_s": 240, "cores": 1, "memory_mib": 900
    }  # fmt: skip
    assert table.loc["subject", "cores"] == 0.5 and np.isnan(table.loc["movie", "memory_mib"])


def test_no_benchmarks_is_an_empty_table_and_other_files_are_an_error(tmp_path):
    assert len(costs.of_rules(tmp_path, ["x=nothing"])) == 0
    (tmp_path / "x.tsv").write_text("step\tloss\n1\t2\n")
    with pytest.raises(InputError, match="not a benchmark file of Snakemake"):
        costs.of_rules(tmp_path, [rf"x={tmp_path.as_posix()}/x\.tsv"])
    with pytest.raises(InputError, match="RULE=REGEX"):
        costs.of_rules(tmp_path, ["x"])
