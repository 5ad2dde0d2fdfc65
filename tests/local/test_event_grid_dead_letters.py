"""Dead letters, in a real blob service."""

import json
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.storage.blob.aio import ContainerClient

from local.azurite import Azurite
from local.event_grid.clock import to_iso
from local.event_grid.dead_letters import DeadLetters, blob_name
from local.event_grid.faults import Faults, Switch
from tests.local.event_grid_stand import TOPIC_ID, a_stand, cloud_event, event

GUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
FOUR_HOURS_S = 4 * 3600


@pytest.fixture
async def container(azurite: Azurite) -> AsyncIterator[ContainerClient]:
    name = f"letters-{uuid.uuid4().hex}"
    async with ContainerClient.from_connection_string(azurite.connection_string, name) as client:
        await client.create_container()
        yield client


async def letters_in(container: ContainerClient) -> dict[str, list[dict[str, Any]]]:
    """The name and content of each blob."""
    names = [blob.name async for blob in container.list_blobs()]
    return {name: json.loads(await (await container.download_blob(name)).readall()) for name in names}


async def test_a_dead_letter_is_written_5_minutes_after_the_last_failure(
    azurite: Azurite, container: ContainerClient
):
    async with a_stand(dead_letters=DeadLetters(azurite.connection_string)) as stand:
        await stand.subscribe("worker-one", deadLetterContainer=container.container_name, maxDeliveryAttempts=2)
        stand.subscriber.answers.extend([404, 404])
        published_at_s = stand.clock.now()
        await stand.publish(event())
        await stand.after(10)
        await stand.after(299)
        assert await letters_in(container) == {}
        assert stand.stats() == {"published": 1, "retried": 1, "pending": 1}
        await stand.after(1)
        assert stand.stats() == {"published": 1, "retried": 1, "dead_lettered": 1}
        ((name, letters),) = (await letters_in(container)).items()
        assert re.fullmatch(rf"WORKER-ONE/2026/1/1/0/{GUID}\.json", name)
        assert letters == [
            event()
            | {
                "topic": TOPIC_ID,
                "metadataVersion": "1",
                "deadLetterReason": "MaxDeliveryAttemptsExceeded",
                "deliveryAttempts": 2,
                "lastDeliveryOutcome": "NotFound",
                "publishTime": to_iso(published_at_s),
                "lastDeliveryAttemptTime": to_iso(published_at_s + 10),
            }
        ]


@pytest.mark.parametrize(
    ("status", "reason", "outcome"),
    [
        (400, "UndeliverableDueToHttpBadRequest", "BadRequest"),
        (401, "UndeliverableDueToHttpUnauthorized", "Unauthorized"),
        (403, "UndeliverableDueToHttpForbidden", "Forbidden"),
        (413, "UndeliverableDueToHttpRequestEntityTooLarge", "RequestEntityTooLarge"),
    ],
)
async def test_event_with_a_permanent_error_is_dead_lettered_at_once(
    azurite: Azurite, container: ContainerClient, status: int, reason: str, outcome: str
):
    async with a_stand(dead_letters=DeadLetters(azurite.connection_string)) as stand:
        await stand.subscribe(deadLetterContainer=container.container_name)
        stand.subscriber.answers.append(status)
        await stand.publish(event())
        await stand.after(300)
        ((letter,),) = (await letters_in(container)).values()
        assert (letter["deadLetterReason"], letter["lastDeliveryOutcome"]) == (reason, outcome)
        assert letter["deliveryAttempts"] == 1


async def test_expired_event_is_dead_lettered_without_another_attempt(azurite: Azurite, container: ContainerClient):
    async with a_stand(dead_letters=DeadLetters(azurite.connection_string)) as stand:
        await stand.subscribe(deadLetterContainer=container.container_name, eventTimeToLiveInMinutes=1)
        stand.subscriber.answers.extend([503] * 9)
        await stand.publish(event())
        await stand.after(30)
        await stand.after(30)
        await stand.after(300)
        ((letter,),) = (await letters_in(container)).values()
        assert (letter["deadLetterReason"], letter["lastDeliveryOutcome"]) == ("TimeToLiveExceeded", "Busy")
        assert letter["deliveryAttempts"] == len(stand.subscriber.notifications) == 2


