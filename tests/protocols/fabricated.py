"""Tables of reproductions that were never run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from syncclip.protocols.protocols import Protocol

Numbers = Callable[[str, str, int], dict[str, float] | None]
"""(dataset tested on, method, seed) -> metrics of that run; None for one that is missing."""


def fabricated(
    protocol: Protocol,
    numbers: Numbers,
    datasets: Sequence[str] | None = None,
    tests: Sequence[str] = (),
    methods: Sequence[str] = ("zeroshot", "promptsrc", "syncclip"),
    amount: int = 16,
) -> pd.DataFrame:
    """One row a run and dataset, as `gather` makes them; three seeds of whatever is trained."""
    rows = []
    for dataset in datasets or protocol.datasets:
        for method in methods:
            for seed in [None] if method == "zeroshot" else [1, 2, 3]:
                for test in [dataset, *tests]:
                    found = numbers(test, method, seed or 0)
                    rows.append(
                        {
                            "trained_on": dataset,
                            "tested_on": test,
                            "backbone": "ViT-B-16 openai",
                            "configuration": method,
                            "method": method,
                            "data": {"zeroshot": "none", "syncclip": "both"}.get(method, "real"),
                            "shots": 16,
                            "images_per_class": amount if method == "syncclip" else None,
                            "seed": seed,
                            "status": "waiting" if found is None else "done",
                            **{metric: (found or {}).get(metric) for metric in protocol.metrics},
                        }
                    )
    return pd.DataFrame(rows).astype({"images_per_class": "Int64", "seed": "Int64"})
