"""Each line of the log about a task has its id as an attribute, by which it is found beside spans and events."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator

import pytest

from shared import telemetry, telemetry_export
from tests.telemetry.test_development import TASK
from tests.test_sizes import files

_NAMES_ONE = re.compile(r"\b(?:task|batch|child) %s")
_LEVELS = ("debug", "info", "warning", "error", "exception", "log")


def lines() -> Iterator[tuple[str, ast.Call, str]]:
    """The calls of the app's loggers: where, and with what format."""
    for file in files(".py"):
        module = ast.parse(file.read_text())
        texts = {
            (target.id, node.lineno): node.value.value
            for node in ast.walk(module)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, str)
        }
        for call in ast.walk(module):
            if not isinstance(call, ast.Call) or ast.unparse(call.func) not in [f"log.{level}" for level in _LEVELS]:
                continue
            given = call.args[ast.unparse(call.func) == "log.log"]
            # A format that has a name is the last one of that name before the call.
            named = [
                text
                for (name, line), text in sorted(texts.items(), key=lambda item: item[0][1])
                if isinstance(given, ast.Name) and name == given.id and line < call.lineno
            ]
            text = given.value if isinstance(given, ast.Constant) else named[-1] if named else ""
            yield f"{file.name}:{call.lineno}", call, str(text)


def test_each_line_that_names_a_task_has_its_id() -> None:
    about_one = [(place, call) for place, call, text in lines() if _NAMES_ONE.search(text)]
    assert len(about_one) >= 7
    assert [place for place, call in about_one if not any(each.arg == "extra" for each in call.keywords)] == []


def test_a_setback_has_the_attributes_of_its_task(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "task_backbone")
    telemetry.setback(TASK, "the backend answered 503")
    [record] = caplog.records
    attributes = {name: value for name, value in vars(record).items() if name.startswith("task.")}
    assert attributes == {"task.id": TASK.id, "task.path": TASK.path, "task.attempt": TASK.attempt}


def test_what_is_logged_while_a_task_is_handled_is_about_it_unless_it_names_another() -> None:
    passing = telemetry_export._ExportFilter(logging.WARNING)

    def told(**extra: str) -> str | None:
        logger = logging.getLogger("azure.storage")
        record = logger.makeRecord(logger.name, logging.WARNING, "", 1, "a warning", (), None, extra=extra)
        assert passing.filter(record)
        return vars(record).get("task.id")

    assert told() is None
    with telemetry.handling("one"):
        assert told() == "one"
        assert told(**telemetry.about("another")) == "another"
        with telemetry.consumer_span(TASK, "7.1", ""):
            assert told() == TASK.id
        assert told() == "one"
    assert told() is None
