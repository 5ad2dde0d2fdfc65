"""The chart of model services: what it renders, held to the schemas of Kubernetes, KEDA, Gateway API and Istio.

Not known by this: whether a cluster's controllers do what the resources ask for.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import helm_python
import httpx
import pytest
import yaml
from taskbackbone import TaskService

from local.new_service.__main__ import DOCKERFILE, GATEWAY, REGISTRY, make_service
from local.processes import ChildProcess, free_port
from local.stack import ROOT
from tests.infra.chart import CHART, EXAMPLES, NAMESPACE, Refused, complaints, example, merged, of_kind, render
from tests.waiting import PATIENCE_S, eventually

KUBERNETES = ("1.30", "1.37")
"""The oldest that the chart says it is for, and the newest whose schemas the judge has."""
VAULT = {
    "backbone": {"keyVault": {"name": "kv-backbone", "tenantId": "0" * 8 + "-0000-0000-0000-" + "0" * 12}},
    "serviceAccount": {"clientId": "1" * 8 + "-0000-0000-0000-" + "0" * 12},
}
INSIGHTS = {
    "source": "applicationInsights",
    "applicationInsights": {
        "id": "app-id",
        "tenantId": "2" * 8 + "-0000-0000-0000-" + "0" * 12,
        "clientId": "3" * 8 + "-0000-0000-0000-" + "0" * 12,
        "filter": "customDimensions/path eq '/v1/words/count'",
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "spot": {"spot": True, "tolerations": [{"key": "team", "operator": "Exists", "effect": "NoSchedule"}]},
    "cache in the pod": {"cache": {"type": "emptyDir", "size": "5Gi"}},
    "probes without paths": {"probes": {"ready": "", "live": ""}},
    "Istio": {"route": {"kind": "istio", "gateway": {"create": True, "certificate": "tls"}}},
    "Gateway API": {
        "route": {"kind": "gateway", "gateway": {"create": True, "certificate": "tls", "internal": True}}
    },
    "no route": {"route": {"kind": "none"}},
    "Application Insights": {"scaling": INSIGHTS},
    "a metric of another adapter": {
        "scaling": {
            "source": "externalMetric",
            "scaleIn": "drain",
            "externalMetric": {"name": "tasks", "matchLabels": {"path": "words"}},
        }
    },
    "not scaled": {"scaling": {"source": "none", "replicas": 3}},
    "no policies": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
    "egress": {"networkPolicy": {"from": ["monitoring"], "egress": [{"ports": [{"port": 4318, "protocol": "TCP"}]}]}},
}
METRICS_API = {
    *("url", "valueLocation", "targetValue", "activationTargetValue", "format", "unsafeSsl", "timeout"),
    *("authMode", "method", "keyParamName", "aggregateFromKubeServiceEndpoints", "aggregationType"),
}
"""What the metadata of a trigger may have: KEDA reads nothing else, and says nothing to anything else."""
APPLICATION_INSIGHTS = {
    *("applicationInsightsId", "tenantId", "metricId", "metricAggregationTimespan", "metricAggregationType"),
    *("metricFilter", "ignoreNullValues", "targetValue", "activationTargetValue"),
}


def pod_of(resources: list[dict[str, Any]]) -> dict[str, Any]:
    return of_kind(resources, "Deployment")["spec"]["template"]["spec"]


def container_of(resources: list[dict[str, Any]]) -> dict[str, Any]:
    [container] = pod_of(resources)["containers"]
    return container


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_resource_fits_its_schema(name: str, variant: str, version: str) -> None:
    resources = render(merged(example(name), VARIANTS[variant]))
    assert complaints(resources, version) == {}
    triggers = [
        trigger for each in resources if each["kind"] == "ScaledObject" for trigger in each["spec"]["triggers"]
    ]
    known = {"metrics-api": METRICS_API, "azure-app-insights": APPLICATION_INSIGHTS}
    for trigger in triggers:
        assert trigger["metadata"].keys() <= known[trigger["type"]]
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


@pytest.mark.parametrize(
    ("kind", "path", "misspelt"),
    [
        ("ScaledObject", ("spec",), "minReplicaCnt"),
        ("ScaledObject", ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior", "scaleDown"), "window"),
        ("TriggerAuthentication", ("spec", "azureKeyVault"), "vaultURI"),
        ("HTTPRoute", ("spec",), "hostname"),
        ("Gateway", ("spec",), "gatewayClass"),
        ("Deployment", ("spec", "template", "spec"), "terminationGracePeriod"),
        ("SecretProviderClass", ("spec", "parameters"), "clientId"),
    ],
)
def test_the_judges_see_what_is_misspelt(kind: str, path: tuple[str, ...], misspelt: str) -> None:
    resources = render(example("python"))
    inner = of_kind(resources, kind)
    for key in path:
        inner = inner[key]
    inner[misspelt] = 1
    found = complaints(resources, KUBERNETES[-1])
    assert list(found) == [kind]
    assert misspelt in found[kind][0]


def test_the_judges_know_no_kind_that_nobody_does() -> None:
    assert complaints([{"apiVersion": "autoscaling/v2beta1", "kind": "HorizontalPodAutoscaler"}], "1.37")


@pytest.mark.parametrize("name", EXAMPLES)
def test_helm_finds_nothing_to_complain_about(name: str) -> None:
    report = helm_python.lint(CHART, example(name), strict=True, namespace=NAMESPACE, kube_version="v1.34.0")
    assert report["errors"] == []


def dictionaries(values: dict[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], dict[str, Any]]:
    """Each mapping in *values*, by where it is."""
    found = {path: values}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= dictionaries(value, (*path, key))
    return found


def placed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return value


DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
OPEN = {
    *(("affinity",), ("podSecurityContext",), ("securityContext",), ("nodeSelector",), ("podAnnotations",)),
    *(
        ("serviceAccount", "annotations"),
        ("scaling", "externalMetric", "matchLabels"),
        ("route", "gateway", "selector"),
    ),
}
"""What Kubernetes reads as it is: names of anybody's making."""


