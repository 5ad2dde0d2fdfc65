"""What the scripts take by which the reconciler looks after tasks; see ``arguments.py``."""

from __future__ import annotations

from shared.store.arguments import Stamp


class SweepArgument(Stamp):
    limit: int
    max_attempts: int
    publish_base: int
    cap: int
    wait_cap: int
    retention: int
    completion: int
    blob_grace: int
    step_grace: int
    batch_grace: int
    end_grace: int
    schedule_grace: int
    retrying: str
    excused: str
    silent: str
    exhausted: str
    texts: dict[str, str]
    outages: dict[str, int]
    given_up: dict[str, tuple[int, str]]
    seed: int


class CheckSlotsArgument(Stamp):
    path: str
    entries: list[tuple[str, int]]
    max_attempts: int
    publish_base: int
    cap: int
    retention: int
    completion: int
    undelivered: str
    seed: int
