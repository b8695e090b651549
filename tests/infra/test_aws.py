"""Permissions of the roles in infra/aws, enforced by an AWS emulator; the emulator ignores conditions."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import botocore.session
import moto.settings
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from syncclip import storage
from syncclip.core.session import Session
from syncclip.core.settings import UserError
from tests.object_store import s3_server

AWS = Path(__file__).parents[2] / "infra" / "aws"
README = (AWS / "README.md").read_text()


def document(name: str) -> dict[str, Any]:
    return dict(json.loads((AWS / name).read_text()))


@pytest.fixture
def worker() -> Iterator[Any]:
    """Clients with the permissions of a worker's role, in an emulated AWS with its bucket and another account's."""
    with s3_server() as endpoint:
        iam, s3 = (boto3.client(name, endpoint_url=endpoint) for name in ("iam", "s3"))
        for bucket in ("my-bucket", "other-account"):
            s3.create_bucket(Bucket=bucket)
            s3.put_object(Bucket=bucket, Key="existing", Body=b"existing")
        user = f"worker-{secrets.token_hex(4)}"  # the emulator shares users between servers
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="data", PolicyDocument=json.dumps(document("data-policy.json")))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        variables = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        # Enforce permissions from here on; the server runs in this process.
        with (
            mock.patch.object(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0),
            mock.patch.dict(os.environ, variables),
            Session(options={"endpoint_url": endpoint}),
        ):
            yield lambda service: boto3.Session().client(service, endpoint_url=endpoint)


def test_a_worker_has_full_access_to_objects_in_its_bucket(worker: Any) -> None:
    url = "s3://my-bucket/runs/set/00000.tar"
    storage.write_bytes(url, b"x" * 1000)

    assert storage.read_bytes(url) == b"x" * 1000
    assert storage.sizes("s3://my-bucket/runs/set") == {"00000.tar": 1000}
    # A single deletion: for batches, the emulator checks permissions of the bucket, AWS those of each object.
    worker("s3").delete_object(Bucket="my-bucket", Key="runs/set/00000.tar")
    assert not storage.exists(url)
    s3 = worker("s3")
    upload = s3.create_multipart_upload(Bucket="my-bucket", Key="big")["UploadId"]
    s3.upload_part(Bucket="my-bucket", Key="big", PartNumber=1, UploadId=upload, Body=b"x")
    assert len(s3.list_multipart_uploads(Bucket="my-bucket")["Uploads"]) == 1
    s3.abort_multipart_upload(Bucket="my-bucket", Key="big", UploadId=upload)


def test_a_worker_has_no_other_permissions(worker: Any) -> None:
    for url in ("s3://other-account/existing", "s3://other-account/new"):
        with pytest.raises(UserError, match="other-account"):
            storage.read_bytes(url)
        with pytest.raises(UserError, match="other-account"):
            storage.write_bytes(url, b"x")
    for service, action, arguments in (
        ("s3", "create_bucket", {"Bucket": "another"}),
        ("s3", "delete_bucket", {"Bucket": "my-bucket"}),
        ("s3", "put_bucket_policy", {"Bucket": "my-bucket", "Policy": "{}"}),
        ("s3", "list_buckets", {}),
        ("ec2", "run_instances", {"MinCount": 1, "MaxCount": 1}),
        ("iam", "list_users", {}),
    ):
        with pytest.raises(ClientError, match=r"AccessDenied|UnauthorizedOperation"):
            getattr(worker(service), action)(**arguments)


def test_the_bucket_accepts_policy_and_lifecycle() -> None:
    with s3_server() as endpoint:
        s3 = boto3.client("s3", endpoint_url=endpoint)
        s3.create_bucket(Bucket="my-bucket")
        s3.put_bucket_policy(Bucket="my-bucket", Policy=json.dumps(document("bucket-policy.json")))
        s3.put_bucket_lifecycle_configuration(Bucket="my-bucket", LifecycleConfiguration=document("lifecycle.json"))

        (rule,) = s3.get_bucket_lifecycle_configuration(Bucket="my-bucket")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    assert "Expiration" not in rule


@pytest.mark.parametrize("name", ["data-policy.json", "head-policy.json"])
def test_policies_contain_no_wildcards(name: str) -> None:
    for statement in document(name)["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        read_only = all(re.match(r"ec2:Describe|ec2:RunInstances$", action) for action in actions)
        assert not any("*" in action for action in actions)
        assert read_only or statement["Resource"] != "*"


@pytest.mark.parametrize("command", re.findall(r"\b(aws [a-z0-9]+ .*?)(?:\)?$)", README, re.MULTILINE))
def test_the_readmes_commands_exist(command: str) -> None:
    _, service, operation, *words = shlex.split(command)
    service = {"s3api": "s3"}.get(service, service)
    model = botocore.session.get_session().get_service_model(service)
    (matched,) = (name for name in model.operation_names if xform_name(name, "-") == operation)
    members = {xform_name(name, "-") for name in model.operation_model(matched).input_shape.members}
    # Options of the command line itself.
    members |= {"query", "output", "protocol", "port", "cidr", "source-group"}

    assert {word[2:] for word in words if word.startswith("--")} <= members
    files = [Path(word.removeprefix("file://")) for word in words if word.startswith("file://")]
    assert all((AWS.parents[1] / file).is_file() for file in files)
