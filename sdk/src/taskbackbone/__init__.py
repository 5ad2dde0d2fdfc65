"""Model services for the task backbone, and the callers of their tasks.

What is named here is imported when it is first used, so that a caller does not load the server and a service does not
load the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import errors as errors
    from .callbacks import verify_callback as verify_callback
    from .client import AsyncTaskClient as AsyncTaskClient
    from .client import TaskClient as TaskClient
    from .errors import Cancelled as Cancelled
    from .errors import Fail as Fail
    from .errors import TryAgain as TryAgain
    from .manager import TaskManager as TaskManager
    from .service import Result as Result
    from .service import Task as Task
    from .service import TaskService as TaskService

__all__ = [
    "AsyncTaskClient",
    "Cancelled",
    "Fail",
    "Result",
    "Task",
    "TaskClient",
    "TaskManager",
    "TaskService",
    "TryAgain",
    "errors",
    "verify_callback",
]

_HOMES = {
    **dict.fromkeys(("TaskClient", "AsyncTaskClient"), "client"),
    **dict.fromkeys(("Result", "Task", "TaskService"), "service"),
    "TaskManager": "manager",
    "verify_callback": "callbacks",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "errors")
    module = importlib.import_module("." + home, __name__)
    return module if name == home else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
