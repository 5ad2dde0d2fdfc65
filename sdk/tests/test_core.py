"""What a call to the backbone comes to, without a network: the steps are run with answers from a list."""

from __future__ import annotations

import json
import pickle
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest

from taskbackbone import errors
from taskbackbone._core import Answer, Backbone, Call, NoAnswer, Sleep, refusal, request, task_path

KEY = "a-very-secret-key"


@pytest.fixture
def backbone() -> Backbone:
    return Backbone("http://backbone.example", KEY, owner="ann", gateway_key="gateways-secret")


def problem(status: int, kind: str, headers: dict[str, str] | None = None, **members: Any) -> Answer:
    document = {"type": f"urn:task-backbone:problem:{kind}", "status": status, "title": "No.", **members}
    return Answer(status, headers or {}, json.dumps(document).encode())


def run(call: Call, *answers: Answer | NoAnswer, retry_for_s: float = 120) -> tuple[Answer, list[float], int]:
    """The last answer, the pauses, and the number of calls."""
    steps, left = request(call, retry_for_s=retry_for_s), list(answers)
    pauses: list[float] = []
    calls = 0
    step = next(steps)
    try:
        while True:
            if isinstance(step, Sleep):
                pauses.append(step.seconds)
                step = steps.send(None)
                continue
            calls += 1
            given = left.pop(0) if len(left) > 1 else left[0]
            step = steps.throw(given) if isinstance(given, NoAnswer) else steps.send(given)
    except StopIteration as stop:
        return stop.value, pauses, calls


