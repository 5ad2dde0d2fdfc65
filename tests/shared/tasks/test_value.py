"""Values that are made many times a request."""

from __future__ import annotations

from dataclasses import replace

from shared.tasks.task import Content, NewTask
from shared.tasks.value import altered


def test_an_altered_value_has_everything_else_of_the_original() -> None:
    new = NewTask("", "/v1/org/model", 60, query="a=1", body=Content("text/plain", 1), owner="ada", priority=7)
    changes = {"id": "t", "inline_body": b"x", "priority": 2}
    assert altered(new, **changes) == replace(new, **changes)
    assert (new.id, new.inline_body, new.priority) == ("", b"", 7)
