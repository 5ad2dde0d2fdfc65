"""The local gateway, as far as it goes without mono: what it refuses, how it counts, and where it sends a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from local.gateway import configuration, expressions, tokens
from local.gateway.errors import GatewayError
from local.gateway.expressions import Expression, Expressions, Type
from local.gateway.grammar import RULES, SECTIONS, Node, Reader, Rule
from local.gateway.limits import Breaker, BreakerRule, Cache, Counters, seconds
from local.gateway.process import APIS, GatewayProcess
from local.processes import LocalStackError

INBOUND = "<policies><inbound>{}</inbound></policies>"
RULE: dict[str, Any] = {
    "name": "overloaded",
    "failureCondition": {"count": 2, "interval": "PT10S", "statusCodeRanges": [{"min": 500, "max": 599}]},
    "tripDuration": "PT30S",
    "acceptRetryAfter": True,
}


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "policy.xml"


async def test_an_issuer_fills_no_memory() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(256):
                writer.write(b" " * 65536)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        issuer = tokens.Issuer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(ValueError, match="too large"):
            await issuer.key("any")


def read(policy: Path, **named_values: str) -> tuple[Any, Expressions]:
    found = Expressions()
    return Reader(policy.parent, named_values, found).policy(policy), found


@pytest.mark.parametrize(
    ("inbound", "refusal"),
    [
        ("<base /><retry />", "policy.xml(1): the local gateway knows no policy <retry> in <inbound>."),
        ("<forward-request />", "policy.xml(1): the local gateway knows no policy <forward-request> in <inbound>."),
        ('<base scope="all" />', "policy.xml(1): the local gateway knows no attribute scope of <base>."),
        ("<set-header />", "policy.xml(1): <set-header> needs the attribute name."),
        ('<set-header name="a"><b /></set-header>', "policy.xml(1): the local gateway knows no <b> in <set-header>."),
        ("<choose><base /></choose>", "policy.xml(1): the local gateway knows no <base> in <choose>."),
        ("<base>text</base>", "policy.xml(1): text stands in <base>."),
        ("text", "policy.xml(1): text stands in <inbound>."),
        (
            '<set-header name="a" exists-action="skip" />',
            "policy.xml(1): set-header exists-action is 'skip', and may be override, delete.",
        ),
        (
            '<quota calls="many" renewal-period="60" />',
            "policy.xml(1): quota calls is 'many', which is no int.",
        ),
        (
            '<quota calls="@(1)" renewal-period="60" />',
            "policy.xml(1): quota calls may not be an expression.",
        ),
        (
            '<rewrite-uri template="/v1/@(1)" />',
            "policy.xml(1): rewrite-uri template has an expression within text; it has to be all of it.",
        ),
        ('<rewrite-uri template="@(1) " copy-unmatched-params="no" />', "which is no bool."),
        (
            '<rewrite-uri template="@(1)/tasks" />',
            "policy.xml(1): rewrite-uri template goes on behind the expression.",
        ),
        ('<rewrite-uri template="{{root}}" />', "policy.xml(1): there is no named value root."),
        ("<base>", "policy.xml: no well-formed XML: mismatched tag: line 1, column"),
    ],
)
def test_a_policy_file_is_refused_for_whatever_the_rules_do_not_have(
    policy: Path, inbound: str, refusal: str
) -> None:
    policy.write_text(INBOUND.format(inbound))

    with pytest.raises(GatewayError) as refused:
        read(policy)

    assert refusal in str(refused.value)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("<policy />", "<policies> is expected"),
        ("<policies><inbound /><inbound /></policies>", "<inbound> is no section, or is there twice"),
        ("<policies><middle /></policies>", "<middle> is no section, or is there twice"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(policy: Path, text: str, refusal: str) -> None:
    policy.write_text(text)

    with pytest.raises(GatewayError, match=refusal):
        read(policy)


def test_a_refusal_names_the_line(policy: Path) -> None:
    policy.write_text(INBOUND.format("\n<base />\n<retry />\n"))

    with pytest.raises(GatewayError, match=r"policy\.xml\(3\): .*<retry>"):
        read(policy)


def test_a_named_value_is_put_in_before_an_expression_is_read(policy: Path) -> None:
    policy.write_text(INBOUND.format('<set-variable name="owner" value=\'@("user:" + "{{claim}}")\' />'))

    _, found = read(policy, claim="oid")

    assert [expression.source for expression in found._all] == ['@("user:" + "oid")']


def test_a_list_makes_one_element_of_each_value(policy: Path) -> None:
    policy.write_text(INBOUND.format("<cors><allowed-origins><origin>{{origins}}</origin></allowed-origins></cors>"))

    sections = Reader(policy.parent, {"origins": ["https://a.example", "https://b.example"]}, Expressions()).policy(
        policy
    )

    assert sections["inbound"][0].texts("allowed-origins", "origin") == ["https://a.example", "https://b.example"]


def test_the_rules_have_nothing_that_the_policies_do_not_use() -> None:
    """What nobody uses is nothing that the contract's tests have looked at."""
    used = set()

    def note(node: Any, path: str) -> None:
        used.add(path)
        used.update(f"{path} {name}" for name in node.attributes)
        for child in node.children:
            note(child, child.name if path.endswith(("when", "policies")) else f"{path}/{child.name}")

    served = json.loads(APIS.read_text())
    names = [name for kind in served["namedValues"].values() for name in kind]
    reader = Reader(APIS.parent, dict.fromkeys(names, "1"), Expressions())
    for file in (APIS.parent / "policies").glob("*.xml"):
        for nodes in reader.policy(file).values():
            for node in nodes:
                note(node, node.name)
    for file in (APIS.parent / "policies" / "fragments").glob("*.xml"):
        for node in _fragment(reader, file):
            note(node, node.name)

    def known(rule: Rule, path: str) -> set[str]:
        own = {path} | {f"{path} {name}" for name in rule.attributes}
        return own.union(*(known(child, f"{path}/{name}") for name, child in rule.children.items()))

    assert set().union(*(known(rule, name) for name, rule in RULES.items())) - used == set()


