"""The app's spans use the names of OpenTelemetry's semantic conventions, and never have the query of a URL."""

from __future__ import annotations

from importlib import import_module

import pytest

from shared import conventions

STABLE = ("http", "url", "server", "error")
NAMES = [name for name, value in vars(conventions).items() if name.isupper() and "." in str(value)]


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_one_of_the_conventions(name: str) -> None:
    group = name.partition("_")[0].lower()
    place = "opentelemetry.semconv.attributes" if group in STABLE else "opentelemetry.semconv._incubating.attributes"
    assert getattr(import_module(f"{place}.{group}_attributes"), name) == getattr(conventions, name)


def test_the_app_uses_names_of_all_groups() -> None:
    assert {name.partition("_")[0] for name in NAMES} == {"HTTP", "URL", "SERVER", "ERROR", "MESSAGING"}
    from opentelemetry.semconv._incubating.attributes import messaging_attributes

    systems = {each.value for each in messaging_attributes.MessagingSystemValues}
    assert conventions.EVENT_GRID in systems
    types = {each.value for each in messaging_attributes.MessagingOperationTypeValues}
    told = conventions.sent("t.1", "topic"), conventions.processed("t.1", "/v1/a", None)
    assert {each[conventions.MESSAGING_OPERATION_TYPE] for each in told} <= types


def test_a_request_to_the_app_is_described_without_its_query() -> None:
    url = "https://app.example.org:8443/api/v1/tasks/t1?code=the-key"
    assert conventions.server("GET", "/api/v1/tasks/{id}", url) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/tasks/{id}",
        "url.scheme": "https",
        "url.path": "/api/v1/tasks/t1",
        "server.address": "app.example.org",
        "server.port": 8443,
    }


@pytest.mark.parametrize("url", ["http://[::/api/v1/tasks", "http://host:port/api/v1/tasks", "http://host:99999/"])
def test_a_request_with_an_impossible_host_is_described_too(url: str) -> None:
    assert conventions.server("GET", "/api/v1/tasks", url) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/tasks",
    }


def test_a_call_of_the_app_is_described_without_its_query() -> None:
    assert conventions.client("POST", "https://models.example.org/v1/a?key=the-callers") == {
        "http.request.method": "POST",
        "url.full": "https://models.example.org/v1/a",
        "server.address": "models.example.org",
    }


def test_a_dispatch_names_the_topic_of_its_event_or_the_queue_that_gave_it_a_slot() -> None:
    by_event = conventions.processed("t.1", "/v1/a", "topic.example.org")
    by_slot = conventions.processed("t.1", "/v1/a", None)
    shown = [
        (each["messaging.system"], each["messaging.destination.name"], each["messaging.message.id"])
        for each in (by_event, by_slot)
    ]
    assert shown == [("eventgrid", "topic.example.org", "t.1"), ("task_backbone", "/v1/a", "t.1")]
