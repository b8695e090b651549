"""Format results as Markdown."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from benchmarks.gpu.measuring import Row


def tables(results: Mapping[str, Any], models: Container[str]) -> str:
    """Return a Markdown page with a table for each part.

    Args:
        results: content of `<device>.json`.
        models: parts that generate images.
    """
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    texts = [f"# {results['device']}, {results['memory_gb']} GB\n"]
    texts.append(f"{results['date']}; Python {results['python']}, {versions}\n")
    for part, rows in results["parts"].items():
        measured = [row for row in rows if "left_out" not in row]
        skipped = [f"* {row['what']}: skipped, {row['left_out']}" for row in rows if "left_out" in row]
        if not measured:
            body = []
        elif part in models or part == "set":
            body = _images(measured, results["price"] if part in models else None)
        else:
            body = _steps(measured)
        texts.append("\n".join([f"## {part}", "", *body, *([""] if skipped else []), *skipped, ""]))
    return "\n".join(texts)


def _images(rows: Sequence[Row], price: float | None) -> list[str]:
    head = ["", "batch", "steps", "pixels", "images/s", "× the first", "peak GB", "first batch, s", "busy", "computed"]
    lines = [_line([*head, *(["images for 1"] if price else [])])]
    lines.append(_line(["---"] * (len(head) + bool(price))))
    for row in rows:
        rate = row["images_s"]
        cells = [row["what"], row["batch"], row["steps"], row["side"], f"{rate:.2f}"]
        cells += [f"{rate / rows[0]['images_s']:.2f}", _number(row.get("peak_gb"), 1), _number(row.get("first_s"), 1)]
        cells += [_number(row.get(share), 2) for share in ("busy", "computed")]
        lines.append(_line([*cells, *([f"{3600 * rate / price:,.0f}"] if price else [])]))
    return lines


def _steps(rows: Sequence[Row]) -> list[str]:
    lines = [_line(["", "batch", "classes", "ms per step", "GB, weights included"]), _line(["---"] * 5)]
    for row in rows:
        time, memory = f"{1e3 * row['seconds']:.1f}", _number(row.get("peak_gb"), 2)
        lines.append(_line([row["what"], row["batch"], row["classes"], time, memory]))
    return lines


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
