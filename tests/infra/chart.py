"""The chart of model services, rendered by Helm's own library, and what judges its resources."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

from local.azurite import find_node, install_npm_package
from local.stack import ROOT

CHART = ROOT / "charts" / "model-service"
EXAMPLES = ("python", "r", "gpu", "sidecar")
NAMESPACE = "models"
_MODELS = Path(__file__).with_name("kubernetes_models")
_INSTALLED = ROOT / ".local" / "kubernetes-models"
_OLDEST_NODE_MAJOR = 22

Resource = dict[str, Any]
Refused = helm_python.HelmError


def example(name: str) -> dict[str, Any]:
    """The values of an example."""
    return yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text())


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """*values* with *more* in them, as Helm takes a second file of values."""
    both = dict(values)
    for key, value in more.items():
        mine = both.get(key)
        both[key] = merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def render(values: dict[str, Any], name: str = "words") -> list[Resource]:
    """The resources of a release, as ``helm upgrade --install`` would make them.

    Raises:
        Refused: the values break the schema, or a template stops.
    """
    chart = helm_python.Chart.load(CHART)
    chart.validate_schema(chart.merge_values(values))
    files = chart.render(values, name=name, namespace=NAMESPACE)
    texts = (text for path, text in files.items() if not path.endswith(".txt"))
    return [resource for text in texts for resource in yaml.safe_load_all(text) if resource]


def of_kind(resources: list[Resource], kind: str) -> Resource:
    """The one resource of a kind."""
    [found] = [resource for resource in resources if resource["kind"] == kind]
    return found


def complaints(resources: list[Resource], version: str) -> dict[str, list[str]]:
    """What is wrong with resources, by kind. Kubernetes' own are held to the schema of *version*. A kind that nobody
    knows is wrong."""
    by_kind: dict[str, list[str]] = {}
    for resource, foreign in zip(resources, _judged_by_models(resources), strict=True):
        found = foreign
        if found is None:
            found = _judged_by_kubernetes(resource, version)
        by_kind.setdefault(resource["kind"], []).extend(found)
    return {kind: found for kind, found in by_kind.items() if found}


def _judged_by_kubernetes(resource: Resource, version: str) -> list[str]:
    if resource["kind"] == "SecretProviderClass":
        return _judged_by_hand(resource)
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'/'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    return []


def _judged_by_hand(resource: Resource) -> list[str]:
    """Of the Secrets Store CSI driver: no package brings its schema. What its documentation names is taken."""
    known = {
        "": {"apiVersion", "kind", "metadata", "spec"},
        "spec": {"provider", "parameters", "secretObjects"},
        "parameters": {"keyvaultName", "tenantId", "clientID", "objects"},
    }
    levels = {"": resource, "spec": resource["spec"], "parameters": resource["spec"]["parameters"]}
    unknown = [f"{at}/{key}: unknown" for at, level in levels.items() for key in level.keys() - known[at]]
    named = [yaml.safe_load(each) for each in yaml.safe_load(resource["spec"]["parameters"]["objects"])["array"]]
    fetched = {each["objectName"] for each in named if each["objectType"] == "secret"}
    kept = {item["objectName"] for each in resource["spec"]["secretObjects"] for item in each["data"]}
    return unknown + [f"{name}: is kept and not fetched" for name in kept - fetched]


def _judged_by_models(resources: list[Resource]) -> list[list[str] | None]:
    answer = subprocess.run(
        [str(_node()), str(_MODELS / "judge.mjs"), str(_INSTALLED / "node_modules")],
        input=json.dumps(resources),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout)


@cache
def _node() -> Path:
    install_npm_package(_MODELS, _INSTALLED, "The models of Kubernetes", oldest_node_major=_OLDEST_NODE_MAJOR)
    return find_node(_OLDEST_NODE_MAJOR)[0]
