"""Report of a hyperparameter search: validation scores by value of each setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from syncclip.core import text
from syncclip.evaluation.metrics import METRIC_HEADINGS

TITLE = "Hyperparameters selected on validation images"


def figure_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figure's data: a panel for each setting, with its values and the score of each combination.

    Args:
        record: content of tuned.json.
    """
    metrics, axes = [], {}
    for configuration, best in record["configurations"].items():
        for setting in best["selected"]:
            tried = [entry["values"][setting] for entry in best["search_space"]]
            values = _ordered(tried)
            key = f"{configuration} {setting}"
            metrics.append({"key": key, "label": f"{configuration}: {setting}"})
            trials = [
                {
                    "at": values.index(value),
                    "score": round(entry[record["metric"]], 2),
                    "selected": entry["values"] == best["selected"],
                    "name": _settings(entry["values"]),
                }
                for entry, value in zip(best["search_space"], tried, strict=True)
            ]
            axes[key] = {"values": [str(value) for value in values], "trials": trials}
    return {"metrics": metrics, "axes": axes, "metric": record["metric"]}


def page_words(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of the page's template."""
    seeds = text.counted(len(record["seeds"]), "seed")
    images = text.counted(record["images_per_class"], "synthetic image") + " per class"
    return {
        "title": TITLE,
        "eyebrow": f"Hyperparameter search · {seeds} · {images}",
        "metric": METRIC_HEADINGS[record["metric"]],
        "selected": {name: _settings(best["selected"]) for name, best in record["configurations"].items()},
        "sections": [("scores", "Scores")],
        "notes": [],
    }


def terminal_table(record: Mapping[str, Any]) -> Table:
    """Build the table for the terminal: the selected values of each configuration, a line for each setting."""
    rows = [
        (name, len(best["search_space"]), _settings(best["selected"], "\n"), best[record["metric"]])
        for name, best in record["configurations"].items()
    ]
    headings = ["configuration", "tried", "selected", f"{METRIC_HEADINGS[record['metric']]}, %"]
    return text.table(TITLE, headings, rows)


def _settings(values: Mapping[str, Any], separator: str = ", ") -> str:
    return separator.join(f"{key} = {value}" for key, value in values.items())


def _ordered(values: list[Any]) -> list[Any]:
    """Return distinct values; numbers in ascending order, other values in the order of the search space."""
    distinct = [value for position, value in enumerate(values) if value not in values[:position]]
    return sorted(distinct) if all(isinstance(value, int | float) for value in distinct) else distinct
