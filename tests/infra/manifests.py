"""The Kubernetes manifests as rendered by `kubectl apply -k`."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "infra" / "kubernetes"
OVERLAYS = ("cpu-rehearsal", "nvidia", "on-premises")
JOBS = ("synth", "train", "study")

Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> str:
    """An overlay as rendered by kubectl's kustomize."""
    kubectl = Path(sys.executable).parent / "kubectl"
    command = [str(kubectl), "kustomize", str(KUBERNETES / "overlays" / overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def overlay(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all(rendered(name)))


def job(name: str) -> Manifest:
    (manifest,) = yaml.safe_load_all((KUBERNETES / "jobs" / f"{name}.yaml").read_text())
    return dict(manifest)


def queued(name: str) -> Manifest:
    """The RayJob with a cluster of its own in the overlay for Kueue."""
    return of_kind(overlay("kueue"), "RayJob")[f"syncclip-{name}"]


def queue() -> list[Manifest]:
    """Kueue's objects."""
    return list(yaml.safe_load_all((KUBERNETES / "kueue.yaml").read_text()))


def service() -> list[Manifest]:
    """The RayService and its other manifests."""
    return list(yaml.safe_load_all((KUBERNETES / "serve.yaml").read_text()))


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Name -> manifest of one kind."""
    return {item["metadata"]["name"]: item for item in manifests if item["kind"] == kind}


def cluster(name: str) -> Manifest:
    """The RayCluster of an overlay."""
    (manifest,) = of_kind(overlay(name), "RayCluster").values()
    return manifest


def pods(ray_cluster: Manifest) -> dict[str, Manifest]:
    """Group -> pod specification of a RayCluster or of a RayJob's own cluster, including the head's."""
    spec = ray_cluster["spec"].get("rayClusterSpec", ray_cluster["spec"])
    workers = {group["groupName"]: group["template"]["spec"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"]["spec"], **workers}
