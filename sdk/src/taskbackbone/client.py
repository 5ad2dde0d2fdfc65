"""The client of callers: ``TaskClient``, and ``AsyncTaskClient`` in an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._sync import Result, Task, TaskClient

if TYPE_CHECKING:
    from ._async import AsyncResult, AsyncTask, AsyncTaskClient

__all__ = ["AsyncResult", "AsyncTask", "AsyncTaskClient", "Result", "Task", "TaskClient"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _async

    return getattr(_async, name)
