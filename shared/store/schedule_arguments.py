"""What the scripts of ``lua/schedule/`` take, as ``arguments.py`` has it of the others."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from shared.store.arguments import Stamp


class _ScheduleArgument(Stamp):
    name: str
    """``<owner> <name>``"""


class PutScheduleArgument(_ScheduleArgument):
    owner: str
    definition: dict[str, Any]
    generation: str
    next: NotRequired[int]
    most: int


class PauseScheduleArgument(_ScheduleArgument):
    generation: str
    paused: bool
    next: NotRequired[int]


class PackedRun(TypedDict):
    """As in the record's ``r``."""

    t: int
    o: str
    i: NotRequired[str]
    y: NotRequired[str]


class BeginRunArgument(_ScheduleArgument):
    generation: str
    run: PackedRun
    next: NotRequired[int]
    grace: int


class SettleRunArgument(_ScheduleArgument):
    task: str
    due: int
    outcome: Literal["started", "skipped", "waiting"]
    why: str
    again: int
    asked: bool
