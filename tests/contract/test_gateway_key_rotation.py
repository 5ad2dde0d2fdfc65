"""The gateway's key is changed as docs/operations.md says, and no caller is refused meanwhile (contract B11.9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest

from local.redis_server import RedisCluster, RedisServer
from local.stack import ROOT
from shared.settings import Settings
from tests.in_process import InProcessApp

OLD, NEW = "the-old-key-of-the-gateway", "the-new-key-of-the-gateway"
KEYS = {"old": OLD, "new": NEW, "": ""}

Ask = Callable[[str, str, str], int]


@pytest.fixture
def ask(redis_server: RedisServer | RedisCluster) -> Iterator[Ask]:
    """Asks an instance with these two settings for ada's tasks, by a key, and returns the status."""
    instances: dict[tuple[str, str], InProcessApp] = {}

    def instance(current: str, previous: str) -> InProcessApp:
        environ = {
            "REDIS_CONNECTION_STRING": redis_server.url,
            "EVENT_GRID_TOPIC_URI": "http://127.0.0.1:9/api/events",
            "EVENT_GRID_KEY": "the-key-of-the-topic",
            "BACKENDS": json.dumps({"/v1/test": "http://127.0.0.1:9"}),
            "ALLOW_LOOPBACK_BACKENDS": "true",
            "GATEWAY_KEY": current,
            "GATEWAY_KEY_PREVIOUS": previous,
        }
        return InProcessApp(Settings.from_env(environ))

    with asyncio.Runner() as runner:

        def ask(current: str, previous: str, sent: str) -> int:
            pair = current, previous
            if pair not in instances:
                instances[pair] = instance(*pair)
            answer = runner.run(
                instances[pair].call("ListTasks", "GET", headers={"X-Task-Owner": "ada", "X-Gateway-Key": sent})
            )
            return answer.status_code

        yield ask

        async def close() -> None:
            for app in instances.values():
                await app.services.current().aclose()

        runner.run(close())


def steps() -> list[tuple[str, list[str], list[str]]]:
    """The rows of the page: what each setting may have there, and what the gateway sends."""
    section = (ROOT / "docs" / "operations.md").read_text().partition("## Rotate the gateway's key\n")[2]
    rows = [line.strip("| ").split("|") for line in section.partition("\n## ")[0].splitlines() if line[:1] == "|"][2:]
    return [
        (cells[1].strip(), [previous.strip() for previous in cells[2].split(" or ")], [cells[3].strip()])
        for cells in rows
    ]


@pytest.mark.contract("B11.9")
def test_no_caller_is_refused_while_the_key_is_changed_as_the_page_says(ask: Ask) -> None:
    rows = steps()
    assert [(current, sent) for current, _, [sent] in rows] == [
        ("old", "old"),
        ("old", "old"),
        ("old", "new"),
        ("new", "new"),
        ("new", "new"),
    ]
    before = rows[0]
    for row in rows:
        # In the course of a step, instances of the step before are there too, and the gateway may send either key.
        for current, choices, _ in (before, row):
            for previous in choices:
                for _, _, [sent] in (before, row):
                    assert ask(KEYS[current], KEYS[previous], KEYS[sent]) == 200, (before, row)
        before = row


@pytest.mark.contract("B11.9")
def test_the_previous_key_is_believed_while_the_app_has_it_and_not_before_or_after(ask: Ask) -> None:
    assert [ask(NEW, OLD, sent) for sent in (OLD, NEW)] == [200, 200]
    assert ask(OLD, "", NEW) == 403, "before"
    assert ask(NEW, "", OLD) == 403, "after"


@pytest.mark.contract("B11.6")
@pytest.mark.parametrize("sent", ["", OLD[:-1], OLD + NEW, f"{OLD},{NEW}", f"{OLD} {NEW}"])
def test_two_keys_are_no_reason_to_believe_a_third(ask: Ask, sent: str) -> None:
    assert ask(NEW, OLD, sent) == 403
