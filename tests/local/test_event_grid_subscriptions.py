"""Subscriptions: handshakes, filters, and the format of deliveries."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.local.event_grid_stand import (
    TOPIC_ID,
    a_client,
    a_stand,
    a_subscriber,
    assert_is_error,
    cloud_event,
    event,
)

PATH = "/control/topics/tasks/subscriptions/worker"
CLOUD_EVENTS = {"schema": "CloudEventSchemaV1_0"}


async def test_handshake_asks_for_the_validation_code():
    async with a_stand() as stand:
        await stand.subscribe()
        (handshake,) = stand.subscriber.requests
        assert handshake.method == "POST"
        assert {name: value for name, value in handshake.headers.items() if name.startswith("aeg-")} == {
            "aeg-event-type": "SubscriptionValidation",
            "aeg-subscription-name": "WORKER",
            "aeg-delivery-count": "0",
            "aeg-data-version": "1",
            "aeg-metadata-version": "1",
            "aeg-output-event-id": handshake.headers["aeg-output-event-id"],
        }
        (validation,) = handshake.body
        assert validation["eventType"] == "Microsoft.EventGrid.SubscriptionValidationEvent"
        assert validation["topic"] == TOPIC_ID
        assert validation["data"].keys() == {"validationCode", "validationUrl"}


async def test_cloud_events_handshake_asks_for_the_allowed_origin():
    async with a_stand() as stand:
        await stand.subscribe(**CLOUD_EVENTS)
        (handshake,) = stand.subscriber.requests
        assert handshake.method == "OPTIONS"
        assert handshake.headers["WebHook-Request-Origin"] == "eventgrid.azure.net"


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({}, lambda _: web.json_response({"validationResponse": "wrong"})),
        ({}, lambda _: web.json_response([])),
        ({}, lambda _: web.Response(text="ok")),
        ({}, lambda code: web.json_response({"validationResponse": code}, status=202)),
        ({}, lambda code: web.json_response({"validationResponse": code}, status=500)),
        (CLOUD_EVENTS, lambda _: web.Response()),
        (CLOUD_EVENTS, lambda _: web.Response(headers={"WebHook-Allowed-Origin": "example.com"})),
        (CLOUD_EVENTS, lambda origin: web.Response(status=404, headers={"WebHook-Allowed-Origin": origin})),
    ],
    ids=[
        "wrong-code",
        "not-an-object",
        "not-json",
        "echo-in-202",
        "echo-in-500",
        "no-origin",
        "other-origin",
        "origin-in-404",
    ],
)
async def test_subscription_is_active_only_after_a_valid_handshake(
    settings: dict[str, str], answer: Callable[[str], web.Response]
):
    async with a_stand() as stand:
        stand.subscriber.handshakes.append(answer)
        await stand.propose(**settings)
        await stand.until_handshake_failed()
        assert stand.state() == "AwaitingManualAction"
        await stand.publish(event("too early"))
        stand.clock.advance(1)
        await stand.until_active()
        await stand.publish(event("in time"))
        assert stand.subscriber.ids == ["in time"]


async def test_handshake_is_repeated_until_the_endpoint_is_reachable():
    async with a_stand() as stand:
        async with a_subscriber() as gone:
            url = gone.url
        await stand.propose(endpoint=url)
        assert await stand.until_handshake_failed() == "SocketError"
        async with a_subscriber(int(url.split(":")[2].split("/")[0])):
            stand.clock.advance(1)
            await stand.until_active()


async def test_handshake_without_an_answer_within_30_s_is_repeated():
    async with a_stand() as stand:
        stand.subscriber.hangs = True
        await stand.propose()
        await stand.subscriber.until(1, "SubscriptionValidation")
        stand.subscriber.hangs = False
        stand.clock.advance(30)
        assert await stand.until_handshake_failed() == "TimedOut"
        stand.clock.advance(1)
        await stand.until_active()


async def test_validation_url_completes_the_handshake_manually():
    async with a_client() as (client, stand):
        stand.subscriber.handshakes.append(lambda _: web.Response())
        await stand.propose()
        await stand.until_handshake_failed()
        url = stand.subscriber.requests[0].body[0]["data"]["validationUrl"]
        path, _, code = url.removeprefix("http://127.0.0.1:1").partition("?code=")
        assert_is_error(await client.get(path, params={"code": code + "0"}), 404, "NotFound")
        assert stand.state() == "AwaitingManualAction"
        assert (await client.get(path, params={"code": code})).status_code == 200
        assert stand.state() == "Active"


async def test_changed_endpoint_gets_events_after_its_own_handshake():
    async with a_stand() as stand, a_subscriber() as successor:
        await stand.subscribe()
        successor.handshakes.append(lambda _: web.Response())
        await stand.propose(endpoint=successor.url)
        await stand.until_handshake_failed()
        await stand.publish(event("1"))
        stand.clock.advance(1)
        await stand.until_active()
        await stand.publish(event("2"))
        assert (stand.subscriber.ids, successor.ids) == (["1"], ["2"])


async def test_settings_of_an_unchanged_endpoint_apply_at_once():
    async with a_stand() as stand:
        await stand.subscribe()
        await stand.propose(includedEventTypes=["other"])
        assert stand.state() == "Active"
        await stand.publish(event())
        assert stand.subscriber.ids == []
        assert len(stand.subscriber.requests) == 1


async def test_delivery_is_an_array_of_one_event_with_its_topic():
    async with a_stand() as stand:
        await stand.subscribe()
        await stand.publish(event())
        (delivery,) = stand.subscriber.notifications
        assert delivery.body == [event() | {"topic": TOPIC_ID, "metadataVersion": "1"}]
        assert delivery.headers["Content-Type"] == "application/json; charset=utf-8"
        assert {name: value for name, value in delivery.headers.items() if name.startswith("aeg-")} == {
            "aeg-event-type": "Notification",
            "aeg-subscription-name": "WORKER",
            "aeg-delivery-count": "0",
            "aeg-data-version": "1.0",
            "aeg-metadata-version": "1",
            "aeg-output-event-id": delivery.headers["aeg-output-event-id"],
        }


async def test_retry_carries_the_same_event_and_the_next_delivery_count():
    async with a_stand() as stand:
        await stand.subscribe()
        stand.subscriber.answers.append(500)
        await stand.publish(event())
        await stand.after(10)
        first, second = stand.subscriber.notifications
        assert first.body == second.body
        assert (first.delivery_count, second.delivery_count) == (0, 1)
        assert first.headers["aeg-output-event-id"] == second.headers["aeg-output-event-id"]


async def test_event_grid_event_reaches_a_cloud_events_subscription_as_one_object():
    async with a_stand() as stand:
        await stand.subscribe(**CLOUD_EVENTS)
        await stand.publish(event())
        (delivery,) = stand.subscriber.notifications
        assert delivery.headers["Content-Type"].startswith("application/cloudevents+json")
        assert delivery.body == {
            "specversion": "1.0",
            "id": "1",
            "source": TOPIC_ID,
            "type": "task",
            "subject": "/v1/detector",
            "time": event()["eventTime"],
            "dataschema": "#1.0",
            "data": {"taskId": "1"},
        }


@pytest.mark.parametrize("settings", [{}, CLOUD_EVENTS])
async def test_cloud_event_is_delivered_unchanged(settings: dict[str, str]):
    async with a_stand() as stand:
        await stand.subscribe(**settings)
        traced = cloud_event(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        await stand.publish(traced)
        (delivery,) = stand.subscriber.notifications
        assert delivery.headers["Content-Type"].startswith("application/cloudevents+json")
        assert delivery.body == traced


async def test_due_events_share_a_request_if_output_batching_is_on():
    async with a_stand() as stand:
        await stand.subscribe(maxEventsPerBatch=4)
        stand.subscriber.answers.extend([500] * 10)
        await stand.publish(*(event(str(number)) for number in range(10)))
        await stand.after(10)
        batches = [request.body for request in stand.subscriber.notifications[-3:]]
        assert [len(batch) for batch in batches] == [4, 4, 2]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["a", "b", "c"]),
        ({"includedEventTypes": ["task", "other"]}, ["a", "b"]),
        ({"includedEventTypes": ["TASK"]}, ["a", "b"]),
        ({"includedEventTypes": []}, []),
        ({"subjectBeginsWith": "/v1/"}, ["a", "c"]),
        ({"subjectBeginsWith": "/V1/", "includedEventTypes": ["task"]}, ["a"]),
    ],
    ids=str,
)
async def test_subscription_gets_only_events_that_pass_its_filters(settings: dict[str, Any], expected: list[str]):
    async with a_stand() as stand:
        await stand.subscribe(**settings)
        await stand.publish(event("a"), event("b", subject="/v2/x"), event("c", eventType="progress"))
        assert stand.subscriber.ids == expected


async def test_every_subscription_gets_its_own_copy():
    async with a_stand() as stand, a_subscriber() as other:
        await stand.subscribe()
        await stand.subscribe("other", endpoint=other.url)
        stand.subscriber.answers.append(500)
        await stand.publish(event())
        assert stand.stats() == {"published": 1, "delivered": 1, "retried": 1, "pending": 1}


async def test_delivery_headers_are_sent_with_handshakes_and_events():
    async with a_stand() as stand:
        await stand.subscribe(deliveryHeaders={"X-Secret": "s3cret"})
        await stand.publish(event())
        assert [request.headers["X-Secret"] for request in stand.subscriber.requests] == ["s3cret"] * 2


async def test_hostile_event_cannot_inject_headers():
    hostile = event("../../x\r\nX-Evil: 1\x00\ud800", dataVersion="1\r\nX-Evil: 1")
    async with a_stand() as stand:
        await stand.subscribe()
        await stand.publish(hostile)
        (delivery,) = stand.subscriber.notifications
        assert "X-Evil" not in delivery.headers
        assert delivery.body[0]["id"] == hostile["id"]


async def test_endpoint_query_is_sent_unchanged_and_never_exposed(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with a_client() as (client, stand):
        keyed = stand.subscriber.url + "?code=k%2Fe%3Dy==&x=1"
        created = await client.put(PATH, json={"endpoint": keyed, "deliveryHeaders": {"X-Secret": "s3cret"}})
        await stand.until_active()
        shown = await client.get(PATH)
        assert (created.status_code, created.json()["state"]) == (201, "AwaitingManualAction")
        assert (shown.status_code, shown.json()["state"]) == (200, "Active")
        assert shown.json()["endpoint"] == stand.subscriber.url
        assert shown.json()["deliveryHeaders"] == ["X-Secret"]
        assert stand.subscriber.queries == ["code=k%2Fe%3Dy==&x=1"]
        exposed = created.text + shown.text + "".join(record.getMessage() for record in caplog.records)
        assert "k%2F" not in exposed
        assert "s3cret" not in exposed


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": None},
        {"endpoint": "ftp://example.com/?code=s3cret"},
        {"endpoint": "http:///hook?code=s3cret"},
        {"endpoint": "http://example.com:99999/?code=s3cret"},
        {"endpoint": "http://example.com/ s3cret"},
        {"schema": "CustomInputSchema"},
        {"maxDeliveryAttempts": 0},
        {"maxDeliveryAttempts": 31},
        {"eventTimeToLiveInMinutes": 0},
        {"eventTimeToLiveInMinutes": 1441},
        {"maxEventsPerBatch": 0},
        {"deadLetterContainer": "No_Container"},
        {"deadLetterContainer": "letters"},  # without a storage account
        {"deliveryHeaders": {"aeg-event-type": "s3cret"}},
        {"deliveryHeaders": {"X": "s3cret\r\nY: 1"}},
        {"deliveryHeaders": {"X Y": "s3cret"}},
        {"unknown": 1},
    ],
    ids=str,
)
async def test_settings_that_the_real_service_refuses_are_400(settings: dict[str, Any]):
    async with a_client() as (client, stand):
        response = await client.put(PATH, json={"endpoint": stand.subscriber.url} | settings)
        assert_is_error(response, 400, "BadRequest")
        assert "s3cret" not in response.text
        assert_is_error(await client.get(PATH), 404, "NotFound")


@pytest.mark.parametrize("name", ["ab", "a" * 65, "a_b", "a%2Fb", ".."])
async def test_subscription_name_that_the_real_service_refuses_is_400(name: str):
    async with a_client() as (client, stand):
        path = f"/control/topics/tasks/subscriptions/{name}"
        assert (await client.put(path, json={"endpoint": stand.subscriber.url})).status_code in (400, 404, 405)


async def test_deleted_subscription_gets_one_deletion_notice_and_no_more_events():
    async with a_client() as (client, stand):
        await stand.subscribe()
        stand.subscriber.answers.append(500)
        await stand.publish(event())
        assert (await client.delete(PATH)).status_code == 204
        await stand.subscriber.until(1, "SubscriptionDeletion")
        (farewell,) = stand.subscriber.requests[-1].body
        assert farewell["eventType"] == "Microsoft.EventGrid.SubscriptionDeletedEvent"
        await stand.publish(event("2"))
        await stand.after(24 * 3600)
        assert stand.subscriber.ids == ["1"]
        assert stand.stats() == {"published": 2, "retried": 1, "dropped": 1}
        assert_is_error(await client.get(PATH), 404, "NotFound")
        assert_is_error(await client.delete(PATH), 404, "NotFound")
