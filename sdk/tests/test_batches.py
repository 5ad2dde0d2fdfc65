"""Batches, from the items to the files of their results: both faces of the client and the real app."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from both_faces import blocking_client
from conftest import Backbone
from model import Dispatch, Model, Models, Reply, done

from taskbackbone import TaskClient, errors

PATIENCE_S = 60.0


@pytest.fixture(params=[TaskClient, blocking_client], ids=["sync", "async"])
def client(request: pytest.FixtureRequest, backbone: Backbone) -> Iterator[Any]:
    client = request.param(backbone.url, backbone.key)
    yield client
    client.close()


@pytest.fixture(scope="module")
def models(backbone: Backbone) -> Iterator[Models]:
    with Models(backbone.place()) as models:
        yield models


@pytest.fixture
def model(models: Models) -> Iterator[Model]:
    """It answers with the body in capitals, and refuses what has the word bad in it."""
    with models.model() as model:
        model.reply = loud
        yield model


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name in ("c.txt", "a.txt", "b.txt", ".hidden", "below/d.txt"):
        (folder / name).write_text(name)
    return folder


def loud(dispatch: Dispatch) -> Reply:
    if b"bad" in dispatch.body:
        return Reply(422, {"Content-Type": "text/plain"}, b"too many bands")
    return done(dispatch.body.upper(), dispatch.headers["content-type"])


def name() -> str:
    return os.urandom(6).hex()


def dispatched(model: Model) -> list[bytes]:
    return sorted(dispatch.body for dispatch in list(model.dispatches.queue))


def eventually(condition: Callable[[], Any]) -> Any:
    began_s = time.monotonic()
    while not (value := condition()):
        assert time.monotonic() - began_s < PATIENCE_S
        time.sleep(0.02)
    return value


class TestItems:
    def test_each_file_of_a_folder_is_a_task_of_one_batch(self, client: Any, model: Model, photos: Path) -> None:
        batch = client.map(model.path, photos, name="the photos")
        assert batch.wait(PATIENCE_S).state == "completed"
        assert (batch.total, batch.completed, batch.failed, batch.cancelled, batch.unfinished) == (3, 3, 0, 0, 0)
        assert (batch.name, batch.progress, batch.is_finished) == ("the photos", 1.0, True)
        results = [(name, result.text(), result.content_type) for name, result in batch.results()]
        assert results == [(f"{one}.txt", f"{one.upper()}.TXT", "text/plain") for one in "abc"]
        assert "3 of 3 ended" in repr(batch)

    def test_items_may_be_whatever_can_be_submitted(self, client: Any, model: Model, photos: Path) -> None:
        with (photos / "a.txt").open("rb") as opened:
            items = [b"bytes", "text", {"a": 1}, photos / "b.txt", opened, iter([b"in ", b"pieces"])]
            batch = client.map(model.path, items)
        results = {name: result.bytes() for name, result in batch.results(PATIENCE_S)}
        assert results == {
            "000001": b"BYTES",
            "000002": b"TEXT",
            "000003": b'{"A": 1}',
            "b.txt": b"B.TXT",
            "a.txt": b"A.TXT",
            "000006": b"IN PIECES",
        }

    def test_the_keys_of_a_mapping_are_names(self, client: Any, model: Model) -> None:
        batch = client.map(model.path, {"first": b"1", "2/../x": b"2", 3: b"3"})
        assert {name for name, _ in batch.results(PATIENCE_S)} == {"first", "2_.._x", "3"}

    def test_no_two_have_the_same_name(self, client: Any, model: Model, photos: Path) -> None:
        (photos / "below" / "A.TXT").write_text("another")
        files = [photos / "a.txt", photos / "below" / "A.TXT", photos / "a.txt"]
        batch = client.map(model.path, files).wait(PATIENCE_S)
        assert [name for name, _ in batch.results()] == ["a.txt", "A.TXT-2", "a.txt-3"]

    def test_equal_items_are_tasks_of_their_own(self, client: Any, model: Model) -> None:
        batch = client.map(model.path, [b"x"] * 5, name=name())
        assert (batch.wait(PATIENCE_S).total, len(dispatched(model))) == (5, 5)

    def test_all_go_through_the_pipeline_with_query_priority_and_type(self, client: Any, models: Models) -> None:
        with models.model() as first, models.model() as second:
            first.reply, second.reply = loud, lambda dispatch: done(dispatch.body + b"!", "text/plain")
            batch = client.map(
                first.path,
                ["a", "b"],
                pipeline=[second.path + "?x=1"],
                query={"y": 2},
                priority=9,
                content_type="image/x-any",
            )
            assert sorted(result.text() for _, result in batch.results(PATIENCE_S)) == ["A!", "B!"]
            dispatch = first.dispatches.get(timeout=PATIENCE_S)
            assert (dispatch.path, dispatch.headers["content-type"]) == (first.path + "?y=2", "image/x-any")
            assert second.dispatches.get(timeout=PATIENCE_S).path == second.path + "?x=1"
            assert {task.document["Priority"] for task in batch.tasks()} == {9}

    def test_none_makes_a_batch_that_is_completed(self, client: Any, model: Model) -> None:
        batch = client.map(model.path, [])
        assert (batch.state, batch.total, batch.progress, list(batch.results())) == ("completed", 0, None, [])

    def test_they_are_read_as_they_are_submitted(self, client: Any, model: Model) -> None:
        read: list[int] = []

        def items() -> Iterator[bytes]:
            for number in range(20):
                read.append(number)
                yield b"%d" % number
                eventually(lambda: len(model.dispatches.queue) > len(read) - 10)

        batch = client.map(model.path, items(), concurrency=2)
        assert batch.wait(PATIENCE_S).completed == len(read) == 20

    @pytest.mark.parametrize("items", ["a text", b"bytes", Path("/no/such/folder"), 7])
    def test_what_has_no_items_is_refused(self, client: Any, path: str, items: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            client.map(path, items)

    def test_an_error_names_the_item(self, client: Any, model: Model, photos: Path) -> None:
        with pytest.raises(TypeError, match="000002: A body cannot be made of object"):
            client.map(model.path, [b"x", object()])
        with pytest.raises(ValueError, match=r"below: .* is no file"):
            client.map(model.path, [photos / "a.txt", photos / "below"])
        with pytest.raises(errors.NotFound, match="/v9/nothing"):
            client.map("/v9/nothing", [b"x"])


class TestTheSameNameAgain:
    def test_nothing_runs_twice(self, client: Any, model: Model, photos: Path) -> None:
        own = name()
        first = client.map(model.path, photos, name=own).wait(PATIENCE_S)
        again = client.map(model.path, photos, name=own).wait(PATIENCE_S)
        assert (again.id, again.total) == (first.id, 3)
        assert dispatched(model) == [b"a.txt", b"b.txt", b"c.txt"]
        assert [result.text() for _, result in again.results()] == ["A.TXT", "B.TXT", "C.TXT"]

    def test_a_map_that_broke_off_goes_on(self, client: Any, model: Model) -> None:
        def broken() -> Iterator[bytes]:
            yield from (b"1", b"2")
            raise RuntimeError("the camera is gone")

        own = name()
        with pytest.raises(RuntimeError, match="the camera is gone"):
            client.map(model.path, broken(), name=own, concurrency=1)
        batch = client.map(model.path, [b"0", b"1", b"2", b"3"], name=own).wait(PATIENCE_S)
        assert (batch.total, batch.earlier) == (4, ())
        assert dispatched(model) == [b"0", b"1", b"2", b"3"]

    def test_what_is_new_makes_another_batch_once_the_first_is_sealed(
        self, client: Any, model: Model, photos: Path, tmp_path: Path
    ) -> None:
        own = name()
        first = client.map(model.path, photos, name=own).wait(PATIENCE_S)
        for new in ("d.txt", "e.txt"):
            (photos / new).write_text(new)
            batch = client.map(model.path, photos, name=own).wait(PATIENCE_S)
            assert [name for name, _ in batch.results()][-1] == new
        assert batch.wait(PATIENCE_S).earlier[0].id == first.id
        assert (batch.total, batch.completed, batch.progress, len(batch.earlier)) == (5, 5, 1.0, 2)
        assert len(list(batch.tasks())) == 5
        assert sorted(file.name for file in batch.save(tmp_path / "out")) == [f"{one}.txt.txt" for one in "abcde"]
        assert dispatched(model) == [b"a.txt", b"b.txt", b"c.txt", b"d.txt", b"e.txt"]

    def test_what_has_changed_is_new(self, client: Any, model: Model, photos: Path, tmp_path: Path) -> None:
        own, out = name(), tmp_path / "out"
        client.map(model.path, photos, name=own).save(out, PATIENCE_S)
        (photos / "a.txt").write_text("changed")
        os.utime(photos / "b.txt")
        client.map(model.path, photos, name=own).save(out, PATIENCE_S)
        assert dispatched(model) == [b"a.txt", b"b.txt", b"c.txt", b"changed"]
        assert (out / "a.txt.txt").read_text() == "CHANGED"

    def test_another_endpoint_query_or_pipeline_makes_another_batch(
        self, client: Any, model: Model, models: Models
    ) -> None:
        own = name()
        with models.model() as other:
            other.reply = loud
            batches = [
                client.map(model.path, [b"x"], name=own),
                client.map(other.path, [b"x"], name=own),
                client.map(model.path, [b"x"], name=own, query={"y": 1}),
                client.map(model.path, [b"x"], name=own, pipeline=[other.path]),
                client.map(model.path, [b"x"], name=own, then=other.path),
            ]
            assert len({batch.wait(PATIENCE_S).id for batch in batches}) == 5

    def test_without_a_name_it_is_another_one(self, client: Any, model: Model) -> None:
        assert client.map(model.path, [b"x"]).id != client.map(model.path, [b"x"]).id


class TestWaiting:
    def test_each_change_is_told(self, client: Any, model: Model) -> None:
        go_on, seen = threading.Semaphore(0), list[tuple[int, int]]()

        def reply(dispatch: Dispatch) -> Reply:
            go_on.acquire(timeout=PATIENCE_S)
            return loud(dispatch)

        def on_change(batch: Any) -> None:
            seen.append((batch.unfinished, batch.failed))
            go_on.release()

        model.reply = reply
        batch = client.map(model.path, [b"1", b"bad", b"3"])
        go_on.release()
        assert batch.wait(PATIENCE_S, on_change).state == "failed"
        assert seen[-1] == (0, 1)
        assert batch.status == "failed - 1 of 3 failed"

    def test_a_wait_that_is_over_leaves_the_batch(self, client: Any, models: Models, tmp_path: Path) -> None:
        batch = client.map(models.new_path(), [b"1"])
        for wait in (batch.wait, batch.result, lambda timeout_s: batch.save(tmp_path, timeout_s)):
            with pytest.raises(errors.WaitTimeout):
                wait(0.2)
        with pytest.raises(errors.WaitTimeout):
            list(batch.results(0.2))
        assert client.batch(batch.id).unfinished == 1

    def test_results_come_while_others_are_at_work(self, client: Any, models: Models) -> None:
        held = threading.Event()
        with models.model() as model:

            def reply(dispatch: Dispatch) -> Reply:
                if dispatch.body == b"1":
                    held.wait(PATIENCE_S)
                return loud(dispatch)

            model.reply = reply
            results = client.map(model.path, [b"1", b"2"]).results(PATIENCE_S)
            results = iter(results)
            assert next(results)[0] == "000002"
            held.set()
            assert [name for name, _ in results] == ["000001"]

    def test_a_failed_task_is_told_after_the_results_of_the_others(
        self, client: Any, model: Model, tmp_path: Path
    ) -> None:
        items = {"one": b"1", "two": b"bad", "three": b"3", "four": b"bad too"}
        batch = client.map(model.path, items)
        seen: list[str] = []
        with pytest.raises(errors.TaskFailed, match=r"2 of 4 have no result: two \(.*too many bands") as failed:
            seen.extend(name for name, _ in batch.results(PATIENCE_S))
        assert (sorted(seen), sorted(failed.value.tasks)) == (["one", "three"], ["four", "two"])
        with pytest.raises(errors.BatchFailed, match="four") as unsaved:
            batch.save(tmp_path / "out")
        assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["one.bin", "three.bin"]
        assert len(unsaved.value.saved) == 2

    def test_many_that_failed_are_not_all_named(self, client: Any, model: Model) -> None:
        with pytest.raises(errors.BatchFailed, match=r"15 of 15 .* and 5 more"):
            list(client.map(model.path, [b"bad %d" % number for number in range(15)]).results(PATIENCE_S))


class TestSaving:
    def test_what_is_there_is_not_fetched_again(
        self, client: Any, model: Model, photos: Path, tmp_path: Path
    ) -> None:
        batch, out = client.map(model.path, photos).wait(PATIENCE_S), tmp_path / "new" / "out"
        saved = batch.save(out)
        assert saved == [out / f"{one}.txt.txt" for one in "abc"]
        for file in saved:
            before = file.stat()
            file.write_text("own")
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        saved[1].write_text("another time")
        assert batch.save(out) == saved
        assert [file.read_text() for file in saved] == ["own", "B.TXT", "own"]
        assert sorted(file.name for file in out.iterdir()) == [file.name for file in saved]

    def test_a_batch_that_is_found_again_has_the_ids_as_names(
        self, client: Any, model: Model, tmp_path: Path
    ) -> None:
        batch = client.map(model.path, ["1", "2"]).wait(PATIENCE_S)
        found = client.batch(batch.id)
        ids = [task.id for task in found.tasks()][::-1]
        assert [file.name for file in found.save(tmp_path)] == [f"{one}.txt" for one in ids]
        assert batch.id in [one.id for one in client.batches(page_size=5)]
        assert {task.id for task in client.tasks(batch=batch.id)} == set(ids)


class TestWhatIsDoneToAll:
    def test_a_batch_is_cancelled(self, client: Any, models: Models) -> None:
        path = models.new_path()
        batch = client.map(path, [b"1", b"2"])
        assert batch.cancel().state == "cancelled"
        with pytest.raises(errors.BatchFailed, match="2 of 2"):
            list(batch.results(PATIENCE_S))
        assert {task.state for task in batch.tasks()} == {"cancelled"}

    def test_the_failed_ones_are_replayed(self, client: Any, model: Model) -> None:
        batch = client.map(model.path, ["1", "bad"]).wait(PATIENCE_S)
        model.reply = lambda dispatch: done(b"good", "text/plain")
        assert batch.replay().wait(PATIENCE_S).state == "completed"
        assert [result.text() for _, result in batch.results()] == ["1", "good"]
        with pytest.raises(errors.Conflict):
            batch.replay()

    def test_one_task_gets_the_list_of_all(self, client: Any, model: Model, models: Models) -> None:
        with models.model() as gather:
            gather.reply = lambda dispatch: done(dispatch.body, "application/json")
            batch = client.map(model.path, [b"1", b"bad"], then=gather.path + "?x=1", name=name())
            gathered = batch.result(PATIENCE_S).json()
            assert sorted(task["State"] for task in gathered["Tasks"]) == ["completed", "failed"]
            assert gathered["BatchId"] == batch.id
            assert gather.dispatches.get(timeout=PATIENCE_S).path == gather.path + "?x=1"

    def test_without_such_a_task_a_batch_has_no_result(self, client: Any, model: Model) -> None:
        with pytest.raises(errors.NotFound) as refused:
            client.map(model.path, [b"1"]).result(PATIENCE_S)
        assert refused.value.kind == "no-result"

    def test_it_is_removed_with_its_tasks(self, client: Any, model: Model, models: Models) -> None:
        batch = client.map(model.path, [b"1"]).wait(PATIENCE_S)
        [task] = batch.tasks()
        assert batch.purge() is None
        for one in (batch, task):
            with pytest.raises(errors.NotFound):
                one.refresh()
        unfinished = client.submit(models.new_path(), b"")
        with pytest.raises(errors.Conflict):
            unfinished.purge()
        unfinished.cancel().purge()
        with pytest.raises(errors.NotFound):
            unfinished.purge()

    def test_an_unknown_batch_is_not_found(self, client: Any) -> None:
        with pytest.raises(errors.NotFound):
            client.batch("nobody")
        with pytest.raises(errors.NotFound):
            list(client.tasks(batch="nobody"))


@pytest.fixture
def path(models: Models) -> str:
    return models.new_path()
