"""Alert rules and the queries of the dashboard, checked by promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "infra" / "monitoring"

with_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="left out: promtool is not installed; it is Debian's package promtool"
)


def dashboard() -> dict[str, Any]:
    return dict(json.loads((MONITORING / "dashboard.json").read_text()))


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def metrics(text: str) -> set[str]:
    return set(re.findall(r"\bray_syncclip_\w+", text))


@with_promtool
def test_configuration_and_queries_are_valid_and_alerts_fire(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": query.replace("$set", "a")} for n, query in enumerate(queries())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    for command in (
        ["test", "rules", "rules_test.yaml"],
        ["check", "config", "prometheus.yaml"],
        ["check", "rules", str(file)],
    ):
        done = subprocess.run(["promtool", *command], cwd=MONITORING, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_unique_ids_a_variable_source_and_no_overlap() -> None:
    panels = dashboard()["panels"]
    cells = [
        (x, y)
        for position in (panel["gridPos"] for panel in panels)
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    assert {variable["name"] for variable in dashboard()["templating"]["list"]} == {"datasource", "set"}


def test_every_queried_metric_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.util.metrics

    from syncclip.synthesis.status import SynthesisMetrics

    created: set[str] = set()

    def metric(*endings: str) -> Any:
        return lambda name, *_: created.update(f"ray_{name}{ending}" for ending in endings)

    monkeypatch.setattr(ray.util.metrics, "Counter", metric("_total"))
    monkeypatch.setattr(ray.util.metrics, "Gauge", metric(""))
    monkeypatch.setattr(ray.util.metrics, "Histogram", metric("_bucket", "_sum", "_count"))
    SynthesisMetrics("a set")

    rules = (MONITORING / "rules.yaml").read_text()
    assert metrics((MONITORING / "rules_test.yaml").read_text()) <= metrics(rules)
    assert metrics(rules + " ".join(queries())) <= created
