"""The destination of the callbacks of all tasks: what it was told, and whether anybody else told it anything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from standardwebhooks.webhooks import Webhook

from tests.callback_receiver import is_signed, new_secret
from tests.scripted_backend import Answer, Call, ScriptedBackend

_HOOK: Final = "/hook"
_ENDED: Final = ("completed", "failed", "cancelled")


class Told:
    """Takes what is signed, and refuses all else.

    Attributes:
        ends: the ends that it was told: task, state, attempt.
        forged: how many calls were not signed.
    """

    def __init__(self) -> None:
        self.ends: set[tuple[str, str, int]] = set()
        self.forged = 0
        self._secret = new_secret()
        self._webhooks = [Webhook(self._secret)]
        self._lock = threading.Lock()
        self._server = ScriptedBackend()
        self._server.react(_HOOK, self._take)

    @property
    def settings(self) -> Mapping[str, str]:
        destination = {"url": self._server.url + _HOOK, "secret_setting": "RIG_SECRET"}
        return {"CALLBACKS": json.dumps({"rig": destination}), "RIG_SECRET": self._secret}

    def start(self) -> None:
        self._server.__enter__()

    def stop(self) -> None:
        self._server.__exit__()

    def wrong(self, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """What is wrong with what it was told of these tasks."""
        if self.forged:
            yield f"{self.forged} callbacks were not signed"
        for task_id, rec in records.items():
            if "J" in rec and rec["s"] in _ENDED and (task_id, rec["s"], rec["a"]) not in self.ends:
                yield f"{task_id} {rec['s']}, and its destination was not told"

    def _take(self, call: Call) -> Answer:
        with self._lock:
            # The clock of the host may be wrong, so that its time is not judged.
            signed_ms = 1000 * int(call.headers.get("webhook-timestamp", "0"))
            if not is_signed(call.headers, call.body, self._webhooks, lambda: signed_ms):
                self.forged += 1
                return Answer(401)
            task = json.loads(call.body)
            self.ends.add((task["TaskId"], task["BackendStatus"], task["Attempt"]))
            return Answer(204)


def is_owed(records: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a destination is to be told something yet."""
    return any("Q" in rec["J"] for rec in records.values() if "J" in rec)
