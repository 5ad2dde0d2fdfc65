"""The requests that Event Grid makes to subscribers: handshakes, notifications, and the notice of deletion."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
from yarl import URL

from local.event_grid.clock import Clock, to_iso
from local.event_grid.delivery import ANSWER_TIMEOUT_S, SOCKET_ERROR, TIMED_OUT, Answer
from local.event_grid.journal import Delivery
from local.event_grid.schema import (
    CLOUD_EVENT_BATCH_CONTENT_TYPE,
    CLOUD_EVENT_CONTENT_TYPE,
    EVENT_GRID_CONTENT_TYPE,
    Event,
    is_cloud_event,
    to_cloud_event,
)
from local.event_grid.subscription import SubscriptionSettings

ORIGIN = "eventgrid.azure.net"

_MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class _Reply:
    answer: Answer
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Webhook:
    """Sends requests to endpoints. It follows no redirect, uses no proxy, and no endpoint can make it raise."""

    def __init__(self, topic_id: str, clock: Clock) -> None:
        self._topic_id = topic_id
        self._clock = clock
        # No limit here: the emulator limits the deliveries under way of each subscription.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def deliver(
        self, subscription: str, settings: SubscriptionSettings, deliveries: Sequence[Delivery]
    ) -> Answer:
        """Sends the events of `deliveries`, which have the same attempt number and the same schema."""
        reply = await self._notify(
            subscription,
            settings,
            "Notification",
            [json.loads(delivery.event) for delivery in deliveries],
            attempts=deliveries[0].attempts,
            published_at_s=deliveries[0].published_at_s,
        )
        return reply.answer

    async def handshake(
        self, subscription: str, settings: SubscriptionSettings, *, code: str, validation_url: str
    ) -> str | None:
        """Asks the endpoint whether it wants events; returns why the handshake failed, or None if it did not."""
        if settings.delivery_schema == "CloudEventSchemaV1_0":
            headers = {"aeg-subscription-name": subscription.upper(), "WebHook-Request-Origin": ORIGIN}
            reply = await self._request("OPTIONS", settings, headers)
            if not reply.answer.is_success:
                return _describe(reply.answer)
            allowed = reply.headers.get("WebHook-Allowed-Origin", "")
            return None if allowed in (ORIGIN, "*") else f"WebHook-Allowed-Origin does not allow {ORIGIN}."
        data = {"validationCode": code, "validationUrl": validation_url}
        event = self._own_event("Microsoft.EventGrid.SubscriptionValidationEvent", data)
        reply = await self._notify(subscription, settings, "SubscriptionValidation", [event])
        if reply.answer.status != HTTPStatus.OK:
            return _describe(reply.answer)
        return None if _validation_response(reply.body) == code else "The validation code was not echoed."

    async def announce_deletion(self, subscription: str, settings: SubscriptionSettings) -> None:
        """Informs the endpoint, once, that there will be no more events."""
        data = {"eventSubscriptionId": f"{self._topic_id}/eventSubscriptions/{subscription}"}
        event = self._own_event("Microsoft.EventGrid.SubscriptionDeletedEvent", data)
        await self._notify(subscription, settings, "SubscriptionDeletion", [event])

    def _own_event(self, event_type: str, data: dict[str, str]) -> Event:
        return {
            "id": str(uuid.uuid4()),
            "topic": self._topic_id,
            "subject": "",
            "data": data,
            "eventType": event_type,
            "eventTime": to_iso(self._clock.now()),
            "metadataVersion": "1",
            "dataVersion": "1",
        }

    async def _notify(
        self,
        subscription: str,
        settings: SubscriptionSettings,
        aeg_event_type: str,
        events: Sequence[Event],
        *,
        attempts: int = 0,
        published_at_s: float = 0.0,
    ) -> _Reply:
        """Sends `events`. A request with one event also has the headers that describe that event."""
        headers = {
            "aeg-event-type": aeg_event_type,
            "aeg-subscription-name": subscription.upper(),
            "aeg-delivery-count": str(attempts),
        }
        if len(events) == 1:
            # The same for every attempt, and no way for a hostile event id into a header.
            identity = f"{published_at_s!r} {events[0]['id']!r}"
            headers["aeg-output-event-id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, identity))
            if not is_cloud_event(events[0]):
                headers["aeg-data-version"] = _header_value(events[0]["dataVersion"])
                headers["aeg-metadata-version"] = events[0]["metadataVersion"]
        content_type, content = EVENT_GRID_CONTENT_TYPE, events
        if settings.wants_cloud_event(events[0]):
            content_type, content = CLOUD_EVENT_BATCH_CONTENT_TYPE, [to_cloud_event(event) for event in events]
            if settings.max_events_per_batch == 1:
                content_type, content = CLOUD_EVENT_CONTENT_TYPE, content[0]
        headers["Content-Type"] = content_type
        return await self._request("POST", settings, headers, content)

    async def _request(
        self, method: str, settings: SubscriptionSettings, headers: dict[str, str], content: Any = None
    ) -> _Reply:
        request = self._session.request(
            method,
            URL(settings.endpoint, encoded=True),
            data=None if content is None else json.dumps(content).encode(),
            headers={**settings.delivery_headers, **headers},
            allow_redirects=False,
        )
        try:
            async with self._clock.answer_timeout(ANSWER_TIMEOUT_S), request as response:
                body = b""
                while len(body) < _MAX_ANSWER_BYTES and (chunk := await response.content.readany()):
                    body += chunk
                return _Reply(Answer.of_status(response.status), response.headers, body)
        except TimeoutError:
            return _Reply(TIMED_OUT)
        except (aiohttp.ClientError, OSError, ValueError):
            return _Reply(SOCKET_ERROR)


def _describe(answer: Answer) -> str:
    return answer.outcome if answer.status is None else f"The endpoint answered HTTP {answer.status}."


def _validation_response(body: bytes) -> Any:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer.get("validationResponse") if isinstance(answer, dict) else None


def _header_value(text: str) -> str:
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
