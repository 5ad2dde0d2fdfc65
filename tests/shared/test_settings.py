"""The settings: a bad value stops the start with its name, and no message exposes a value."""

import json
import traceback
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from shared.services import Services
from shared.settings import Settings, SettingsError

SECRET = "hunter2"
GOOD = {
    "REDIS_CONNECTION_STRING": f"redis://:{SECRET}@redis.example.org:6380",
    "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
    "EVENT_GRID_KEY": SECRET,
    "BACKENDS": '{"/v1/org": "https://models.example.org"}',
    "AzureWebJobsStorage": f"AccountName=a;AccountKey={SECRET}==;EndpointSuffix=core.windows.net",
    "APPLICATIONINSIGHTS_CONNECTION_STRING": f"InstrumentationKey={SECRET}",
}


def refusal(environ: dict[str, str]) -> str:
    """The message with which the app refuses to start with these settings."""
    with pytest.raises(SettingsError) as refused:
        Services.compose(Settings.from_env(environ))
    message = str(refused.value)
    assert message.startswith("The app cannot start: ")
    assert "\n" not in message
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    return message


def test_the_required_settings_are_enough() -> None:
    settings = Settings.from_env(
        {
            "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
            "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
            "BACKEND_BASE_URL": "https://models.example.org",
        }
    )
    assert settings.event_grid_key is None
    assert settings.backends == {}
    assert settings.max_body_bytes == 100 * 1024 * 1024
    assert settings.retention_s == 7 * 24 * 3600
    assert settings.allow_loopback_backends is False


@pytest.mark.parametrize("spell", [str.upper, str.lower, str.title])
def test_names_match_in_any_case(spell: Callable[[str], str]) -> None:
    settings = Settings.from_env({spell(name): value for name, value in GOOD.items()})
    assert settings.azurewebjobsstorage == SecretStr(GOOD["AzureWebJobsStorage"])
    assert settings.event_grid_key == SecretStr(SECRET)


def test_an_empty_value_means_absent() -> None:
    settings = Settings.from_env(GOOD | {"EVENT_GRID_KEY": "", "LEASE_S": " ", "BACKEND_BASE_URL": ""})
    assert settings.event_grid_key is None
    assert settings.lease_s == 600
    assert settings.backend_base_url is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"/v1/org": "https://a.example.org"}', [("/v1/org", "https://a.example.org", None)]),
        (
            '{"/v1/org": {"url": "https://a.example.org", "lease_s": 90.5}, "/v2": "https://b.example.org"}',
            [("/v1/org", "https://a.example.org", 90.5), ("/v2", "https://b.example.org", None)],
        ),
    ],
)
def test_backends_are_urls_or_urls_with_a_lease(value: str, expected: list[tuple[str, str, float | None]]) -> None:
    settings = Settings.from_env(GOOD | {"BACKENDS": value})
    assert [(path, entry.url, entry.lease_s) for path, entry in settings.backends.items()] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_CONNECTION_STRING", ""),
        ("REDIS_CONNECTION_STRING", f"http://:{SECRET}@redis.example.org"),
        ("REDIS_CONNECTION_STRING", f"redis://:{SECRET}@redis.example.org:port"),
        ("REDIS_CONNECTION_STRING", f"redis://:{SECRET}@redis.example.org/3"),
        ("REDIS_CONNECTION_STRING", f"password={SECRET},ssl=True"),
        ("REDIS_CONNECTION_STRING", f"redis.example.org:port,password={SECRET}"),
        ("REDIS_CONNECTION_STRING", f"unix://{SECRET}@/var/run/redis.sock"),
        ("EVENT_GRID_TOPIC_URI", ""),
        ("EVENT_GRID_TOPIC_URI", f"{SECRET}.example.org"),
        ("EVENT_GRID_TOPIC_URI", "https://"),
        ("EVENT_GRID_TOPIC_URI", "https:///api/events"),
        ("EVENT_GRID_TOPIC_ID", "tasks"),
        ("WEBHOOK_TENANT_ID", "common"),
        ("WEBHOOK_TENANT_ID", "example.org/../common"),
        ("WEBHOOK_AUTHORITY", "login.example.org"),
        ("WEBHOOK_AUTHORITY", "http://login.example.org"),
        ("WEBHOOK_AUTHORITY", "https://login.example.org/tenant"),
        ("WEBHOOK_AUTHORITY", f"https://{SECRET}@login.example.org"),
        ("BACKENDS", SECRET),
        ("BACKENDS", f'["{SECRET}"]'),
        ("BACKENDS", f'"{SECRET}"'),
        ("BACKENDS", '{"/v1": 5}'),
        ("BACKENDS", '{"/v1": null}'),
        ("BACKENDS", '{"/v1": {}}'),
        ("BACKENDS", f'{{"/v1": {{"url": "https://a.example.org", "key": "{SECRET}"}}}}'),
        ("BACKENDS", '{"/v1": {"url": "https://a.example.org", "lease_s": 0}}'),
        ("BACKENDS", f'{{"/v1": {{"url": "https://a.example.org", "lease_s": "{SECRET}"}}}}'),
        ("BACKENDS", f'{{"/v1": "https://u:{SECRET}@a.example.org"}}'),
        ("BACKENDS", '{"v1": "https://a.example.org"}'),
        ("BACKENDS", '{"/v1": "http://127.0.0.1"}'),
        ("BACKEND_BASE_URL", f"https://u:{SECRET}@a.example.org"),
        ("BACKEND_BASE_URL", "models"),
        ("ALLOW_LOOPBACK_BACKENDS", SECRET),
        ("AZUREWEBJOBSSTORAGE", SECRET),
        ("AZUREWEBJOBSSTORAGE", f"AccountName=a;{SECRET}"),
        ("AZUREWEBJOBSSTORAGE__BLOBSERVICEURI", SECRET),
        ("BLOB_CONTAINER", "Tasks"),
        ("BLOB_CONTAINER", "ab"),
        ("BLOB_CONTAINER", "task--backbone"),
        ("BLOB_CONTAINER", "x" * 64),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_BODY_BYTES", "100MB"),
        ("MAX_BODY_BYTES", str(100 * 1024 * 1024 + 1)),
        ("LEASE_S", "0"),
        ("LEASE_S", "-1"),
        ("LEASE_S", "ten"),
        ("LEASE_S", "nan"),
        ("LEASE_S", "inf"),
        ("LEASE_S", str(366 * 86_400 + 1)),
        ("DISPATCH_TIMEOUT_S", "25.5"),
        ("DISPATCH_TIMEOUT_S", "nan"),
        ("MAX_ATTEMPTS", "0"),
        ("MAX_ATTEMPTS", "2.5"),
        ("MAX_ATTEMPTS", "1001"),
        ("BACKOFF_BASE_S", "0"),
        ("BUSY_RETRY_S", "soon"),
        ("REPUBLISH_S", "-3"),
        ("RETENTION_S", "0"),
        ("RETENTION_S", "7d"),
    ],
)
def test_a_bad_value_is_named_and_not_repeated(name: str, value: str) -> None:
    given = {known: good for known, good in GOOD.items() if known.upper() != name}
    assert f"setting {name}" in refusal(given | {name: value})


