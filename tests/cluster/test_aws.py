"""The whole life of `cluster/aws.yaml`, in an imitation of AWS whose instances are hosts of this machine.

What the file needs there: no container, root as the account, inner addresses, small machines. That EC2 has the image
and the machines, only an account can show.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.cluster.configs import Config, read
from tests.cluster.rehearsals import Rehearsal, on_hosts
from tests.conftest import TinyWorld

pytestmark = on_hosts

HUB = "172.31.255.254"
"""Inside the network that the imitation gives to instances."""


def for_hosts() -> Config:
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


def test_a_spot_machine_comes_is_reclaimed_is_replaced_and_goes(tiny: TinyWorld, tmp_path: Path) -> None:
    rehearsal = Rehearsal.prepare(tmp_path, tiny.recipe, "synthesis.actors=1")
    config = rehearsal.root / "aws.yaml"
    config.write_text(yaml.safe_dump(for_hosts()))
    account = {
        "AWS_ENDPOINT_URL": f"http://{HUB}:5601",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-west-2",
    }

    told = rehearsal.play(0, "aws.sh", config, HOSTS_HUB=HUB, HOSTS_NET="16", **account)

    shards = rehearsal.check_bytes()
    (there,) = re.findall(r"it is reclaimed, with (\d+) shards", told)
    assert 0 < int(there) < shards
    (workers,) = re.findall(r"on (\d+) workers in turn", told)
    assert int(workers) >= 2
    assert "idle: 1 instance is left" in told
    assert "ray down: 0 instances are left" in told
