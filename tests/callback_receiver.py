"""A destination of callbacks, as a receiver is who goes by Standard Webhooks: it takes what is signed, each message
once, and answers what a test has it answer."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from shared.dispatch.callback_client import CallbackAnswer

_TOLERATED_S: Final = 300
TAKEN = CallbackAnswer("204", is_taken=True)


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


class Receiver:
    """In place of the calls to destinations.

    Attributes:
        calls: how often it was called.
        forged: how many calls were not signed as they must be.
        got: each message by its id, as it came first.
        order: the ids in the order in which they came first.
        answer: what it answers; what it does not take, it forgets.
    """

    def __init__(self, *secret_texts: str, now_ms: Callable[[], int] | None = None) -> None:
        self._now_ms = now_ms
        self._webhooks = [Webhook(secret) for secret in secret_texts]
        self.calls = self.forged = self.repeated = 0
        self.got: dict[str, dict[str, Any]] = {}
        self.order: list[str] = []
        self.urls: list[str] = []
        self.answer: Callable[[], CallbackAnswer] = lambda: TAKEN

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> CallbackAnswer:
        self.calls += 1
        self.urls.append(url)
        if not is_signed(headers, body, self._webhooks, self._now_ms):
            self.forged += 1
            return CallbackAnswer("401")
        answer = self.answer()
        if answer.is_taken:
            name = headers["webhook-id"]
            if name in self.got:
                self.repeated += 1
                assert self.got[name] == json.loads(body)
            else:
                self.got[name] = json.loads(body)
                self.order.append(name)
        return answer

    async def aclose(self) -> None:
        return

    @property
    def documents(self) -> list[dict[str, Any]]:
        """In the order in which they came."""
        return [self.got[name] for name in self.order]


def is_signed(
    headers: Mapping[str, str], body: bytes, webhooks: list[Webhook], now_ms: Callable[[], int] | None = None
) -> bool:
    """Whether each of the secrets verifies it: a receiver knows one of them.

    Args:
        now_ms: the clock; None: the real one, which the package asks.
    """
    if now_ms is not None:
        return all(_is_signed(headers, body, webhook, now_ms()) for webhook in webhooks)
    try:
        for webhook in webhooks:
            webhook.verify(body, dict(headers))
    except WebhookVerificationError:
        return False
    return True


def _is_signed(headers: Mapping[str, str], body: bytes, webhook: Webhook, now_ms: int) -> bool:
    """As the package verifies it, by another clock than its own."""
    at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    expected = webhook.sign(headers["webhook-id"], at, body.decode())
    is_of_now = abs(at.timestamp() - now_ms / 1000) <= _TOLERATED_S
    return is_of_now and expected in headers["webhook-signature"].split()
