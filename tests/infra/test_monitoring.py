"""Rules and dashboard, by Prometheus' own tool. Grafana isn't at hand: of the dashboard, every query is checked."""

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
    shutil.which("promtool") is None, reason="left out: promtool isn't here; Debian's package promtool brings it"
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True)


def dashboard() -> dict[str, Any]:
    return dict(json.loads((MONITORING / "dashboard.json").read_text()))


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def metrics(text: str) -> set[str]:
    return set(re.findall(r"\bray_syncclip_\w+", text))


@with_promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    done = promtool("test", "rules", "rules_test.yaml")

    assert done.returncode == 0, done.stdout + done.stderr


@with_promtool
def test_prometheus_takes_the_configuration_with_its_rules() -> None:
    done = promtool("check", "config", "prometheus.yaml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule files found" in done.stdout


@with_promtool
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": query.replace("$set", "a")} for n, query in enumerate(queries())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    done = promtool("check", "rules", str(file))

    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_asks_for_any_data_source() -> None:
    page = dashboard()

    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in page["panels"])
    assert {one["name"] for one in page["templating"]["list"]} == {"datasource", "set"}


def test_rules_and_tests_of_rules_name_the_same_metrics() -> None:
    rules = metrics((MONITORING / "rules.yaml").read_text())

    assert metrics((MONITORING / "rules_test.yaml").read_text()) <= rules


def test_every_metric_that_is_asked_for_is_one_that_we_make(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.util.metrics

    from syncclip.synthesis.status import SynthesisMetrics

    made: set[str] = set()

    def kind(*endings: str) -> Any:
        return lambda name, *_: made.update(f"ray_{name}{ending}" for ending in endings)

    monkeypatch.setattr(ray.util.metrics, "Counter", kind("_total"))
    monkeypatch.setattr(ray.util.metrics, "Gauge", kind(""))
    monkeypatch.setattr(ray.util.metrics, "Histogram", kind("_bucket", "_sum", "_count"))
    SynthesisMetrics("a set")

    assert metrics((MONITORING / "rules.yaml").read_text() + " ".join(queries())) <= made
