"""Clusters on hosts of this machine, in network namespaces: a rack over ssh, Slurm allocations, and emulated AWS."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.cluster.configs import CLUSTER, Config, read
from tests.cluster.rehearsals import PROJECT, Rehearsal, installed, on_hosts
from tests.conftest import TinyWorld

pytestmark = on_hosts

HUB = "172.31.255.254"
"""Address inside the network that the AWS emulator assigns to instances."""


def rack_config(folder: Path) -> Config:
    """`cluster/local.yaml` with the hosts' addresses and key; the hosts have the package installed."""
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


def aws_config() -> Config:
    """`cluster/aws.yaml` for hosts: no container, root as the user, internal addresses, small machines."""
    config = read("aws")
    config.pop("docker")
    config["auth"]["ssh_user"] = "root"
    config["provider"]["use_internal_ips"] = True
    config["idle_timeout_minutes"] = 0.3
    for name, node in config["available_node_types"].items():
        node["resources"]["object_store_memory"] = 100_000_000
        if name != "head":
            node |= {"max_workers": 1}
            node["resources"] |= {"CPU": 1, "GPU": 1}
    for part in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[part] = [line.replace("ray start", "ray start --object-store-memory=100000000") for line in config[part]]
    return config


def check_loss(rehearsal: Rehearsal, pattern: str, log: str) -> int:
    """Check that the loss in the log occurred in the middle, and the bytes; returns the number of shards."""
    shards = rehearsal.check_bytes()
    (committed,) = re.findall(pattern, log)
    assert 0 < int(committed) < shards
    return shards


def test_a_rack_that_loses_a_machine_generates_the_same_bytes(tiny: TinyWorld, tmp_path: Path) -> None:
    rehearsal = Rehearsal.prepare(tmp_path, tiny.recipe, "synthesis.actors=2")
    config = rehearsal.root / "local.yaml"
    config.write_text(yaml.safe_dump(rack_config(rehearsal.root)))
    log = rehearsal.play(2, "laptop.sh", config)
    check_loss(rehearsal, r"host2 is lost, with (\d+) shards", log)
    assert "0 processes of Ray are left" in log


@pytest.mark.skipif(
    not installed("slurmctld", "slurmd", "munged"),
    reason="left out: Slurm is not installed; Debian's packages slurm-wlm and munge contain it",
)
def test_a_cancelled_slurm_job_resumes_to_the_same_bytes(tiny: TinyWorld, tmp_path: Path) -> None:
    """`cluster/slurm/synth.sh` on two nodes without GPUs and cgroups."""
    few = ["synthesis.actors=2", "synthesis.images_per_class=12", "synthesis.generator.steps=50"]
    rehearsal = Rehearsal.prepare(tmp_path, tiny.recipe, *few)
    log = rehearsal.play(2, "slurm.sh", CLUSTER / "slurm" / "synth.sh")
    shards = check_loss(rehearsal, r"is cancelled, with (\d+) shards", log)
    assert f"is COMPLETED, with {shards} shards; it ran on host[1-2]" in log


def test_a_reclaimed_spot_machine_is_replaced(tiny: TinyWorld, tmp_path: Path) -> None:
    """`cluster/aws.yaml` from `ray up` to `ray down`; the emulator does not check that EC2 has image and machines."""
    rehearsal = Rehearsal.prepare(tmp_path, tiny.recipe, "synthesis.actors=1")
    config = rehearsal.root / "aws.yaml"
    config.write_text(yaml.safe_dump(aws_config()))
    account = {
        "AWS_ENDPOINT_URL": f"http://{HUB}:5601",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-west-2",
    }
    log = rehearsal.play(0, "aws.sh", config, HOSTS_HUB=HUB, HOSTS_NET="16", **account)
    check_loss(rehearsal, r"it is reclaimed, with (\d+) shards", log)
    (workers,) = re.findall(r"on (\d+) workers in turn", log)
    assert int(workers) >= 2
    assert "idle: 1 instance is left" in log
    assert "ray down: 0 instances are left" in log
