"""What an app needs of a message service. ``event_grid.py`` is the implementation; tests and the simulation have
others.

Events are small: never a URL, never a body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from shared.resilience.circuit_breaker import Reachability
from shared.tasks.task import Task

DISPATCH_EVENT: Final = "backbone.task.dispatch"
COMPLETION_EVENT: Final = "backbone.task."
"""Followed by the terminal state."""


class PublishFailed(Exception):
    """Raised if the events were not taken. The tasks are safe: their deadlines publish them again."""


class Publisher(Protocol):
    """Publishes to one topic."""

    @property
    def state(self) -> Reachability:
        """How this process found the topic when it last published."""
        ...

    async def publish_dispatches(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        """Ask for the dispatch of each task's present attempt, in one request.

        While the topic does not answer, one call at a time tries it and the others fail at once, unless they bypass
        the circuit. The reconciler does: it comes alone, and comes back.

        Raises:
            PublishFailed: the topic cannot be reached, or refuses.
        """
        ...

    async def publish_completions(self, tasks: Sequence[Task], *, bypass_circuit: bool = False) -> None:
        """Say that tasks have ended, as CloudEvents in one request; *bypass_circuit* as in
        :meth:`publish_dispatches`.

        Raises:
            PublishFailed: the topic cannot be reached, or refuses.
        """
        ...

    async def aclose(self) -> None: ...
