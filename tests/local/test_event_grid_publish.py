"""Publishing over HTTP: authentication, validation, limits and errors."""

import base64
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote_plus, urlsplit

import pytest
from azure.eventgrid import generate_sas
from hypothesis import given
from hypothesis import strategies as st

from local.event_grid.authorization import is_authorized
from local.event_grid.emulator import MAX_BACKLOG_BYTES
from local.event_grid.schema import InvalidEventsError, parse_events
from tests.local.event_grid_stand import EVENTS_PATH as PATH
from tests.local.event_grid_stand import KEY, TOPIC_ID, a_client, assert_is_error, cloud_event, event

ENDPOINT = f"http://127.0.0.1{PATH}"
CLOUD_EVENTS = "application/cloudevents-batch+json; charset=utf-8"


async def test_accepted_batch_is_answered_with_an_empty_200():
    async with a_client() as (client, stand):
        response = await client.publish([event("1"), event("2")])
        assert (response.status_code, response.content) == (200, b"")
        assert stand.stats() == {"published": 2}


@pytest.mark.parametrize("path", [PATH, f"{PATH}/", "/TASKS/API/EVENTS", "/Tasks/Api/Events/"])
async def test_path_matches_in_any_case_and_with_a_trailing_slash(path: str):
    async with a_client() as (client, _):
        assert (await client.post(path, json=[event()])).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"aeg-sas-key": "wrong"}, {"aeg-sas-key": ""}, {"authorization": "Bearer eyJ0eXAi"}]
)
async def test_publish_without_the_key_is_refused(headers: dict[str, str]):
    async with a_client() as (client, stand):
        client.headers.pop("aeg-sas-key")
        response = await client.post(PATH, json=[event()], headers=headers)
        assert_is_error(response, 401, "Unauthorized")
        assert stand.stats() == {}


async def test_an_unknown_topic_is_404():
    async with a_client() as (client, _):
        assert_is_error(await client.post("/other/api/events", json=[event()]), 404, "NotFound")


async def test_get_is_405():
    async with a_client() as (client, _):
        assert_is_error(await client.get(PATH), 405, "MethodNotAllowed")


async def test_unknown_api_version_is_400():
    async with a_client() as (client, _):
        response = await client.post(PATH, json=[event()], params={"api-version": "2030-01-01"})
        assert_is_error(response, 400, "BadRequest")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b"null", b"[1]", b"[NaN]", b'["\xff"]', b"[" * 100_000])
async def test_body_that_is_not_a_batch_is_400(body: bytes):
    async with a_client() as (client, _):
        assert_is_error(await client.publish(body), 400, "BadRequest")


@pytest.mark.parametrize("field", ["id", "subject", "eventType", "eventTime"])
@pytest.mark.parametrize("value", [..., None, "", " ", 1], ids=["missing", "null", "empty", "blank", "number"])
async def test_missing_or_blank_required_field_is_400(field: str, value: Any):
    broken = event(**{field: value})
    if value is ...:
        del broken[field]
    async with a_client() as (client, stand):
        response = await client.publish([event(), broken])
        assert_is_error(response, 400, "BadRequest")
        assert field in response.json()["error"]["details"][0]["message"]
        assert stand.stats() == {}, "a batch is accepted as a whole or not at all"


@pytest.mark.parametrize(
    "fields",
    [
        {"eventTime": "2026-11-22T10:12:44"},
        {"eventTime": "2026-11-22"},
        {"eventTime": "yesterday"},
        {"topic": TOPIC_ID},
        {"topic": ""},
        {"metadataVersion": "2"},
        {"dataVersion": 1},
    ],
    ids=str,
)
async def test_event_field_that_violates_the_schema_is_400(fields: dict[str, Any]):
    async with a_client() as (client, _):
        assert_is_error(await client.publish([event(**fields)]), 400, "BadRequest")


@pytest.mark.parametrize(
    "fields", [{"eventTime": "2026-11-22T10:12:44+01:00"}, {"topic": None}, {"data": None}, {"dataVersion": None}]
)
async def test_event_field_that_the_schema_allows_is_accepted(fields: dict[str, Any]):
    async with a_client() as (client, _):
        assert (await client.publish([event(**fields)])).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"source": None},
        {"type": " "},
        {"specversion": "0.3"},
        {"time": "2026-11-22T10:12:44"},
        {"data_base64": "AA=="},
    ],
    ids=str,
)
async def test_cloud_event_that_violates_the_schema_is_400(fields: dict[str, Any]):
    async with a_client() as (client, _):
        response = await client.publish([cloud_event(**fields)], CLOUD_EVENTS)
        assert_is_error(response, 400, "BadRequest")


async def test_cloud_events_are_accepted_singly_and_in_batches():
    async with a_client() as (client, stand):
        assert (await client.publish(cloud_event(), "application/cloudevents+json")).status_code == 200
        assert (await client.publish([cloud_event()] * 2, CLOUD_EVENTS)).status_code == 200
        assert stand.stats() == {"published": 3}


async def test_batch_of_1_mb_is_accepted_and_a_larger_one_refused():
    async with a_client() as (client, stand):
        frame_bytes = len(json.dumps([event(data="")]))
        fitting = event(data="x" * (1024 * 1024 - frame_bytes))
        assert (await client.publish([fitting])).status_code == 200
        fitting["data"] += "x"
        assert_is_error(await client.publish([fitting]), 413, "RequestEntityTooLarge")
        assert_is_error(await client.publish([event(data="x" * 1_600_000)]), 413, "RequestEntityTooLarge")
        assert stand.stats() == {"published": 1}