async def test_event_in_probation_is_dead_lettered_without_any_attempt(azurite: Azurite, container: ContainerClient):
    faults = Faults(probation=Switch(next=1))
    async with a_stand(faults, DeadLetters(azurite.connection_string)) as stand:
        await stand.subscribe(deadLetterContainer=container.container_name)
        await stand.publish(event("1"))
        await stand.publish(event("2"))
        await stand.after(300)
        ((letter,),) = (await letters_in(container)).values()
        assert letter["id"] == "1"
        assert letter["deadLetterReason"] == "UndeliverableDueToProbationCausedByClientError"
        assert letter["deliveryAttempts"] == 0
        assert "lastDeliveryAttemptTime" not in letter
        assert stand.subscriber.ids == ["2"]


async def test_dead_letter_of_a_cloud_event_has_lower_case_properties(azurite: Azurite, container: ContainerClient):
    async with a_stand(dead_letters=DeadLetters(azurite.connection_string)) as stand:
        await stand.subscribe(deadLetterContainer=container.container_name, schema="CloudEventSchemaV1_0")
        stand.subscriber.answers.append(400)
        await stand.publish(cloud_event())
        await stand.after(300)
        ((letter,),) = (await letters_in(container)).values()
        assert letter.keys() - cloud_event().keys() == {
            "deadletterreason",
            "deliveryattempts",
            "lastdeliveryoutcome",
            "publishtime",
            "lastdeliveryattempttime",
        }


async def test_hostile_event_id_does_not_appear_in_a_blob_name(azurite: Azurite, container: ContainerClient):
    hostile = "../../etc/passwd\x00\r\n%2e%2e/" + "x" * 5000
    async with a_stand(dead_letters=DeadLetters(azurite.connection_string)) as stand:
        await stand.subscribe(deadLetterContainer=container.container_name)
        stand.subscriber.answers.append(400)
        await stand.publish(event(hostile))
        await stand.after(300)
        ((name, (letter,)),) = (await letters_in(container)).items()
        assert re.fullmatch(rf"WORKER/2026/1/1/0/{GUID}\.json", name)
        assert letter["id"] == hostile


async def test_dead_letters_of_the_same_time_share_a_blob(azurite: Azurite, container: ContainerClient):
    async with a_stand(dead_letters=DeadLetters(azurite.connection_string)) as stand:
        await stand.subscribe(deadLetterContainer=container.container_name, maxEventsPerBatch=250)
        stand.subscriber.answers.append(400)
        await stand.publish(*(event(str(number)) for number in range(250)))
        await stand.after(300)
        letters = list((await letters_in(container)).values())
        assert sorted(len(blob) for blob in letters) == [50, 100, 100]
        assert {letter["id"] for blob in letters for letter in blob} == {str(number) for number in range(250)}


async def test_dead_letters_are_written_if_the_container_is_back_within_4_hours(azurite: Azurite):
    name = f"letters-{uuid.uuid4().hex}"
    async with (
        a_stand(dead_letters=DeadLetters(azurite.connection_string)) as stand,
        ContainerClient.from_connection_string(azurite.connection_string, name) as container,
    ):
        await stand.subscribe(deadLetterContainer=name)
        stand.subscriber.answers.append(400)
        await stand.publish(event())
        await stand.after(300)
        await stand.after(FOUR_HOURS_S - 60)
        assert stand.stats() == {"published": 1, "pending": 1}
        await container.create_container()
        await stand.after(60)
        assert stand.stats() == {"published": 1, "dead_lettered": 1}


async def test_dead_letters_are_dropped_after_4_hours_without_the_container(azurite: Azurite):
    async with a_stand(dead_letters=DeadLetters(azurite.connection_string)) as stand:
        await stand.subscribe(deadLetterContainer=f"letters-{uuid.uuid4().hex}")
        stand.subscriber.answers.append(400)
        await stand.publish(event())
        await stand.after(300)
        await stand.after(FOUR_HOURS_S)
        assert stand.stats() == {"published": 1, "dropped": 1}


def test_blob_folders_are_the_utc_hour_without_padding():
    assert re.fullmatch(rf"WORKER-ONE/2026/3/4/5/{GUID}\.json", blob_name("worker-one", 1_772_600_400 + 59 * 60))
