"""The cost of a million tasks on Azure, ours beside the legacy platform: ``python -m bench.cost``.

A model, not a measurement: it counts the operations of each platform for a task, assumes durations, and uses list
prices that have to be looked up again (US dollars, East US, as remembered in 2026; no free grants). It leaves out
Redis and the model services' cluster, which are paid by the month. Only the telemetry of a task is counted:
``tests/telemetry/test_application_insights.py`` holds its figures to what arrives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MONTH_S = 730 * 3600

# Flex Consumption, on demand. An instance is paid while any execution runs on it, for a second at least.
EXECUTIONS_PER_MILLION = 0.40
GB_SECOND = 0.000026
INSTANCE_GB = 2
LEAST_S = 1.0
CONCURRENCY = 16
"""How many requests an instance takes at a time, as ``docs/running.md`` sets it."""

PREMIUM_EP1_PER_MONTH = 0.173 * 730 + 3.5 * 0.0123 * 730
"""An instance of 1 vCPU and 3.5 GB, whatever it does."""

EVENT_OPERATIONS_PER_MILLION = 0.60
BLOB_WRITES_PER_MILLION = 5.00
BLOB_READS_PER_MILLION = 0.40
EVENT_UNIT_BYTES = 64 * 1024

TELEMETRY_GB = 2.30
"""What a GB costs that Application Insights ingests."""
TASK_ITEMS, TASK_BYTES = 15, 13_700
"""What the app sends for a task that is submitted, published, dispatched and reported on twice, if no trace is left
out by sampling."""
TASK_EVENTS = {"all": 4, "ends": 1, "none": 0}
"""How many of these items are events, by ``TELEMETRY_EVENTS``: created, dispatched, running, completed."""
TASK_EVENT_BYTES = {"all": 3_240, "ends": 880, "none": 0}
TASK_REQUESTS, HOST_SPAN_BYTES = 4, 800
"""The host tells each of the task's requests too, in a span."""

TIMER_RUNS_PER_MINUTE = 1 + 2 + 0.2
"""The reconciler, ``TaskQueueLogger`` and ``TaskProcessLogger``."""
LEGACY_TIMER_RUNS_PER_MINUTE = 2 + 0.2


@dataclass(frozen=True)
class Case:
    """The properties of a million tasks."""

    name: str
    body_bytes: int
    polls: int
    """How often a caller polls a task without ``?wait=``."""
    busy: float
    """The share of tasks that meet a full backend."""


@dataclass(frozen=True)
class Executions:
    """Function executions of one task, on average."""

    count: float
    each_s: float


@dataclass(frozen=True)
class Operations:
    """The operations of one task, on average."""

    executions: tuple[Executions, ...]
    events: float
    """Publishes and attempts to deliver, in units of 64 KB."""
    blob_writes: float = 0
    blob_reads: float = 0

    @property
    def count(self) -> float:
        return sum(each.count for each in self.executions)

    @property
    def execution_s(self) -> float:
        return sum(each.count * each.each_s for each in self.executions)

    @property
    def other_dollars(self) -> float:
        """What a million tasks cost on every plan."""
        return (
            self.events * EVENT_OPERATIONS_PER_MILLION
            + self.blob_writes * BLOB_WRITES_PER_MILLION
            + self.blob_reads * BLOB_READS_PER_MILLION
        )

    @property
    def flex_in_bursts(self) -> float:
        """A million tasks that keep their instances full."""
        return self._flex(self.execution_s * 1e6 / CONCURRENCY)

    @property
    def flex_evenly(self) -> float:
        """A million tasks over a month, at random moments: an instance is hardly ever without an execution."""
        return self._flex(awake_s(self.at_a_time(1e6)))

    def at_a_time(self, tasks: float) -> float:
        """How many executions run at a time, if so many tasks come in a month; a short one counts for a second."""
        return sum(each.count * max(LEAST_S, each.each_s) for each in self.executions) * tasks / MONTH_S

    def _flex(self, instance_s: float) -> float:
        return self.count * EXECUTIONS_PER_MILLION + instance_s * INSTANCE_GB * GB_SECOND + self.other_dollars


def awake_s(at_a_time: float, *, concurrency: int = CONCURRENCY, at_least: int = 0) -> float:
    """For how long instances are paid in a month of executions that begin at random moments.

    Parameters:
        at_a_time: how many run at a time on average.
        concurrency: how many an instance takes at a time.
        at_least: how many instances share them, however few there are.
    """
    instances = max(at_least, math.ceil(at_a_time / concurrency))
    return instances * MONTH_S * (1 - math.exp(-at_a_time / instances)) if instances else 0.0


