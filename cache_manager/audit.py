"""What operators do goes on record before they do it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import azure.functions as func

from shared import telemetry
from shared.http.operators import operator_now
from shared.http.owners import owner_of
from shared.http.problems import Problem
from shared.services import Services
from shared.store import Action, StoreUnavailable

log = logging.getLogger("task_backbone")


class Audited(AbstractAsyncContextManager["Audited"]):
    """An operator's action, or a caller's own, which nobody records. On record before it is taken, so that none is
    taken that is not; what came of it is noted afterwards. If Redis does not answer in between, the record says that
    nobody knows.

    Attributes:
        count: how many tasks or queues the action has changed, if it is done and was not refused.

    Raises:
        StoreUnavailable: at the begin; the action is not taken then.
    """

    def __init__(self, services: Services, action: Action | None) -> None:
        self.count = 1
        self._audit = services.store.audit
        self._action = action
        self._entry_id = ""

    async def __aenter__(self) -> Audited:
        if self._action is not None:
            self._entry_id = await self._audit.begin(self._action)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._action is None:
            return
        count = self.count if error is None else 0 if isinstance(error, Problem) else None
        action = self._action
        telemetry.operator_action(
            action.name,
            action.target,
            count,
            operator=action.operator,
            by=action.by,
            operation_id=action.operation_id,
        )
        if count is None:
            return
        try:
            await self._audit.finish(self._entry_id, count)
        except StoreUnavailable as unavailable:  # it is done, and on record
            log.warning("what came of an operator's action could not be noted: %s", unavailable)


def queue_action(changes: Mapping[str, Any]) -> str:
    """What a change of a queue's settings is called."""
    limit, rate = changes.get("limit"), changes.get("rate")
    words = {
        "paused": "pause" if changes.get("paused") else "resume",
        "draining": "drain" if changes.get("draining") else "accept",
        "limit": "no limit" if limit is None else f"limit {limit}",
        "rate": "no rate" if rate is None else f"rate {rate}",
        "burst": "burst" if changes.get("burst") else "evenly",
    }
    return ", ".join(word for name, word in words.items() if name in changes) or "no change"


def audited(
    req: func.HttpRequest,
    services: Services,
    name: str,
    target: str | None,
    *,
    operation_id: str | None = None,
    is_callers: bool = False,
) -> Audited:
    """What is done within, if an operator does it: one that is named, or who holds a function key and speaks for no
    owner.

    Args:
        target: a task's id or a queue's path; None: it is about all.
        is_callers: whether callers who hold a function key do the same, so that only an operator who is known for one
            is told from them.
    """
    operator = operator_now()
    if operator is not None:
        return Audited(services, Action(name, target, operator.name, operator.by, operation_id))
    if is_callers or owner_of(req, services.settings) is not None:
        return Audited(services, None)
    return Audited(services, Action(name, target, None, "key", operation_id))
