"""The policies and modules of API Management: what can be judged of them where there is no API Management.

The elements and attributes are those of Microsoft's reference of policies, the types those of its list of types.
The reference knows more: what stands here is what the files use, so that a new element is looked up once, here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import pytest

from local.gateway.expressions import Expressions, missing
from local.gateway.grammar import Reader
from local.stack import ROOT
from tests.infra.conftest import Run
from tests.operator_console.test_mounts import roles_of_the_page

APIM = ROOT / "infra" / "apim"
GATEWAY = json.loads((APIM / "apis.json").read_text())
SERVICES = json.loads((ROOT / "infra" / "services.json").read_text())["services"]
DOCUMENT = json.loads((ROOT / "docs" / "openapi.json").read_text())
DECIDED = {
    name: given["value"]
    for name, given in json.loads((APIM / "gateway.parameters.json").read_text())["parameters"].items()
}
POLICIES = sorted((APIM / "policies").glob("*.xml"))
FRAGMENTS = sorted((APIM / "policies" / "fragments").glob("*.xml"))
VARIANTS = [(tier, owner) for tier in GATEWAY["variants"]["tier"] for owner in GATEWAY["variants"]["owner"]]
SECTIONS = ("inbound", "backend", "outbound", "on-error")

ELEMENTS: dict[str, tuple[set[str], set[str]]] = {
    # name: (attributes, sections)
    "base": (set(), {*SECTIONS}),
    "cache-lookup-value": ({"key", "variable-name", "caching-type"}, {*SECTIONS}),
    "cache-store-value": ({"key", "value", "duration", "caching-type"}, {*SECTIONS}),
    "choose": (set(), {*SECTIONS}),
    "cors": ({"allow-credentials", "terminate-unmatched-request"}, {"inbound"}),
    "forward-request": ({"timeout", "buffer-response"}, {"backend"}),
    "include-fragment": ({"fragment-id"}, {*SECTIONS}),
    "quota": ({"calls", "renewal-period"}, {"inbound"}),
    "rate-limit": ({"calls", "renewal-period"}, {"inbound"}),
    "rate-limit-by-key": ({"calls", "renewal-period", "counter-key"}, {"inbound"}),
    "return-response": (set(), {*SECTIONS}),
    "rewrite-uri": ({"template", "copy-unmatched-params"}, {"inbound"}),
    "set-backend-service": ({"backend-id"}, {"inbound", "backend"}),
    "set-body": (set(), {"inbound", "outbound", "backend"}),
    "set-header": ({"name", "exists-action"}, {*SECTIONS}),
    "set-query-parameter": ({"name", "exists-action"}, {"inbound", "backend"}),
    "set-status": ({"code", "reason"}, {"outbound", "on-error"}),
    "set-variable": ({"name", "value"}, {*SECTIONS}),
    "validate-jwt": (
        {"header-name", "require-scheme", "failed-validation-httpcode", "output-token-variable-name"},
        {"inbound"},
    ),
}
CHILDREN: dict[str, dict[str, set[str]]] = {
    # parent: its children, with their attributes, that stand nowhere else
    "choose": {"when": {"condition"}},
    "cors": {
        "allowed-origins": set(),
        "allowed-methods": {"preflight-result-max-age"},
        "allowed-headers": set(),
        "expose-headers": set(),
    },
    "allowed-origins": {"origin": set()},
    "allowed-methods": {"method": set()},
    "allowed-headers": {"header": set()},
    "expose-headers": {"header": set()},
    "set-header": {"value": set()},
    "return-response": {"set-status": {"code", "reason"}, "set-header": {"name", "exists-action"}, "set-body": set()},
    "validate-jwt": {"openid-config": {"url"}, "audiences": set()},
    "audiences": {"audience": set()},
}
HOLDS_POLICIES = {*SECTIONS, "when"}
NO_EXPRESSION = {
    # Where the reference says that policy expressions are not allowed.
    ("quota", "calls"), ("quota", "renewal-period"), ("rate-limit", "calls"), ("rate-limit", "renewal-period"),
    ("set-variable", "name"), ("include-fragment", "fragment-id"), ("origin", None),
}  # fmt: skip
NOT_IN_CONSUMPTION = {"rate-limit-by-key", "quota-by-key", "cache-lookup-value", "cache-store-value"}

CONTEXT = {
    "Request": {"Body", "Headers", "IpAddress", "MatchedParameters", "OriginalUrl", "Url"},
    "Response": {"Body", "Headers", "StatusCode"},
    "Subscription": {"Id"},
    "Variables": {"ContainsKey"},
}
TYPES = {
    # Of Microsoft's list of types, those that the policies use, with the members that they use. It allows all members
    # of these but for Regex: of that the constructor, IsMatch, Match, Matches, Replace, Unescape and Split.
    "Regex": {"IsMatch"},
    "Uri": {"AbsolutePath"},
    "long": {"Parse"},
    "string": {"Join", "Length", "Replace", "Split"},
    "Jwt": {"Claims"},
    "Headers": {"ContainsKey", "GetValueOrDefault"},
    "Query": {"Count"},
    "Body": {"As"},
    "Url": {"Query", "Path"},
}
WORDS = {"context", "new", "null", "true", "false", "preserveContent", *TYPES} - {"Headers", "Query", "Body", "Url"}
MEMBERS = set().union(CONTEXT, *CONTEXT.values(), *TYPES.values())


def _tree(path: Path) -> ElementTree.Element:
    return ElementTree.fromstring(path.read_text())


def _named(path: Path) -> str:
    return path.relative_to(APIM).as_posix()


def _expressions(root: ElementTree.Element) -> Iterator[tuple[str, str | None, str]]:
    """Each value that is C#: its element, its attribute (None: the text) and the text."""
    for element in root.iter():
        for name, value in element.attrib.items():
            if "@(" in value or "@{" in value:
                yield element.tag, name, value
        if element.text and ("@(" in element.text or "@{" in element.text):
            yield element.tag, None, element.text.strip()


