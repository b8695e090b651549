"""A real Prometheus, with the configuration that we ship, watches a head of Ray on which a set is being drawn.

What the dashboard asks is asked of Prometheus itself: Grafana isn't at hand. `test_monitoring.py` checks the rules, and
that every query of the dashboard is one.
"""

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
from tests.worlds.chaos import times_there
from tests.worlds.light import LEDGER, PACE, light_plan

SHARDS, SHARD_SIZE = 100, 4
IMAGE_SECONDS = 6.0
"""A shard takes four times that: a commit is seen at most 12 s later, before the next one."""

REPORTS = {"metrics_report_interval_ms": 5000}
"""How often Ray passes metrics on. It forgets a gauge that is older than two of these, and ours are set every 6 s."""


@pytest.mark.xdist_group("heads")
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="left out: Prometheus isn't here; Debian's package prometheus brings it"
)
def test_the_dashboard_shows_how_many_images_a_running_synthesis_has_committed(tmp_path: Path) -> None:
    url, asked = str(tmp_path / "set"), tmp_path / "asked.json"
    plan = light_plan(SHARDS, SHARD_SIZE)
    asked.write_text(plan.model_dump_json())
    light = {PACE: str(IMAGE_SECONDS), LEDGER: str(tmp_path / "ledger"), "PYTHONPATH": os.pathsep.join(sys.path)}
    with (
        ray_head(f"--system-config={json.dumps(REPORTS)}", **light) as head,
        prometheus(head, tmp_path) as server,
    ):
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(head.address)
        job = client.submit_job(entrypoint=f"python -m tests.worlds.light {asked} {url} 1")
        query = panel("Images done")
        told: list[float | None] = []

        def right() -> bool:
            assert not client.get_job_status(job).is_terminal(), client.get_job_logs(job)
            made = sum(times_there(plan, url).values())
            try:
                told.append(answer(server, query))
            except OSError:  # too busy to answer in time
                told.append(None)
            return 0 < made == told[-1] == sum(times_there(plan, url).values())

        assert waited(right), told
        assert told[-1] is not None
        assert told[-1] < plan.total
        assert choices(server) == [url]


@contextlib.contextmanager
def prometheus(head: Head, folder: Path) -> Iterator[str]:
    """The address of a Prometheus that scrapes what a head tells it to, every second, until the block ends."""
    shipped = (MONITORING / "prometheus.yaml").read_text()
    config = yaml.safe_load(shipped.replace("/tmp/ray/", f"{head.folder}/"))
    config["global"]["scrape_interval"] = "1s"
    for place in config["scrape_configs"][0]["file_sd_configs"]:
        place["refresh_interval"] = "1s"
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
    """The query of the dashboard's panel of this title, with all that its variable `set` may stand for."""
    page = dashboard()
    [one] = [one for one in page["panels"] if one["title"] == title]
    [target] = one["targets"]
    return str(target["expr"]).replace("$set", variable(page)["allValue"])


def variable(page: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in page["templating"]["list"] if one["name"] == "set")


def choices(server: str) -> list[str]:
    """What the dashboard's list of sets offers."""
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable(dashboard())["query"]["query"])
    assert asked is not None
    return list(ask(server, f"label/{asked[2]}/values", **{"match[]": asked[1]}))


def answer(server: str, query: str) -> float | None:
    """What Prometheus knows now; None as long as that is nothing."""
    found = ask(server, "query", query=query)["result"]
    return float(found[0]["value"][1]) if found else None


def ask(server: str, path: str, **parameters: str) -> Any:
    address = f"{server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=30) as reply:
        return json.load(reply)["data"]
