"""Who operates the app, by the headers of a request: the gateway's, the platform's, and those of whoever likes."""

from __future__ import annotations

import base64
import json
from typing import Any

import azure.functions as func
import pytest

from shared.http.operators import (
    ROLES_OF,
    Operator,
    Role,
    acting,
    check_role,
    holder_of,
    operator_now,
    operator_of,
    principal_of,
)
from shared.http.problems import Problem
from shared.settings import Settings

KEY = "the-key-of-the-gateway-0123456789"
SETTINGS = Settings.from_env(
    {
        "REDIS_CONNECTION_STRING": "redis://127.0.0.1:1",
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": '{"/v1": "https://models.example.org"}',
        "GATEWAY_KEY": KEY,
    }
)
OF_THE_PAGE = {"X-Console": "1", "Sec-Fetch-Site": "same-origin"}


def request(**headers: str) -> func.HttpRequest:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return func.HttpRequest("GET", "https://app.example.org/api/v1/tasks", headers=sent, body=b"")


def of_gateway(**headers: str) -> func.HttpRequest:
    return request(X_Gateway_Key=KEY, **headers)


def packed(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def signed_in(principal: str, name: str = "ada@example.org", **headers: str) -> func.HttpRequest:
    sent = {"X-MS-CLIENT-PRINCIPAL": principal, "X-MS-CLIENT-PRINCIPAL-NAME": name} | OF_THE_PAGE | headers
    return func.HttpRequest("GET", "https://app.example.org/api/console/session/me", headers=sent, body=b"")


def claims(*values: str, typ: str = "roles", **members: Any) -> str:
    return packed({"auth_typ": "aad", "claims": [{"typ": typ, "val": value} for value in values], **members})


def refusal(document: dict[str, Any]) -> tuple[int, str]:
    return document["status"], document["type"].rpartition(":")[2]


def test_who_names_no_operator_is_none() -> None:
    assert operator_of(request(), SETTINGS) is None
    assert operator_of(of_gateway(X_Task_Owner="alice"), SETTINGS) is None


@pytest.mark.parametrize(
    ("text", "roles"),
    [
        ("read", {"read"}),
        ("content", {"read", "content"}),
        ("operate", {"read", "content", "operate"}),
        (" READ,\toperate ,", {"read", "content", "operate"}),
        ("", set()),
        (" , ", set()),
    ],
)
def test_the_gateway_names_an_operator_with_its_roles_and_those_below(text: str, roles: set[str]) -> None:
    operator = operator_of(of_gateway(X_Operator="Ada L.", X_Operator_Roles=text), SETTINGS)
    assert operator == Operator("Ada L.", frozenset(map(Role, roles)), "gateway")


def test_a_name_alone_has_no_role() -> None:
    operator = operator_of(of_gateway(X_Operator="ada"), SETTINGS)
    assert operator is not None
    assert operator.roles == frozenset()


@pytest.mark.parametrize("key", [{}, {"X_Gateway_Key": ""}, {"X_Gateway_Key": "wrong"}, {"X_Gateway_Key": KEY[:-1]}])
@pytest.mark.parametrize("said", [{"X_Operator": "ada"}, {"X_Operator_Roles": "operate"}, {"X_Operator": ""}])
@pytest.mark.parametrize("mounted", [False, True])
def test_nobody_but_the_gateway_names_one(key: dict[str, str], said: dict[str, str], mounted: bool) -> None:
    with pytest.raises(Problem) as refused:
        if mounted:
            with acting(holder_of(Role.OPERATE)):
                operator_of(request(**said, **key), SETTINGS)
        else:
            operator_of(request(**said, **key), SETTINGS)
    assert refusal(refused.value.document) == (403, "not-the-gateway")
    assert "X-Operator" in refused.value.document["detail"]
    assert KEY not in str(refused.value.document)


@pytest.mark.parametrize("name", ["", " ", " ada", "ada ", "a" * 129, "Jörg", "a\tb", "a\nb", "a\x7f"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(Problem) as refused:
        operator_of(of_gateway(X_Operator=name, X_Operator_Roles="read"), SETTINGS)
    assert [error["pointer"] for error in refused.value.document["errors"]] == ["X-Operator"]


def test_roles_without_a_name_are_refused() -> None:
    with pytest.raises(Problem) as refused:
        operator_of(of_gateway(X_Operator_Roles="operate"), SETTINGS)
    assert [error["pointer"] for error in refused.value.document["errors"]] == ["X-Operator"]


@pytest.mark.parametrize("text", ["admin", "read operate;", "Role.READ", "read\x00", "r" * 10_000])
def test_an_unknown_role_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refused:
        operator_of(of_gateway(X_Operator="ada", X_Operator_Roles=text), SETTINGS)
    assert [error["pointer"] for error in refused.value.document["errors"]] == ["X-Operator-Roles"]
    assert len(refused.value.document["detail"]) < 200


def test_in_a_mount_the_gateway_gives_a_name_and_no_further_role() -> None:
    with acting(holder_of(Role.CONTENT)):
        assert operator_of(request(), SETTINGS) == holder_of(Role.CONTENT)
        told = operator_of(of_gateway(X_Operator="ada", X_Operator_Roles="operate"), SETTINGS)
        assert told == Operator("ada", frozenset(ROLES_OF[Role.CONTENT]), "gateway")
        less = operator_of(of_gateway(X_Operator="ada", X_Operator_Roles="read"), SETTINGS)
        assert less == Operator("ada", frozenset({Role.READ}), "gateway")


def test_who_asks_now_is_known_within_and_forgotten_after() -> None:
    assert operator_now() is None
    with pytest.raises(ZeroDivisionError), acting(holder_of(Role.READ)):
        assert operator_now() == holder_of(Role.READ)
        _ = 1 / 0
    assert operator_now() is None


@pytest.mark.parametrize("role", [None, *Role])
def test_who_is_no_operator_needs_no_role(role: Role | None) -> None:
    check_role(None, role)


@pytest.mark.parametrize("has", Role)
@pytest.mark.parametrize("wanted", [None, *Role])
def test_an_operator_needs_the_role(has: Role, wanted: Role | None) -> None:
    if wanted is not None and wanted in ROLES_OF[has]:
        check_role(holder_of(has), wanted)
        return
    with pytest.raises(Problem) as refused:
        check_role(holder_of(has), wanted)
    assert refusal(refused.value.document) == (403, "role-missing")


@pytest.mark.parametrize(
    ("principal", "roles"),
    [
        (claims("Console.Read"), {"read"}),
        (claims("console.operate", "Reader"), {"read", "content", "operate"}),
        (claims("CONSOLE.CONTENT", typ="urn:role", role_typ="urn:role"), {"read", "content"}),
        (claims("Console.Operate", typ="urn:another"), set()),
        (claims("operate", "read", "Console.Operate2", "xConsole.Operate", "Console"), set()),
        (claims(), set()),
        (packed({}), set()),
    ],
)
def test_the_platform_names_an_operator_with_the_roles_of_the_application(principal: str, roles: set[str]) -> None:
    operator = principal_of(signed_in(principal))
    assert operator == Operator("ada@example.org", frozenset(map(Role, roles)), "easyauth")


@pytest.mark.parametrize(
    "principal",
    [
        "",
        "no base64",
        "////",
        base64.b64encode(b"\xff\xfe").decode(),
        base64.b64encode(b"{").decode(),
        base64.b64encode(b"[" * 20_000).decode(),
        base64.b64encode(b"9" * 20_000).decode(),
        packed(None),
        packed([]),
        packed("roles"),
        packed(7),
        packed({"claims": 7}),
        packed({"claims": None}),
        packed({"claims": {"typ": "roles"}}),
        packed({"claims": [None]}),
        packed({"claims": [["roles", "Console.Operate"]]}),
        packed({"claims": [{"val": "Console.Operate"}]}),
        packed({"claims": [{"typ": "roles"}]}),
        packed({"claims": [{"typ": ["roles"], "val": "Console.Operate"}]}),
        packed({"claims": [], "role_typ": {}}),
        claims("Console.Operate")[:-3],
        claims("Console.Operate" * 4_000),
        "ä" * 8,
    ],
)
def test_a_principal_that_cannot_be_read_is_nobody(principal: str) -> None:
    with pytest.raises(Problem) as refused:
        principal_of(signed_in(principal))
    assert refusal(refused.value.document) == (401, "not-signed-in")


@pytest.mark.parametrize("name", ["", "  ", "\u202e", "\x07"])
def test_a_principal_without_a_name_is_nobody(name: str) -> None:
    with pytest.raises(Problem) as refused:
        principal_of(signed_in(claims("Console.Operate"), name))
    assert refusal(refused.value.document) == (401, "not-signed-in")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Jörg Müller", "Jörg Müller"),
        (" ada\u202etxt.exe\u2066 ", "adatxt.exe"),
        ("ada\r\nSet-Cookie: x", "adaSet-Cookie: x"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("a" * 1000, "a" * 128),
    ],
)
def test_a_name_keeps_what_can_be_shown(name: str, shown: str) -> None:
    assert principal_of(signed_in(claims("Console.Read"), name)).name == shown


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": ""},
        {"Sec-Fetch-Site": "same-origin, cross-site"},
    ],
)
def test_another_site_cannot_have_a_signed_in_browser_ask(headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as refused:
        principal_of(signed_in(claims("Console.Operate"), **headers))
    assert refusal(refused.value.document) == (403, "another-site")


@pytest.mark.parametrize("missing", OF_THE_PAGE)
def test_each_header_of_the_page_is_needed(missing: str) -> None:
    asked = signed_in(claims("Console.Operate"))
    sent = {name: value for name, value in asked.headers.items() if name.lower() != missing.lower()}
    with pytest.raises(Problem) as refused:
        principal_of(func.HttpRequest("GET", asked.url, headers=sent, body=b""))
    assert refusal(refused.value.document) == (403, "another-site")