def _judge(parent: ElementTree.Element, section: str | None) -> None:
    """Raises an assertion for an element, an attribute or a text that the reference does not have there."""
    for child in parent:
        if parent.tag in HOLDS_POLICIES or parent.tag == "fragment":
            assert child.tag in ELEMENTS, f"{child.tag}: no policy"
            attributes, sections = ELEMENTS[child.tag]
            assert section is None or section in sections, f"{child.tag} in {section}"
        else:
            assert child.tag in CHILDREN.get(parent.tag, {}), f"{child.tag} in {parent.tag}"
            attributes = CHILDREN[parent.tag][child.tag]
        assert set(child.attrib) <= attributes, f"{child.tag}: {set(child.attrib) - attributes}"
        if len(child):
            assert not (child.text or "").strip(), f"{child.tag} has a text beside its elements"
        assert not (child.tail or "").strip(), f"text after {child.tag}"
        _judge(child, section)


def _included(name: str, tier: str, owner: str) -> str:
    chosen = {**GATEWAY["variants"]["tier"][tier], **GATEWAY["variants"]["owner"][owner]}
    return chosen.get(name, name)


def _operations() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for api in GATEWAY["apis"]:
        for operation in api["operations"]:
            yield api, operation


def test_there_are_policies() -> None:
    assert len(POLICIES) >= 8
    assert len(FRAGMENTS) >= 8


@pytest.mark.parametrize("path", POLICIES, ids=_named)
def test_a_policy_has_only_what_its_sections_may_have(path: Path) -> None:
    root = _tree(path)
    assert root.tag == "policies"
    assert [section.tag for section in root] == list(SECTIONS)
    for section in root:
        _judge(section, section.tag)


