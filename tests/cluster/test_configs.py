"""The cluster files, checked by Ray's schema, bootstrap code and scheduler.

`aws.yaml` is tested until instances run in an emulator of EC2, `gcp.yaml` until Google's client sends a launch request.
Images, machine types and quota of a region are not tested.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import jsonschema
import moto
import pytest
from ray.autoscaler._private.providers import _NODE_PROVIDERS, _get_node_provider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from syncclip.training.settings import TrainingSettings
from tests.cluster import aws_account
from tests.cluster.configs import CLUSTER, Config, launches, read
from tests.cluster.google import Google, strict_schema

CLOUDS = ("aws", "gcp")
ACTOR = {"CPU": 1.0, "GPU": 1.0}
OFFICE = "203.0.113.0/24"


@pytest.mark.parametrize("name", ["local", "rehearsal", *CLOUDS])
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_has_no_gpu_and_pools_start_empty(name: str) -> None:
    types = read(name)["available_node_types"]

    assert types["head"]["resources"] == {"CPU": 0}
    assert {name: types[name]["min_workers"] for name in types if name != "head"} == {
        "generate-spot": 0,
        "generate-on-demand": 0,
    }


@pytest.mark.parametrize(("failures", "status"), [(0, 0), (4, 0), (5, 1)])
@pytest.mark.parametrize("name", ["local", *CLOUDS])
def test_a_slow_start_of_a_worker_is_retried_four_times(name: str, failures: int, status: int, tmp_path: Path) -> None:
    """`ray start` fails after 30 s, and the autoscaler does not retry it."""
    program = tmp_path / "ray"
    log = tmp_path / "log"
    program.write_text(f"#!/bin/bash\n[ $1 = start ] || exit 0\necho $@ >>{log}\n[ $(wc -l <{log}) -gt {failures} ]\n")
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD_IP": "10.0.0.1"}
    for line in read(name)["worker_start_ray_commands"]:
        done = subprocess.run(["bash", "-c", line], env=environment)
    starts = log.read_text().splitlines()
    assert (done.returncode, len(starts)) == (status, min(failures + 1, 5))
    assert all("--address=10.0.0.1:6379" in start for start in starts)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """`aws.yaml` as bootstrapped by `ray up` in an emulated AWS account with the roles and the group of infra/aws."""
    environment = {
        "HOME": str(tmp_path_factory.mktemp("home")),  # Ray writes its key pair there
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-west-2",
    }
    with mock.patch.dict(os.environ, environment), moto.mock_aws():
        aws_account.prepare()
        config = prepare_config(read("aws"))
        provider = _NODE_PROVIDERS["aws"](config["provider"])
        yield provider.fillout_available_node_types_resources(provider.bootstrap_config(config))


@pytest.mark.slow
def test_aws_is_bootstrapped_with_roles_and_gpus(aws: Config) -> None:
    types = aws["available_node_types"]

    assert {name: node["resources"].get("GPU", 0) for name, node in types.items()} == {
        "head": 0,
        "generate-spot": 1,
        "generate-on-demand": 1,
    }
    profiles = {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in types.items()}
    assert profiles == {
        "head": "syncclip-head",
        "generate-spot": "syncclip-worker",
        "generate-on-demand": "syncclip-worker",
    }


@pytest.mark.slow
def test_aws_allows_ssh_from_one_network_only(aws: Config) -> None:
    ec2 = boto3.client("ec2")
    groups = {id_ for node in aws["available_node_types"].values() for id_ in node["node_config"]["SecurityGroupIds"]}
    rules = [
        rule
        for group in ec2.describe_security_groups(GroupIds=[*groups])["SecurityGroups"]
        for rule in group["IpPermissions"]
    ]

    assert {block["CidrIp"] for rule in rules for block in rule.get("IpRanges", [])} == {OFFICE}


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "lifecycle"), [("generate-spot", "spot"), ("generate-on-demand", None)])
def test_aws_launches_a_machine_of_each_pool(aws: Config, pool: str, lifecycle: str | None) -> None:
    node = aws["available_node_types"][pool]["node_config"]
    provider: Any = _get_node_provider(aws["provider"], aws["cluster_name"])

    provider.create_node(node, {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_USER_NODE_TYPE: pool}, 1)

    of_pool = [{"Name": f"tag:{TAG_RAY_USER_NODE_TYPE}", "Values": [pool]}]
    reservations = boto3.client("ec2").describe_instances(Filters=of_pool)["Reservations"]
    (instance,) = (item for reservation in reservations for item in reservation["Instances"])
    assert (instance["InstanceType"], instance.get("InstanceLifecycle")) == ("g5.2xlarge", lifecycle)
    assert instance["State"]["Name"] == "running"


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Google, Config]]:
    """Emulator of Google Cloud, and `gcp.yaml` as bootstrapped by `ray up`."""
    project = Google("my-project")
    home = {"HOME": str(tmp_path_factory.mktemp("home"))}
    with mock.patch.dict(os.environ, home), project.patched():
        config = prepare_config(read("gcp"))
        yield project, _NODE_PROVIDERS["gcp"](config["provider"]).bootstrap_config(config)


@pytest.mark.parametrize("pool", ["head", "generate-spot", "generate-on-demand"])
def test_gcp_launch_requests_match_the_schema(google: tuple[Google, Config], pool: str) -> None:
    project, config = google
    provider: Any = _get_node_provider(config["provider"], config["cluster_name"])
    tags = {"ray-node-name": f"ray-{pool}", "ray-node-type": "worker", TAG_RAY_USER_NODE_TYPE: pool}

    provider.create_node(config["available_node_types"][pool]["node_config"], tags, 1)

    request = project.launched[-1]
    errors = jsonschema.Draft202012Validator(strict_schema("compute", "v1", "Instance")).iter_errors(request)
    assert [error.message for error in errors] == []
    (account,) = request["serviceAccounts"]
    assert account["email"].startswith("syncclip-head@" if pool == "head" else "syncclip-data@")
    assert request.get("scheduling", {}).get("provisioningModel") == ("SPOT" if pool == "generate-spot" else None)
    assert len(request.get("guestAccelerators", [])) == (pool != "head")


def test_gcp_accepts_the_lifecycle_rule() -> None:
    rules = json.loads((CLUSTER.parent / "infra" / "gcp" / "lifecycle.json").read_text())

    jsonschema.validate({"lifecycle": rules}, strict_schema("storage", "v1", "Bucket"))


def pools(name: str) -> dict[str, Config]:
    """Node types with their resources; AWS's are not in the file, as Ray queries EC2 for them."""
    types = read(name)["available_node_types"]
    filled = {"CPU": 8, "GPU": 1}
    return {pool: {**node, "resources": node["resources"] or filled} for pool, node in types.items()}