def legacy(case: Case) -> Operations:
    """Create, delivery, two GETs and two POSTs of the model service, polls. The event carries the body.

    A busy backend's 429 went to Event Grid, which made three attempts at most: two more for a task that met one.
    """
    units = -(-case.body_bytes // EVENT_UNIT_BYTES)
    deliveries = 1 + 2 * case.busy
    return Operations((Executions(1 + 4 + case.polls, 0.1), Executions(deliveries, 0.6)), units * (1 + deliveries))


def ours(case: Case, *, new_client: bool) -> Operations:
    """Create, two reports (with the GETs of a legacy task manager before them), polls or one long wait.

    Only a task that finds a free slot is published; the report of an end dispatches the others, and lasts until the
    backend has answered.
    """
    direct = case.busy
    reports = 2 if new_client else 4
    polls = 0 if new_client else case.polls
    quick = (1 - direct) + reports + polls
    waits = 1 if new_client else 0
    large = case.body_bytes > EVENT_UNIT_BYTES
    return Operations(
        (Executions(quick, 0.03), Executions(1, 0.33), Executions(waits, 15.0)),
        2 * (1 - direct),
        blob_writes=large,
        blob_reads=large,
    )


def answered_at_once(case: Case) -> Operations:
    """Two executions: a submit with ``Prefer: wait``, which lasts until the result is there, and the delivery whose
    dispatch is answered with it. A task that waits for a slot is dispatched by the execution that freed it."""
    direct = case.busy
    large = case.body_bytes > EVENT_UNIT_BYTES
    return Operations(
        (Executions(1, 0.40 + 14.60 * direct), Executions(1 - direct, 0.33)),
        2 * (1 - direct),
        blob_writes=large,
        blob_reads=large,
    )


def timers(runs_per_minute: float) -> float:
    """What a month of timer runs costs on Flex, where each timer has an instance of its own."""
    runs = runs_per_minute * MONTH_S / 60
    return runs * (LEAST_S * INSTANCE_GB * GB_SECOND + EXECUTIONS_PER_MILLION / 1e6)


CASES = (
    Case("500-byte JSON, backend never full", 500, polls=5, busy=0.0),
    Case("500-byte JSON, backend always full", 500, polls=20, busy=1.0),
    Case("500 KB picture, backend full half the time", 500_000, polls=10, busy=0.5),
)


def main() -> None:
    print("| a million tasks of | legacy platform | ours, legacy clients | ours, `?wait=` | ours, answered at once |")
    print("| --- | --: | --: | --: | --: |")
    for case in CASES:
        columns = (legacy(case), ours(case, new_client=False), ours(case, new_client=True), answered_at_once(case))
        for plan, dollars in (
            ("Flex, over a month", [each.flex_evenly for each in columns]),
            ("Flex, in bursts", [each.flex_in_bursts for each in columns]),
            ("Premium, beside the instances", [each.other_dollars for each in columns]),
        ):
            print(f"| {case.name}: {plan} | " + " | ".join(f"${each:.2f}" for each in dollars) + " |")
        counted = " | ".join(
            f"{each.count:.1f} executions, {each.execution_s:.1f} s, {each.events:.1f} events" for each in columns
        )
        print(f"| {case.name}: for one | {counted} |")
    legacy_timers, our_timers = timers(LEGACY_TIMER_RUNS_PER_MINUTE), timers(TIMER_RUNS_PER_MINUTE)
    print(f"| the timers, a month: Flex | ${legacy_timers:.2f} | {' | '.join([f'${our_timers:.2f}'] * 3)} |")
    print(f"| an instance EP1, a month: Premium | {' | '.join([f'${PREMIUM_EP1_PER_MONTH:.2f}'] * 4)} |")
    print()
    print("| telemetry of a task | items | bytes | a million tasks |")
    print("| --- | --: | --: | --: |")
    for who, items, size in (
        ("the app's", TASK_ITEMS, TASK_BYTES),
        ("the host's requests", TASK_REQUESTS, TASK_REQUESTS * HOST_SPAN_BYTES),
    ):
        print(f"| {who} | {items} | {size:,} | ${size / 1e3 * TELEMETRY_GB:.2f} |")
    print()
    print("| `TELEMETRY_EVENTS` | events of a task | bytes | a million tasks a month |")
    print("| --- | --: | --: | --: |")
    for setting, events in TASK_EVENTS.items():
        size = TASK_EVENT_BYTES[setting]
        print(f"| `{setting}` | {events} | {size:,} | {size / 1e3:.1f} GB, ${size / 1e3 * TELEMETRY_GB:.2f} |")


if __name__ == "__main__":
    main()