def _fragment(reader: Reader, file: Path) -> Sequence[Node]:
    """Its policies, as in the first section that takes them."""
    for section in SECTIONS:
        with suppress(GatewayError):
            return reader.fragment(file, section)
    raise AssertionError(f"{file.name} stands in no section")


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("@(context.Request.Body != null)", (False, False)),
        ("@(context.Request.Body.As<string>())", (True, False)),
        ("@(context.Response.Body?.As<JObject>(preserveContent: true))", (False, True)),
        ('@(((IResponse)context.Variables["answer"]).Body.As<string>())', (False, False)),
    ],
)
def test_a_body_is_read_only_for_an_expression_that_does(source: str, reads: tuple[bool, bool]) -> None:
    expression = Expression(0, source, Type.OBJECT, "policy.xml", 1)

    assert (expression.reads_request_body, expression.reads_response_body) == reads


def test_without_mono_the_gateway_refuses_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expressions.shutil, "which", lambda _: None)
    monkeypatch.setattr(expressions.sys, "platform", "linux")

    with pytest.raises(LocalStackError) as refused:
        GatewayProcess(
            tmp_path,
            port=1,
            app_url="",
            function_key="",
            gateway_key="",
            max_body_bytes=1,
            services=[],
            subscriptions={},
        )

    assert "mcs, mono" in str(refused.value)
    assert f"on Debian and Ubuntu: {expressions.APT_COMMAND}" in str(refused.value)


@pytest.fixture
def served() -> configuration.Configuration:
    return configuration.load(APIS, tier="v2", owner="subscription", services=["/v1/words"])


