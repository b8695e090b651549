"""What happens in the account while a cluster runs: aws_account.py prepare | watch FILE | reclaim."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import boto3

ROLES = ("syncclip-head", "syncclip-worker")


def prepare() -> None:
    """The roles and the network that infra/aws makes."""
    iam, ec2 = boto3.client("iam"), boto3.client("ec2")
    for role in ROLES:
        iam.create_role(RoleName=role, AssumeRolePolicyDocument='{"Version": "2012-10-17", "Statement": []}')
        iam.create_instance_profile(InstanceProfileName=role)
        iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
    (network,) = ec2.describe_vpcs()["Vpcs"]
    group = ec2.create_security_group(GroupName="syncclip", Description="syncclip", VpcId=network["VpcId"])
    ssh = {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "203.0.113.0/24"}]}
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[ssh])


def instances() -> list[dict[str, Any]]:
    """All that were ever started, oldest first."""
    found = boto3.client("ec2").describe_instances()["Reservations"]
    return sorted((one for each in found for one in each["Instances"]), key=lambda one: str(one["LaunchTime"]))


def watch(file: Path) -> None:
    """Keep a file of one line an instance: id, address, state."""
    while True:
        lines = [
            f"{one['InstanceId']} {one.get('PrivateIpAddress') or '-'} {one['State']['Name']}\n" for one in instances()
        ]
        part = file.with_suffix(".part")
        part.write_text("".join(lines))
        part.rename(file)
        time.sleep(0.5)


def reclaim() -> None:
    """Take a running spot machine away, as the cloud does where somebody pays more."""
    spot = [one for one in instances() if one.get("InstanceLifecycle") == "spot" and one["State"]["Name"] == "running"]
    boto3.client("ec2").terminate_instances(InstanceIds=[spot[0]["InstanceId"]])


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"prepare": prepare, "watch": lambda: watch(Path(arguments[0])), "reclaim": reclaim}[command]()
