"""As much of Google Cloud as `ray up` asks for, behind Google's own client, and Google's description of it."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any
from unittest import mock

import httplib2
from googleapiclient import discovery, discovery_cache

Answer = dict[str, Any]


def description(service: str, version: str) -> dict[str, Any]:
    """Google's own document of an interface, which its client brings along."""
    return dict(json.loads(discovery_cache.get_static_doc(service, version)))


def strict_schema(service: str, version: str, name: str) -> dict[str, Any]:
    """A JSON Schema in which unknown fields fail, of one kind of object."""
    definitions = {kind: _closed(schema) for kind, schema in description(service, version)["schemas"].items()}
    return {"$ref": f"#/definitions/{name}", "definitions": definitions}


def _closed(schema: Any) -> Any:
    if "$ref" in schema:
        return {"$ref": f"#/definitions/{schema['$ref']}"}
    if schema.get("format") in ("int64", "uint64"):  # travels as text, and is taken as a number
        return {"type": ["string", "integer"]}
    kept = {key: schema[key] for key in ("type", "enum") if key in schema}
    if kept.get("type") == "any":
        return {}
    if "items" in schema:
        kept["items"] = _closed(schema["items"])
    if "properties" in schema:
        kept["properties"] = {name: _closed(inner) for name, inner in schema["properties"].items()}
        kept["additionalProperties"] = False
    elif "additionalProperties" in schema:
        kept["additionalProperties"] = _closed(schema["additionalProperties"])
    return kept


class Google:
    """Answers the requests of `ray up` for a project that has a network, and keeps what is to be launched."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.launched: list[Answer] = []

    def request(self, uri: str, method: str = "GET", body: Any = None, **_: Any) -> tuple[httplib2.Response, bytes]:
        """What httplib2's client is asked for."""
        value = self._answer(uri.partition("?")[0], method, json.loads(body) if body else {})
        return httplib2.Response({"status": 200, "content-type": "application/json"}), json.dumps(value).encode()

    def _answer(self, path: str, method: str, body: Answer) -> Answer:
        if path.endswith("/instances") and method == "POST":
            self.launched.append(body)
            return {"name": "operation-1"}
        if "/operations/" in path or path.endswith("/setCommonInstanceMetadata"):
            return {"name": "operation-1", "status": "DONE"}
        if path.endswith("/subnetworks"):
            return {"items": [{"selfLink": f"projects/{self.project}/regions/us-central1/subnetworks/default"}]}
        if "/serviceAccounts" in path:
            return {"email": "ray-autoscaler-sa-v1@example.com", "projectId": self.project}
        if path.endswith((":getIamPolicy", ":setIamPolicy")):
            return {"bindings": []}
        assert re.fullmatch(rf".*/projects/{self.project}", path), f"{method} {path} is not expected"
        return {
            "name": self.project,
            "projectId": self.project,
            "lifecycleState": "ACTIVE",
            "commonInstanceMetadata": {"items": []},
        }

    def clients(self, *_: Any) -> tuple[Any, Any, Any, None]:
        """Google's clients of projects, accounts and machines, with this in the place of the network."""
        named = (("cloudresourcemanager", "v1"), ("iam", "v1"), ("compute", "v1"))
        crm, iam, compute = (discovery.build_from_document(description(*one), http=self) for one in named)
        return crm, iam, compute, None

    def in_place(self) -> contextlib.ExitStack:
        """A context in which Ray's code reaches this."""
        stack = contextlib.ExitStack()
        for module in ("config", "node_provider"):
            name = f"ray.autoscaler._private.gcp.{module}.construct_clients_from_provider_config"
            stack.enter_context(mock.patch(name, self.clients))
        name = "ray.autoscaler._private.gcp.node.GCPCompute.get_new_authorized_http"
        stack.enter_context(mock.patch(name, lambda *_: self))
        return stack