@pytest.mark.parametrize("name", CLOUDS)
def test_synthesis_launches_spot_machines_first_up_to_the_limits(name: str) -> None:
    assert launches(pools(name), ACTOR, 3) == {"generate-spot": 3}
    assert launches(pools(name), ACTOR, 2, broken="generate-spot") == {"generate-on-demand": 2}
    assert launches(pools(name), ACTOR, 64) == {"generate-spot": 8, "generate-on-demand": 2}


@pytest.mark.parametrize("name", CLOUDS)
def test_a_selector_keeps_synthesis_on_spot_machines(name: str) -> None:
    spot = {"ray.io/market-type": "spot"}
    assert launches(pools(name), ACTOR, 64, selector=spot) == {"generate-spot": 8}
    assert "generate-on-demand" not in launches(pools(name), ACTOR, 2, broken="generate-spot", selector=spot)


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("name", CLOUDS)
def test_training_launches_machines_on_demand_only(name: str, count: int) -> None:
    selector = TrainingSettings().label_selector
    for broken in ("", "generate-on-demand"):
        started = launches(pools(name), ACTOR, count, broken=broken, selector=selector)
        assert started == {"generate-on-demand": min(count, 2)}


def test_training_uses_any_machine_without_labels() -> None:
    types = read("rehearsal")["available_node_types"]

    assert launches(types, {"CPU": 1.0}, 2, selector=TrainingSettings().label_selector) == {"generate": 2}
