"""Write the table of `results/benchmarks` into docs/benchmarks.md: ``python benchmarks/table.py``."""

import json
from pathlib import Path

from epanns.reporting.report import insert_table

ROOT = Path(__file__).parents[1]


def table_of(folder: Path) -> str:
    """Return the records of a folder as a Markdown table, ordered by name, and a line about each machine."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    rows = [
        f"| {record['what']} | {record['against']} | {record['target']} | {record['result']['headline']}"
        f"{'' if record['met'] else ' (missed)'} | `benchmarks/{record['benchmark']}.py` |"
        for record in records
    ]
    head = ["| What | Against | Target | Measured | Script |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows, "", *sorted({_machine(record["machine"]) for record in records})])


def _machine(machine: dict[str, object]) -> str:
    packages = machine["packages"]
    assert isinstance(packages, dict)
    versions = ", ".join(f"{name} {number}" for name, number in packages.items())
    return (
        f"Measured on {machine['cores']} cores of an {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}, {versions}. Ratios: median (minimum to maximum) of "
        "alternating measurements in one run."
    )


if __name__ == "__main__":
    insert_table(ROOT / "docs" / "benchmarks.md", "benchmarks", table_of(ROOT / "results" / "benchmarks"))
