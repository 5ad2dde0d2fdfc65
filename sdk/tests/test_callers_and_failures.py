"""What callers see of a backbone, a platform or a network that fails, with both faces of the client."""

from __future__ import annotations

import gzip
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from both_faces import blocking_client
from conftest import Backbone
from model import Models
from scripted_server import Deed, Request, ScriptedServer, answer, raw, reset

from taskbackbone import TaskClient, errors
from taskbackbone._calls import Caller, Deadline, TaskView
from taskbackbone._core import Answer, Call, Sleep
from taskbackbone._core import Backbone as Address

PATIENCE_S = 60.0
KEY = "a-very-secret-key"
WAITS = {"TaskId": "t", "BackendStatus": "created", "Status": "created"}
RUNS = {"TaskId": "t", "BackendStatus": "running", "Status": "running"}
ENDED = {"TaskId": "t", "BackendStatus": "completed", "Status": "completed", "ResultSize": 9}
HTML = "<html><head><title>Sign in</title></head><body>please</body></html>"


@pytest.fixture(params=[TaskClient, blocking_client], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes a client of a server, which is closed afterwards."""
    clients: list[Any] = []

    def connect(url: str, key: str = KEY, **options: Any) -> Any:
        clients.append(request.param(url, key, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def cut(status: int, body: bytes, at: int, headers: dict[str, str] | None = None) -> Deed:
    """An answer that breaks off after its byte *at*."""
    return answer(status, body[:at], headers, announced=len(body))


ENDS = answer(500, b"", close=True)
"""What the platform does to a body over its limit."""


class TestSubmit:
    def test_an_answer_that_breaks_off_is_asked_for_again_with_the_same_key(self, connect: Any) -> None:
        with ScriptedServer([cut(202, b'{"TaskId": "t"}', 5), reset, answer(202, WAITS)]) as server:
            assert connect(server.url).submit("/v1/any", b"the body").id == "t"
        keys = {request.headers["idempotency-key"] for request in server.requests}
        assert (len(server.requests), len(keys), len(keys.pop())) == (3, 1, 32)
        assert {request.body for request in server.requests} == {b"the body"}

    def test_each_submit_has_a_key_of_its_own(self, connect: Any) -> None:
        with ScriptedServer([answer(202, WAITS)]) as server:
            for _ in range(3):
                connect(server.url).submit("/v1/any")
        assert len({request.headers["idempotency-key"] for request in server.requests}) == 3

    def test_it_waits_for_room_as_it_is_told_to(self, connect: Any) -> None:
        refusals = [answer(429, b"", {"Retry-After": "1"}), answer(503)]
        with ScriptedServer([*refusals, answer(202, WAITS)]) as server:
            assert connect(server.url).submit("/v1/any").id == "t"

    def test_a_queue_that_stays_full_is_an_error(self, connect: Any) -> None:
        full = {"type": "urn:task-backbone:problem:queue-full", "detail": "As many tasks wait as may."}
        with ScriptedServer([answer(429, full, {"Retry-After": "500"})]) as server:
            with pytest.raises(errors.QueueFull, match="As many tasks wait as may"):
                connect(server.url).submit("/v1/any")
            assert len(server.requests) == 1

    def test_nobody_at_the_url_is_unreachable(self, connect: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(errors.Unreachable) as failed:
            connect(f"http://127.0.0.1:{port}", retry_for_s=0.5).submit("/v1/any")
        assert KEY not in str(failed.value)

    @pytest.mark.parametrize("status", [200, 202])
    def test_a_page_of_something_else_is_not_the_backbone(self, connect: Any, status: int) -> None:
        page = answer(status, HTML, {"Content-Type": "text/html"})
        with ScriptedServer([page]) as server, pytest.raises(errors.Unreachable, match="not the backbone"):
            connect(server.url).submit("/v1/any")

    @pytest.mark.parametrize("status", [400, 404])
    @pytest.mark.parametrize("body", ["", HTML, "Bad Request", "[]"])
    def test_a_refusal_in_other_words_is_one(self, connect: Any, status: int, body: str) -> None:
        with ScriptedServer([answer(status, body)]) as server, pytest.raises(errors.Refused) as refused:
            connect(server.url).submit("/v1/any")
        assert refused.value.status == status
        assert "<" not in str(refused.value)

    def test_a_redirect_is_never_followed_with_the_key(self, connect: Any) -> None:
        with ScriptedServer([answer(202, WAITS)]) as other:
            moved = answer(307, b"", {"Location": other.url + "/api"})
            with ScriptedServer([moved]) as server, pytest.raises(errors.Refused, match="redirects"):
                connect(server.url).submit("/v1/any")
            assert other.requests == []


class TestALargeBody:
    LARGE = bytes(1024 * 1024 + 1)

    def test_the_limit_is_read_once_and_only_for_large_ones(self, connect: Any) -> None:
        def deed(connection: socket.socket, request: Request) -> bool:
            is_health = request.target == "/api/v1/health"
            return (answer(200, {"MaxBodyBytes": 2_000_000}) if is_health else answer(202, WAITS))(
                connection, request
            )

        with ScriptedServer([deed]) as server:
            client = connect(server.url)
            for size in (10, 1024 * 1024, 1_100_000, 2_000_000):
                client.submit("/v1/any", bytes(size))
            with pytest.raises(errors.TooLarge, match="2,000,001 bytes; the backbone takes 2,000,000"):
                client.submit("/v1/any", bytes(2_000_001))
        targets = [request.target.rpartition("/")[2] for request in server.requests]
        assert targets == ["any", "any", "health", "any", "any"]

    def test_a_limit_that_was_lowered_is_read_again(self, connect: Any) -> None:
        deeds = [
            *(answer(200, {"MaxBodyBytes": 9_000_000}), answer(413, {"detail": "Too large."})),
            *(answer(200, {"MaxBodyBytes": 1_000_000}),),
        ]
        with ScriptedServer(deeds) as server:
            client = connect(server.url)
            with pytest.raises(errors.TooLarge, match="Too large"):
                client.submit("/v1/any", self.LARGE)
            with pytest.raises(errors.TooLarge, match="takes 1,000,000"):
                client.submit("/v1/any", self.LARGE)

    def test_a_health_that_does_not_tell_the_limit_holds_nothing_up(self, connect: Any) -> None:
        with ScriptedServer([answer(404, HTML), answer(202, WAITS)]) as server:
            assert connect(server.url).submit("/v1/any", self.LARGE).id == "t"

    def test_an_empty_500_and_the_end_of_the_connection_twice_mean_too_large(self, connect: Any) -> None:
        with ScriptedServer([answer(404), ENDS]) as server, pytest.raises(errors.TooLarge, match="none so large"):
            connect(server.url).submit("/v1/any", self.LARGE)
        assert [request.method for request in server.requests] == ["GET", "POST", "POST"]

    def test_once_they_may_mean_anything(self, connect: Any) -> None:
        with ScriptedServer([answer(404), ENDS, answer(202, WAITS)]) as server:
            assert connect(server.url).submit("/v1/any", self.LARGE).id == "t"


class TestWait:
    def test_it_outlasts_a_backbone_that_is_away(self, connect: Any) -> None:
        away = [reset, answer(502, HTML), raw(b""), answer(503, b"", {"Retry-After": "1"})]
        with ScriptedServer([answer(202, WAITS), *away, answer(200, ENDED)]) as server:
            assert connect(server.url).submit("/v1/any").wait(PATIENCE_S).state == "completed"

    def test_its_own_time_ends_it_even_then(self, connect: Any) -> None:
        with ScriptedServer([answer(202, WAITS), answer(503)]) as server:
            task = connect(server.url).submit("/v1/any")
            with pytest.raises(errors.WaitTimeout):
                task.wait(0.5)

    def test_and_a_backbone_that_stays_away_is_unreachable(self, connect: Any) -> None:
        with ScriptedServer([answer(202, WAITS), answer(503)]) as server:
            task = connect(server.url, retry_for_s=0.3).submit("/v1/any")
            with pytest.raises(errors.Unreachable):
                task.wait()

    def test_a_task_that_is_removed_meanwhile_is_not_found(self, connect: Any) -> None:
        gone = {"type": "urn:task-backbone:problem:no-such-task", "detail": "There is no such task."}
        with ScriptedServer([answer(202, WAITS), answer(404, gone)]) as server, pytest.raises(errors.NotFound):
            connect(server.url).submit("/v1/any").wait()

    def test_a_task_that_changes_all_the_time_is_not_asked_for_all_the_time(self, connect: Any) -> None:
        changes = [answer(200, {**RUNS, "Progress": number / 10}, {"ETag": f'"{number}"'}) for number in range(4)]
        seen: list[float] = []
        with ScriptedServer([answer(202, WAITS), *changes, answer(200, ENDED)]) as server:
            connect(server.url).submit("/v1/any").wait(on_change=lambda task: seen.append(task.progress))
        assert seen == [0.0, 0.1, 0.2, 0.3, None]
        asked = [request.headers.get("if-none-match") for request in server.requests[1:]]
        assert asked == ['"none"', '"0"', '"1"', '"2"', '"3"']


class TestALook:
    """One step of a wait, without a network."""

    def steps(
        self,
        document: dict[str, Any],
        *answers: Answer,
        retry_after_s: float | None = None,
        timeout_s: float | None = None,
        closely: bool = False,
    ) -> list[Call | Sleep]:
        task = TaskView(Caller(Address("http://b.example", KEY)), document)
        task._etag, task._retry_after_s = '"1"', retry_after_s
        steps = task._look(Deadline(timeout_s), closely=closely)
        made: list[Call | Sleep] = []
        left = list(answers)
        given: Answer | None = None
        try:
            while True:
                made.append(steps.send(given))
                given = left.pop(0) if isinstance(made[-1], Call) else None
        except StopIteration:
            return made

    CHANGED = Answer(200, {"etag": '"2"'}, b'{"TaskId": "t", "BackendStatus": "completed"}')
    UNCHANGED = Answer(304, {"retry-after": "7"})

    def test_a_change_is_waited_for_at_the_backbone_with_the_last_etag(self) -> None:
        [call] = self.steps(RUNS, self.CHANGED, retry_after_s=3)
        assert isinstance(call, Call)
        assert (call.url, call.headers["If-None-Match"]) == ("http://b.example/api/v1/tasks/t?wait=30", '"1"')
        assert call.timeout_s == 60

    def test_a_task_that_waits_for_longer_than_that_is_slept_for(self) -> None:
        sleep, call = self.steps(WAITS, self.CHANGED, retry_after_s=200)
        assert isinstance(call, Call)
        assert sleep == Sleep(200)
        assert call.url.endswith("?wait=0")

    def test_but_not_for_hours_since_estimates_err(self) -> None:
        assert self.steps(WAITS, self.CHANGED, retry_after_s=20_000)[0] == Sleep(600)

    def test_nor_beyond_the_time_of_the_wait(self) -> None:
        sleep, call = self.steps(WAITS, self.CHANGED, retry_after_s=200, timeout_s=50)
        assert isinstance(sleep, Sleep)
        assert isinstance(call, Call)
        assert 45 < sleep.seconds <= 50

    def test_a_wait_at_the_backbone_ends_with_the_time_too(self) -> None:
        [call] = self.steps(RUNS, self.CHANGED, timeout_s=12)
        assert isinstance(call, Call)
        assert 10 < float(call.url.rpartition("=")[2]) <= 12

    def test_a_wait_that_had_to_make_room_is_followed_by_a_pause(self) -> None:
        call, pause = self.steps(RUNS, self.UNCHANGED, retry_after_s=3)
        assert isinstance(call, Call)
        assert pause == Sleep(7)

    def test_positions_are_looked_for_now_and_then(self) -> None:
        [call, _] = self.steps(
            {**WAITS, "QueuePosition": 4},
            Answer(200, {"etag": '"1"'}, b'{"TaskId": "t", "BackendStatus": "created", "QueuePosition": 3}'),
            retry_after_s=300,
            closely=True,
        )
        assert isinstance(call, Call)
        assert call.url.endswith("?wait=5")
        assert "If-None-Match" not in call.headers


class TestResults:
    CONTENT = gzip.compress(os.urandom(1_000_000))

    def served(self, *deeds: Deed) -> ScriptedServer:
        return ScriptedServer([answer(200, ENDED), *deeds])

    def broken(self, headers: dict[str, str], broken: int = 2) -> Deed:
        """The result from the byte that is asked for; the first answers break off. A client is given more than fits
        into its buffer, so that it has read some when that happens."""
        left = [broken]

        def deed(connection: socket.socket, request: Request) -> bool:
            start = int(request.headers.get("range", "bytes=0-")[6:-1])
            left[0] -= 1
            rest = self.CONTENT[start:]
            status = 206 if start else 200
            return (cut(status, rest, 400_000, headers) if left[0] >= 0 else answer(status, rest, headers))(
                connection, request
            )

        return deed

    def test_a_download_that_breaks_off_goes_on_where_it_was(self, connect: Any) -> None:
        with self.served(self.broken({"ETag": '"r1"'})) as server:
            assert connect(server.url).task("t").result().bytes() == self.CONTENT
        ranges = [request.headers.get("range", "") for request in server.requests[1:]]
        starts = [int(text[6:-1]) for text in ranges[1:]]
        assert ranges[0] == ""
        assert 0 < starts[0] < starts[1]
        assert [request.headers.get("if-range") for request in server.requests[1:]] == [None, '"r1"', '"r1"']

    def test_so_does_one_that_is_encoded(self, connect: Any) -> None:
        with self.served(self.broken({"ETag": '"r1"', "Content-Encoding": "gzip"})) as server:
            assert connect(server.url).task("t").result().bytes() == gzip.decompress(self.CONTENT)

    def test_a_result_that_has_changed_meanwhile_is_not_pieced_together(self, connect: Any) -> None:
        deeds = self.broken({"ETag": '"r1"'}, 1), answer(200, b"other")
        with self.served(*deeds) as server, pytest.raises(errors.Conflict, match="has changed"):
            connect(server.url).task("t").result().bytes()

    def test_nor_one_that_has_no_etag(self, connect: Any) -> None:
        with self.served(self.broken({}, 1)) as server, pytest.raises(errors.Conflict):
            connect(server.url).task("t").result().bytes()
        assert "range" not in server.requests[-1].headers

    def test_one_that_never_comes_is_given_up(self, connect: Any) -> None:
        nothing = cut(200, b"result", 0, {"ETag": '"r1"'})
        with self.served(nothing) as server, pytest.raises(errors.Unreachable, match="again and again"):
            connect(server.url).task("t").result().bytes()
        assert len(server.requests) == 1 + 6

    def test_whoever_stops_reading_gives_the_connection_back(self, connect: Any) -> None:
        gone = threading.Event()

        def endless(connection: socket.socket, request: Request) -> bool:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            try:
                while True:
                    connection.sendall(bytes(65536))
            except OSError:
                gone.set()
                return False

        with self.served(endless) as server:
            client = connect(server.url)
            parts = iter(client.task("t").result())
            next(parts)
            del parts
            client.close()
            assert gone.wait(PATIENCE_S)


class TestReplay:
    def test_a_replay_whose_answer_was_lost_counts(self, connect: Any) -> None:
        failed = {**ENDED, "BackendStatus": "failed"}
        conflict = {"type": "urn:task-backbone:problem:conflict", "Task": RUNS}
        with ScriptedServer([answer(200, failed), reset, answer(409, conflict), answer(200, RUNS)]) as server:
            assert connect(server.url).task("t").replay().state == "running"

    def test_a_conflict_of_the_first_answer_is_one(self, connect: Any) -> None:
        conflict = {"type": "urn:task-backbone:problem:conflict", "Task": RUNS}
        deeds = [answer(200, RUNS), answer(409, conflict)]
        with ScriptedServer(deeds) as server, pytest.raises(errors.Conflict):
            connect(server.url).task("t").replay()


class TestSecrecy:
    def test_nothing_that_is_raised_logged_or_printed_has_a_key(
        self, connect: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level("DEBUG")
        said: list[str] = []
        for deed in (reset, answer(401), answer(400, HTML), answer(302, b"", {"Location": "http://x"}), raw(b"?")):
            with ScriptedServer([deed]) as server:
                client = connect(server.url, owner="ann", gateway_key="the-gateways-secret", retry_for_s=0)
                with pytest.raises(errors.BackboneError) as failed:
                    client.submit("/v1/any", b"")
                error: BaseException | None = failed.value
                while error is not None:
                    said += [str(error), repr(error)]
                    error = error.__cause__ or error.__context__
                said.append(repr(client))
        printed = "".join(capfd.readouterr())
        assert "secret" not in " ".join([*said, caplog.text, printed])


@pytest.mark.parametrize("face", [TaskClient, blocking_client], ids=["sync", "async"])
def test_a_wait_outlasts_the_app_that_is_killed_and_comes_back(
    face: Any, backbone: Backbone, report: Callable[..., None]
) -> None:
    client = face(backbone.url, backbone.key)
    with Models(backbone.place()) as models, models.model() as model:
        task = client.submit(model.path, b"")
        model.dispatches.get(timeout=PATIENCE_S)

        def interrupt() -> None:
            backbone.kill()
            backbone.start()
            report(task.id, BackendStatus="completed", Status="completed - late")

        interrupted = threading.Thread(target=interrupt)
        interrupted.start()
        assert task.wait(PATIENCE_S * 3).status == "completed - late"
        interrupted.join(PATIENCE_S)
    client.close()
