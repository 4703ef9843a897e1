"""The files under deploy/kubernetes and deploy/ray fit their schemas and agree with the service."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ml.cluster.messages import APPLICATION, DEPLOYMENT
from resources.config import PROJECT_ROOT, Settings
from tests.repo.test_deploy import exposed_metrics

KUBERNETES = PROJECT_ROOT / "deploy" / "kubernetes" / "transcription.yaml"
GATEWAY = KUBERNETES.with_name("gateway.yaml")
RAY = PROJECT_ROOT / "deploy" / "ray"
FRONTS, RAY_SERVICE, SERVE, CLUSTER = (RAY / f"{name}.yaml" for name in ("fronts", "rayservice", "serve", "cluster"))
KUBERNETES_VERSION = "1.31"
OURS = {name.upper() for name in Settings.model_fields}
RAYS_OWN = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED", "PYTHONPATH"}

POD_TEMPLATE = {"type": "object", "required": ["spec"]}  # checked by Kubernetes' own schema below
GROUP = {
    "type": "object",
    "required": ["template", "rayStartParams"],
    "properties": {"rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
                   "template": POD_TEMPLATE},
}  # fmt: skip
# No package carries the schema of KubeRay's resources, so the part of it that is used here is kept by hand: names of
# fields, their types, and what must be there, after the definition `rayservices.ray.io` of KubeRay 1.3.
RAY_SERVICE_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayService"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["serveConfigV2", "rayClusterConfig"],
            "properties": {
                "serviceUnhealthySecondThreshold": {"type": "integer"},
                "deploymentUnhealthySecondThreshold": {"type": "integer"},
                "serveConfigV2": {"type": "string"},
                "rayClusterConfig": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["headGroupSpec"],
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "gcsFaultToleranceOptions": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["redisAddress"],
                            "properties": {"redisAddress": {"type": "string"}},
                        },
                        "headGroupSpec": {
                            **GROUP, "additionalProperties": False,
                            "properties": {**GROUP["properties"], "serviceType": {"type": "string"}},  # type: ignore[dict-item]
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                **GROUP, "additionalProperties": False,
                                "required": [*GROUP["required"], "groupName", "minReplicas", "maxReplicas"],
                                "properties": {
                                    **GROUP["properties"],  # type: ignore[dict-item]
                                    "groupName": {"type": "string"},
                                    **{key: {"type": "integer"} for key in ("replicas", "minReplicas", "maxReplicas")},
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}  # fmt: skip


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def by_kind(path: Path) -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in documents(path)}


def pod_templates(path: Path) -> Iterator[dict[str, Any]]:
    """The pods that a file asks for."""
    for document in documents(path):
        if document["kind"] == "RayService":
            cluster = document["spec"]["rayClusterConfig"]
            yield from (group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]))
        elif document["kind"] == "Deployment":
            yield document["spec"]["template"]


def environment(path: Path) -> dict[str, str]:
    """The plain variables of the first container."""
    (pod,) = pod_templates(path)
    return {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"] if "value" in entry}


@pytest.mark.parametrize("path", [KUBERNETES, FRONTS], ids=lambda path: path.name)
def test_kubernetes_knows_every_field_of_every_resource(path: Path) -> None:
    assert len(documents(path)) >= 3
    for document in documents(path):
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


def test_schema_of_the_ray_service_is_kept_and_its_pods_are_pods() -> None:
    (document,) = documents(RAY_SERVICE)
    jsonschema.validate(document, RAY_SERVICE_SCHEMA)
    for template in pod_templates(RAY_SERVICE):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)


def test_ray_service_runs_what_the_serve_file_says() -> None:
    (document,) = documents(RAY_SERVICE)
    (serve,) = documents(SERVE)
    assert yaml.safe_load(document["spec"]["serveConfigV2"]) == serve


def test_serve_file_names_the_application_that_fronts_look_for() -> None:
    (serve,) = documents(SERVE)
    (application,) = serve["applications"]
    (deployment,) = application["deployments"]
    assert (application["name"], deployment["name"]) == (APPLICATION, DEPLOYMENT)
    module, _, function = application["import_path"].partition(":")
    source = (PROJECT_ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    assert f"def {function}(" in source


def test_ray_is_of_one_release_everywhere() -> None:
    pinned = re.search(r"^ray\[serve\]==(\S+)$", (PROJECT_ROOT / "requirements-ray.txt").read_text(), re.MULTILINE)
    (document,) = documents(RAY_SERVICE)
    assert pinned and document["spec"]["rayClusterConfig"]["rayVersion"] == pinned[1]


@pytest.mark.parametrize("path", [KUBERNETES, FRONTS], ids=lambda path: path.name)
def test_variables_are_settings_of_allowed_values_and_the_grace_fits(path: Path) -> None:
    values = {name: value for name, value in environment(path).items() if name not in RAYS_OWN}
    assert set(values) <= OURS, set(values) - OURS
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in values.items()})
    (pod,) = pod_templates(path)
    assert pod["spec"]["terminationGracePeriodSeconds"] >= settings.shutdown_grace_s + 10
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert ports == {"grpc": settings.server_port, "metrics": settings.metrics_port}


@pytest.mark.parametrize("path", [KUBERNETES, FRONTS], ids=lambda path: path.name)
def test_readiness_is_asked_of_grpc_health_and_liveness_is_not(path: Path) -> None:
    """A server that drains or waits for replicas reports NOT_SERVING and must not be killed for it."""
    (pod,) = pod_templates(path)
    container = pod["spec"]["containers"][0]
    assert container["readinessProbe"]["grpc"]["port"] == Settings.model_fields["server_port"].default
    assert "grpc" not in container["livenessProbe"] and container["startupProbe"]


@pytest.mark.parametrize("path", [KUBERNETES, FRONTS], ids=lambda path: path.name)
def test_service_and_budget_select_the_pods_and_the_service_is_headless(path: Path) -> None:
    found = by_kind(path)
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels and found["Service"]["spec"]["clusterIP"] == "None"
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_autoscaler_goes_by_a_metric_that_the_service_has_and_below_what_is_refused() -> None:
    autoscaler = by_kind(KUBERNETES)["HorizontalPodAutoscaler"]["spec"]
    (metric,) = autoscaler["metrics"]
    assert metric["pods"]["metric"]["name"] in exposed_metrics()
    refused_above_s = float(environment(KUBERNETES)["ADMISSION_MAX_QUEUED_AUDIO_S"])
    assert float(metric["pods"]["target"]["averageValue"]) < refused_above_s
    assert autoscaler["scaleTargetRef"]["name"] == by_kind(KUBERNETES)["Deployment"]["metadata"]["name"]
    assert "replicas" not in by_kind(KUBERNETES)["Deployment"]["spec"]  # which an update would undo


def test_fronts_and_replicas_agree_on_how_many_chunks_a_replica_has() -> None:
    (serve,) = documents(SERVE)
    (deployment,) = serve["applications"][0]["deployments"]
    values = environment(FRONTS)
    scaling = deployment["autoscaling_config"]
    assert int(values["RAY_MAX_ONGOING_REQUESTS"]) == deployment["max_ongoing_requests"]
    assert int(values["RAY_REPLICAS"]) == scaling["min_replicas"]
    assert int(values["RAY_MAX_REPLICAS"]) == scaling["max_replicas"]
    assert values["RAY_DEPLOY"] == "false" and values["RAY_ADDRESS"] == "auto"
    (document,) = documents(RAY_SERVICE)
    assert f"--address={document['metadata']['name']}-head-svc:6379" in FRONTS.read_text(encoding="utf-8")


def test_serve_file_is_right_by_rays_own_schema() -> None:
    """Values by validation; names by hand, because the schema ignores unknown ones."""
    schema = pytest.importorskip("ray.serve.schema", reason="needs requirements-ray.txt")
    (serve,) = documents(SERVE)
    (application,) = serve["applications"]
    (deployment,) = application["deployments"]
    parsed = schema.ServeDeploySchema.model_validate(serve)
    assert parsed.applications[0].deployments[0].max_ongoing_requests == deployment["max_ongoing_requests"]
    with pytest.raises(ValueError):
        schema.ServeDeploySchema.model_validate({**serve, "proxy_location": "Nowhere"})
    assert set(serve) <= set(schema.ServeDeploySchema.model_fields)
    assert set(application) <= set(schema.ServeApplicationSchema.model_fields)
    assert set(deployment) <= set(schema.DeploymentSchema.model_fields)


def test_cluster_file_is_right_by_rays_own_schema() -> None:
    ray = pytest.importorskip("ray", reason="needs requirements-ray.txt")
    file = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    schema = json.loads(file.read_text(encoding="utf-8"))  # indented by tabs, which YAML refuses
    (cluster,) = documents(CLUSTER)
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "workers": 2}, schema)


def test_gateways_are_resources_of_kubernetes_with_settings_and_ports_that_match() -> None:
    for document in documents(GATEWAY):
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    values = environment(GATEWAY)
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in values.items()})
    (pod,) = pod_templates(GATEWAY)
    assert set(values) <= OURS and pod["spec"]["terminationGracePeriodSeconds"] >= settings.shutdown_grace_s + 10
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.http_port, "metrics": settings.metrics_port}
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    served = by_kind(KUBERNETES)["Service"]
    address = f"dns:///{served['metadata']['name']}:{served['spec']['ports'][0]['port']}"
    assert container["command"] == ["python", "-m", "api.http", "--grpc", address]
    assert by_kind(GATEWAY)["Service"]["spec"]["selector"] == pod["metadata"]["labels"]
