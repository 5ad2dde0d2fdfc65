"""Settings for the import of backend_webhook, which reads from them how deliveries are authenticated."""

import os

os.environ.setdefault("REDIS_CONNECTION_STRING", "redis://127.0.0.1")
os.environ.setdefault("EVENT_GRID_TOPIC_URI", "https://topic.example.org/api/events")
os.environ.setdefault("BACKENDS", '{"/v1": "https://models.example.org"}')