async def test_batch_of_5000_events_is_accepted_and_a_longer_one_refused():
    small = {"id": "1", "subject": "s", "eventType": "t", "eventTime": "2026-11-22T10:12:44Z"}
    async with a_client() as (client, _):
        assert (await client.publish([small] * 5000)).status_code == 200
        assert_is_error(await client.publish([small] * 5001), 413, "RequestEntityTooLarge")


async def test_publish_beyond_the_memory_limit_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("local.event_grid.emulator.MAX_BACKLOG_BYTES", 2000)
    async with a_client() as (client, stand):
        await stand.subscribe()
        stand.subscriber.hangs = True
        assert (await client.publish([event(data="x" * 1000)])).status_code == 200
        assert_is_error(await client.publish([event(data="x" * 1000)]), 503, "ServiceUnavailable")
        assert stand.stats() == {"published": 1, "pending": 1}
    assert MAX_BACKLOG_BYTES > 100 * 1024 * 1024


@pytest.mark.parametrize("host", ["example.com", "rebound.attacker.test"])
async def test_request_with_another_host_name_is_refused(host: str):
    async with a_client() as (client, _):
        assert (await client.get("/control/stats", headers={"host": host})).status_code == 400


NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def admits(token: str, key: str = KEY, now: datetime = NOW) -> bool:
    return is_authorized({"aeg-sas-token": token, "host": urlsplit(ENDPOINT).netloc}, key=key, path=PATH, now=now)


@pytest.mark.parametrize("expiry", [LATER, LATER.replace(tzinfo=None), LATER.strftime("%m/%d/%Y %I:%M:%S %p")])
def test_sdk_token_is_accepted_until_it_expires(expiry: Any):
    token = generate_sas(ENDPOINT, KEY, expiry)
    assert admits(token)
    assert not admits(token, now=LATER)


DOTNET_EXPIRIES = {
    "a DateTimeOffset": "11/22/2026 12:05:00\u202fPM +00:00",
    "of another zone": "11/22/2026 5:35:00\u202fPM +05:30",
    "without ICU": "11/22/2026 12:05:00 PM +00:00",
    "a DateTime": "11/22/2026 12:05:00\u202fPM",
}


def dotnet_token(expiry: str, key: str = KEY, more: str = "") -> str:
    """A token as `EventGridSasBuilder` makes it, which encodes as `HttpUtility.UrlEncode` does."""

    def encode(text: str) -> str:
        return re.sub("%..", lambda match: match[0].lower(), quote_plus(text, safe="!()*-._"))

    signed = f"r={encode(f'{ENDPOINT}?api-version=2018-01-01')}&e={encode(expiry)}{more}"
    signature = hmac.digest(base64.b64decode(key), signed.encode(), hashlib.sha256)
    return f"{signed}&s={encode(base64.b64encode(signature).decode())}"


@pytest.mark.parametrize("expiry", DOTNET_EXPIRIES.values(), ids=DOTNET_EXPIRIES)
def test_token_of_the_dotnet_sdk_is_accepted_until_it_expires(expiry: str):
    token = dotnet_token(expiry)
    assert "+" in token
    assert admits(token)
    assert not admits(token, now=LATER)


@pytest.mark.parametrize("expiry", ["11/22/2026 12:05:00 +00:00", "22/11/2026 12:05:00 PM +00:00", "tomorrow"])
def test_dotnet_token_with_an_expiry_that_is_no_time_is_refused(expiry: str):
    assert not admits(dotnet_token(expiry))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "r=&e=&s=",
        "r=a&e=b",
        generate_sas(ENDPOINT, "YW5vdGhlciBrZXk=", LATER),
        generate_sas("http://127.0.0.1/other/api/events", KEY, LATER),
        generate_sas(ENDPOINT.replace("127.0.0.1", "topic.example.org"), KEY, LATER),
        dotnet_token("11/22/2020 12:05:00 PM", more="&e=11%2f22%2f2036+12%3a05%3a00+PM"),
        generate_sas(ENDPOINT, KEY, LATER).replace("2026", "2036"),
        dotnet_token("11/22/2026 12:05:00\u202fPM +00:00", "YW5vdGhlciBrZXk="),
    ],
    ids=[
        "empty",
        "blank",
        "unsigned",
        "another key",
        "another topic",
        "another server",
        "two expiries",
        "changed expiry",
        "another key in .NET",
    ],
)
def test_invalid_token_is_refused(token: str):
    assert not admits(token)


def test_key_that_is_not_base64_accepts_no_token():
    token = generate_sas(ENDPOINT, KEY, LATER)
    assert not admits(token, key="not base64!")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
event_fields = st.sampled_from(
    ["id", "subject", "eventType", "eventTime", "dataVersion", "topic", "source", "type", "specversion", "time"]
)


@given(
    batch=st.lists(st.dictionaries(event_fields, json_values) | json_values, max_size=3),
    content_type=st.sampled_from(["application/json", CLOUD_EVENTS]),
)
def test_arbitrary_json_is_refused_without_a_server_error(batch: Any, content_type: str):
    try:
        events = parse_events(json.dumps(batch).encode(), content_type, TOPIC_ID)
    except InvalidEventsError as error:
        assert error.problems
    else:
        assert len(events) == len(batch)
