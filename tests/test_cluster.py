from __future__ import annotations

import os
import subprocess
import sys

import pytest

from syncclip import cluster


def test_debugging_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNCCLIP_DEBUG", raising=False)
    assert not cluster.debugging()
    monkeypatch.setenv("SYNCCLIP_DEBUG", "1")
    assert cluster.debugging()


def test_quiet_keeps_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    cluster.quiet()
    assert os.environ["RAY_DEDUP_LOGS"] == "0"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_initialised_ray_is_used_and_left_alone() -> None:
    import ray

    with cluster.ray_session():
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_ray_starts_quietly_and_is_shut_down() -> None:
    code = (
        "import ray\nfrom syncclip.cluster import ray_session\n"
        "with ray_session(cpus=1):\n    print(ray.get(ray.remote(lambda: 41 + 1).remote()))\n"
        "print(ray.is_initialized())\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SYNCCLIP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["42", "False"]
    assert done.stderr == ""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_an_unreachable_cluster_is_told_in_one_sentence(address: str) -> None:
    code = (
        "from syncclip.cluster import ray_session\n"
        "try:\n    with ray_session():\n        pass\nexcept ValueError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert f"no Ray cluster answers at RAY_ADDRESS={address}" in done.stdout, done.stderr
