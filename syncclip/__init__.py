"""Measure how much synthetic data helps CLIP recognise classes that have no real training images.

Each library function takes a recipe and corresponds to the CLI command of the same name:

    from syncclip import Recipe, evaluate, synth, train

    recipe = Recipe.load("travel", ["training.method=syncclip"])
    synth(recipe, "runs/set")
    run = train(recipe.with_values({"training.synthetic": "runs/set"}), "runs/first")
    print(run.results["hm"])
    print(evaluate("runs/first", ["evaluation.split=val"]).results["hm"])

The docstring examples of assess, plan, synth, train, evaluate, tune, study,
results, plot_curve, compare, recommend and report must be run in this order.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncclip.core.settings import UserError
    from syncclip.inference.model import Model, load
    from syncclip.jobs import Run, evaluate, synth, train
    from syncclip.recipe.recipe import Recipe
    from syncclip.reports import report
    from syncclip.reports.paper import plot_curve
    from syncclip.studies.assess import assess
    from syncclip.studies.levels import study
    from syncclip.studies.recommendation import recommend
    from syncclip.studies.results import compare, results
    from syncclip.studies.tune import tune
    from syncclip.synthetic_sets.prepare import plan

_MODULES = {
    "Model": "inference.model",
    "Recipe": "recipe.recipe",
    "Run": "jobs",
    "UserError": "core.settings",
    "assess": "studies.assess",
    "compare": "studies.results",
    "tune": "studies.tune",
    "evaluate": "jobs",
    "load": "inference.model",
    "plan": "synthetic_sets.prepare",
    "plot_curve": "reports.paper",
    "recommend": "studies.recommendation",
    "report": "reports",
    "results": "studies.results",
    "study": "studies.levels",
    "synth": "jobs",
    "train": "jobs",
}
"""Public name -> module, imported on first use because torch and Ray take seconds to import."""

__version__: str

__all__ = [
    "Model",
    "Recipe",
    "Run",
    "UserError",
    "__version__",
    "assess",
    "compare",
    "evaluate",
    "load",
    "plan",
    "plot_curve",
    "recommend",
    "report",
    "results",
    "study",
    "synth",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version(__name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
