"""What ``help`` shows of the public names: the wheel leaves much out, and must keep this."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import taskbackbone
from taskbackbone._calls import TaskView
from taskbackbone._played import Record

MODULES = ("", "batch", "client", "errors", "service", "testing")


def public() -> Iterator[Any]:
    """What modules export, and the members of its classes, but for those that say nothing beside their name."""
    for module in (importlib.import_module(f"taskbackbone.{name}".rstrip(".")) for name in MODULES):
        yield module
        for exported in (getattr(module, name) for name in module.__all__ if name != "errors"):
            yield exported
            for name, member in inspect.getmembers(exported):
                if inspect.isfunction(member) and not name.startswith("_") and name not in ("close", "aclose"):
                    yield member


SUBJECTS = list({id(each): each for each in public()}.values())


def name_of(subject: Any) -> str:
    return getattr(subject, "__qualname__", subject.__name__)


@pytest.mark.parametrize("subject", SUBJECTS, ids=name_of)
def test_everything_public_has_a_text(subject: Any) -> None:
    assert (subject.__doc__ or "").strip()


@pytest.mark.parametrize("function", filter(inspect.isfunction, SUBJECTS), ids=name_of)
def test_everything_public_tells_its_types(function: Any) -> None:
    assert function.__annotations__


@pytest.mark.parametrize(
    ("of", "name"),
    [(taskbackbone.Task, "restored"), (TaskView, "state"), (Record, "is_done"), (taskbackbone.TaskService, "asgi")],
)
def test_so_have_properties_of_classes_that_stand_in_private_modules(of: Any, name: str) -> None:
    assert inspect.getdoc(getattr(of, name))


def test_help_of_a_task_and_of_a_result_is_their_page() -> None:
    for subject, word in ((taskbackbone.Task, "Attributes"), (taskbackbone.Result, "Parameters")):
        assert word in (inspect.getdoc(subject) or "")