@pytest.mark.parametrize("path", FRAGMENTS, ids=_named)
def test_a_fragment_has_only_what_the_sections_that_include_it_may_have(path: Path) -> None:
    root = _tree(path)
    assert root.tag == "fragment"
    name = next(
        (
            generic
            for tier, owner in VARIANTS
            for generic in GATEWAY["fragments"]
            if _included(generic, tier, owner) == path.stem
        )
    )
    sections = {
        section.tag
        for policy in POLICIES
        for section in _tree(policy)
        for include in section.iter("include-fragment")
        if include.get("fragment-id") == name
    }
    assert sections, f"nothing includes {name}"
    for section in sections:
        _judge(root, section)


def test_no_policy_leaves_out_what_stands_above_it() -> None:
    """Without <base />, limits, CORS and the rest of the product and of the API would not hold for an operation."""
    for path in POLICIES:
        root = _tree(path)
        for section in root:
            is_own_call = section.tag == "backend" and section.find("forward-request") is not None
            assert [child.tag for child in section].count("base") == (0 if is_own_call else 1), (
                f"{path.name} {section.tag}"
            )
            if not is_own_call:
                # CORS is to be the first of all.
                first = next(child.tag for child in section if child.tag != "cors")
                assert first == "base", f"{path.name} {section.tag}"


def test_a_quota_stands_at_the_product_alone_and_limits_at_the_api() -> None:
    for path in [*POLICIES, *FRAGMENTS]:
        assert (_tree(path).find(".//quota") is not None) == (path.stem == "product"), path.name
    for tier, owner in VARIANTS:
        limits = _tree(APIM / "policies" / "fragments" / f"{_included('limits', tier, owner)}.xml")
        assert limits[0].tag == ("rate-limit" if tier == "consumption" else "rate-limit-by-key")


@pytest.mark.parametrize(("tier", "owner"), VARIANTS)
def test_every_name_in_the_description_has_its_file_and_the_other_way_round(tier: str, owner: str) -> None:
    policies = {api["policy"] for api in [*GATEWAY["apis"], GATEWAY["service"], *GATEWAY["products"]]}
    operations = [*(operation for _, operation in _operations()), *GATEWAY["service"]["operations"]]
    policies |= {_included(operation["policy"], tier, owner) for operation in operations} - {""}
    for name in policies:
        assert (APIM / "policies" / f"{name}.xml").is_file(), name
    fragments = {_included(name, tier, owner) for name in GATEWAY["fragments"]}
    for name in fragments:
        assert (APIM / "policies" / "fragments" / f"{name}.xml").is_file(), name
    used = {
        include.get("fragment-id")
        for name in policies
        for include in _tree(APIM / "policies" / f"{name}.xml").iter("include-fragment")
    }
    assert used == set(GATEWAY["fragments"])


def test_no_file_is_left_over() -> None:
    operations = [*(operation for _, operation in _operations()), *GATEWAY["service"]["operations"]]
    described = {
        one["policy"] for one in [*GATEWAY["apis"], GATEWAY["service"], *GATEWAY["products"], *operations]
    } - {""}
    names = {_included(name, tier, owner) for name in described for tier, owner in VARIANTS}
    assert names == {path.stem for path in POLICIES}
    fragments = {_included(name, tier, owner) for name in GATEWAY["fragments"] for tier, owner in VARIANTS}
    assert fragments == {path.stem for path in FRAGMENTS}


@pytest.mark.parametrize("owner", GATEWAY["variants"]["owner"])
def test_the_consumption_tier_gets_nothing_that_it_cannot_run(owner: str) -> None:
    files = [
        APIM / "policies" / "fragments" / f"{_included(name, 'consumption', owner)}.xml"
        for name in GATEWAY["fragments"]
    ]
    cached = {name for name in GATEWAY["variants"]["tier"]["v2"] if (APIM / "policies" / f"{name}.xml").is_file()}
    assert cached == {"status"}
    files += [path for path in POLICIES if path.stem not in cached]
    for path in files:
        assert {element.tag for element in _tree(path).iter()}.isdisjoint(NOT_IN_CONSUMPTION), path.name
        assert path.stat().st_size < 16 * 1024  # the most that the tier takes


