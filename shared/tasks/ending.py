"""How a task has ended, and how long it waited and ran before that, by its history."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from shared.tasks import status_texts
from shared.tasks.end_reason import EndReason
from shared.tasks.task import Actor, Event, Reason, State, Task
from shared.tasks.value import value

_ARRIVALS: Final = (Reason.SUBMIT, Reason.NEXT_STEP, Reason.REPLAY)
_RUN: Final = (EndReason.COMPLETED, EndReason.CANCELLED, EndReason.LEASE, EndReason.REPORTED)
"""The ends of attempts that their backend may have worked at. The others never began."""


@value
class Ending:
    """The end of a task, at the endpoint where it then was.

    Attributes:
        reason: None if an earlier version of the app gave it up, which recorded none.
        wait_ms: from its arrival in the queue, or its start if that is later, to the dispatch that its backend did
            not turn away. Retries after that are left out. None if the app has not dispatched it, or its history is
            too long to tell.
        run_ms: from the dispatch of its last attempt to its end, or to the report of that. Of a task that the app
            does not dispatch, from the report that it runs. None if no backend worked at it.
    """

    reason: EndReason | None
    wait_ms: int | None
    run_ms: int | None


def ending_of(task: Task, late_ms: int = 0) -> Ending:
    """
    Args:
        late_ms: how long ago the end was reported that takes effect now.
    """
    events = [*task.history]
    reason = events[-1].end if events else None
    if reason is None or task.children is not None:
        return Ending(reason, None, None)
    arrival = len(events) - 1
    while arrival > 0 and events[arrival].reason not in _ARRIVALS:
        arrival -= 1
    since = events[arrival:]
    start_ms = task.start.at_ms if task.start is not None and since[0].reason is Reason.SUBMIT else 0
    is_overrun = reason is EndReason.TIMEOUT and events[-1].actor == Actor.RECONCILER
    run_ms = _run_ms(since, late_ms) if reason in _RUN or is_overrun else None
    return Ending(reason, _wait_ms(since, start_ms), run_ms)


def has_expired(task: Task) -> bool:
    """Whether the task has ended since no backend had it in time, which says nothing of its backend."""
    return task.state is State.FAILED and task.history[-1].end is EndReason.EXPIRED


def _wait_ms(events: Sequence[Event], start_ms: int) -> int | None:
    arrival = events[0]
    if len(events) < 2 or events[1].attempt != arrival.attempt:  # what lies between is not kept
        return None
    for event, following in pairwise(events):
        if event.state is State.DISPATCHED and not _is_turned_away(following):
            return max(0, event.at_ms - max(arrival.at_ms, start_ms))
    return None


def _is_turned_away(event: Event) -> bool:
    """Whether the event returns a task to its queue whose dispatch found no room, or nobody."""
    return event.reason is Reason.REQUEUE and event.status.startswith(status_texts.AWAITING)


def _run_ms(events: Sequence[Event], late_ms: int) -> int | None:
    end = events[-1]
    own = [event for event in events[:-1] if event.attempt == end.attempt]
    begun = [event for event in own if event.state is State.DISPATCHED]
    begun = begun[-1:] or [event for event in own if event.state is State.RUNNING][:1]
    return max(0, end.at_ms - late_ms - begun[0].at_ms) if begun else None
