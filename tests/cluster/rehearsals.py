"""Rehearsals on hosts of this machine: requirements, a slow recipe, and the comparison of shards."""

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
"""Timeout of a rehearsal in seconds; it takes ten minutes on a busy machine."""

VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
"""Environment variables of all hosts."""

HEALTH = {f"RAY_{name}": str(value) for name, value in rehearsal.HEALTH.items()}
"""Variables with which a head detects a lost host at once instead of after half a minute."""

INTERVALS = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "AUTOSCALER_NODE_SSH_INTERVAL_S": "1"}
"""Polling intervals of the autoscaler in seconds; the default is 5."""

PROGRAMS = ("sshd", "ssh", "rsync", "ip", "unshare")


def installed(*programs: str) -> bool:
    """Whether all programs are installed; daemons are only on root's PATH."""
    return all(shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") for program in programs)


on_hosts = [
    pytest.mark.xdist_group("hosts"),
    pytest.mark.nightly,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.timeout(1500),  # includes the synthesis before the rehearsal
    pytest.mark.skipif(
        os.geteuid() != 0 or not installed(*PROGRAMS),
        reason=f"left out: hosts of this machine need root and {', '.join(PROGRAMS)}",
    ),
]


@dataclass(frozen=True)
class Rehearsal:
    """A folder with hosts, a recipe, and two sets: `near` generated in this process, `far` by the cluster."""

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
        """Write a recipe whose synthesis takes half a minute, and generate its set here."""
        slow = ["synthesis.images_per_class=24", "synthesis.generator.steps=10", *overrides]
        prepared = cls(folder / "rehearsal")
        prepared.root.mkdir()
        prepared.recipe.write_text(Recipe.load(recipe, slow).to_yaml())
        generate_here(Recipe.load(str(prepared.recipe)), str(prepared.near))
        return prepared

    def play(self, hosts: int, script: str, config: Path, **variables: str) -> str:
        """Run a script on a machine beside this number of hosts; returns its output. A failure shows all logs."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        of_hosts = {**VARIABLES, **HEALTH, **INTERVALS}
        of_hosts |= {name: value for name, value in variables.items() if not name.startswith("HOSTS_")}
        if cache := os.environ.get("PYTHONPYCACHEPREFIX"):
            of_hosts["PYTHONPYCACHEPREFIX"] = cache
        environment |= {**INTERVALS, **variables, "HOSTS_ROOT": str(self.root)}
        environment |= {"HOSTS_BIN": str(Path(sys.executable).parent)}
        environment |= {"HOSTS_ENV": " ".join(f"{name}={value}" for name, value in of_hosts.items())}
        command = [str(HERE / script), str(config), str(self.recipe), str(self.far)]
        with (self.root / "output.log").open("w") as output:
            process = subprocess.Popen(
                ["bash", str(HERE / "hosts.sh"), str(hosts), "bash", *command],
                env=environment,
                cwd=PROJECT,
                stdout=output,
                stderr=output,
            )
            try:
                status: int | str = process.wait(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                status = f"timeout after {LIMIT} s"
            finally:
                process.kill()
                process.wait()
        logs = {log.name: log.read_text() for log in sorted(self.root.glob("*.log"))}
        print(logs["output.log"])
        assert status == 0, "\n".join([str(status), *(f"--- {name}\n{text[-3000:]}" for name, text in logs.items())])
        return logs["output.log"]

    def check_bytes(self) -> int:
        """Compare the cluster's shards with those generated here; returns their number."""
        names = sorted(path.name for path in self.near.glob("*.tar"))
        assert sorted(path.name for path in self.far.glob("*.tar")) == names
        assert [name for name in names if (self.far / name).read_bytes() != (self.near / name).read_bytes()] == []
        return len(names)