def test_every_named_value_is_used_and_described() -> None:
    named = GATEWAY["namedValues"]
    texts = "".join(path.read_text() for path in [*POLICIES, *FRAGMENTS])
    assert set(re.findall(r"\{\{([^}]*)\}\}", texts)) == {*named["secrets"], *named["texts"], *named["lists"]}
    for name in named["lists"]:  # Bicep and the local gateway put an element for each value in place of this one
        assert texts.count("{{" + name + "}}") == texts.count(f"<origin>{{{{{name}}}}}</origin>") == 1


def test_secrets_go_into_headers_to_the_app_alone() -> None:
    for path in [*POLICIES, *FRAGMENTS]:
        for header in _tree(path).iter("set-header"):
            value = (header.findtext("value") or "").strip()
            if value in ("{{function-key}}", "{{gateway-key}}"):
                assert (path.stem, header.get("name"), header.get("exists-action")) in {
                    ("request", "x-functions-key", "override"),
                    ("callers", "X-Gateway-Key", "override"),
                    ("operators", "X-Gateway-Key", "override"),
                }
    texts = "".join(path.read_text() for path in [*POLICIES, *FRAGMENTS])
    assert (texts.count("{{function-key}}"), texts.count("{{gateway-key}}")) == (1, 2)


@pytest.mark.parametrize("policy", sorted({api["policy"] for api in [*GATEWAY["apis"], GATEWAY["service"]]}))
def test_a_caller_can_neither_name_an_owner_nor_pass_for_the_gateway(policy: str) -> None:
    inbound = _tree(APIM / "policies" / f"{policy}.xml").find("inbound")
    assert inbound is not None
    after = [(header.get("name"), header.get("exists-action")) for header in inbound.findall("set-header")]
    if policy == "page":
        assert {("X-Task-Owner", "delete"), ("X-Gateway-Key", "delete"), ("x-functions-key", "delete")} <= {*after}
        return
    assert ("X-Gateway-Key", "override") in after
    names = [child.get("fragment-id") or child.get("name") for child in inbound]
    if policy == "callers":
        assert ("X-Task-Owner", "override") in after
        assert names.index("owner") < names.index("limits") < names.index("X-Task-Owner")
        assert not {name for name, _ in after} & {"X-Operator", "X-Operator-Roles"}
    else:
        assert ("X-Task-Owner", "delete") in after
        for name in ("X-Operator", "X-Operator-Roles"):
            assert (name, "override") in after
            # What the caller sent is removed before the gateway's word is set.
            assert names.index("operator") < names.index("request") < names.index(name)


