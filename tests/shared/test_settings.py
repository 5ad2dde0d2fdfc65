"""The settings: a bad value stops the start with its name, and no message exposes a value."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from local.stack import ROOT
from shared.resilience.limits import Limits
from shared.services import Services
from shared.settings import Settings, SettingsError
from shared.settings_warnings import warnings_of

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
    assert settings.backends.entries == {}
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
    assert [(path, entry.url, entry.lease_s) for path, entry in settings.backends.entries.items()] == expected


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


@pytest.mark.parametrize(
    "url",
    [
        *("javascript:alert(1)", "javascript://https://a.example/", "data:text/html,x", "//a.example/", "/{TaskId}"),
        *("http://a.example/{TaskId}", "http://127.0.0.1.a.example/", "http://127.0.0.1:80@a.example/", "https://"),
        *("https://ada:pw@a.example/", "https://a.example/{Query} x", "https://a.example/\njavascript:alert(1)"),
    ],
)
def test_a_trace_is_shown_at_a_url_that_runs_nothing(url: str) -> None:
    assert "setting TRACE_URL" in refusal(GOOD | {"TRACE_URL": url})


@pytest.mark.parametrize(
    "url", ["https://a.example", "https://a.example:8443/#q/{Query}", "http://127.0.0.1:3000?task={TaskId}"]
)
def test_a_trace_is_shown_over_tls_or_here(url: str) -> None:
    assert Settings.from_env(GOOD | {"TRACE_URL": url}).trace_url == url


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
    assert Settings.from_env(GOOD | {"BACKENDS": entry}).backends.entries["/v1"].lease_s == 60


MIB = 1024 * 1024
HOST_JSON = {"functionTimeout": "00:10:00", "extensions": {"http": {"maxConcurrentRequests": 60}}}
OVERRIDE = "AzureFunctionsJobHost__extensions__http__maxConcurrentRequests"


@pytest.mark.parametrize(
    ("given", "host_json", "concurrency", "waits"),
    [
        ({}, HOST_JSON, 60, 30),
        ({OVERRIDE: "24"}, HOST_JSON, 24, 12),
        ({"HTTP_CONCURRENCY": "16", OVERRIDE: "24"}, HOST_JSON, 16, 8),
        ({"HTTP_CONCURRENCY": "16", "MAX_WAITS": "3"}, HOST_JSON, 16, 3),
        ({"HTTP_CONCURRENCY": "1"}, HOST_JSON, 1, 1),
        ({"MAX_IN_FLIGHT": "20"}, HOST_JSON, 60, 10),
        ({OVERRIDE: "-1"}, HOST_JSON, None, 100),
        ({}, {}, None, 100),
        ({"HTTP_CONCURRENCY": "16", "FUNCTIONS_WORKER_PROCESS_COUNT": "2"}, HOST_JSON, 16, 4),
        ({}, {"extensions": None}, None, 100),
        ({}, {"extensions": {"http": []}}, None, 100),
    ],
)
def test_half_of_what_the_host_lets_through_may_wait(
    given: dict[str, str], host_json: dict[str, object], concurrency: int | None, waits: int
) -> None:
    settings = Settings.from_env(GOOD | given, host_json)
    assert (settings.host_concurrency, settings.most_waits) == (concurrency, waits)
    assert Limits.of(settings).waits._most == waits


def test_the_apps_own_host_json_counts() -> None:
    host_json = json.loads((ROOT / "host.json").read_text())
    settings = Settings.from_env(GOOD)
    assert settings.host_concurrency == host_json["extensions"]["http"]["maxConcurrentRequests"]
    assert settings.azurefunctionsjobhost__functiontimeout == host_json["functionTimeout"]


FLEX = {"HTTP_CONCURRENCY": "16", "INSTANCE_MEMORY_MB": "2048", "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(15 * MIB)}


@pytest.mark.parametrize(
    ("given", "about"),
    [
        (FLEX, []),
        (FLEX | {"HTTP_CONCURRENCY": "32", "INSTANCE_MEMORY_MB": "4096"}, []),
        (FLEX | {"HTTP_CONCURRENCY": "32"}, ["INSTANCE_MEMORY_MB"]),
        (FLEX | {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(15 * MIB + 1)}, ["INSTANCE_MEMORY_MB"]),
        (FLEX | {"MAX_WAITS": "8"}, []),
        (FLEX | {"MAX_WAITS": "9"}, ["MAX_WAITS"]),
        (FLEX | {"HTTP_CONCURRENCY": "1"}, ["MAX_WAITS"]),
        (FLEX | {"FUNCTIONS_WORKER_PROCESS_COUNT": "2"}, []),
        (FLEX | {"FUNCTIONS_WORKER_PROCESS_COUNT": "2", "MAX_WAITS": "5"}, ["MAX_WAITS"]),
        ({}, ["INSTANCE_MEMORY_MB"]),
        ({OVERRIDE: "-1"}, ["INSTANCE_MEMORY_MB"]),
    ],
)
def test_an_operator_is_warned_of_limits_that_do_not_fit(given: dict[str, str], about: list[str]) -> None:
    warnings = warnings_of(Settings.from_env(GOOD | given, HOST_JSON))
    assert len(warnings) == len(about)
    assert all(name in warning for name, warning in zip(about, warnings, strict=True))


def test_the_warnings_are_logged_at_the_start() -> None:
    environ = os.environ | GOOD | FLEX | {"MAX_WAITS": "9", "APPLICATIONINSIGHTS_CONNECTION_STRING": ""}
    command = [sys.executable, "-c", "import function_app"]
    started = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert [line for line in started.stderr.splitlines() if "MAX_WAITS" in line]


@pytest.mark.parametrize(
    ("given", "largest", "together"),
    [
        ({}, 100 * MIB, 60 * 100 * MIB),
        ({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(15 * MIB)}, 15 * MIB, 60 * 15 * MIB),
        ({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(500 * MIB)}, 100 * MIB, 60 * 500 * MIB),
        ({"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(15 * MIB), "MAX_BODY_BYTES": "1000"}, 1000, 60 * 15 * MIB),
        ({OVERRIDE: "-1"}, 100 * MIB, None),
    ],
)
def test_the_smaller_limit_to_a_body_holds(given: dict[str, str], largest: int, together: int | None) -> None:
    settings = Settings.from_env(GOOD | given, HOST_JSON)
    assert (settings.largest_body_bytes, settings.host_body_bytes) == (largest, together)


@pytest.mark.parametrize("timeout", ["00:00:59", "00:01:00", "0:00:30.5", "00:00"])
@pytest.mark.parametrize("by_environment", [True, False])
def test_a_function_timeout_that_a_wait_would_reach_is_refused(timeout: str, by_environment: bool) -> None:
    given = {"AzureFunctionsJobHost__functionTimeout": timeout} if by_environment else {}
    host_json = HOST_JSON if by_environment else HOST_JSON | {"functionTimeout": timeout}
    with pytest.raises(SettingsError, match=r"functionTimeout of host\.json: .* 60 s"):
        Settings.from_env(GOOD | given, host_json)


@pytest.mark.parametrize("timeout", ["00:01:01", "00:10:00", "1.00:00:00", "-1", "02:00"])
def test_any_longer_function_timeout_will_do(timeout: str) -> None:
    Settings.from_env(GOOD, HOST_JSON | {"functionTimeout": timeout})


def test_a_gateway_key_that_is_too_short_is_refused_in_words() -> None:
    assert "setting GATEWAY_KEY: it must have at least 16 characters." in refusal(GOOD | {"GATEWAY_KEY": SECRET})
    description = Settings.model_fields["gateway_key"].description
    assert description
    assert "16 characters" in description
    assert Settings.from_env(GOOD | {"GATEWAY_KEY": "x" * 16}).gateway_key == SecretStr("x" * 16)


@pytest.mark.parametrize("length", [1, 15])
def test_a_previous_gateway_key_that_is_too_short_is_refused(length: int) -> None:
    given = GOOD | {"GATEWAY_KEY": "x" * 16, "GATEWAY_KEY_PREVIOUS": "y" * length}
    assert "setting GATEWAY_KEY_PREVIOUS: it must have at least 16 characters." in refusal(given)


def test_a_previous_gateway_key_needs_a_present_one() -> None:
    previous = {"GATEWAY_KEY_PREVIOUS": "y" * 16}
    assert "setting GATEWAY_KEY: GATEWAY_KEY_PREVIOUS needs it." in refusal(GOOD | previous)
    assert Settings.from_env(GOOD | previous | {"GATEWAY_KEY": "x" * 16}).gateway_keys == [
        SecretStr("x" * 16),
        SecretStr("y" * 16),
    ]


def test_the_previous_gateway_key_may_be_the_present_one() -> None:
    """It is so between two steps of a rotation, where the app must not be kept from its start."""
    Settings.from_env(GOOD | {"GATEWAY_KEY": "x" * 16, "GATEWAY_KEY_PREVIOUS": "x" * 16})


REFERENCE = f"@Microsoft.KeyVault(SecretUri=https://{SECRET}.vault.azure.net/secrets/a)"
UNRESOLVED = "its reference to Key Vault was not resolved"


@pytest.mark.parametrize("name", Settings.model_fields)
@pytest.mark.parametrize(
    "value",
    [REFERENCE, f" {REFERENCE}", REFERENCE.lower(), REFERENCE.replace("(", " (", 1), REFERENCE.replace("@", "@ ")],
)
def test_no_setting_may_be_a_reference_that_was_not_resolved(name: str, value: str) -> None:
    given = {known: good for known, good in GOOD.items() if known.lower() != name}
    assert f"setting {name.upper()}: {UNRESOLVED}" in refusal(given | {name.upper(): value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_CONNECTION_STRING", f"redis.example.org:6380,password={REFERENCE},ssl=True"),
        ("REDIS_CONNECTION_STRING", f"rediss://:{REFERENCE}@redis.example.org"),
        ("AZUREWEBJOBSSTORAGE", f"AccountName=a;AccountKey={REFERENCE};EndpointSuffix=core.windows.net"),
        ("APPLICATIONINSIGHTS_CONNECTION_STRING", f"InstrumentationKey={REFERENCE}"),
        ("BACKENDS", json.dumps({"/v1": REFERENCE})),
        ("BACKENDS", json.dumps({"/v1": {"url": f"https://a.example.org/{REFERENCE}"}})),
        (
            "BACKENDS",
            json.dumps({"/v1": "https://a.example.org", "pipelines": {"/v1/p": [f"/v1/a?key={REFERENCE}"]}}),
        ),
    ],
)
def test_no_setting_may_hold_a_reference_that_nobody_resolves(name: str, value: str) -> None:
    given = {known: good for known, good in GOOD.items() if known.upper() != name}
    assert f"setting {name}: {UNRESOLVED}" in refusal(given | {name: value})


@pytest.mark.parametrize("name", ["AZURE_CLIENT_ID", "AzureFunctionsJobHost__logging__fileLoggingMode", "Another"])
def test_no_variable_of_the_platform_may_be_a_reference_that_was_not_resolved(name: str) -> None:
    assert f"setting {name}: {UNRESOLVED}." in refusal(GOOD | {name: REFERENCE})


def test_one_line_names_each_reference_beside_what_else_is_wrong() -> None:
    given = GOOD | {"GATEWAY_KEY": REFERENCE, "LEASE_S": "x", "AZURE_CLIENT_ID": REFERENCE}
    message = refusal(given | {"BACKENDS": REFERENCE})
    assert [part.partition(":")[0] for part in message.removeprefix("The app cannot start: ").split("; ")] == [
        "setting GATEWAY_KEY",
        "setting BACKENDS",
        "setting LEASE_S",
        "setting AZURE_CLIENT_ID",
    ]


def test_what_the_platform_says_of_resolved_references_keeps_nobody_from_the_start() -> None:
    """App Service lists the references, with their texts, in a variable of its own."""
    listed = json.dumps({"GATEWAY_KEY": {"rawReference": REFERENCE, "status": "Resolved"}})
    Settings.from_env(GOOD | {"WEBSITE_KEYVAULT_REFERENCES": listed})


def test_an_app_whose_reference_was_not_resolved_does_not_load() -> None:
    environ = os.environ | GOOD | {"GATEWAY_KEY": REFERENCE, "APPLICATIONINSIGHTS_CONNECTION_STRING": ""}
    command = [sys.executable, "-c", "import function_app"]
    started = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert started.returncode != 0
    assert f"The app cannot start: setting GATEWAY_KEY: {UNRESOLVED}." in started.stderr
    assert SECRET not in started.stdout + started.stderr


def test_the_sample_settings_bring_no_warning() -> None:
    sample = json.loads((ROOT / "local.settings.sample.json").read_text())["Values"]
    settings = Settings.from_env(sample)
    assert warnings_of(settings) == []
    assert settings.http_concurrency == int(sample[OVERRIDE]), "the local host is to give it as many"
