"""The cost of a million tasks on Azure, ours beside the legacy platform: ``python -m bench.cost``.

A model, not a measurement: it counts the operations of each platform for a task, assumes durations, and uses list
prices that have to be updated (US dollars, Consumption plan, as remembered in 2026). It leaves out Redis and the
model services' cluster, which are paid by the month.
"""

from __future__ import annotations

from dataclasses import dataclass

EXECUTIONS_PER_MILLION = 0.20
GB_SECOND = 0.000016
EVENT_OPERATIONS_PER_MILLION = 0.60
BLOB_WRITES_PER_MILLION = 5.00
BLOB_READS_PER_MILLION = 0.40
EVENT_UNIT_BYTES = 64 * 1024
MEMORY_GB = 0.25
"""Consumption bills memory in steps of 128 MB."""


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
class Operations:
    """The operations of one task, on average."""

    executions: float
    execution_s: float
    """The duration of all executions together."""
    events: float
    """Publishes and attempts to deliver, in units of 64 KB."""
    blob_writes: float = 0
    blob_reads: float = 0

    @property
    def dollars_per_million(self) -> float:
        return (
            self.executions * EXECUTIONS_PER_MILLION
            + self.execution_s * MEMORY_GB * GB_SECOND * 1e6
            + self.events * EVENT_OPERATIONS_PER_MILLION
            + self.blob_writes * BLOB_WRITES_PER_MILLION
            + self.blob_reads * BLOB_READS_PER_MILLION
        )


def legacy(case: Case) -> Operations:
    """Create, delivery, two GETs and two POSTs of the model service, polls. The event carries the body.

    A busy backend's 429 went to Event Grid, which made three attempts at most: two more for a task that met one.
    """
    units = -(-case.body_bytes // EVENT_UNIT_BYTES)
    deliveries = 1 + 2 * case.busy
    executions = 1 + deliveries + 4 + case.polls
    return Operations(executions, 0.1 * executions + 0.5 * deliveries, units * (1 + deliveries))


def ours(case: Case, *, new_client: bool) -> Operations:
    """Create, two reports (with the GETs of a legacy task manager before them), polls or one long wait.

    Only a task that finds a free slot is published; the report of an end dispatches the others. A request with
    ``?wait=`` is answered once and paid by its duration.
    """
    direct = case.busy
    reports = 2 if new_client else 4
    polls = 1 if new_client else case.polls
    executions = 1 + (1 - direct) + reports + polls
    waits_s = 15.0 if new_client else 0.0
    large = case.body_bytes > EVENT_UNIT_BYTES
    return Operations(
        executions, 0.03 * executions + 0.3 + waits_s, 2 * (1 - direct), blob_writes=large, blob_reads=large
    )


CASES = (
    Case("500-byte JSON, backend never full", 500, polls=5, busy=0.0),
    Case("500-byte JSON, backend always full", 500, polls=20, busy=1.0),
    Case("500 KB picture, backend full half the time", 500_000, polls=10, busy=0.5),
)


def main() -> None:
    print("| a million tasks of | legacy platform | ours, legacy clients | ours, `?wait=` |")
    print("| --- | --: | --: | --: |")
    for case in CASES:
        cells = [legacy(case), ours(case, new_client=False), ours(case, new_client=True)]
        shown = " | ".join(
            f"${each.dollars_per_million:.2f} "
            f"({each.executions:.1f} executions, {each.execution_s:.1f} s, {each.events:.1f} events)"
            for each in cells
        )
        print(f"| {case.name} | {shown} |")


if __name__ == "__main__":
    main()
