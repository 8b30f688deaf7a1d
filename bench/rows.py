#!/usr/bin/env python3
"""The rows of TARGET/bench/latest.json: an array of {measure, value, unit, goal, met}, value and met
null where something was not measured. Run by itself it takes an array from standard input, prints
it as a table and merges it in: a row replaces the earlier one of the same measure."""
import json, sys
from pathlib import Path


def merge(path: Path, rows: list[dict]) -> None:
    earlier = json.loads(path.read_text()) if path.exists() else []
    merged = {row["measure"]: row for row in earlier + rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(merged.values()), indent=1) + "\n")
    print(f"written: {path}")


def table(rows: list[dict]) -> None:
    width = max(len(row["measure"]) for row in rows)
    print()
    for row in rows:
        value = "not measured" if row["value"] is None else f"{row['value']:g} {row['unit']}"
        met = {None: "-", True: "yes", False: "NO"}[row["met"]]
        print(f"{row['measure']:{width}}  {value:>14}   goal {row['goal']:10} met {met}")


if __name__ == "__main__":
    new = json.load(sys.stdin)
    table(new)
    merge(Path(sys.argv[1]), new)
