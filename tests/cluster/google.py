"""Emulator of the Google Cloud API that `ray up` uses, behind Google's own client, and its JSON Schemas."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any
from unittest import mock

import httplib2
from googleapiclient import discovery, discovery_cache

Json = dict[str, Any]


def description(service: str, version: str) -> dict[str, Any]:
    """Google's discovery document of a service, from its client library."""
    return dict(json.loads(discovery_cache.get_static_doc(service, version)))


def strict_schema(service: str, version: str, name: str) -> dict[str, Any]:
    """Strict JSON Schema of a resource, which rejects unknown fields."""
    definitions = {kind: _closed(schema) for kind, schema in description(service, version)["schemas"].items()}
    return {"$ref": f"#/definitions/{name}", "definitions": definitions}


def _closed(schema: Any) -> Any:
    if "$ref" in schema:
        return {"$ref": f"#/definitions/{schema['$ref']}"}
    if schema.get("format") in ("int64", "uint64"):  # sent as text, and accepted as a number
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
    """Responds to the requests of `ray up` for a project with a network, and records launched instances."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.launched: list[Json] = []

    def request(self, uri: str, method: str = "GET", body: Any = None, **_: Any) -> tuple[httplib2.Response, bytes]:
        """Implement the method of `httplib2.Http`."""
        value = self._respond(uri.partition("?")[0], method, json.loads(body) if body else {})
        return httplib2.Response({"status": 200, "content-type": "application/json"}), json.dumps(value).encode()

    def _respond(self, path: str, method: str, body: Json) -> Json:
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
        """Google's clients of projects, accounts and machines, connected to this emulator."""
        services = (("cloudresourcemanager", "v1"), ("iam", "v1"), ("compute", "v1"))
        crm, iam, compute = (discovery.build_from_document(description(*service), http=self) for service in services)
        return crm, iam, compute, None

    def patched(self) -> contextlib.ExitStack:
        """Context in which Ray's code uses this emulator."""
        stack = contextlib.ExitStack()
        for module in ("config", "node_provider"):
            name = f"ray.autoscaler._private.gcp.{module}.construct_clients_from_provider_config"
            stack.enter_context(mock.patch(name, self.clients))
        name = "ray.autoscaler._private.gcp.node.GCPCompute.get_new_authorized_http"
        stack.enter_context(mock.patch(name, lambda *_: self))
        return stack
