"""RESULTS.md and its figures from the files of `benchmarks/results/` alone: `python benchmarks/report.py`."""

import statistics
from pathlib import Path
from typing import Any

from plot import ratios
from record import Cell, load

HERE = Path(__file__).parent
FILE = HERE / "RESULTS.md"
HEAD = """# Measured

Made by `python benchmarks/report.py` from the raw numbers in [results/](results); how and what:
[docs/speed.md](../docs/speed.md). A measured cell is the median of its rounds and their range.
"""
FIGURES = {  # table -> its figure, the column of names and that of ratios
    "Against the best peer": ("step.svg", "model", "ablate / it"),
}


def text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, list):
        middle, low, high = statistics.median(cell), min(cell), max(cell)
        return number(middle) if len(cell) == 1 else f"{number(middle)} [{number(low)}..{number(high)}]"
    return number(cell)


def number(x: float) -> str:
    if isinstance(x, int) or abs(x) >= 100:
        return f"{x:,.0f}"
    if abs(x) >= 10:
        return f"{x:.1f}"
    return f"{x:.3f}" if abs(x) >= 0.01 or x == 0 else f"{x:.1e}"


def table(found: dict[str, Any]) -> str:
    head = f"| {' | '.join(found['columns'])} |\n|{'---|' * len(found['columns'])}\n"
    rows = "".join(f"| {' | '.join(map(text, row))} |\n" for row in found["rows"])
    note = f"\n{found['note']}\n" if found["note"] else ""
    figure = f"\n![{found['title']}]({FIGURES[found['title']][0]})\n" if found["title"] in FIGURES else ""
    return f"### {found['title']}\n\n{head}{rows}{note}{figure}"


def section(found: dict[str, Any]) -> str:
    hardware, about = found["hardware"], f"{found['about']}\n\n" if found["about"] else ""
    where = f"{hardware.get('gpu') or hardware['cpu']}, {hardware['cores']} cores (load {hardware['busy']})"
    with_what = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    settings = " ".join(f"`{k}={v}`" for k, v in found["settings"].items())
    facts = [found["date"][:10], where, found["clock"], f"{found['threads']} threads", with_what, settings]
    said = "; ".join(fact for fact in facts if fact)
    tables = "\n".join(table(each) for each in found["tables"] if each["rows"])
    return f"## {found['name']}\n\n{about}`{found['command']}`: {said}.\n\n{tables}"


def figures() -> dict[str, str]:
    """The SVG of each figure that some table has, by the name of its file."""
    drawn = {}
    for found in (found for results in load() for found in results["tables"]):
        if found["title"] in FIGURES and found["rows"]:
            file, names, values = FIGURES[found["title"]]
            column = {name: [row[n] for row in found["rows"]] for n, name in enumerate(found["columns"])}
            drawn[file] = ratios(column[names], column[values], "tokens/s of ablate over the best peer's")
    return drawn


def report() -> str:
    return "\n".join([HEAD, *map(section, load())])


if __name__ == "__main__":
    FILE.write_text(report())
    for name, svg in figures().items():
        (HERE / name).write_text(svg)
    print(FILE)
