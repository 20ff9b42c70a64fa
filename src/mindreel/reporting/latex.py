"""A table for machines (TSV), for people and for a paper (LaTeX, booktabs)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mindreel.artifacts import atomic, load_json, save_json, save_table

# What LaTeX takes for commands or cannot print
LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"−": "$-$", "–": "--", "→": r"$\to$", "·": r"$\cdot$", "≥": r"$\ge$", "<": "$<$", ">": "$>$", "*": "$^{*}$"}
    | {"×": r"$\times$", "…": r"\ldots{}", "μ": r"$\mu$"}
)


@dataclass(frozen=True)
class Table:
    """One table.

    Parameters
    ----------
    name : str
        Of its files.
    caption : str
        A sentence or more.
    data : pd.DataFrame
        Plain numbers, for the TSV.
    shown : pd.DataFrame
        The same as text, columns with titles for people; its first column names the row.
    right : list of str
        Columns of numbers, to be set to the right.
    groups : list of str
        A heading for every row; rows of the same heading follow each other (none: no headings).
    """

    name: str
    caption: str
    data: pd.DataFrame
    shown: pd.DataFrame
    right: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


def save(tables: Iterable[Table], out: Path) -> None:
    """Write a folder: every table as NAME.tsv and NAME.tex, and index.json, from which the page is made."""
    index = []
    with atomic(out) as folder:
        folder.mkdir()
        for table in tables:
            save_table(folder / f"{table.name}.tsv", table.data)
            (folder / f"{table.name}.tex").write_text(latex(table), encoding="utf-8")
            index.append(
                {
                    "name": table.name,
                    "caption": table.caption,
                    "columns": [{"title": c, "right": c in table.right} for c in table.shown.columns],
                    "rows": table.shown.to_numpy().tolist(),
                    "groups": table.groups,
                }
            )
        save_json(folder / "index.json", {"tables": index})


def load(folder: Path) -> dict[str, dict]:
    """By name: caption, columns (title, right), rows (text), groups, and the two files' text (tsv, tex)."""
    found = {}
    for table in load_json(folder / "index.json")["tables"]:
        files = {kind: (folder / f"{table['name']}.{kind}").read_text(encoding="utf-8") for kind in ("tsv", "tex")}
        found[table["name"]] = table | files
    return found


def latex(table: Table) -> str:
    """A table for a paper: needs booktabs, and graphicx where it is wider than the page."""
    text = table.shown.astype(str).map(lambda cell: cell.translate(LATEX))
    text.columns = [title.translate(LATEX) for title in text.columns]
    first = text.columns[0]
    changes = text[first] != text[first].shift()
    if not table.groups:
        text[first] = text[first].where(changes, "")
    whole = text.style.hide(axis="index").to_latex(
        hrules=True,
        position="t",
        position_float="centering",
        caption=table.caption.translate(LATEX),
        label=f"tab:{table.name}",
        column_format="".join("r" if title in table.right else "l" for title in table.shown.columns),
    )
    lines = whole.splitlines()
    start = lines.index(r"\midrule") + 1
    for row in reversed(range(len(text))):
        if table.groups and (row == 0 or table.groups[row] != table.groups[row - 1]):
            heading = table.groups[row].translate(LATEX)
            rule = [r"\midrule"] if row else []
            lines[start + row : start + row] = [
                *rule,
                rf"\multicolumn{{{text.shape[1]}}}{{l}}{{\emph{{{heading}}}}} \\",
            ]
        elif row and not table.groups and changes.iloc[row] and not changes.all():
            lines.insert(start + row, r"\addlinespace")
    if text.shape[1] > 6:
        begin = next(i for i, line in enumerate(lines) if line.startswith(r"\begin{tabular}"))
        end = lines.index(r"\end{tabular}")
        lines[end] += "}"
        lines.insert(begin, r"\resizebox{\linewidth}{!}{%")
    return "\n".join(lines) + "\n"


def missing(value: object, otherwise: str = "–") -> str:
    """Text of a cell, a dash for none."""
    return otherwise if value is None or value != value or value == "" else str(value)
