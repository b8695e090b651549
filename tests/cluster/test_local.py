"""`ray up cluster/local.yaml`, launched over ssh on two hosts of this machine, one of which is lost on the way."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.cluster.configs import Config, read
from tests.cluster.rehearsals import PROJECT, Rehearsal, on_hosts
from tests.conftest import TinyWorld

pytestmark = on_hosts


def for_hosts(folder: Path) -> Config:
    """`cluster/local.yaml` with the hosts' addresses and key; what it installs is on their PATH already."""
    config = read("local")
    config["provider"] |= {"head_ip": "10.77.0.11", "worker_ips": ["10.77.0.12"]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(folder / "key")}
    config |= {"min_workers": 1, "max_workers": 1, "setup_commands": [], "file_mounts": {"~/syncclip": str(PROJECT)}}
    for part in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[part] = [
            line.replace("ray start", "ray start --num-cpus=1").replace("1000000000", "200000000")
            for line in config[part]
        ]
    return config


def test_a_rack_draws_the_same_bytes_though_a_machine_is_lost(tiny: TinyWorld, tmp_path: Path) -> None:
    rehearsal = Rehearsal.prepare(tmp_path, tiny.recipe, "synthesis.actors=2")
    config = rehearsal.root / "local.yaml"
    config.write_text(yaml.safe_dump(for_hosts(rehearsal.root)))

    told = rehearsal.play(2, "laptop.sh", config)

    shards = rehearsal.check_bytes()
    (there,) = re.findall(r"host2 is lost, with (\d+) shards", told)
    assert 0 < int(there) < shards
    assert "0 processes of Ray are left" in told
