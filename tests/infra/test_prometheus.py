"""Prometheus, with the shipped configuration, monitors a synthesis; queries of the dashboard run without Grafana."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.one_machine import Head, waited
from tests.infra.test_monitoring import MONITORING, dashboard
from tests.ray_head import free_ports, ray_head
from tests.worlds.chaos import occurrences
from tests.worlds.light import LEDGER, PACE, light_plan

SHARDS, SHARD_SIZE = 100, 4
IMAGE_SECONDS = 6.0
"""A shard takes 24 s, so that each commit is visible, after at most 12 s, before the next one."""

REPORTS = {"metrics_report_interval_ms": 5000}
"""Ray's export interval; gauges expire after two intervals, and those of a synthesis are set every 6 s."""


@pytest.mark.xdist_group("heads")
@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="left out: Prometheus is missing; install Debian's package prometheus",
)
def test_the_dashboard_shows_the_committed_images_of_a_running_synthesis(tmp_path: Path) -> None:
    url, plan_file = str(tmp_path / "set"), tmp_path / "plan.json"
    plan = light_plan(SHARDS, SHARD_SIZE)
    plan_file.write_text(plan.model_dump_json())
    light = {PACE: str(IMAGE_SECONDS), LEDGER: str(tmp_path / "ledger"), "PYTHONPATH": os.pathsep.join(sys.path)}
    with (
        ray_head(f"--system-config={json.dumps(REPORTS)}", **light) as head,
        prometheus(head, tmp_path) as server,
    ):
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(head.address)
        job = client.submit_job(entrypoint=f"python -m tests.worlds.light {plan_file} {url} 1")
        query = panel("Images done")
        values: list[float | None] = []

        def is_current() -> bool:
            assert not client.get_job_status(job).is_terminal(), client.get_job_logs(job)
            committed = sum(occurrences(plan, url).values())
            try:
                values.append(query_value(server, query))
            except OSError:  # a timeout
                values.append(None)
            return 0 < committed == values[-1] == sum(occurrences(plan, url).values())

        assert waited(is_current), values
        assert values[-1] is not None and values[-1] < plan.total
        assert choices(server) == [url]


@contextlib.contextmanager
def prometheus(head: Head, folder: Path) -> Iterator[str]:
    """Address of a Prometheus that scrapes the nodes of a head every second, until the end of the block."""
    shipped = (MONITORING / "prometheus.yaml").read_text()
    config = yaml.safe_load(shipped.replace("/tmp/ray/", f"{head.folder}/"))
    config["global"]["scrape_interval"] = "1s"
    for discovery in config["scrape_configs"][0]["file_sd_configs"]:
        discovery["refresh_interval"] = "1s"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "rules.yaml", folder)
    [port] = free_ports(1)
    server, log = f"http://127.0.0.1:{port}", folder / "prometheus.log"
    options = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'series'}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=output
        )
    try:
        assert waited(lambda: ready(server) or process.poll() is not None), log.read_text()
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        process.kill()
        process.wait()


def ready(server: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{server}/-/ready", timeout=5):
        return True
    return False


def panel(title: str) -> str:
    """The query of the dashboard's panel with this title, for all values of its variable `set`."""
    page = dashboard()
    (selected,) = [item for item in page["panels"] if item["title"] == title]
    (target,) = selected["targets"]
    return str(target["expr"]).replace("$set", variable(page)["allValue"])


def variable(page: dict[str, Any]) -> dict[str, Any]:
    return next(item for item in page["templating"]["list"] if item["name"] == "set")


def choices(server: str) -> list[str]:
    """The values of the dashboard's variable `set`."""
    call = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable(dashboard())["query"]["query"])
    assert call is not None
    return list(get(server, f"label/{call[2]}/values", **{"match[]": call[1]}))


def query_value(server: str, query: str) -> float | None:
    """Current value of a query, or None."""
    result = get(server, "query", query=query)["result"]
    return float(result[0]["value"][1]) if result else None


def get(server: str, path: str, **parameters: str) -> Any:
    address = f"{server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=30) as reply:
        return json.load(reply)["data"]
