"""The manifests, checked by the schemas of Kubernetes and KubeRay and by Ray's autoscaler."""

from __future__ import annotations

import copy
import gzip
import json
import os
import shlex
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._common.utils import import_attr
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.serve.schema import ServeDeploySchema

from syncclip.cli.app import app
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.serving.app import CALLBACK, TOKEN
from syncclip.serving.service import ServiceSettings
from tests.cluster.configs import launches
from tests.infra.manifests import JOBS, OVERLAYS, Manifest, cluster, job, of_kind, overlay, pods, queue, queued, service

VERSION = "1.37"
"""Kubernetes version of the schemas."""

SCHEMA = os.environ.get("SYNCCLIP_KUBERAY_SCHEMA", "")
"""A gzipped JSON file: "ray.io/v1|RayCluster" -> strict JSON Schema from KubeRay's resource definitions."""

with_kuberay = pytest.mark.skipif(
    not SCHEMA, reason="left out: needs the schema of KubeRay's resources, set by SYNCCLIP_KUBERAY_SCHEMA"
)


def kubernetes_error(manifest: Manifest) -> str:
    """The error of Kubernetes' strict schema, or ""."""
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


@pytest.mark.parametrize("name", (*OVERLAYS, "kueue"))
def test_resources_and_pods_are_valid_and_run_without_privileges(name: str) -> None:
    resources = [item for item in overlay(name) if not item["apiVersion"].startswith("ray.io/")]
    assert [error for item in resources if (error := kubernetes_error(item))] == []
    assert {"Namespace", "ServiceAccount", "Role", "PriorityClass", "NetworkPolicy", "ConfigMap"} <= {
        item["kind"] for item in resources
    }
    clusters = map(queued, JOBS) if name == "kueue" else [cluster(name)]
    for group, spec in [item for manifest in clusters for item in pods(manifest).items()]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group}, "spec": spec}
        assert kubernetes_error(pod) == ""
        assert spec["restartPolicy"] == "Never"  # KubeRay rejects other policies with its autoscaler v2
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_an_unknown_field_is_an_error() -> None:
    (policy,) = of_kind(overlay("nvidia"), "NetworkPolicy").values()
    wrong = copy.deepcopy(policy)
    wrong["spec"]["ingres"] = wrong["spec"].pop("ingress")
    assert "ingres" in kubernetes_error(wrong)


@pytest.fixture(scope="module")
def kuberay() -> dict[str, Any]:
    return dict(json.load(gzip.open(SCHEMA)))


def kuberay_errors(kuberay: dict[str, Any], manifest: Manifest) -> list[str]:
    validator = jsonschema.Draft202012Validator(kuberay[f"{manifest['apiVersion']}|{manifest['kind']}"])
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(manifest)]


@with_kuberay
def test_clusters_jobs_and_service_match_kuberays_schema(kuberay: dict[str, Any]) -> None:
    (ray_service,) = of_kind(service(), "RayService").values()
    for manifest in (*map(cluster, OVERLAYS), *map(job, JOBS), *map(queued, JOBS), ray_service):
        assert kuberay_errors(kuberay, manifest) == []
    wrong = copy.deepcopy(cluster("nvidia"))
    group = wrong["spec"]["workerGroupSpecs"][0]
    group["replica"] = group.pop("replicas")
    assert any("replica" in error for error in kuberay_errors(kuberay, wrong))


