"""Tests wait long enough for an overloaded machine."""

from __future__ import annotations

import ast

import pytest

from local.stack import ROOT
from tests.waiting import eventually

_CALLS = {"Client", "AsyncClient", "get", "post", "put", "patch", "delete", "options", "head", "request", "stream"}


def test_every_http_call_sets_a_timeout_of_its_own() -> None:
    sources = [file for room in ("tests", "local") for file in (ROOT / room).rglob("*.py")]
    hasty = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in sources
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr in _CALLS) == ("httpx", True)
        and not {"timeout", "transport"} & {keyword.arg for keyword in node.keywords}
    ]
    assert len(sources) > 50
    assert hasty == []


def test_eventually_fails_with_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.1 s; at last: \[\]"):
        eventually(list, within_s=0.1)
