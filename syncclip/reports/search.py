"""Report of a hyperparameter search: validation scores by value of each setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from syncclip.core import text
from syncclip.evaluation.metrics import METRIC_HEADINGS, legend

TITLE = "Hyperparameters selected on validation images"


def figure_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figure's data: a panel for each setting, with its values and the score of each combination.

    Args:
        record: content of tuned.json.
    """
    axes = {
        f"{configuration}: {setting}": _axis(setting, best, record["metric"])
        for configuration, best in record["configurations"].items()
        for setting in best["selected"]
    }
    return {"metrics": [{"key": label, "label": label} for label in axes], "axes": axes}


def _axis(setting: str, best: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return a setting's distinct values, numbers in ascending order, and the combinations with their scores."""
    tried = [entry["values"][setting] for entry in best["search_space"]]
    values = [value for position, value in enumerate(tried) if value not in tried[:position]]
    values.sort(key=lambda value: value if all(isinstance(each, int | float) for each in tried) else 0)
    trials = [
        {
            "at": values.index(entry["values"][setting]),
            "score": round(entry[metric], 2),
            "selected": entry["values"] == best["selected"],
            "name": _settings(entry["values"]),
        }
        for entry in best["search_space"]
    ]
    return {"values": [str(value) for value in values], "trials": trials}


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
    return text.table(TITLE, headings, rows, legend(headings))


def _settings(values: Mapping[str, Any], separator: str = ", ") -> str:
    return separator.join(f"{key} = {value}" for key, value in values.items())