def test_one_line_names_every_setting_that_is_wrong() -> None:
    message = refusal({"BACKENDS": GOOD["BACKENDS"], "LEASE_S": "x", "MAX_ATTEMPTS": "0"})
    assert [part.partition(":")[0] for part in message.removeprefix("The app cannot start: ").split("; ")] == [
        "setting REDIS_CONNECTION_STRING",
        "setting EVENT_GRID_TOPIC_URI",
        "setting LEASE_S",
        "setting MAX_ATTEMPTS",
    ]


@pytest.mark.parametrize("backends", [{}, {"BACKENDS": "{}"}, {"BACKENDS": "", "BACKEND_BASE_URL": ""}])
def test_an_app_without_any_model_service_does_not_start(backends: dict[str, str]) -> None:
    given = {name: value for name, value in GOOD.items() if name != "BACKENDS"}
    assert "BACKENDS or BACKEND_BASE_URL" in refusal(given | backends)


TENANT = {"WEBHOOK_TENANT_ID": "72f988bf-86f1-41af-91ab-2d7cd011db47"}
AUDIENCE = {"WEBHOOK_AUDIENCE": "api://webhook"}


@pytest.mark.parametrize("half", [TENANT, AUDIENCE, TENANT | {"WEBHOOK_AUDIENCE": " "}])
def test_an_app_with_half_of_the_webhook_token_settings_does_not_start(half: dict[str, str]) -> None:
    assert "WEBHOOK_TENANT_ID and WEBHOOK_AUDIENCE" in refusal(GOOD | half)


def test_the_keys_of_entra_id_are_fetched_over_https_unless_loopback_is_allowed() -> None:
    local = {"WEBHOOK_AUTHORITY": "http://127.0.0.1:8080", "ALLOW_LOOPBACK_BACKENDS": "true"}
    assert Settings.from_env(GOOD | TENANT | AUDIENCE).webhook_authority == "https://login.microsoftonline.com"
    assert Settings.from_env(GOOD | TENANT | AUDIENCE | local).webhook_authority == "http://127.0.0.1:8080"


def test_the_settings_expose_no_secret() -> None:
    settings = Settings.from_env(GOOD)
    for shown in (repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in shown
    assert SECRET not in repr(Services.compose(settings))


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_example_in_the_description_of_backends_is_valid() -> None:
    entry = json.dumps({"/v1": {"url": "https://a.example.org", "lease_s": 60}})
    assert Settings.from_env(GOOD | {"BACKENDS": entry}).backends["/v1"].lease_s == 60
