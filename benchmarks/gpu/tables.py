"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from benchmarks.gpu.measuring import Row


def tables(found: Mapping[str, Any], models: Container[str]) -> str:
    """A table for each part.

    Args:
        found: what `<device>.json` holds.
        models: the parts that generate images.
    """
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    told = f"# {found['device']}, {found['memory_gb']} GB\n\n{found['date']}; Python {found['python']}, {versions}\n"
    texts = [told]
    for part, rows in found["parts"].items():
        if part in models:
            body = _images(rows, found["price"])
        else:
            body = _images(rows, None) if part == "set" else _steps(rows)
        left = [f"* {row['what']}: left out, {row['left_out']}" for row in rows if "left_out" in row]
        texts.append("\n".join([f"## {part}", "", *body, *([""] if left else []), *left, ""]))
    return "\n".join(texts)


def _images(rows: Sequence[Row], price: float | None) -> list[str]:
    there = [row for row in rows if "left_out" not in row]
    if not there:
        return []
    head = ["", "batch", "steps", "pixels", "images/s", "× the first", "peak GB", "first batch, s", "busy", "computed"]
    lines = [_line([*head, *(["images for 1"] if price else [])])]
    lines.append(_line(["---"] * (len(head) + bool(price))))
    for row in there:
        rate = row["images_s"]
        cells = [row["what"], row["batch"], row["steps"], row["side"], f"{rate:.2f}"]
        cells += [f"{rate / there[0]['images_s']:.2f}", _number(row.get("peak_gb"), 1), _number(row.get("first_s"), 1)]
        cells += [_number(row.get(share), 2) for share in ("busy", "computed")]
        lines.append(_line([*cells, *([f"{3600 * rate / price:,.0f}"] if price else [])]))
    return lines


def _steps(rows: Sequence[Row]) -> list[str]:
    there = [row for row in rows if "left_out" not in row]
    if not there:
        return []
    lines = [_line(["", "batch", "classes", "ms a step", "GB, weights included"]), _line(["---"] * 5)]
    for row in there:
        time, held = f"{1e3 * row['seconds']:.1f}", _number(row.get("peak_gb"), 2)
        lines.append(_line([row["what"], row["batch"], row["classes"], time, held]))
    return lines


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
