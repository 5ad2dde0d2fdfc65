"""Timer triggers. Each fires on its schedule, one run at a time, with the retries of its policy."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from local.functions_host.clock import Clock
from local.functions_host.errors import HostError
from local.functions_host.indexing import Function
from local.functions_host.invocation import InvocationFailed, Invoker, RetryContext
from local.functions_host.leases import TimerLease
from local.functions_host.schedules import Schedule, parse_schedule

_NEVER = datetime.min.replace(tzinfo=UTC)


class Timer:
    def __init__(
        self,
        function: Function,
        settings: Mapping[str, str],
        clock: Clock,
        invoker: Invoker,
        lease: TimerLease | None = None,
    ) -> None:
        """Raises `HostError` if the host refuses the schedule."""
        self._lease = lease
        self._function = function
        self._clock = clock
        self._invoker = invoker
        try:
            self._schedule: Schedule = parse_schedule(function.trigger["schedule"], settings)
        except ValueError as error:
            raise HostError(f"{function.name}: its schedule cannot be used: {error}.") from error

    async def run(self) -> None:
        """Fires for ever, while this host holds the timer's lease."""
        await (self._fire_by_schedule() if self._lease is None else self._lease.run(self._fire_by_schedule))

    async def _fire_by_schedule(self) -> None:
        """Computes the next time when a run is over, so a function never overlaps with itself. The times that it
        missed meanwhile become one run at once, marked past due."""
        last, started = _NEVER, self._clock.now()
        if self._function.trigger.get("runOnStartup"):
            await self._fire(last=last, due=started, past_due=False)
            last = started
        due = self._schedule.next_after(started)
        while True:
            delay_s = (due - self._clock.now()).total_seconds()
            if delay_s > 0:
                await self._clock.sleep(delay_s)
            started = max(due, self._clock.now())
            await self._fire(last=last, due=due, past_due=delay_s < 0)
            last, due = started, self._schedule.next_after(started)

    async def _fire(self, *, last: datetime, due: datetime, past_due: bool) -> None:
        argument = timer_argument(self._function, last=last, due=due, past_due=past_due)
        policy = self._function.retry_policy
        retry = RetryContext(0, policy.max_retries if policy else 0)
        while True:
            invocation = self._invoker.start(self._function, argument, retry=retry)
            # Unlike await, this leaves a running function alone when the timers are stopped.
            await asyncio.wait((invocation,))
            failure = invocation.exception()
            if not isinstance(failure, InvocationFailed) or policy is None:
                return
            delay_s = policy.delay_s(retry.retry_count + 1)
            if delay_s is None:
                return
            await self._clock.sleep(delay_s)
            retry = RetryContext(retry.retry_count + 1, policy.max_retries, failure.__cause__)


def timer_argument(
    function: Function, *, last: datetime = _NEVER, due: datetime = _NEVER, past_due: bool = False
) -> object:
    status = {"Last": last.isoformat(), "Next": due.isoformat(), "LastUpdated": last.isoformat()}
    info = {"Schedule": {"AdjustForDST": True}, "ScheduleStatus": status, "IsPastDue": past_due}
    return function.decode(json.dumps(info), "json")
