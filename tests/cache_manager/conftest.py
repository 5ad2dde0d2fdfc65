"""Settings for the import of cache_manager, which reads its timer's schedule from them."""

import os

from tests.patience import patient
from tests.shared.store.conftest import clock, redis_server

__all__ = ["clock", "patient", "redis_server"]

os.environ.setdefault("REDIS_CONNECTION_STRING", "redis://127.0.0.1")
os.environ.setdefault("EVENT_GRID_TOPIC_URI", "https://topic.example.org/api/events")
os.environ.setdefault("BACKENDS", '{"/v1": "https://models.example.org"}')