@pytest.mark.parametrize("name", OVERLAYS)
def test_resources_that_pods_refer_to_exist(name: str) -> None:
    manifests = overlay(name)
    for spec in pods(cluster(name)).values():
        assert spec["serviceAccountName"] in of_kind(manifests, "ServiceAccount")
        assert spec["priorityClassName"] in of_kind(manifests, "PriorityClass")
        for volume in spec["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in of_kind(manifests, "ConfigMap")
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in of_kind(manifests, "PersistentVolumeClaim")
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


def autoscaling(name: str) -> dict[str, Any]:
    """The autoscaler's configuration for an overlay's RayCluster, derived by Ray."""
    return dict(_derive_autoscaling_config_from_ray_cr(cluster(name)))


def test_the_autoscaler_starts_up_to_eight_spot_gpus_and_one_on_demand() -> None:
    config = autoscaling("nvidia")
    types = config["available_node_types"]

    assert types["generate"]["resources"]["GPU"] == 1 == types["train"]["resources"]["GPU"]
    assert (types["generate"]["min_workers"], types["generate"]["max_workers"]) == (0, 8)
    assert (types["train"]["min_workers"], types["train"]["max_workers"]) == (0, 1)
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    assert config["idle_timeout_minutes"] == 5


@pytest.mark.parametrize(
    ("name", "demand", "generation", "training"),
    [
        ("nvidia", {"CPU": 1, "GPU": 1}, {"generate": 1}, {"train": 1}),
        ("on-premises", {"CPU": 1, "GPU": 1}, {"generate": 1}, {"generate": 1}),
        ("cpu-rehearsal", {"CPU": 1}, {"generate": 1}, {"generate": 1}),
    ],
)
def test_training_avoids_spot_nodes(
    name: str, demand: dict[str, float], generation: dict[str, int], training: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(of_kind(overlay(name), "ConfigMap")["syncclip-recipe"]["data"]["recipe.yaml"])
    selector = Recipe.load(str(tmp_path / "recipe.yaml")).training.label_selector
    types = autoscaling(name)["available_node_types"]

    assert launches(types, demand, 1) == generation
    assert launches(types, demand, 1, selector=selector) == training


def test_other_overlays_require_no_cloud_and_no_gpu() -> None:
    for spec in pods(cluster("on-premises")).values():
        assert not spec.keys() & {"affinity", "nodeSelector"}
    assert autoscaling("on-premises")["available_node_types"]["generate"]["resources"]["GPU"] == 1
    rehearsal = autoscaling("cpu-rehearsal")["available_node_types"]
    assert all("GPU" not in node["resources"] for node in rehearsal.values())
    assert rehearsal["generate"]["resources"]["CPU"] == 1


def test_synthesis_requires_spot_nodes_and_training_excludes_them() -> None:
    groups = pods(cluster("nvidia"))
    operators = {
        group: {
            rule["operator"]
            for term in groups[group]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
                "nodeSelectorTerms"
            ]
            for rule in term["matchExpressions"]
        }
        for group in ("generate", "train")
    }

    assert operators == {"generate": {"In"}, "train": {"NotIn"}}
    assert "affinity" not in groups["head"]


def test_manifests_contain_no_credentials_and_require_a_token() -> None:
    manifests = [item for name in OVERLAYS for item in overlay(name)]

    assert of_kind(manifests, "Secret") == {}
    assert not any(word in json.dumps(manifests).lower() for word in ("aws_secret", "access_key"))
    assert all(cluster(name)["spec"]["authOptions"] == {"mode": "token"} for name in OVERLAYS)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_mounted_recipe_is_valid_for_the_pods(name: str, tmp_path: Path) -> None:
    text = of_kind(overlay(name), "ConfigMap")["syncclip-recipe"]["data"]["recipe.yaml"]
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    recipe = Recipe.load(str(file))

    volumes = [mount["mountPath"] for mount in pods(cluster(name))["generate"]["containers"][0]["volumeMounts"]]
    assert recipe.storage.root.startswith("s3://") or recipe.storage.root in volumes


@pytest.mark.parametrize("name", JOBS)
def test_jobs_run_a_command_with_the_mounted_recipe(name: str) -> None:
    spec = job(name)["spec"]
    program, command, recipe = shlex.split(spec["entrypoint"])
    (mount,) = (
        item for item in pods(cluster("nvidia"))["head"]["containers"][0]["volumeMounts"] if item["name"] == "recipe"
    )

    assert program == "syncclip"
    assert command in {item.name or getattr(item.callback, "__name__", "") for item in app.registered_commands}
    assert recipe == f"{mount['mountPath']}/recipe.yaml"
    assert spec["clusterSelector"] == {"ray.io/cluster": cluster("nvidia")["metadata"]["name"]}


@pytest.mark.parametrize(
    ("name", "groups"),
    [("synth", {"head", "generate"}), ("train", {"head", "train"}), ("study", {"head", "generate", "train"})],
)
def test_a_queued_job_retries_on_a_cluster_of_fixed_size_that_ends_with_it(name: str, groups: set[str]) -> None:
    manifest = queued(name)
    spec = manifest["spec"]
    assert pods(manifest).keys() == groups

    assert spec["entrypoint"] == job(name)["spec"]["entrypoint"]
    assert spec["backoffLimit"] > 0 and "clusterSelector" not in spec
    assert spec["suspend"] and spec["shutdownAfterJobFinishes"]  # Kueue's webhook requires both
    assert {rule["policy"] for rule in spec["deletionStrategy"].values()} == {"DeleteCluster"}
    assert "enableInTreeAutoscaling" not in spec["rayClusterSpec"]
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
    assert of_kind(overlay("kueue"), "RayCluster") == {}
    (policy,) = of_kind(
        overlay("kueue"), "NetworkPolicy"
    ).values()  # must not name a cluster: KubeRay chooses the names
    assert policy["spec"]["podSelector"] == {"matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]}


def test_every_queued_job_fits_the_quotas_of_its_flavors() -> None:
    (local,), (cluster_queue,) = (of_kind(queue(), kind).values() for kind in ("LocalQueue", "ClusterQueue"))
    flavors = {item["metadata"]["name"]: item["spec"]["nodeLabels"] for item in queue() if "nodeLabels" in item["spec"]}
    (resources,) = cluster_queue["spec"]["resourceGroups"]
    quotas = {
        (flavor["name"], resource["name"]): parse_quantity(resource["nominalQuota"])
        for flavor in resources["flavors"]
        for resource in flavor["resources"]
    }
    assert local["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    assert {name for name, _ in quotas} == flavors.keys() == {"spot", "on-demand"}
    for name in JOBS:
        manifest, usage = queued(name), dict.fromkeys(quotas, Decimal(0))
        assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
        assert manifest["metadata"]["namespace"] == local["metadata"]["namespace"]
        spec = manifest["spec"]["rayClusterSpec"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (flavor,) = (key for key, labels in flavors.items() if labels == pod["nodeSelector"])
            assert group["labels"]["ray.io/market-type"] == flavor
            requested = pod["containers"][0]["resources"]
            for resource, value in {**requested["limits"], **requested["requests"]}.items():
                usage[flavor, resource] += parse_quantity(value) * group.get("replicas", 1)
        assert all(usage[key] <= quotas[key] for key in quotas)


def test_the_service_is_valid_and_its_pods_run_without_privileges() -> None:
    assert [kubernetes_error(item) for item in service() if not item["apiVersion"].startswith("ray.io/")] == [""]
    (ray_service,) = of_kind(service(), "RayService").values()
    spec = ray_service["spec"]["rayClusterConfig"]
    (policy,) = of_kind(service(), "NetworkPolicy").values()
    for template in (group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])):
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "pod", **template["metadata"]}}
        assert kubernetes_error(pod) == ""
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert template["spec"]["serviceAccountName"] in of_kind(overlay("nvidia"), "ServiceAccount")
        assert template["spec"]["priorityClassName"] in of_kind(overlay("nvidia"), "PriorityClass")
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"name": "serve", "containerPort": 8000} in container["ports"]
    assert spec["rayVersion"] == cluster("nvidia")["spec"]["rayVersion"]
    assert spec["authOptions"] == {"mode": "token"}


def test_the_serve_config_builds_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    (ray_service,) = of_kind(service(), "RayService").values()
    config = ServeDeploySchema.model_validate(yaml.safe_load(ray_service["spec"]["serveConfigV2"]))
    (application,) = config.applications
    build = import_attr(application.import_path)
    with pytest.raises(UserError, match=TOKEN):
        build(application.args)
    group = ray_service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    (container,) = group["template"]["spec"]["containers"]
    variables = {item["name"]: item.get("value", "open sesame") for item in container["env"]}
    assert variables == {TOKEN: "open sesame", CALLBACK[0]: CALLBACK[1]}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert type(build(application.args)).__name__ == "Application"
    settings = ServiceSettings.model_validate(application.args)
    assert settings.replicas * settings.num_cpus <= group["replicas"] * int(container["resources"]["requests"]["cpu"])
