"""``CALLBACKS``: a bad one stops the start with its name, and no message exposes a secret or a URL's key."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.services import Services
from shared.settings import Settings, SettingsError
from tests.callback_receiver import new_secret

SECRET = new_secret()
GOOD: dict[str, Any] = {"url": "https://shop.example.org/hook?key=hunter2", "secret_setting": "HOOK_SECRET"}


def settings(callbacks: Any, **more: str) -> Settings:
    text = callbacks if isinstance(callbacks, str) else json.dumps(callbacks)
    return Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKENDS": '{"/v1": "https://models.example.org"}',
            "CALLBACKS": text,
            **more,
        }
    )


@pytest.mark.contract("B29.7")
def test_secrets_are_read_from_their_settings() -> None:
    former = new_secret()
    read = settings({"shop": GOOD}, hook_secret=SECRET, HOOK_SECRET_PREVIOUS=former)
    found = [secret.get_secret_value() for secret in read.callbacks.secrets["HOOK_SECRET"]]
    assert found == [SECRET, former]
    destination = Services.compose(read).destinations.by_name["shop"]
    assert (destination.events, destination.owner) == (("completed", "failed", "cancelled"), None)
    for text in (repr(read), repr(destination)):
        assert not any(secret in text for secret in (SECRET, former))
    assert "hunter2" not in repr(destination)


@pytest.mark.contract("B29.16")
@pytest.mark.parametrize(
    ("callbacks", "more", "named"),
    [
        ("[]", {}, "CALLBACKS"),
        ("{", {}, "CALLBACKS"),
        ({"shop": {"url": "https://shop.example.org"}}, {}, "CALLBACKS['shop']['secret_setting']"),
        ({"shop": GOOD | {"secrets": ["x"]}}, {}, "CALLBACKS['shop']['secrets']"),
        ({"shop": GOOD | {"events": ["done"]}}, {}, "CALLBACKS['shop']['events']"),
        ({"shop": GOOD | {"events": []}}, {}, "CALLBACKS['shop']['events']"),
        ({"a shop": GOOD}, {}, "CALLBACKS"),
        ({"shop": GOOD | {"secret_setting": "NOWHERE"}}, {}, "NOWHERE"),
        ({"shop": GOOD}, {"HOOK_SECRET": "hunter2hunter2"}, "HOOK_SECRET"),
        ({"shop": GOOD}, {"HOOK_SECRET": "whsec_aHVudGVyMg=="}, "HOOK_SECRET"),
        ({"shop": GOOD}, {"HOOK_SECRET_PREVIOUS": "hunter2"}, "HOOK_SECRET_PREVIOUS"),
        ({"shop": GOOD}, {"HOOK_SECRET": "@Microsoft.KeyVault(SecretUri=hunter2)"}, "HOOK_SECRET"),
        ({"shop": GOOD | {"url": "ftp://hunter2"}}, {}, "CALLBACKS['shop']"),
        ({"shop": GOOD | {"url": "http://127.0.0.1/hook"}}, {}, "CALLBACKS['shop']"),
        ({"shop": GOOD | {"url": "http://169.254.169.254/"}}, {}, "CALLBACKS['shop']"),
        ({"shop": GOOD | {"url": "https://user:hunter2@shop.example.org"}}, {}, "CALLBACKS['shop']"),
        (
            {"shop": GOOD},
            {"BACKENDS": '{"/v1": {"url": "https://m.example.org", "callback": "no"}}'},
            "BACKENDS['/v1']",
        ),
        (
            {"shop": GOOD | {"owner": "alice"}},
            {"BACKENDS": '{"/v1": {"url": "https://m.example.org", "callback": "shop"}}'},
            "BACKENDS['/v1']",
        ),
        ({f"shop{number}": GOOD for number in range(101)}, {}, "CALLBACKS"),
    ],
)
def test_a_bad_one_stops_the_start(callbacks: Any, more: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Services.compose(settings(callbacks, **{"HOOK_SECRET": SECRET, **more}))
    message = str(refused.value)
    assert f"setting {named}" in message
    assert "hunter2" not in message
    assert SECRET not in message
