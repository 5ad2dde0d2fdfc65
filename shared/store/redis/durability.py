"""When a step counts as stored: where its write must have arrived before its caller hears of it.

Redis acknowledges a write that it has in memory only. With ``replica`` or ``fsync`` a batch of commands that need
more ends with a question on its own connection: have a replica, or the disk, everything up to here? One question
serves the whole batch. A small write goes before it, since Redis asks for nothing on behalf of a connection that has
written nothing, such as one whose only step recognised its own repetition.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

log = logging.getLogger("task_backbone")

Durability = Literal["none", "replica", "fsync"]

ACKNOWLEDGE_TIMEOUT_MS: Final = 1500
"""How long Redis waits for the acknowledgement: the disk's comes within a second of ``appendfsync everysec``, and a
reply must come within ``REPLY_TIMEOUT_S``."""
BATCHES_WAITING: Final = 32
"""How many batches wait for their acknowledgement at a time at one server, each on a connection of its own."""
_ACKNOWLEDGED: Final = frozenset(
    {
        *("combined/apply_and_release", "combined/create_and_enqueue", "combined/create_child"),
        *("batch/cancel", "batch/create", "batch/register", "batch/replay", "batch/seal"),
        *("queue/configure", "task/apply", "task/create", "task/erase", "task/release"),
        *("upload/create", "upload/take"),
    }
)
"""The scripts whose outcome a client hears as stored. What the others change is found anew from the records."""
_QUESTIONS: Final = {"replica": ("WAIT", "1"), "fsync": ("WAITAOF", "1", "0")}


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


def arrived(answer: Any) -> bool:
    """Whether the *answer* to the question says that the write is where it must be."""
    if isinstance(answer, list):  # of WAITAOF: this server's disk, and how many replicas'
        answer = cast("list[Any]", answer)[0]
    return isinstance(answer, int) and answer >= 1


async def check(client: Redis, durability: Durability) -> None:
    """
    Raises:
        DurabilityUnavailable: the server does not know the question, does not allow it, or keeps nothing on disk.
    """
    if durability == "none":
        return
    name, *numbers = _QUESTIONS[durability]
    try:
        # One millisecond: the answer does not matter, only that there is one.
        await cast("Any", client).execute_command(name, *numbers, "1")
    except NoPermissionError:
        why = f"the app's user may not call {name}: allow it with ACL SETUSER … +{name.lower()}"
    except ResponseError as error:
        if "appendonly" in str(error):
            why = "its append-only file is off: set appendonly to yes"
        elif "unknown command" in str(error):
            why = f"it has no {name}, which needs Redis 7.2 or Valkey"
        else:
            why = f"it refuses {name}: {error}"
    else:
        return
    log.error("Redis cannot do what DURABILITY=%s asks for; %s. The app does not use it.", durability, why)
    raise DurabilityUnavailable(why)
