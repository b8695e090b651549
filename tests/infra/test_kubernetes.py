"""The manifests against Kubernetes' own schemas, KubeRay's, and what Ray's autoscaler makes of them."""

from __future__ import annotations

import copy
import gzip
import json
import os
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray._common.utils import import_attr
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema

from syncclip.cli.app import app
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.serving.app import CALLBACK, TOKEN
from syncclip.serving.service import ServiceSettings
from tests.cluster.configs import launches
from tests.infra.manifests import JOBS, OVERLAYS, Manifest, cluster, job, of_kind, overlay, pods, service

VERSION = "1.37"
"""Of Kubernetes, whose schemas are meant."""

SCHEMA = os.environ.get("SYNCCLIP_KUBERAY_SCHEMA", "")
"""A gzipped JSON file: "ray.io/v1|RayCluster" -> closed JSON Schema, made of KubeRay's resource definitions."""

with_kuberay = pytest.mark.skipif(
    not SCHEMA, reason="left out: the schema of KubeRay's resources; name it in SYNCCLIP_KUBERAY_SCHEMA"
)


def kubernetes_error(manifest: Manifest) -> str:
    """What Kubernetes' own strict schema finds wrong; "" if nothing."""
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_own_kinds_are_strictly_valid(name: str) -> None:
    own = [one for one in overlay(name) if not one["apiVersion"].startswith("ray.io/")]

    assert {f"{one['kind']}: {error}" for one in own if (error := kubernetes_error(one))} == set()
    assert {"Namespace", "ServiceAccount", "Role", "PriorityClass", "NetworkPolicy", "ConfigMap"} <= {
        one["kind"] for one in own
    }


def test_an_unknown_field_is_found() -> None:
    (policy,) = of_kind(overlay("nvidia"), "NetworkPolicy").values()
    wrong = copy.deepcopy(policy)
    wrong["spec"]["ingres"] = wrong["spec"].pop("ingress")

    assert "ingres" in kubernetes_error(wrong)


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_inside_the_cluster_are_strictly_valid(name: str) -> None:
    for group, spec in pods(cluster(name)).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": group}, "spec": spec}

        assert kubernetes_error(pod) == ""


@pytest.fixture(scope="module")
def kuberay() -> dict[str, Any]:
    return dict(json.load(gzip.open(SCHEMA)))


def kuberay_errors(kuberay: dict[str, Any], manifest: Manifest) -> list[str]:
    validator = jsonschema.Draft202012Validator(kuberay[f"{manifest['apiVersion']}|{manifest['kind']}"])
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(manifest)]


@with_kuberay
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_cluster_is_as_kuberay_defines_it(kuberay: dict[str, Any], name: str) -> None:
    assert kuberay_errors(kuberay, cluster(name)) == []


@with_kuberay
@pytest.mark.parametrize("name", JOBS)
def test_jobs_are_as_kuberay_defines_them(kuberay: dict[str, Any], name: str) -> None:
    assert kuberay_errors(kuberay, job(name)) == []


@with_kuberay
def test_the_service_is_as_kuberay_defines_it(kuberay: dict[str, Any]) -> None:
    (one,) = of_kind(service(), "RayService").values()
    assert kuberay_errors(kuberay, one) == []


@with_kuberay
def test_a_field_that_kuberay_does_not_know_is_found(kuberay: dict[str, Any]) -> None:
    wrong = copy.deepcopy(cluster("nvidia"))
    group = wrong["spec"]["workerGroupSpecs"][0]
    group["replica"] = group.pop("replicas")

    assert any("replica" in error for error in kuberay_errors(kuberay, wrong))


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_runs_without_rights(name: str) -> None:
    for spec in pods(cluster(name)).values():
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_pods_refer_to_is_there(name: str) -> None:
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
    """What the autoscaler on the head makes of an overlay's RayCluster, by Ray's own code."""
    return dict(_derive_autoscaling_config_from_ray_cr(cluster(name)))


