"""Store policies made of the settings' defaults, which nothing repeats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from shared.settings import Settings
from shared.store import StorePolicy

_DEFAULTS = StorePolicy.of(
    Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
        }
    )
)


def store_policy(**changes: Any) -> StorePolicy:
    return replace(_DEFAULTS, **changes)
