"""What the app tells the console's page of itself."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import azure.functions as func
import pytest

from operator_console.me import get_me


@pytest.mark.parametrize("url", ["https://traces.example/#view/{TaskId}/q/{Query}", None])
async def test_it_says_where_traces_are_shown(url: str | None) -> None:
    settings = SimpleNamespace(azure_functions_environment="Production", retention_s=60.0, trace_url=url)
    request = func.HttpRequest("GET", "http://127.0.0.1/api/v1/me", body=b"")
    response = await get_me(request, cast("Any", SimpleNamespace(settings=settings)))
    assert json.loads(response.get_body())["TraceUrl"] == url
