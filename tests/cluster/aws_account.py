"""Actions in the emulated AWS account of a running cluster: aws_account.py prepare | watch FILE | reclaim."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import boto3

ROLES = ("syncclip-head", "syncclip-worker")


def prepare() -> None:
    """Create the roles and the security group of infra/aws."""
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
    """All instances ever started, oldest first."""
    reservations = boto3.client("ec2").describe_instances()["Reservations"]
    started = (instance for reservation in reservations for instance in reservation["Instances"])
    return sorted(started, key=lambda instance: str(instance["LaunchTime"]))


def watch(file: Path) -> None:
    """Keep a file up to date with a line per instance: ID, address, state."""
    while True:
        lines = [
            f"{instance['InstanceId']} {instance.get('PrivateIpAddress') or '-'} {instance['State']['Name']}\n"
            for instance in instances()
        ]
        part = file.with_suffix(".part")
        part.write_text("".join(lines))
        part.rename(file)
        time.sleep(0.5)


def reclaim() -> None:
    """Terminate a running spot instance."""
    spot = (instance for instance in instances() if instance.get("InstanceLifecycle") == "spot")
    running = next(instance for instance in spot if instance["State"]["Name"] == "running")
    boto3.client("ec2").terminate_instances(InstanceIds=[running["InstanceId"]])


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    {"prepare": prepare, "watch": lambda: watch(Path(arguments[0])), "reclaim": reclaim}[command]()
