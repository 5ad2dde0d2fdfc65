"""What the gateway serves: ``apis.json``, which Bicep reads too, and what differs from one deployment to another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from local.gateway.errors import GatewayError
from local.gateway.limits import BreakerRule

CONSUMPTION = "consumption"
"""The tier that has no breakers."""
_PARAMETER = re.compile(r"\\\{(\w+)\\\}")
_KNOWN = {
    "": {"namedValues", "variants", "fragments", "backends", "products", "apis", "service"},
    "backends": {"name", "path", "circuitBreaker"},
    "products": {"name", "displayName", "description", "policy", "subscriptions"},
    "apis": {"name", "displayName", "description", "path", "product", "policy", "operations"},
    "operations": {"name", "displayName", "method", "urlTemplate", "policy"},
}


@dataclass(frozen=True)
class Subscription:
    id: str
    name: str
    key: str
    product: str


@dataclass(frozen=True)
class Product:
    name: str
    display_name: str
    policy: str


@dataclass(frozen=True)
class Operation:
    """An operation. A template has ``{name}`` for a segment, and ``/*`` at its end for any rest."""

    name: str
    method: str
    template: str
    policy: str | None

    def match(self, path: str) -> dict[str, str] | None:
        """What the path has for the parameters, escaped; None if it is another operation's."""
        template, _, rest = self.template.partition("/*")
        pattern = _PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(template)) + ("/.*" if "/*" in self.template else rest)
        match = re.fullmatch(pattern, path, re.DOTALL)
        return None if match is None else match.groupdict()

    @property
    def precedence(self) -> tuple[bool, int]:
        """Orders operations: of those that match, the one with the fewest parameters is meant."""
        return "/*" in self.template, self.template.count("{")


@dataclass(frozen=True)
class Api:
    name: str
    display_name: str
    path: str
    """What its URLs begin with, without slashes around it."""
    product: Product | None
    """None: it is for anybody, without a key."""
    policy: str
    operations: tuple[Operation, ...]

    def rest(self, path: str) -> str | None:
        """What follows this API's path; None if the path is not below it."""
        own = f"/{self.path}"
        return path[len(own) :] or "/" if path == own or path.startswith(f"{own}/") else None


@dataclass(frozen=True)
class Configuration:
    """All of ``apis.json`` for one tier and one kind of owner."""

    directory: Path
    named_values: frozenset[str]
    policies: Mapping[str, Path | None]
    """Files by the names of policies that have a variant; None: this one has no such policy."""
    fragments: Mapping[str, Path]
    backends: Mapping[str, tuple[str, tuple[BreakerRule, ...]]]
    """By name: what its URL goes on with, and when its breaker trips."""
    apis: tuple[Api, ...]

    def policy(self, name: str) -> Path | None:
        """The file of a policy; None if this variant has none."""
        return self.policies[name] if name in self.policies else self.directory / "policies" / f"{name}.xml"

    def route(self, method: str, path: str) -> tuple[Api, Operation, str, dict[str, str]] | None:
        """Where a request belongs: the API with the longest path, then the operation; and what follows the API's
        path, and the parameters in it."""
        below = [(api, rest) for api in self.apis if (rest := api.rest(path)) is not None]
        if not below:
            return None
        api, rest = max(below, key=lambda found: len(found[0].path))
        for operation in sorted(api.operations, key=lambda known: known.precedence):
            if operation.method == method and (matched := operation.match(rest)) is not None:
                return api, operation, rest, matched
        return None


def load(file: Path, *, tier: str, owner: str, services: Sequence[str]) -> Configuration:
    """Reads ``apis.json``.

    Parameters:
        tier: the variant of the tier.
        owner: the variant of who owns a task.
        services: the paths of model services, each of which gets an API.

    Raises:
        GatewayError: it cannot be read, or holds what this gateway does not know.
    """
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise GatewayError(f"{file}: {error}") from None
    where = file.name
    _check(document, "", where)
    for group in ("backends", "products", "apis"):
        for entry in document[group]:
            _check(entry, group, where)
    directory = file.parent
    chosen: dict[str, str | None] = {}
    for kind, name in (("tier", tier), ("owner", owner)):
        variants = document["variants"][kind]
        if name not in variants:
            raise GatewayError(f"{where}: there is no variant {name} of {kind}, only {', '.join(variants)}.")
        chosen |= variants[name]
    names = document["fragments"]
    folder = directory / "policies" / "fragments"
    products = {
        entry["name"]: Product(entry["name"], entry["displayName"], entry["policy"]) for entry in document["products"]
    }
    entries = [*document["apis"], *(_service(path, document["service"]) for path in services)]
    return Configuration(
        directory,
        frozenset(name for kind in document["namedValues"].values() for name in kind),
        {name: directory / "policies" / f"{file}.xml" if file else None for name, file in chosen.items()},
        {name: folder / f"{chosen.get(name, name)}.xml" for name in names},
        {entry["name"]: _backend(entry, where, has_breaker=tier != CONSUMPTION) for entry in document["backends"]},
        tuple(_api(entry, products, where) for entry in entries),
    )


def _service(path: str, template: Mapping[str, Any]) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "-", unquote(path).lower()).strip("-")
    return {**template, "name": name, "displayName": name, "path": path.strip("/")}


def _api(entry: Mapping[str, Any], products: Mapping[str, Product], where: str) -> Api:
    for operation in entry["operations"]:
        _check(operation, "operations", where)
    operations = tuple(
        Operation(one["name"], one["method"], one["urlTemplate"], one["policy"] or None)
        for one in entry["operations"]
    )
    product = products[entry["product"]] if entry["product"] else None
    return Api(entry["name"], entry["displayName"], entry["path"], product, entry["policy"], operations)


def _backend(entry: Mapping[str, Any], where: str, *, has_breaker: bool) -> tuple[str, tuple[BreakerRule, ...]]:
    rules = (entry["circuitBreaker"] or {}).get("rules", ()) if has_breaker else ()
    place = f"{where}: backend {entry['name']}"
    return entry["path"], tuple(BreakerRule.parse(rule, place) for rule in rules)


def _check(entry: Mapping[str, Any], group: str, where: str) -> None:
    if unknown := sorted(entry.keys() - _KNOWN[group]):
        raise GatewayError(f"{where}: the local gateway knows no {', '.join(unknown)} in {group or 'it'}.")
