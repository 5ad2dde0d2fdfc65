"""The names of OpenTelemetry's semantic conventions that the app's spans use beside its own ``task.*``.

They are written out here because those for messaging lie in a private module of the package
``opentelemetry-semantic-conventions``, and the app loads none of it at its start.
``tests/telemetry/test_conventions.py`` holds them to that package.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, urlsplit

Attributes = Mapping[str, str | int]

ERROR_TYPE: Final = "error.type"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_SYSTEM: Final = "messaging.system"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
URL_FULL: Final = "url.full"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"

EVENT_GRID: Final = "eventgrid"
"""The well-known name of Azure Event Grid, for a message that came or goes by it."""
OWN_QUEUE: Final = "task_backbone"
"""For a task that was dispatched from its queue, without an event."""


def server(method: str, route: str, url: str) -> Attributes:
    """Of a request to the app. The query is left out: it may have a key."""
    of_url: dict[str, str | int] = {}
    with suppress(ValueError):  # what some clients send as their host is none
        parts = urlsplit(url)
        of_url = {URL_SCHEME: parts.scheme, URL_PATH: parts.path, **_server_of(parts)}
    return {HTTP_REQUEST_METHOD: method, HTTP_ROUTE: route, **of_url}


def client(method: str, url: str) -> Attributes:
    """Of a request of the app. The query is left out: it is the caller's."""
    return {HTTP_REQUEST_METHOD: method, URL_FULL: url.partition("?")[0], **_server_of(urlsplit(url))}


def sent(message_id: str, topic: str) -> Attributes:
    """Of a message that the app publishes to Event Grid.

    Args:
        topic: the name of the topic's host.
    """
    return {
        MESSAGING_SYSTEM: EVENT_GRID,
        MESSAGING_OPERATION_NAME: "publish",
        MESSAGING_OPERATION_TYPE: "send",
        MESSAGING_DESTINATION_NAME: topic,
        MESSAGING_MESSAGE_ID: message_id,
    }


def processed(message_id: str, queue: str, topic: str | None) -> Attributes:
    """Of an attempt that the app dispatches.

    Args:
        message_id: of the attempt's event, and of its entry in the queue.
        topic: the name of the host of the topic whose event was delivered. None: the queue gave it a slot.
    """
    return {
        MESSAGING_SYSTEM: OWN_QUEUE if topic is None else EVENT_GRID,
        MESSAGING_OPERATION_NAME: "dispatch",
        MESSAGING_OPERATION_TYPE: "process",
        MESSAGING_DESTINATION_NAME: queue if topic is None else topic,
        MESSAGING_MESSAGE_ID: message_id,
    }


def _server_of(url: SplitResult) -> Attributes:
    """
    Raises:
        ValueError: the port is none.
    """
    found: dict[str, str | int] = {}
    if url.hostname:
        found[SERVER_ADDRESS] = url.hostname
    if url.port is not None:
        found[SERVER_PORT] = url.port
    return found