class TestWhereTheBackboneIs:
    @pytest.mark.parametrize(
        "url", ["http://b.example", "http://b.example/", "http://b.example/api", "http://b.example/api/"]
    )
    def test_the_url_may_end_in_a_slash_or_in_api(self, url: str) -> None:
        assert Backbone(url, KEY).call("GET", "/api/v1/tasks").url == "http://b.example/api/v1/tasks"

    def test_a_gateway_may_have_it_below_a_path(self) -> None:
        assert (
            Backbone("https://gw.example/models/", KEY).call("GET", "/api/x").url == "https://gw.example/models/api/x"
        )

    def test_url_and_key_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKBONE_URL", "http://env.example")
        monkeypatch.setenv("BACKBONE_KEY", "of-the-environment")
        call = Backbone().call("GET", "/api/v1/health")
        assert (call.url, call.headers["x-functions-key"]) == (
            "http://env.example/api/v1/health",
            "of-the-environment",
        )

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "backbone.example",
            "ftp://b.example",
            "http://",
            f"http://b.example?code={KEY}",
            f"http://me:{KEY}@b.example",
        ],
    )
    def test_what_is_no_url_is_refused_and_not_repeated(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BACKBONE_URL", raising=False)
        with pytest.raises(ValueError) as refused:
            Backbone(url, KEY)
        assert KEY not in str(refused.value)

    @pytest.mark.parametrize("key", [KEY + "\n", KEY + "\r\nX-Task-Owner: bob", "schlüssel", " " + KEY])
    def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_repeated(self, key: str) -> None:
        with pytest.raises(ValueError) as refused:
            Backbone("http://b.example", key)
        assert key.strip() not in str(refused.value)

    def test_nothing_that_is_printed_has_a_key(self, backbone: Backbone) -> None:
        call = backbone.call("GET", "/api/v1/tasks")
        printed = f"{backbone!r} {backbone} {call!r} {call}"
        assert "secret" not in printed
        assert call.headers["x-functions-key"] == KEY
        assert (call.headers["X-Task-Owner"], call.headers["X-Gateway-Key"]) == ("ann", "gateways-secret")


class TestPathsOfTasks:
    def test_an_id_is_escaped(self) -> None:
        assert task_path("a/b c?d#e%2f", "/result") == "/api/v1/tasks/a%2Fb%20c%3Fd%23e%252f/result"

    @pytest.mark.parametrize("task_id", ["", ".", "..", "...", "x" * 2000])
    def test_an_id_that_would_lead_elsewhere_is_not_found(self, task_id: str) -> None:
        with pytest.raises(errors.NotFound):
            task_path(task_id)


class TestRepeatedCalls:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_what_may_pass_is_repeated(self, backbone: Backbone, status: int) -> None:
        got, pauses, calls = run(backbone.call("GET", "/x"), Answer(status, {}), Answer(200, {}))
        assert (got.status, got.repeated, len(pauses), calls) == (200, True, 1, 2)

    @pytest.mark.parametrize("status", [200, 202, 204, 301, 304, 400, 401, 404, 409, 413, 422])
    def test_what_stays_is_not_repeated(self, backbone: Backbone, status: int) -> None:
        got, pauses, calls = run(backbone.call("GET", "/x"), Answer(status, {}))
        assert (got.status, got.repeated, pauses, calls) == (status, False, [], 1)

    def test_pauses_are_random_and_grow_up_to_a_limit(self, backbone: Backbone) -> None:
        failures = [NoAnswer("reset")] * 12
        _, pauses, _ = run(backbone.call("GET", "/x"), *failures, Answer(200, {}), retry_for_s=1e6)
        assert all(0 <= pause <= min(20, 0.25 * 2**n) for n, pause in enumerate(pauses))
        assert len(set(pauses)) == 12

    def test_a_pause_is_as_long_as_retry_after_at_least(self, backbone: Backbone) -> None:
        _, [pause], _ = run(backbone.call("GET", "/x"), Answer(503, {"retry-after": "7"}), Answer(200, {}))
        assert 7 <= pause <= 7.25

    def test_retry_after_may_be_a_date(self, backbone: Backbone) -> None:
        date = formatdate(time.time() + 50, usegmt=True)
        _, [pause], _ = run(backbone.call("GET", "/x"), Answer(429, {"retry-after": date}), Answer(200, {}))
        assert 40 < pause < 51

    @pytest.mark.parametrize("text", ["soon", "-3", "", "Wed, 99 Nov 2026 99:00:00 GMT", "٣"])
    def test_a_retry_after_that_is_none_counts_for_nothing(self, text: str) -> None:
        assert Answer(503, {"retry-after": text}).retry_after_s is None

    def test_a_date_that_is_over_means_now(self) -> None:
        assert Answer(503, {"retry-after": formatdate(0, usegmt=True)}).retry_after_s == 0

    def test_a_retry_after_beyond_the_time_left_ends_it_at_once(self, backbone: Backbone) -> None:
        got, pauses, calls = run(backbone.call("GET", "/x"), problem(429, "queue-full", {"retry-after": "600"}))
        assert (got.status, pauses, calls) == (429, [], 1)

    def test_a_repetition_is_logged_without_query_and_key(
        self, backbone: Backbone, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "taskbackbone")
        run(backbone.call("GET", "/x", query="a=private"), NoAnswer("reset"), Answer(503, {}), Answer(200, {}))
        first, second = caplog.messages
        assert first.startswith("GET /x: reset; again in ")
        assert second.startswith("GET /x: status 503; again in ")

    def test_no_answer_until_the_time_is_up_is_unreachable(self, backbone: Backbone) -> None:
        with pytest.raises(errors.Unreachable, match="Connection refused"):
            run(backbone.call("GET", "/x"), NoAnswer("Connection refused"), retry_for_s=0)


class TestALargeBody:
    CLOSED = Answer(500, {"connection": "close"})

    def test_two_empty_500_with_a_closed_connection_say_that_it_is_too_large(self, backbone: Backbone) -> None:
        with pytest.raises(errors.TooLarge, match=r"2,000,000 bytes"):
            run(backbone.call("POST", "/x", body=b"x" * 2_000_000), self.CLOSED)

    def test_the_second_time_may_go_well(self, backbone: Backbone) -> None:
        got, _, calls = run(backbone.call("POST", "/x", body=b"x" * 2_000_000), self.CLOSED, Answer(202, {}))
        assert (got.status, calls) == (202, 2)

    @pytest.mark.parametrize(
        "other",
        [
            Answer(500, {}),
            problem(500, "internal-error", {"connection": "close"}),
            Answer(503, {"connection": "close"}),
        ],
    )
    def test_any_other_500_is_repeated_as_ever(self, backbone: Backbone, other: Answer) -> None:
        call = backbone.call("POST", "/x", body=b"x" * 2_000_000)
        got, _, calls = run(call, *[other] * 5, Answer(202, {}))
        assert (got.status, calls) == (202, 6)

    def test_so_is_that_of_a_small_body(self, backbone: Backbone) -> None:
        got, _, calls = run(backbone.call("POST", "/x", body=b"x"), *[self.CLOSED] * 3, Answer(202, {}))
        assert (got.status, calls) == (202, 4)


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "kind", "error"),
        [
            (400, "invalid-request", errors.InvalidRequest),
            (401, "not-authenticated", errors.NotAllowed),
            (403, "not-the-gateway", errors.NotAllowed),
            (404, "unknown-endpoint", errors.NotFound),
            (409, "conflict", errors.Conflict),
            (411, "length-required", errors.InvalidRequest),
            (413, "too-large", errors.TooLarge),
            (422, "idempotency-key-reused", errors.KeyReused),
            (429, "queue-full", errors.QueueFull),
            (503, "queue-draining", errors.QueueFull),
            (503, "overloaded", errors.Unreachable),
            (500, "internal-error", errors.Unreachable),
        ],
    )
    def test_each_problem_has_its_error(self, status: int, kind: str, error: type[errors.BackboneError]) -> None:
        refused = refusal(problem(status, kind, detail="Because."))
        assert type(refused) is error
        assert str(refused) == "Because."
        if isinstance(refused, errors.Refused):
            assert (refused.status, refused.kind, refused.problem["detail"]) == (status, kind, "Because.")

    def test_an_invalid_request_tells_what_is_invalid(self) -> None:
        told = [{"pointer": "wait", "detail": "a number of seconds is expected"}]
        refused = refusal(problem(400, "invalid-request", errors=told))
        assert isinstance(refused, errors.InvalidRequest)
        assert refused.errors == told

    def test_a_conflict_has_the_task_as_it_is(self) -> None:
        refused = refusal(problem(409, "conflict", Task={"BackendStatus": "cancelled"}))
        assert isinstance(refused, errors.Conflict)
        assert refused.task == {"BackendStatus": "cancelled"}

    @pytest.mark.parametrize("body", [b"", b"<html><h1>502</h1></html>", b"\xff\xfe", b"[1, 2]", b'"text"', b"{"])
    @pytest.mark.parametrize("status", [302, 400, 401, 404, 418, 429, 500, 502])
    def test_an_answer_of_anything_else_than_the_backbone_is_told_in_words(self, status: int, body: bytes) -> None:
        refused = refusal(Answer(status, {"content-type": "text/html"}, body))
        assert str(status) in str(refused)
        assert "<" not in str(refused)

    @pytest.mark.parametrize("target", ["http://[::", f"https://elsewhere.example/api?code={KEY}"])
    def test_a_redirect_is_told_without_its_target(self, target: str) -> None:
        refused = refusal(Answer(307, {"location": target}))
        assert "redirects (307)" in str(refused)
        assert target not in str(refused)


class TestErrorsInAnotherProcess:
    def test_a_refusal_keeps_its_problem(self) -> None:
        same = pickle.loads(pickle.dumps(refusal(problem(409, "conflict", Task={"Attempt": 2}))))
        assert isinstance(same, errors.Conflict)
        assert (same.status, same.task) == (409, {"Attempt": 2})

    def test_a_task_that_failed_keeps_its_text(self) -> None:
        same = pickle.loads(pickle.dumps(errors.TaskFailed("failed - no bands", threading.Lock())))
        assert (type(same), str(same), same.task) == (errors.TaskFailed, "failed - no bands", None)

    def test_what_a_function_raises_stays_what_it_is(self) -> None:
        same = pickle.loads(pickle.dumps(errors.TryAgain(30, "later")))
        assert (same.after_s, same.text) == (30, "later")
