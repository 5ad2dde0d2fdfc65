"""When a step counts as stored: where its write must have arrived before its caller hears of it.

Redis acknowledges a write that it has in memory only. With ``replica`` or ``fsync`` a batch of commands that need
more ends with a question on its own connection: have a replica, or the disk, everything up to here? One question
serves the whole batch. A small write goes before it, since Redis asks for nothing on behalf of a connection that has
written nothing, such as one whose only step recognised its own repetition.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, cast

from redis.exceptions import NoPermissionError, ReadOnlyError, RedisError, ResponseError

from shared import telemetry

log = logging.getLogger("task_backbone")

Durability = Literal["none", "replica", "fsync"]

ACKNOWLEDGE_TIMEOUT_MS: Final = 1500
"""How long Redis waits for the acknowledgement: the disk's may take a second with ``appendfsync everysec``, and a
reply must come within ``REPLY_TIMEOUT_S``."""
WAITAOF_SINCE: Final = (7, 2)
"""The version of Redis that brought the question for the disk."""
BATCHES_WAITING: Final = 32
"""How many batches wait for their acknowledgement at a time at one server, each on a connection of its own."""
_ACKNOWLEDGED: Final = frozenset(
    {
        *("combined/apply_and_release", "combined/create_and_enqueue", "combined/create_child"),
        *("batch/cancel", "batch/create", "batch/register", "batch/replay", "batch/seal"),
        *("callback/resend", "keyed/confirm", "queue/configure", "upload/create", "upload/take"),
        *("schedule/begin", "schedule/pause", "schedule/put", "schedule/remove"),
        *("task/apply", "task/create", "task/erase", "task/release", "task/withdraw"),
    }
)
"""The scripts whose outcome a client hears as stored. What the others change is found anew from the records."""
_TOLD_EVERY_S: Final = 60.0
_LATE: Final[Mapping[Durability, str]] = {
    "none": "",
    "replica": "no replica had them within 1.5 s",
    "fsync": "Redis had not written them to its disk within 1.5 s",
}
_QUESTIONS: Final[Mapping[Durability, tuple[str, ...]]] = {"replica": ("WAIT", "1"), "fsync": ("WAITAOF", "1", "0")}


class WriteUnacknowledged(Exception):
    """Raised for a command that was run, and whose write did not arrive in time where it must.

    Attributes:
        reply: what the command answered.
    """

    def __init__(self, reply: Any) -> None:
        super().__init__("the write was not acknowledged in time")
        self.reply = reply

    @classmethod
    def of(cls, reply: Any) -> Exception:
        """For a *reply* whose write did not arrive. A command that failed wrote nothing: its error stays."""
        return reply if isinstance(reply, Exception) else cls(reply)


class DurabilityUnavailable(RedisError):
    """Raised if the server cannot say what ``DURABILITY`` asks of it."""


def is_acknowledged(script: str) -> bool:
    """Whether a client is told that what this *script* did is stored."""
    return script in _ACKNOWLEDGED


def question(durability: Durability, tag: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]] | None:
    """The two commands that end a batch on keys under the hash *tag*: the write, and the question.

    None if memory is enough.
    """
    if durability == "none":
        return None
    asked = (*_QUESTIONS[durability], str(ACKNOWLEDGE_TIMEOUT_MS))
    return (b"SET", tag + b"asked", b""), tuple([word.encode() for word in asked])


def arrived(answers: Sequence[Any]) -> bool:
    """Whether the *answers* to the two commands say that the write is where it must be."""
    if len(answers) < 2 or isinstance(answers[0], Exception):  # without the write, Redis was asked for nothing
        return False
    answer = answers[1]
    if isinstance(answer, list):  # of WAITAOF: this server's disk, and how many replicas'
        answer = cast("list[Any]", answer)[0]
    return isinstance(answer, int) and answer >= 1


class _Asked(Protocol):
    """A client of one server."""

    def execute_command(self, *args: Any) -> Awaitable[Any]: ...


class Shortfall:
    """Tells the operator of steps whose write has not arrived: by a counter, and at most once a minute by the log.

    Args:
        durability: what the app waits for.
    """

    def __init__(self, durability: Durability) -> None:
        self._durability: Durability = durability
        self._untold = 0
        self._told_s = -math.inf

    def note(self, steps: int, answer: Any) -> None:
        """So many *steps* were taken, and the *answer* to the question does not say that they have arrived; None if
        there was no answer."""
        if isinstance(answer, RedisError):
            reason, why = "refused", _reason(answer, self._durability)
        elif answer is None:
            reason, why = "interrupted", "the connection broke before Redis said so"
        else:
            reason, why = "late", _LATE[self._durability]
        telemetry.unacknowledged(reason, steps)
        self._untold += steps
        now_s = time.monotonic()
        if now_s >= self._told_s + _TOLD_EVERY_S:
            log.error(
                "%d steps were taken without what DURABILITY=%s asks for: %s", self._untold, self._durability, why
            )
            self._untold, self._told_s = 0, now_s


async def check(client: _Asked, durability: Durability) -> None:
    """
    Args:
        client: of a single server, or of one node.

    Raises:
        DurabilityUnavailable: the server does not know the question, does not allow it, or keeps nothing on disk.
        ReadOnlyError: it is a replica, which answers no such question.
        redis.RedisError, OSError: it cannot be reached.
    """
    if durability == "none":
        return
    name, *numbers = _QUESTIONS[durability]
    try:
        # One millisecond: whether the few writes until now have arrived does not matter.
        answer = await client.execute_command(name, *numbers, "1")
        why = await _never_synced(client) if durability == "fsync" else None
    except ResponseError as error:
        if "replica" in str(error):
            raise ReadOnlyError(str(error)) from error
        why = _reason(error, durability)
    else:
        if durability == "replica" and answer == 0:
            log.warning("Redis has no replica now. With DURABILITY=replica the app answers 503 until it has one.")
    if why is None:
        return
    log.error("Redis cannot do what DURABILITY=%s asks for; %s. The app does not use it.", durability, why)
    raise DurabilityUnavailable(why)


async def _never_synced(client: _Asked) -> str | None:
    """Why the server would never say that a write is on disk; None if nothing speaks against it, or if it does not
    tell its configuration, as a managed one may not."""
    try:
        told = await client.execute_command("CONFIG GET", "appendfsync")
    except ResponseError:
        return None
    policies: list[Any] = [*told.values()] if isinstance(told, dict) else told[1::2]
    if "no" in policies or b"no" in policies:
        return "it leaves to the system when its file is synced: set appendfsync to always"
    if "everysec" in policies or b"everysec" in policies:
        log.warning(
            "With appendfsync everysec Redis may say that its disk has what it has written and not synced, as Valkey "
            "9.1 does. Against a loss of power, set it to always."
        )
    return None


def _reason(error: Exception, durability: Durability) -> str:
    """Why a server answers the question with an *error*, and what to do about it."""
    name = _QUESTIONS[durability][0]
    if isinstance(error, NoPermissionError):
        return f"the app's user may not call {name}: allow it with ACL SETUSER … +{name.lower()}"
    if "appendonly" in str(error):
        return "its append-only file is off: set appendonly to yes"
    if "unknown command" in str(error):
        return f"it has no {name}, which needs Redis 7.2 or Valkey"
    return f"it refuses {name}: {error}"
