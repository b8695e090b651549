"""What is said when Ray, or the process that uses it, ends too early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syncclip.runtime.shutdown import SENTENCE
from tests.conftest import TinyWorld
from tests.ray_head import ray_head

WITNESSED = """
import os, signal, sys
from syncclip.runtime.shutdown import end_process, listening
from syncclip.runtime.ray_watch import witnessed
with listening(), witnessed("this machine's Ray") as witness:
    {}
print("went on")
"""
LAST_WORDS = (
    "syncclip: the command was killed, or ended when this machine's Ray did (out of memory?); "
    "the same command goes on from what is committed\n"
)


@pytest.mark.parametrize(
    ("body", "status", "out", "err"),
    [
        ("os._exit(1)", 1, "", LAST_WORDS),  # as Ray's C++ does
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "", LAST_WORDS),
        ("os.abort()", -signal.SIGABRT, "", LAST_WORDS),
        ("witness.say('syncclip: lost'); witness.say('again'); os._exit(1)", 1, "", "syncclip: lost\n"),
        ("witness.say('lost'); witness.close()", 0, "went on\n", "lost\n"),
        (f"end_process({SENTENCE!r}, 130)", 130, "", f"{SENTENCE}\n"),
        ("pass", 0, "went on\n", ""),
    ],
)
def test_whichever_way_a_process_ends_one_sentence_is_said(body: str, status: int, out: str, err: str) -> None:
    done = subprocess.run([sys.executable, "-c", WITNESSED.format(body)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.xdist_group("heads")
def test_a_cluster_whose_head_is_lost_ends_a_command_with_one_sentence(tiny: TinyWorld, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with ray_head() as head:
        command = [sys.executable, "-m", "syncclip", "synth", tiny.recipe, "--out", str(out)]
        with (tmp_path / "log").open("w+") as log:
            driver = subprocess.Popen(
                [*command, "synthesis.images_per_class=400"], env={**os.environ, **head.to_join}, stdout=log, stderr=log
            )
            try:
                while not (out / "00000_stats.json").exists():
                    assert driver.poll() is None, (tmp_path / "log").read_text()
                    time.sleep(0.05)
                head.lose()
                status = driver.wait(300)
            finally:
                driver.kill()
                driver.wait()
            log.seek(0)
            said = [line for line in log.read().splitlines() if not line.startswith("synth: ")]
    assert status == 1, said
    (sentence,) = said
    assert f"the Ray cluster at {head.to_join['RAY_ADDRESS']} " in sentence
    assert sentence.endswith("the same command goes on from what is committed")


BUSY = """
import sys, time
import psutil, ray
from syncclip.runtime.ray_session import ray_session
with ray_session(1):
    family = psutil.Process().children(recursive=True)
    paused = [one for one in family if sys.argv[1] in one.name() or any(sys.argv[1] in word for word in one.cmdline())]
    assert paused
    for one in paused:
        one.suspend()
    time.sleep(10)
    for one in paused:
        one.resume()
    time.sleep(5)
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("part", ["raylet", "gcs_server", "DashboardAgent", "RuntimeEnvAgent"])
def test_a_local_ray_that_does_not_answer_for_a_while_is_not_lost(part: str) -> None:
    """As on an overloaded machine; health checks are made 50 times as strict, to fail within seconds."""
    strict = {"RAY_health_check_period_ms": "200", "RAY_health_check_timeout_ms": "200"}
    strict |= {"RAY_health_check_initial_delay_ms": "0"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", BUSY, part]
    done = subprocess.run(command, env={**environment, **strict}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