def is_open(path: tuple[str, ...]) -> bool:
    return any(path[: len(each)] == each for each in OPEN) or path[-1:] in (("requests",), ("limits",))


CLOSED = [path for path in dictionaries(DEFAULTS) if not is_open(path)]
LEAVES = [
    (*path, key)
    for path, values in dictionaries(DEFAULTS).items()
    if not is_open(path)
    for key, value in values.items()
    if not isinstance(value, dict)
]


@pytest.mark.parametrize("path", CLOSED, ids=".".join)
def test_a_misspelt_value_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="misspelt"):
        render(merged(example("python"), placed((*path, "misspelt"), True)))


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_a_value_of_another_type_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(Refused):
        render(merged(example("python"), placed(path, {"a": ["mapping"]})))


def test_every_value_has_a_default_and_every_default_a_place() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def named(schema_of: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if "$ref" in schema_of:
            schema_of = schema["definitions"][schema_of["$ref"].rpartition("/")[2]]
        found = {path} if path else set()
        for key, inner in schema_of.get("properties", {}).items():
            found |= named(inner, (*path, key))
        return found

    defaults = {
        (*path, key) for path, values in dictionaries(DEFAULTS).items() if not is_open(path) for key in values
    }
    known = {path for path in named(schema) if path[0] != "global"}
    # What a default need not have.
    optional = {path for path in known if path[-1] in ("requests", "limits")}
    assert known - optional == defaults - optional


def test_every_value_is_read_by_a_template() -> None:
    templates = "\n".join(file.read_text() for file in (CHART / "templates").iterdir())
    read = set(re.findall(r"\.([a-zA-Z_]+)", templates))
    as_a_whole = {("scaling", "fallback")}
    assert [path for path in LEAVES if path[-1] not in read and path[:-1] not in as_a_whole] == []
    for behavior, rendered in ({"behavior": "static"}, {"behavior": "static"}), ({"behavior": ""}, {}):
        fallback = {"failureThreshold": 7, "replicas": 2}
        values = merged(example("python"), {"scaling": {"fallback": {**fallback, **behavior}}})
        assert of_kind(render(values), "ScaledObject")["spec"]["fallback"] == {**fallback, **rendered}


BLOB = {
    "name": "maps",
    "account": "account",
    "container": "maps",
    "mountPath": "/maps",
    "clientId": "00000000-0000-0000-0000-000000000003",
}


@pytest.mark.parametrize(
    "values",
    [
        {"path": "v1/words"},
        {"path": "/v1/words/"},
        {"endpoints": []},
        {"slots": 0},
        {"image": {"repository": ""}},
        {"image": {"tag": "latest"}},
        {"image": {"tag": "", "digest": ""}},
        {"image": {"repository": "myregistry.azurecr.io/words:1"}},
        {"backbone": {"url": "https://app.example.org/"}},
        {"backbone": {"url": "https://app.example.org?code=key"}},
        {"backbone": {"keyVault": {"tenantId": ""}}},
        {"backbone": {"keyVault": {"scalerClientId": ""}}},
        {"serviceAccount": {"clientId": ""}},
        {"route": {"host": ""}},
        {"route": {"kind": "ingress"}},
        {"route": {"gateway": {"create": True, "certificate": ""}}},
        {"sidecar": {"enabled": True}},
        {"env": [{"name": "MODE"}]},
        {"env": [{"name": "MODE", "value": "a", "valueFrom": {"secretKeyRef": {"name": "b", "key": "c"}}}]},
        {"env": [{"name": "WORKERS", "value": 2}]},
        {"scaling": {"fallback": {"replicas": 0}}},
        {"scaling": {"source": "applicationInsights"}},
        {"scaling": {"source": "externalMetric"}},
        {"scaling": {"maxReplicas": 0}},
        {"scaling": {"scaleIn": "idle", "minReplicas": 1}},
        {"scaling": {"source": "externalMetric", "scaleIn": "idle", "externalMetric": {"name": "tasks"}}},
        {"cache": {"type": "disk"}},
        {"blobs": [{"name": "a", "account": "My-Account", "container": "c", "mountPath": "/mnt", "clientId": "1"}]},
        {"blobs": [BLOB, BLOB]},
        {"blobs": [{**BLOB, "name": "cache"}], "cache": {"type": "claim"}},
        {"endpoints": ["/v1/words/count", "/v1/wordsmith/count"]},
        {"scaling": {"scaleIn": "drain", "minReplicas": 5, "maxReplicas": 4}},
        {
            "sidecar": {
                "enabled": True,
                "image": {"repository": "a.example.org/b", "tag": "1"},
                "upstreamPort": 9000,
            },
            "port": 9000,
        },
        {"route": {"host": "Models.example.org"}},
        {"port": 80},
        {"drain_s": "20"},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_is_refused(values: dict[str, Any]) -> None:
    render(example("python"))
    with pytest.raises(Refused):
        render(merged(example("python"), values))


@pytest.mark.parametrize("name", ["Words", "a.b", "1words", "words-", "two words", "w" * 54])
def test_a_release_that_no_service_can_be_called_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="release's name"):
        render(example("python"), name)


def test_a_text_stays_a_text() -> None:
    """Values that YAML would read as something else, or as more than one."""
    odd = "a: b }\nhostNetwork: true"
    values = merged(
        example("python"),
        {
            "backbone": {"keyVault": {"name": ""}, "secret": {"name": "123", "key": odd, "scalerKey": "true"}},
            "route": {
                "gateway": {"create": True, "className": odd, "certificate": "1", "name": "2", "namespace": "null"}
            },
            "networkPolicy": {"from": ["on"]},
            "probes": {"ready": "/a?b={c}#d, port: 1", "live": "/e: f"},
        },
    )
    resources = render(values)
    [container] = of_kind(resources, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["env"][1]["valueFrom"]["secretKeyRef"] == {"name": "123", "key": odd}
    assert container["readinessProbe"]["httpGet"] == {"path": "/a?b={c}#d, port: 1", "port": "http"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/e: f", "port": "http"}
    assert of_kind(resources, "TriggerAuthentication")["spec"]["secretTargetRef"] == [
        {"parameter": "apiKey", "name": "123", "key": "true"}
    ]
    gateway = of_kind(resources, "Gateway")
    assert (gateway["metadata"]["name"], gateway["metadata"]["namespace"]) == ("2", "null")
    assert gateway["spec"]["gatewayClassName"] == odd
    assert gateway["spec"]["listeners"][0]["tls"]["certificateRefs"] == [{"kind": "Secret", "name": "1"}]
    [allowed] = of_kind(resources, "NetworkPolicy")["spec"]["ingress"]
    assert [each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for each in allowed["from"]] == [
        "null",
        "on",
    ]


def test_a_pod_has_the_time_that_its_service_drains() -> None:
    service = TaskService()
    resources = render(merged(example("python"), {"drain_s": DEFAULTS["drain_s"]}))
    assert DEFAULTS["drain_s"] == service.drain_s
    assert DEFAULTS["cancel_grace_s"] == service.cancel_grace_s
    pause_s = container_of(resources)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod_of(resources)["terminationGracePeriodSeconds"] == pause_s + 20 + 10 + 5


def test_a_service_is_told_its_times_and_its_backbone() -> None:
    resources = render(merged(example("r"), {"drain_s": 45, "cancel_grace_s": 7}))
    environment = {each["name"]: each.get("value") for each in container_of(resources)["env"]}
    assert environment == {
        "BACKBONE_URL": "https://app.example.org",
        "BACKBONE_KEY": None,
        "SERVICE_HOST": "0.0.0.0",
        "PORT": "8080",
        "OTEL_SERVICE_NAME": "words",
        "SERVICE_DRAIN_S": "45",
        "SERVICE_CANCEL_GRACE_S": "7",
        "TASK_DRAIN_S": "45",
        "TASK_GRACE_S": "7",
        "TASK_SLOTS": "1",
    }
    [key] = [each["valueFrom"]["secretKeyRef"] for each in container_of(resources)["env"] if "valueFrom" in each]
    assert key == {"name": "task-backbone", "key": "service-key"}


def test_keda_has_a_key_of_its_own() -> None:
    """One that opens nothing but the depths of queues will do."""
    [of_a_secret] = of_kind(render(example("r")), "TriggerAuthentication")["spec"]["secretTargetRef"]
    assert of_a_secret == {"parameter": "apiKey", "name": "task-backbone", "key": "scaler-key"}
    vault = of_kind(render(example("python")), "TriggerAuthentication")["spec"]["azureKeyVault"]
    assert vault["secrets"] == [{"parameter": "apiKey", "name": "scaler-key"}]
    assert vault["vaultUri"] == "https://kv-backbone.vault.azure.net"


def test_a_service_in_python_hears_how_long_its_pod_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in container_of(render(merged(example("python"), {"drain_s": 75, "cancel_grace_s": 4})))["env"]:
        monkeypatch.setenv(each["name"], each.get("value", "key"))
    service = TaskService()
    assert (service.drain_s, service.cancel_grace_s) == (75, 4)


def test_the_key_of_the_service_comes_from_the_vault() -> None:
    resources = render(example("python"))
    provided = of_kind(resources, "SecretProviderClass")
    [made] = provided["spec"]["secretObjects"]
    [key] = [each["valueFrom"]["secretKeyRef"] for each in container_of(resources)["env"] if "valueFrom" in each]
    assert key == {"name": made["secretName"], "key": made["data"][0]["key"]}
    [volume] = [each for each in pod_of(resources)["volumes"] if "csi" in each]
    assert volume["csi"]["volumeAttributes"]["secretProviderClass"] == provided["metadata"]["name"]
    assert volume["name"] in {each["name"] for each in container_of(resources)["volumeMounts"]}
    labels = of_kind(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels["azure.workload.identity/use"] == "true"
    annotations = of_kind(resources, "ServiceAccount")["metadata"]["annotations"]
    assert annotations["azure.workload.identity/client-id"] == provided["spec"]["parameters"]["clientID"]


def test_the_server_behind_a_sidecar_outlives_it() -> None:
    resources = render(merged(example("sidecar"), {"drain_s": 60}))
    [model] = pod_of(resources)["initContainers"]
    # Kubernetes stops such a container after the others, and the sidecar needs the server to drain.
    assert model["restartPolicy"] == "Always"
    assert "BACKBONE_KEY" not in {each["name"] for each in model.get("env", [])}
    sidecar = container_of(resources)
    assert sidecar["args"] == [
        *("--upstream", "http://127.0.0.1:8000", "--slots", "2", "--drain", "60", "--busy", "409")
    ]
    assert pod_of(resources)["terminationGracePeriodSeconds"] == 3 + 60 + 0 + 5 + 10


class Upstream(BaseHTTPRequestHandler):
    """A server that knows nothing of tasks."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it)
        return


def test_the_sidecar_runs_with_what_the_chart_gives_it(tmp_path: Path) -> None:
    """Its own probe says whether the server behind it is there, so the server needs none."""
    port, upstream_port = free_port(), free_port()
    values = {"port": port, "drain_s": 1, "sidecar": {"upstreamPort": upstream_port}}
    container = container_of(render(merged(example("sidecar"), values)))
    environment = {each["name"]: each.get("value", "key") for each in container["env"]}
    environment["SERVICE_HOST"] = "127.0.0.1"
    ready, live = (
        f"http://127.0.0.1:{port}{container[probe]['httpGet']['path']}"
        for probe in ("readinessProbe", "livenessProbe")
    )
    sidecar = ChildProcess(
        "the sidecar",
        [sys.executable, "-m", "taskbackbone", "sidecar", *container["args"]],
        log_path=tmp_path / "sidecar.log",
        environment=environment,
    )
    sidecar.spawn()
    try:
        assert eventually(lambda: status_of(live)) == 200
        assert status_of(ready) == 503
        with ThreadingHTTPServer(("127.0.0.1", upstream_port), Upstream) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            eventually(lambda: status_of(ready) == 200)
            server.shutdown()
    finally:
        sidecar.stop()


def status_of(url: str) -> int:
    """0 if nobody answers."""
    try:
        return httpx.get(url, timeout=PATIENCE_S).status_code
    except httpx.TransportError:
        return 0


def test_a_gpu_goes_to_the_model_alone() -> None:
    gpu = {"gpu": {"count": 2}}
    alone = render(merged(example("gpu"), gpu))
    assert container_of(alone)["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 2}
    beside = render(merged(example("sidecar"), gpu))
    [model] = pod_of(beside)["initContainers"]
    assert model["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert "nvidia.com/gpu" not in container_of(beside)["resources"]["limits"]
    keys = [each["key"] for each in pod_of(alone)["tolerations"]]
    assert keys == ["nvidia.com/gpu", "kubernetes.azure.com/scalesetpriority"]


def test_containers_of_blob_storage_are_mounted_where_they_are_asked_for() -> None:
    resources = render(example("r"))
    volumes = {each["metadata"]["name"]: each["spec"] for each in resources if each["kind"] == "PersistentVolume"}
    claims = {each["metadata"]["name"]: each["spec"] for each in resources if each["kind"] == "PersistentVolumeClaim"}
    mounts = {each["mountPath"]: each for each in container_of(resources)["volumeMounts"]}
    for name, is_read_only, mode in (("input", True, "ReadOnlyMany"), ("output", False, "ReadWriteMany")):
        mount = mounts[f"/mnt/{name}"]
        [claimed] = [each for each in pod_of(resources)["volumes"] if each["name"] == mount["name"]]
        claim = claims[claimed["persistentVolumeClaim"]["claimName"]]
        volume = volumes[claim["volumeName"]]
        assert mount["readOnly"] is claimed["persistentVolumeClaim"]["readOnly"] is is_read_only
        assert volume["csi"]["readOnly"] is is_read_only
        assert claim["accessModes"] == volume["accessModes"] == [mode]
        assert volume["csi"]["volumeAttributes"]["containerName"] == name
        assert volume["claimRef"] == {"namespace": "models", "name": claimed["persistentVolumeClaim"]["claimName"]}


@pytest.mark.parametrize("name", EXAMPLES)
def test_selectors_find_the_pods_and_change_with_no_version(name: str) -> None:
    resources = render(example(name))
    deployment = of_kind(resources, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    selectors = [
        deployment["selector"]["matchLabels"],
        of_kind(resources, "Service")["spec"]["selector"],
        of_kind(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert selectors == [{"app.kubernetes.io/name": "model-service", "app.kubernetes.io/instance": "words"}] * 4
    assert selectors[0].items() <= labels.items()
    assert (
        of_kind(resources, "Service")["spec"]["ports"][0]["targetPort"] == container_of(resources)["ports"][0]["name"]
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_container_runs_as_the_images_do_and_may_do_nothing_else(name: str) -> None:
    pod = pod_of(render(example(name)))
    assert pod["securityContext"]["runAsUser"] == 10001
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == DEFAULTS["securityContext"]
        assert "/tmp" in {each["mountPath"] for each in container["volumeMounts"]}
    for image in ("service", "sidecar", "r"):
        dockerfile = (ROOT / "images" / f"{image}.Dockerfile").read_text()
        assert "USER 10001" in dockerfile
        assert f"EXPOSE {DEFAULTS['port']}" in dockerfile


def test_istio_takes_whole_segments_and_repeats_nothing() -> None:
    service = of_kind(
        render(merged(example("r"), {"path": "/v1/words", "endpoints": ["/v1/words/count"]})), "VirtualService"
    )["spec"]
    [http] = service["http"]
    assert http["match"] == [{"uri": {"exact": "/v1/words"}}, {"uri": {"prefix": "/v1/words/"}}]
    assert http["retries"] == {"attempts": 0}
    assert service["gateways"] == ["aks-istio-ingress/models"]


def test_a_deployment_that_is_scaled_says_no_number_of_replicas() -> None:
    """Each upgrade would set it back to that number."""
    assert "replicas" not in of_kind(render(example("python")), "Deployment")["spec"]
    fixed = render(merged(example("python"), VARIANTS["not scaled"]))
    assert of_kind(fixed, "Deployment")["spec"]["replicas"] == 3
    assert not [each for each in fixed if each["kind"] == "ScaledObject"]


def test_another_adapters_metric_counts_once_and_not_for_each_pod() -> None:
    values = merged(example("python"), {"slots": 2} | VARIANTS["a metric of another adapter"])
    autoscaler = of_kind(render(values), "HorizontalPodAutoscaler")["spec"]
    [metric] = autoscaler["metrics"]
    assert metric == {
        "type": "External",
        "external": {
            "metric": {"name": "tasks", "selector": {"matchLabels": {"path": "words"}}},
            "target": {"type": "AverageValue", "averageValue": "2"},
        },
    }
    assert autoscaler["minReplicas"] == 1  # without a metric, nothing wakes it


def test_the_values_of_a_made_service_fit_it_and_its_entry(tmp_path: Path) -> None:
    for file in (REGISTRY, GATEWAY, DOCKERFILE):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / file, tmp_path / file)
    folder = make_service(tmp_path, "land-cover", "/v1/land")
    entry = json.loads((tmp_path / REGISTRY).read_text())["services"][-1]
    values = yaml.safe_load((folder / "values.yaml").read_text())
    shared = {"backbone": {**example("python")["backbone"]}, "serviceAccount": example("python")["serviceAccount"]}
    with pytest.raises(Refused, match="repository"):
        render(merged(shared, values), name=entry["name"])
    values = merged(merged(shared, values), {"image": {"repository": "myregistry.azurecr.io/land-cover"}})
    resources = render(values, name=entry["name"])
    assert complaints(resources, KUBERNETES[-1]) == {}
    triggers = of_kind(resources, "ScaledObject")["spec"]["triggers"]
    queues = [f"https://app.example.org/api/v1/queues{path}" for path in entry["endpoints"]]
    assert [trigger["metadata"]["url"] for trigger in triggers] == queues
    route = of_kind(resources, "HTTPRoute")["spec"]
    assert f"https://{route['hostnames'][0]}" == entry["url"]
    assert route["rules"][0]["matches"] == [{"path": {"type": "PathPrefix", "value": entry["path"]}}]


def test_the_values_that_the_page_gives_are_values_of_the_chart() -> None:
    page = (ROOT / "docs" / "add-a-service.md").read_text()
    [shared] = re.findall(r"services/deployment\.yaml <<END\n(.*?)^END$", page, re.DOTALL | re.MULTILINE)
    identity = "4" * 8 + "-0000-0000-0000-" + "0" * 12
    told = {"APP_HOST": "app.example.org", "KEY_VAULT_ID": "/subscriptions/s/vaults/kv-1"}

    def answer(command: re.Match[str]) -> str:
        value = told.get(command[1], identity)
        return value.rpartition("/")[2] if "basename" in command[0] else value

    values = yaml.safe_load(re.sub(r"\$\([^$]*?(?:\$\()?azd env get-value (\w+)\)?\"?\)", answer, shared))
    assert values["backbone"]["url"] == "https://app.example.org"
    assert values["backbone"]["keyVault"]["name"] == "kv-1"
    for path, value in re.findall(r"--set ([\w.]+)=(\S+)", page):
        values = merged(values, placed(tuple(path.split(".")), yaml.safe_load(value)))
    assert complaints(render(merged(example("python"), values)), KUBERNETES[-1]) == {}
