"""Dead letters: Event Grid writes events that it could not deliver into a blob container."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from local.event_grid.clock import to_iso
from local.event_grid.journal import Delivery
from local.event_grid.schema import Event, is_cloud_event, to_cloud_event
from local.event_grid.subscription import SubscriptionSettings

if TYPE_CHECKING:
    from azure.storage.blob.aio import BlobServiceClient


class DeadLetters:
    """The storage account for dead letters. The containers must exist already, as for the real service."""

    def __init__(self, connection_string: str) -> None:
        self._connection_string = connection_string
        self._opened: BlobServiceClient | None = None

    def _account(self) -> BlobServiceClient:
        # The client takes a second to load, and most emulators never have a dead letter.
        from azure.storage.blob.aio import BlobServiceClient

        if self._opened is None:
            self._opened = BlobServiceClient.from_connection_string(self._connection_string, retry_total=0)
        return self._opened

    async def write(
        self, subscription: str, settings: SubscriptionSettings, deliveries: Sequence[Delivery], now_s: float
    ) -> bool:
        """Writes the events of `deliveries` into one new blob; returns False if there is no container to write to."""
        if settings.dead_letter_container is None:
            return False
        letters = [_to_dead_letter(delivery, settings) for delivery in deliveries]
        from azure.core.exceptions import AzureError

        blob = self._account().get_blob_client(settings.dead_letter_container, blob_name(subscription, now_s))
        try:
            await blob.upload_blob(json.dumps(letters).encode())
        except AzureError:
            return False
        return True

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


def blob_name(subscription: str, now_s: float) -> str:
    """``<SUBSCRIPTION>/Y/M/D/H/<guid>.json``, in UTC and without padding. It contains nothing of an event."""
    now = datetime.fromtimestamp(now_s, UTC)
    return f"{subscription.upper()}/{now.year}/{now.month}/{now.day}/{now.hour}/{uuid.uuid4()}.json"


def _to_dead_letter(delivery: Delivery, settings: SubscriptionSettings) -> Event:
    event = json.loads(delivery.event)
    if settings.wants_cloud_event(event):
        event = to_cloud_event(event)
    last_attempt_at_s = delivery.last_attempt_at_s
    properties = {
        "deadLetterReason": delivery.dead_letter_reason,
        "deliveryAttempts": delivery.attempts,
        "lastDeliveryOutcome": delivery.last_outcome,
        "publishTime": to_iso(delivery.published_at_s),
        "lastDeliveryAttemptTime": None if last_attempt_at_s is None else to_iso(last_attempt_at_s),
    }
    spell = str.lower if is_cloud_event(event) else str  # CloudEvents has no capitals in attribute names
    return event | {spell(name): value for name, value in properties.items() if value is not None}
