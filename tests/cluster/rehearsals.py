"""What rehearsals on hosts of this machine share: when they can run, a recipe that takes its time, the comparison."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster import rehearsal
from syncclip.recipe.recipe import Recipe
from tests.worlds.synthetic import generate_here

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
LIMIT = 1100
"""Seconds after which a rehearsal hangs: they take ten minutes on a busy machine."""

HEALTH = {f"RAY_{name}": str(value) for name, value in rehearsal.HEALTH.items()}
"""Else a head takes half a minute to notice that a host is lost."""

LOOKS = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "AUTOSCALER_NODE_SSH_INTERVAL_S": "1"}
"""Else the autoscaler looks every five seconds for what a cluster needs, and for a machine that starts."""

PROGRAMS = ("sshd", "ssh", "rsync", "ip", "unshare")


def installed(*programs: str) -> bool:
    """Whether all are here; daemons lie where only root's PATH leads."""
    return all(shutil.which(one, path=f"{os.environ['PATH']}:/usr/sbin") for one in programs)


on_hosts = [
    pytest.mark.xdist_group("hosts"),
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.timeout(1500),  # before the rehearsal itself its set is generated here
    pytest.mark.skipif(
        os.geteuid() != 0 or not installed(*PROGRAMS),
        reason=f"left out: hosts of this machine need root and {', '.join(PROGRAMS)}",
    ),
]


@dataclass(frozen=True)
class Rehearsal:
    """A folder in which hosts, a recipe and two sets lie: one drawn here, one to be drawn by the cluster."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "tiny.yaml"

    @property
    def near(self) -> Path:
        return self.root / "near"

    @property
    def far(self) -> Path:
        return self.root / "far"

    @classmethod
    def prepare(cls, folder: Path, recipe: str, *overrides: str) -> Rehearsal:
        """Write a recipe whose set takes half a minute, and draw it here."""
        slow = ["synthesis.images_per_class=24", "synthesis.generator.steps=10", *overrides]
        one = cls(folder / "rehearsal")
        one.root.mkdir()
        one.recipe.write_text(Recipe.load(recipe, slow).to_yaml())
        generate_here(Recipe.load(str(one.recipe)), str(one.near))
        return one

    def play(self, hosts: int, script: str, config: Path, **variables: str) -> str:
        """Run a script as the laptop beside so many hosts; returns what it told. Its failure shows all logs."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
        if cache := os.environ.get("PYTHONPYCACHEPREFIX"):
            quiet["PYTHONPYCACHEPREFIX"] = cache
        cloud = {name: value for name, value in variables.items() if not name.startswith("HOSTS_")}
        logins = " ".join(f"{name}={value}" for name, value in {**quiet, **HEALTH, **LOOKS, **cloud}.items())
        environment |= {"HOSTS_ROOT": str(self.root), "HOSTS_BIN": str(Path(sys.executable).parent)}
        environment |= {**LOOKS, **variables, "HOSTS_ENV": logins}
        command = [str(HERE / script), str(config), str(self.recipe), str(self.far)]
        with (self.root / "told.log").open("w+") as told:
            done = subprocess.Popen(
                ["bash", str(HERE / "hosts.sh"), str(hosts), "bash", *command],
                env=environment,
                cwd=PROJECT,
                stdout=told,
                stderr=told,
            )
            try:
                status: int | str = done.wait(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                status = f"no end after {LIMIT} s"
            finally:
                done.kill()
                done.wait()
        logs = {log.name: log.read_text() for log in sorted(self.root.glob("*.log"))}
        print(logs["told.log"])
        assert status == 0, "\n".join([str(status), *(f"--- {name}\n{text[-3000:]}" for name, text in logs.items())])
        return logs["told.log"]

    def check_bytes(self) -> int:
        """Hold the cluster's shards to those drawn here; returns how many there are."""
        names = sorted(path.name for path in self.near.glob("*.tar"))
        assert sorted(path.name for path in self.far.glob("*.tar")) == names
        assert [name for name in names if (self.far / name).read_bytes() != (self.near / name).read_bytes()] == []
        return len(names)