def test_the_autoscaler_goes_from_no_gpu_to_eight_on_spot_and_one_on_demand() -> None:
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
def test_training_avoids_the_group_that_is_labelled_as_spot(
    name: str, demand: dict[str, float], generation: dict[str, int], training: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(of_kind(overlay(name), "ConfigMap")["syncclip-recipe"]["data"]["recipe.yaml"])
    selector = Recipe.load(str(tmp_path / "recipe.yaml")).training.label_selector
    types = autoscaling(name)["available_node_types"]

    assert launches(types, demand, 1) == generation
    assert launches(types, demand, 1, selector=selector) == training


def test_pods_on_premises_require_no_label_of_a_cloud() -> None:
    for spec in pods(cluster("on-premises")).values():
        assert not spec.keys() & {"affinity", "nodeSelector"}
    assert autoscaling("on-premises")["available_node_types"]["generate"]["resources"]["GPU"] == 1


def test_the_rehearsal_asks_for_no_gpu() -> None:
    types = autoscaling("cpu-rehearsal")["available_node_types"]

    assert all("GPU" not in one["resources"] for one in types.values())
    assert types["generate"]["resources"]["CPU"] == 1


def test_generation_runs_on_spot_nodes_only_and_training_on_none() -> None:
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


def test_no_key_lies_in_a_manifest_and_a_token_is_asked_for() -> None:
    manifests = [one for name in OVERLAYS for one in overlay(name)]

    assert of_kind(manifests, "Secret") == {}
    assert not any(word in json.dumps(manifests).lower() for word in ("aws_secret", "access_key"))
    assert all(cluster(name)["spec"]["authOptions"] == {"mode": "token"} for name in OVERLAYS)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_recipe_is_one_that_pods_can_use(name: str, tmp_path: Path) -> None:
    text = of_kind(overlay(name), "ConfigMap")["syncclip-recipe"]["data"]["recipe.yaml"]
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    recipe = Recipe.load(str(file))

    volumes = [mount["mountPath"] for mount in pods(cluster(name))["generate"]["containers"][0]["volumeMounts"]]
    assert recipe.storage.root.startswith("s3://") or recipe.storage.root in volumes


@pytest.mark.parametrize("name", JOBS)
def test_jobs_call_a_command_on_the_cluster_with_the_mounted_recipe(name: str) -> None:
    spec = job(name)["spec"]
    program, command, recipe = shlex.split(spec["entrypoint"])
    (mount,) = (
        one for one in pods(cluster("nvidia"))["head"]["containers"][0]["volumeMounts"] if one["name"] == "recipe"
    )

    assert program == "syncclip"
    assert command in {one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands}
    assert recipe == f"{mount['mountPath']}/recipe.yaml"
    assert spec["clusterSelector"] == {"ray.io/cluster": cluster("nvidia")["metadata"]["name"]}


def test_the_service_is_strictly_valid_and_its_pods_run_without_rights() -> None:
    assert [kubernetes_error(one) for one in service() if not one["apiVersion"].startswith("ray.io/")] == [""]
    (one,) = of_kind(service(), "RayService").values()
    spec = one["spec"]["rayClusterConfig"]
    (policy,) = of_kind(service(), "NetworkPolicy").values()
    for template in (group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])):
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "one", **template["metadata"]}}
        assert kubernetes_error(pod) == ""
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        assert template["spec"]["serviceAccountName"] in of_kind(overlay("nvidia"), "ServiceAccount")
        assert template["spec"]["priorityClassName"] in of_kind(overlay("nvidia"), "PriorityClass")
        (container,) = template["spec"]["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"name": "serve", "containerPort": 8000} in container["ports"]
    assert spec["rayVersion"] == cluster("nvidia")["spec"]["rayVersion"]
    assert spec["authOptions"] == {"mode": "token"}


def test_ray_serve_takes_the_services_file_and_finds_its_application(monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = of_kind(service(), "RayService").values()
    config = ServeDeploySchema.model_validate(yaml.safe_load(one["spec"]["serveConfigV2"]))
    (application,) = config.applications
    build = import_attr(application.import_path)
    with pytest.raises(UserError, match=TOKEN):
        build(application.args)
    group = one["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    (container,) = group["template"]["spec"]["containers"]
    variables = {one["name"]: one.get("value", "open sesame") for one in container["env"]}
    assert variables == {TOKEN: "open sesame", CALLBACK[0]: CALLBACK[1]}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert type(build(application.args)).__name__ == "Application"
    asked = ServiceSettings.model_validate(application.args)
    assert asked.replicas * asked.num_cpus <= group["replicas"] * int(container["resources"]["requests"]["cpu"])
