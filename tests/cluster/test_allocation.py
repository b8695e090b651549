"""`cluster/slurm/synth.sh` in allocations of a real Slurm: two hosts of this machine as nodes, one job cancelled.

What differs from a university's: no GPUs, nodes that claim more CPUs and memory than they have, no cgroups.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.configs import CLUSTER
from tests.cluster.rehearsals import Rehearsal, installed, on_hosts
from tests.conftest import TinyWorld

DAEMONS = ("slurmctld", "slurmd", "munged")

pytestmark = [
    *on_hosts,
    pytest.mark.skipif(
        not installed(*DAEMONS),
        reason="left out: Slurm isn't here; Debian's packages slurm-wlm and munge bring it",
    ),
]


def test_a_cancelled_allocation_is_submitted_again_and_draws_the_same_bytes(tiny: TinyWorld, tmp_path: Path) -> None:
    few = ["synthesis.actors=2", "synthesis.images_per_class=12", "synthesis.generator.steps=50"]
    rehearsal = Rehearsal.prepare(tmp_path, tiny.recipe, *few)

    told = rehearsal.play(2, "slurm.sh", CLUSTER / "slurm" / "synth.sh")

    shards = rehearsal.check_bytes()
    (there,) = re.findall(r"is cancelled, with (\d+) shards", told)
    assert 0 < int(there) < shards
    assert f"is COMPLETED, with {shards} shards; it ran on host[1-2]" in told
