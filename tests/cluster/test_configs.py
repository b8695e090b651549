"""The cluster files by Ray's own schema, bootstrap code and scheduler.

How far each is taken here: `local.yaml` as far as its schema, `aws.yaml` until instances run in an imitation of EC2,
`gcp.yaml` until Google's client would send what is launched. Whether a region has the images, the machines and the
quota, only an account can tell.
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
from tests.cluster.configs import CLUSTER, Config, launches, read
from tests.cluster.google import Google, strict_schema

CLOUDS = ("aws", "gcp")
ACTOR = {"CPU": 1.0, "GPU": 1.0}
OFFICE = "203.0.113.0/24"


@pytest.mark.parametrize("name", ["local", "rehearsal", *CLOUDS])
def test_ray_accepts_it(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_has_no_gpu_and_pools_start_empty(name: str) -> None:
    types = read(name)["available_node_types"]

    assert types["head"]["resources"] == {"CPU": 0}
    assert {one: types[one]["min_workers"] for one in types if one != "head"} == {
        "generate-spot": 0,
        "generate-on-demand": 0,
    }


@pytest.mark.parametrize(("failures", "status"), [(0, 0), (4, 0), (5, 1)])
@pytest.mark.parametrize("name", ["local", *CLOUDS])
def test_a_worker_that_is_slow_to_start_gets_four_more_tries(
    name: str, failures: int, status: int, tmp_path: Path
) -> None:
    """`ray start` fails where a node isn't up within 30 s, and the autoscaler leaves it at that."""
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
    """What `ray up` makes of `aws.yaml` before it launches anything, in an imitation of AWS that holds what infra/aws
    makes; Ray writes its key pair into a home of its own."""
    environment = {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-west-2",
    }
    with mock.patch.dict(os.environ, environment), moto.mock_aws():
        iam, ec2 = boto3.client("iam"), boto3.client("ec2")
        for role in ("syncclip-head", "syncclip-worker"):
            iam.create_role(RoleName=role, AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')
            iam.create_instance_profile(InstanceProfileName=role)
            iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        (network,) = ec2.describe_vpcs()["Vpcs"]
        group = ec2.create_security_group(GroupName="syncclip", Description="syncclip", VpcId=network["VpcId"])
        ssh = {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": OFFICE}]}
        ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[ssh])
        config = prepare_config(read("aws"))
        provider = _NODE_PROVIDERS["aws"](config["provider"])
        yield provider.fillout_available_node_types_resources(provider.bootstrap_config(config))


@pytest.mark.slow
def test_aws_is_bootstrapped_with_its_own_roles_network_and_gpus(aws: Config) -> None:
    types = aws["available_node_types"]

    assert {name: one["resources"].get("GPU", 0) for name, one in types.items()} == {
        "head": 0,
        "generate-spot": 1,
        "generate-on-demand": 1,
    }
    profiles = {name: one["node_config"]["IamInstanceProfile"]["Name"] for name, one in types.items()}
    assert profiles == {
        "head": "syncclip-head",
        "generate-spot": "syncclip-worker",
        "generate-on-demand": "syncclip-worker",
    }


@pytest.mark.slow
def test_aws_is_reached_by_ssh_from_where_infra_says_only(aws: Config) -> None:
    ec2 = boto3.client("ec2")
    groups = {group for one in aws["available_node_types"].values() for group in one["node_config"]["SecurityGroupIds"]}
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
    (instance,) = (one for reservation in reservations for one in reservation["Instances"])
    assert (instance["InstanceType"], instance.get("InstanceLifecycle")) == ("g5.2xlarge", lifecycle)
    assert instance["State"]["Name"] == "running"


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Google, Config]]:
    """Google's interface with what `ray up` makes of `gcp.yaml`; Ray writes its key pair into a home of its own."""
    project = Google("my-project")
    home = {"HOME": str(tmp_path_factory.mktemp("home"))}
    with mock.patch.dict(os.environ, home), project.in_place():
        config = prepare_config(read("gcp"))
        yield project, _NODE_PROVIDERS["gcp"](config["provider"]).bootstrap_config(config)


@pytest.mark.parametrize("pool", ["head", "generate-spot", "generate-on-demand"])
def test_gcp_is_asked_for_machines_that_its_interface_describes(google: tuple[Google, Config], pool: str) -> None:
    project, config = google
    provider: Any = _get_node_provider(config["provider"], config["cluster_name"])
    tags = {"ray-node-name": f"ray-{pool}", "ray-node-type": "worker", TAG_RAY_USER_NODE_TYPE: pool}

    provider.create_node(config["available_node_types"][pool]["node_config"], tags, 1)

    asked = project.launched[-1]
    errors = jsonschema.Draft202012Validator(strict_schema("compute", "v1", "Instance")).iter_errors(asked)
    assert [error.message for error in errors] == []
    (account,) = asked["serviceAccounts"]
    assert account["email"].startswith("syncclip-head@" if pool == "head" else "syncclip-data@")
    assert asked.get("scheduling", {}).get("provisioningModel") == ("SPOT" if pool == "generate-spot" else None)
    assert len(asked.get("guestAccelerators", [])) == (pool != "head")


def test_gcp_takes_the_rule_that_ends_unfinished_uploads() -> None:
    rules = json.loads((CLUSTER.parent / "infra" / "gcp" / "lifecycle.json").read_text())

    jsonschema.validate({"lifecycle": rules}, strict_schema("storage", "v1", "Bucket"))


def pools(name: str) -> dict[str, Config]:
    """The node types with resources: GCP's as they stand in the file, AWS's as EC2 tells them."""
    types = read(name)["available_node_types"]
    filled = {"CPU": 8, "GPU": 1}
    return {one: {**node, "resources": node["resources"] or filled} for one, node in types.items()}


@pytest.mark.parametrize("name", CLOUDS)
def test_actors_of_one_gpu_each_bring_spot_machines(name: str) -> None:
    assert launches(pools(name), ACTOR, 3) == {"generate-spot": 3}


@pytest.mark.parametrize("name", CLOUDS)
def test_where_spot_has_none_machines_come_on_demand(name: str) -> None:
    assert launches(pools(name), ACTOR, 2, broken="generate-spot") == {"generate-on-demand": 2}


@pytest.mark.parametrize("name", CLOUDS)
def test_no_more_machines_come_than_the_pools_hold(name: str) -> None:
    assert launches(pools(name), ACTOR, 64) == {"generate-spot": 8, "generate-on-demand": 2}


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("name", CLOUDS)
def test_training_brings_machines_on_demand_only(name: str, count: int) -> None:
    selector = TrainingSettings().label_selector
    for broken in ("", "generate-on-demand"):
        started = launches(pools(name), ACTOR, count, broken=broken, selector=selector)
        assert started == {"generate-on-demand": min(count, 2)}


def test_training_is_placed_anywhere_where_machines_have_no_labels() -> None:
    types = read("rehearsal")["available_node_types"]

    assert launches(types, {"CPU": 1.0}, 2, selector=TrainingSettings().label_selector) == {"generate": 2}