@pytest.mark.parametrize(
    ("method", "path", "operation", "matched"),
    [
        ("POST", "/api/v1/submit/v1/words/count", "SubmitTask", {}),
        ("GET", "/api/v1/tasks/one%2Ftwo", "GetTask", {"id": "one%2Ftwo"}),
        ("GET", "/api/v1/tasks/one/result", "GetTaskResult", {"id": "one"}),
        ("GET", "/api/v1/tasks", "ListTasks", {}),
        ("GET", "/api/v1/queues", "AllQueueDepths", {}),
        ("GET", "/api/v1/queues/v1/words/count", "QueueDepths", {}),
        ("GET", "/operators/api/v1/queues", "AllQueueDepths", {}),
        ("GET", "/operators/api/v1/queues/v1/words/count", "QueueDepths", {}),
        ("GET", "/operators/api/v1/me", "GetMe", {}),
        ("GET", "/operators/api/console/index.html", "ConsolePage", {}),
        ("POST", "/operators/api/console/operate/tasks", None, None),
        ("GET", "/api/v1/me", None, None),
        ("POST", "/operators/api/v1/tasks/one/heartbeat", None, None),
        ("GET", "/operators/api/CacheConnectorGet", None, None),
        ("POST", "/v1/words", "LegacySubmit", {}),
        ("POST", "/v1/words/count", "LegacySubmitBelow", {}),
        ("GET", "/taskmanagement/task/one", "LegacyStatus", {"id": "one"}),
        ("PUT", "/api/v1/tasks/one/result", None, None),
        ("GET", "/api/v1/tasks/one/two", None, None),
        ("GET", "/apis/v1/tasks", None, None),
        ("POST", "/v1/other", None, None),
    ],
)
def test_a_request_belongs_to_one_operation(
    served: configuration.Configuration, method: str, path: str, operation: str | None, matched: dict[str, str] | None
) -> None:
    route = served.route(method, path)

    assert (route and (route[1].name, route[3])) == (operation and (operation, matched))


def test_what_apis_json_holds_beyond_that_is_refused(tmp_path: Path) -> None:
    document = json.loads(APIS.read_text())
    document["apis"][0]["operations"][0]["cached"] = True
    (tmp_path / "apis.json").write_text(json.dumps(document))

    with pytest.raises(GatewayError, match=r"apis\.json: the local gateway knows no cached in operations\."):
        configuration.load(tmp_path / "apis.json", tier="v2", owner="subscription", services=[])


def test_a_window_of_calls_slides(clock: Hand) -> None:
    counters = Counters(clock)
    assert [counters.count("key", 2, 60).remaining for _ in range(2)] == [1, 0]
    clock.now_s += 20
    assert counters.count("key", 2, 60).retry_after_s == 40
    assert counters.count("another", 2, 60).retry_after_s is None
    clock.now_s += 40
    assert counters.count("key", 2, 60).retry_after_s is None


def test_what_is_cached_ends(clock: Hand) -> None:
    cache = Cache(clock)
    cache.put("key", "value", 1)
    clock.now_s += 0.9
    assert cache.get("key") == "value"
    clock.now_s += 0.1
    assert cache.get("key") is None


@pytest.mark.parametrize(("retry_after_s", "open_s"), [(None, 30), (5, 5), (3600, 3600)])
def test_a_breaker_trips_for_as_long_as_the_backend_asks(
    clock: Hand, retry_after_s: float | None, open_s: float
) -> None:
    breaker = Breaker([BreakerRule.parse(RULE, "apis.json")], clock)
    breaker.see(503, retry_after_s=retry_after_s)
    breaker.see(404, retry_after_s=retry_after_s)
    assert breaker.open_s == 0

    breaker.see(503, retry_after_s=retry_after_s)

    assert breaker.open_s == open_s
    clock.now_s += open_s
    assert breaker.open_s == 0


def test_failures_that_lie_apart_trip_no_breaker(clock: Hand) -> None:
    breaker = Breaker([BreakerRule.parse(RULE, "apis.json")], clock)
    for _ in range(5):
        breaker.see(503)
        clock.now_s += 10
    assert breaker.open_s == 0


def test_a_breaker_with_an_unknown_condition_is_refused() -> None:
    with pytest.raises(GatewayError, match=r"apis\.json: the local gateway knows no percentage\."):
        BreakerRule.parse({**RULE, "failureCondition": {"percentage": 50}}, "apis.json")


@pytest.mark.parametrize(("text", "value_s"), [("PT10S", 10), ("PT1M30S", 90), ("P1DT1H", 90000)])
def test_durations_are_those_of_iso_8601(text: str, value_s: int) -> None:
    assert seconds(text, "") == value_s


@pytest.mark.parametrize("text", ["P", "PT", "10", "PT-1S"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(GatewayError):
        seconds(text, "apis.json")