def test_nothing_that_only_model_services_tell_passes() -> None:
    request = _tree(APIM / "policies" / "fragments" / "request.xml")
    deleted = {
        header.get("name") for header in request.findall("set-header") if header.get("exists-action") == "delete"
    }
    documented = {
        parameter["name"]
        for methods in DOCUMENT["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
        if parameter["name"].startswith("X-Task-")
    }
    assert len(documented) >= 4
    assert documented <= deleted
    assert {"Ocp-Apim-Subscription-Key", "Authorization", "Cookie", "X-Operator", "X-Operator-Roles"} <= deleted
    removed = {parameter.get("name") for parameter in request.findall("set-query-parameter")}
    assert removed == {"code", "subscription-key"}


def test_the_operations_are_those_of_the_document() -> None:
    known = {
        operation["operationId"]: (method.upper(), path)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }
    for api, operation in _operations():
        if api["name"] in ("taskmanagement", "console"):
            continue
        method, path = known[operation["name"]]
        template = f"/{api['path']}{operation['urlTemplate']}".replace("/*", "/{path}").rstrip("/")
        assert (operation["method"], template.removeprefix("/operators")) == (method, f"/api{path}")
    names = [(api["path"].partition("/")[0], operation["name"]) for api, operation in _operations()]
    assert len(names) == len(set(names))


def test_the_page_says_of_every_operation_who_gets_it() -> None:
    page = (ROOT / "docs" / "gateway.md").read_text()
    table = page.partition("## Who gets which operation")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", table, re.MULTILINE))
    products = {api["product"]: api for api in GATEWAY["apis"]}
    assert set(products) == {"callers", "operators", ""}
    assert [api["name"] for api in GATEWAY["apis"] if not api["product"]] == ["console"]
    of_operators = roles_of_the_page()
    expected = {
        operation["name"]: api["product"] for api, operation in _operations() if api["path"].startswith("api")
    }
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            name = operation["operationId"]
            if path.startswith("/v1/"):
                others = (
                    "[operators](#operators)" if of_operators.get(name) else "nobody: model services call the app"
                )
                assert rows.pop(name) == expected.get(name, others), name
    assert not rows, f"{set(rows)} of the page are no operations of v1"


@pytest.mark.parametrize("path", [*POLICIES, *FRAGMENTS], ids=_named)
def test_expressions_are_small_and_of_the_types_that_api_management_allows(path: Path) -> None:
    for element, attribute, source in _expressions(_tree(path)):
        assert (element, attribute) not in NO_EXPRESSION, f"{element} {attribute}"
        assert re.fullmatch(r"@\(.*\)", source), f"one expression and nothing else: {source}"
        assert len(source) <= 300, source
        code = re.sub(r"\{\{[\w-]+\}\}", "0", source[2:-1])
        code = re.sub(r'@"(?:[^"]|"")*"|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'', " '' ", code)
        for before, word in re.findall(r"(\.\s*)?\b([A-Za-z_]\w*)", code):
            assert word in (MEMBERS if before else WORDS), f"{word} in {source}"
        for name, member in re.findall(r"\bcontext\.(\w+)\.(\w+)", code):
            assert member in CONTEXT[name], f"context.{name}.{member}"
        for name, member in re.findall(r"\b(\w+)\.(\w+)", code):
            if name in TYPES:
                assert member in TYPES[name], f"{name}.{member}"


def test_expressions_are_few() -> None:
    count = sum(1 for path in [*POLICIES, *FRAGMENTS] for _ in _expressions(_tree(path)))
    assert count <= 42


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_every_expression_is_c_sharp(tmp_path: Path) -> None:
    named = GATEWAY["namedValues"]
    values = dict.fromkeys([*named["secrets"], *named["texts"]], "1")
    expressions = Expressions()
    reader = Reader(ROOT, {**values, **{name: ["https://example.org"] for name in named["lists"]}}, expressions)
    for path in POLICIES:
        reader.policy(path)
    for path in FRAGMENTS:
        reader.fragment(path, "outbound" if path.stem in ("response", "legacy-task") else "inbound")
    compiled = expressions.compile(tmp_path).with_suffix(".cs").read_text()
    assert compiled.count("(IProxyContext context)") == sum(
        1 for path in [*POLICIES, *FRAGMENTS] for _ in _expressions(_tree(path))
    )


@pytest.mark.parametrize("path", sorted(APIM.glob("*.bicep")), ids=lambda path: path.name)
def test_bicep_has_nothing_to_say(path: Path, bicep: Run) -> None:
    built = bicep("build", path, "--stdout")
    assert (built.returncode, built.stderr) == (0, "")
    assert bicep("format", path, "--stdout").stdout == path.read_text()


Predict = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def predicted(bicep: Run, tmp_path_factory: pytest.TempPathFactory) -> Predict:
    """The resources that a module of API Management makes with these parameters, as Bicep computes them offline."""

    @cache
    def resources(module: str, **parameters: str) -> list[dict[str, Any]]:
        file = tmp_path_factory.mktemp("snapshot") / "gateway.bicepparam"
        lines = [f"param {name} = {value}" for name, value in parameters.items()]
        file.write_text("\n".join([f"using '{os.path.relpath(APIM / module, file.parent)}'", *lines, ""]))
        where = ["--subscription-id", str(UUID(int=0)), "--resource-group", "group", "--location", "westeurope"]
        made = bicep("snapshot", file, "--mode", "overwrite", *where)
        assert (made.returncode, made.stderr) == (0, "")
        return json.loads(file.with_suffix(".snapshot.json").read_text())["predictedResources"]

    return resources


@pytest.fixture
def deployed(predicted: Predict, tier: str, owner: str) -> list[dict[str, Any]]:
    return predicted(
        "gateway.bicep",
        apimName="'apim'",
        appHostName="'app.azurewebsites.net'",
        keyVaultUri="'https://vault.vault.azure.net/'",
        tier=f"'{tier}'",
        maxBodyBytes="15728640",
        **{
            **{name: _bicep(value) for name, value in DECIDED.items()},
            "owner": f"'{owner}'",
            "corsOrigins": "['https://maps.example.org', 'https://other.example.org']",
        },
    )


def _bicep(value: Any) -> str:
    return json.dumps(value).replace('"', "'")


def _of(resources: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The properties of the resources of a kind, by name without that of the service."""
    kind = f"Microsoft.ApiManagement/service/{kind}"
    return {each["name"].partition("/")[2]: each["properties"] for each in resources if each["type"] == kind}


def _file(name: str) -> str:
    return (APIM / "policies" / f"{name}.xml").read_text()


@pytest.mark.parametrize(("tier", "owner"), VARIANTS)
class TestDeployed:
    """What Azure is told."""

    def test_each_policy_is_its_file(self, deployed: list[dict[str, Any]], tier: str, owner: str) -> None:
        for name, fragment in _of(deployed, "policyFragments").items():
            assert fragment == {"format": "xml", "value": _file(f"fragments/{_included(name, tier, owner)}")}
        policies = _of(deployed, "apis/operations/policies")
        wanted = {
            f"{api['name']}/{operation['name']}/policy": _file(name)
            for api in self.apis()
            for operation in api["operations"]
            if (name := _included(operation["policy"], tier, owner))
        }
        assert {name: policy["value"] for name, policy in policies.items()} == wanted
        for api in self.apis():
            # An expression of Azure, where quotes are doubled: which portal there is, only Azure knows.
            text = _of(deployed, "apis/policies")[f"{api['name']}/policy"]["value"].replace("''", "'")
            element = "<origin>{{cors-origins}}</origin>"
            assert text.startswith(f"[replace('{_file(api['policy'])}', '{element}', join(")
            assert "'<origin>https://maps.example.org</origin>', '<origin>https://other.example.org</origin>'" in text

    def test_every_api_asks_for_a_subscription_to_its_product(self, deployed: list[dict[str, Any]]) -> None:
        apis = _of(deployed, "apis")
        assert {(name, api["path"]) for name, api in apis.items()} == {
            (api["name"], api["path"]) for api in self.apis()
        }
        for name, api in apis.items():
            assert api["subscriptionRequired"] is (name != "console")
            assert api["protocols"] == ["https"]
        links = _of_names(deployed, "products/apis")
        assert sorted(links) == sorted(f"{api['product']}/{api['name']}" for api in self.apis() if api["product"])
        for product in _of(deployed, "products").values():
            assert product["subscriptionRequired"] is product["approvalRequired"] is True

    def test_an_operation_says_what_the_document_says(self, deployed: list[dict[str, Any]]) -> None:
        documented = {each["operationId"]: each for path in DOCUMENT["paths"].values() for each in path.values()}
        operations = _of(deployed, "apis/operations")
        assert len(operations) == sum(len(api["operations"]) for api in self.apis())
        for name, operation in operations.items():
            document = documented.get(name.partition("/")[2])
            assert len(operation["displayName"]) <= 300
            assert len(operation.get("description") or "") <= 1000
            templates = [parameter["name"] for parameter in operation["templateParameters"]]
            assert templates == re.findall(r"\{(\w+)\}", operation["urlTemplate"])
            if document:
                assert operation["displayName"] == document["summary"]
                asked = {each["name"] for each in document.get("parameters", []) if each["in"] != "path"}
                shown = [*operation["request"]["queryParameters"], *operation["request"]["headers"]]
                assert {each["name"] for each in shown} == {each for each in asked if not each.startswith("X-Task-")}
                statuses = {str(answer["statusCode"]) for answer in operation["responses"]}
                assert statuses == set(document["responses"])

    def test_secrets_stay_in_the_key_vault(self, deployed: list[dict[str, Any]]) -> None:
        values = _of(deployed, "namedValues")
        assert set(values) == {*GATEWAY["namedValues"]["secrets"], *GATEWAY["namedValues"]["texts"]}
        for name in GATEWAY["namedValues"]["secrets"]:
            assert values[name]["secret"] is True
            assert "value" not in values[name]
            # Without a client id: by the service's own identity, the only one that a vault with a firewall lets in.
            assert values[name]["keyVault"] == {"secretIdentifier": f"https://vault.vault.azure.net/secrets/{name}"}
        roles = [each["id"] for each in deployed if each["type"] == "Microsoft.Authorization/roleAssignments"]
        scopes = re.findall(r"/Microsoft\.KeyVault/vaults/vault/secrets/([a-z-]+)/providers/", "\n".join(roles))
        assert len(scopes) == len(roles)
        assert scopes == GATEWAY["namedValues"]["secrets"]

    def test_a_breaker_takes_the_word_of_the_app(self, deployed: list[dict[str, Any]], tier: str) -> None:
        backends = _of(deployed, "backends")
        assert {name: backend["url"] for name, backend in backends.items()} == {
            "backbone": "https://app.azurewebsites.net/api",
            "backbone-submit": "https://app.azurewebsites.net/api",
            "backbone-queues": "https://app.azurewebsites.net/api/v1/queues",
            "backbone-console": "https://app.azurewebsites.net/api/console",
        }
        for name, backend in backends.items():
            if tier == "consumption" or name in ("backbone-queues", "backbone-console"):
                assert backend.get("circuitBreaker") is None
            else:
                assert [rule["acceptRetryAfter"] for rule in backend["circuitBreaker"]["rules"]] == [True]

    @staticmethod
    def apis() -> list[dict[str, Any]]:
        services = [{**GATEWAY["service"], "name": each["name"], "path": each["path"][1:]} for each in SERVICES]
        return [*GATEWAY["apis"], *services]


def _of_names(resources: list[dict[str, Any]], kind: str) -> list[str]:
    kind = f"Microsoft.ApiManagement/service/{kind}"
    return [each["name"].partition("/")[2] for each in resources if each["type"] == kind]


def test_no_model_service_takes_the_place_of_an_api() -> None:
    for service in SERVICES:
        assert service["name"] not in {api["name"] for api in GATEWAY["apis"]}
        for api in GATEWAY["apis"]:
            assert not f"{service['path']}/".startswith(f"/{api['path']}/")


@pytest.mark.parametrize("sku", ["Consumption", "StandardV2"])
def test_the_service_writes_one_trace_by_its_identity_and_no_body(predicted: Predict, sku: str) -> None:
    resources = predicted(
        "service.bicep",
        name="'apim'",
        location="'westeurope'",
        sku=f"'{sku}'",
        publisherEmail="'operators@example.org'",
        publisherName="'Example'",
        identityId="'/identity'",
        identityClientId=f"'{UUID(int=1)}'",
        appInsightsId="'/insights'",
        appInsightsConnectionString="'InstrumentationKey=x'",
    )
    (logger,) = _of(resources, "loggers").values()
    assert logger["credentials"] == {"connectionString": "InstrumentationKey=x", "identityClientId": str(UUID(int=1))}
    (diagnostic,) = _of(resources, "diagnostics").values()
    assert diagnostic["httpCorrelationProtocol"] == "W3C"
    assert diagnostic["logClientIp"] is False
    for side in ("frontend", "backend"):
        for way in ("request", "response"):
            assert diagnostic[side][way] == {"body": {"bytes": 0}}
    (service,) = [each for each in resources if each["type"] == "Microsoft.ApiManagement/service"]
    assert service["identity"]["type"] == "SystemAssigned, UserAssigned"
    assert service["sku"] == {"name": sku, "capacity": 0 if sku == "Consumption" else 1}
