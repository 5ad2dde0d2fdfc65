"""Callers in R, and blobs by SAS URLs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas
from taskbackbone import TaskClient

from local.azurite import ACCOUNT_KEY, Azurite
from local.stack import Stack
from tests.r.conftest import Place, Pod
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def place(house: Stack, places: list[Place]) -> Place:
    """One for all tests here, since they break nothing."""
    return places.pop()


@pytest.fixture(scope="module")
def pod(house: Stack, place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    environment = {"BACKBONE_URL": house.url, "BACKBONE_KEY": house.key, "SLOTS": "2"}
    environment["SERVICE_STORAGE"] = house.azurite.url
    with Pod(tmp_path_factory.mktemp("callers"), place, environment) as pod:
        yield pod


def test_a_caller_submits_waits_and_reads_each_kind_of_result(
    pod: Pod, place: Place, r: Callable[..., str], tmp_path: Path
) -> None:
    code = """
      client <- TaskClient()
      path <- function(kind) paste0(Sys.getenv("PLACE"), "/ends/", kind)
      seen <- 0
      task <- client$submit(path("text"))
      task$wait(timeout_s = 100, on_change = function(task) seen <<- seen + 1)
      stopifnot(task$state() == "completed", seen > 0, task$result() == "caf\\u00e9")
      stopifnot(identical(client$run(path("bytes"), timeout_s = 100), as.raw(0:255)))
      table <- client$run(path("table"), timeout_s = 100)
      stopifnot(identical(table$name, c("a", "b")), identical(table$value, c(1.5, NA)))
      stopifnot(is.null(client$run(path("nothing"), timeout_s = 100)))
      file <- client$submit(path("large"))$result(file = Sys.getenv("FILE"), timeout_s = 100)
      stopifnot(file.size(file) == 3e6, !file.exists(paste0(file, ".part")))
      huge <- client$submit(path("huge"))
      stopifnot(identical(huge$result(timeout_s = 100), as.raw(rep(7L, 12e6))))
      stopifnot(file.size(huge$result(file = Sys.getenv("FILE"))) == 12e6)
      events <- client$task(task$id)$history()
      stopifnot(tail(events$State, 1) == "completed")
      cat("all right\\n")
    """
    assert "all right" in r(code, PLACE=place.path, FILE=str(tmp_path / "large"))


def test_a_caller_sends_bodies_of_any_kind_with_its_query(pod: Pod, place: Place, r: Callable[..., str]) -> None:
    code = """
      client <- TaskClient()
      path <- paste0(Sys.getenv("PLACE"), "/body")
      size <- function(...) client$run(path, ..., timeout_s = 100)$bytes
      stopifnot(size(as.raw(1:9)) == 9, size("caf\\u00e9") == 5, size(list(a = 1)) == 7, size() == 0)
      file <- tempfile(fileext = ".tif")
      writeBin(raw(2e6), file)
      stopifnot(size(sent_file(file)) == 2e6)
      large <- as.raw(rep(0:199, 4e4))
      writeBin(large, file)
      stopifnot(size(sent_file(file)) == 8e6, size(large) == 8e6)
      found <- client$run(paste0(Sys.getenv("PLACE"), "/work"), query = list(seconds = "0.25"), timeout_s = 100)
      stopifnot(found$seconds == 0.25)
      cat("all right\\n")
    """
    assert "all right" in r(code, PLACE=place.path)


def test_what_goes_wrong_has_a_class_of_its_own(pod: Pod, place: Place, r: Callable[..., str]) -> None:
    code = """
      client <- TaskClient(retry_for_s = 5)
      path <- function(rest) paste0(Sys.getenv("PLACE"), rest)
      class_of <- function(code) tryCatch({ code; "nothing" }, BackboneError = function(error) class(error)[[1]])
      told <- tryCatch(client$run(path("/ends/fail"), timeout_s = 100), TaskFailed = conditionMessage)
      stopifnot(told == "failed - the picture is black")
      stopifnot(class_of(client$submit("/v1/nowhere")) == "NotFound", class_of(client$task("nobody")) == "NotFound")
      slow <- client$submit(path("/work"), query = list(seconds = 30))
      stopifnot(class_of(slow$wait(timeout_s = 1)) == "WaitTimeout")
      slow$cancel()
      stopifnot(slow$state() == "cancelled", class_of(slow$result()) == "TaskFailed")
      stopifnot(class_of(slow$replay()) == "Conflict")
      key <- "the-same-key"
      first <- client$submit(path("/ends/text"), "a", idempotency_key = key)
      again <- client$submit(path("/ends/text"), "a", idempotency_key = key)
      stopifnot(first$id == again$id)
      stopifnot(class_of(client$submit(path("/ends/text"), "b", idempotency_key = key)) == "KeyReused")
      stopifnot(class_of(client$submit(path("/ends/text"), priority = "high")) == "Refused")
      nobody <- TaskClient("http://127.0.0.1:9", retry_for_s = 1)
      stopifnot(class_of(nobody$submit("/v1/x")) == "Unreachable")
      stopifnot(class_of(TaskClient("nowhere")) == "InvalidRequest")
      stranger <- TaskClient(Sys.getenv("BACKBONE_URL"), "a wrong key")
      told <- tryCatch(stranger$submit(path("/ends/text")), Refused = conditionMessage)
      stopifnot(told == "the server answered 401, and not in the backbone's words. Are URL and key right?")
      set.seed(1); one <- client$submit(path("/ends/nothing"))
      set.seed(1); two <- client$submit(path("/ends/nothing"))
      stopifnot(one$id != two$id)
      cat("all right\\n")
    """
    assert "all right" in r(code, PLACE=place.path)


def test_a_caller_goes_on_waiting_while_the_app_is_away(
    house: Stack, pod: Pod, place: Place, caller: TaskClient, r: Callable[..., str]
) -> None:
    task = caller.submit(f"{place.path}/work", query={"seconds": 6})
    code = """
      task <- TaskClient()$task(Sys.getenv("ID"))
      task$wait(timeout_s = 200, on_change = function(task) cat("changed\\n"))
      cat(task$state(), "\\n")
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(r, code, ID=task.id)
        task.refresh()
        house.host.kill()
        house.host.start()
        assert waiting.result().split()[-1] == "completed"
    task.wait(PATIENCE_S)


def test_a_pipeline_is_named_by_the_caller(pod: Pod, place: Place, r: Callable[..., str]) -> None:
    code = """
      place <- Sys.getenv("PLACE")
      task <- TaskClient()$submit(paste0(place, "/ends/text"), pipeline = paste0(place, "/body"))
      cat(jsonlite::toJSON(task$result(timeout_s = 100), auto_unbox = TRUE), "\\n")
    """
    assert json.loads(r(code, PLACE=place.path))["bytes"] == len("café".encode())


def test_a_caller_says_when_a_task_runs_and_who_hears_of_it(place: Place, r: Callable[..., str]) -> None:
    code = """
      client <- TaskClient()
      path <- paste0(Sys.getenv("PLACE"), "/ends/text")
      moment <- as.POSIXct(1e5 * ceiling(as.numeric(Sys.time()) / 1e5) + 2e5 + 0.25, origin = "1970-01-01")
      task <- client$submit(path, start_after = 1e5, start_before = moment, max_run_s = 90.5, callback = "nobody")
      another <- client$submit(path, start_after = as.POSIXlt(moment, tz = "Asia/Kathmandu"))
      seen <- list(task$view(), another$view(), as.numeric(moment))
      cat(jsonlite::toJSON(seen, auto_unbox = TRUE, digits = NA), "\\n")
      task$cancel()
      another$cancel()
      told <- function(...) tryCatch(client$submit(path, ...), Refused = conditionMessage)
      stopifnot(grepl("Start-After", told(start_after = "tomorrow")), grepl("Max-Run", told(max_run_s = -1)))
      stopifnot(grepl("Callback", told(callback = "somebody")))
    """
    task, another, moment_s = json.loads(r(code, PLACE=place.path))
    at = [datetime.fromisoformat(each) for each in (task["CreatedAt"], task["StartAt"], task["ExpiresAt"])]
    assert at[1] - at[0] == timedelta(seconds=100_000)
    assert at[2] == datetime.fromtimestamp(moment_s, UTC) == datetime.fromisoformat(another["StartAt"])
    assert (task["MaxRunSeconds"], task["Callback"]) == (90.5, "nobody")


@pytest.fixture
def container(azurite: Azurite, request: pytest.FixtureRequest) -> str:
    """The SAS URL of an empty container."""
    name = re.sub("[^a-z0-9]+", "-", str(request.node.name).lower())[:60].strip("-")
    service = BlobServiceClient.from_connection_string(azurite.connection_string)
    service.create_container(name)
    sas = generate_container_sas(
        azurite.url.rpartition("/")[2],
        name,
        account_key=ACCOUNT_KEY,
        permission=ContainerSasPermissions(read=True, write=True, create=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    return f"{azurite.url}/{name}?{sas}"


def test_blobs_of_any_size_are_written_and_read_by_their_sas(
    container: str, azurite: Azurite, r: Callable[..., str], tmp_path: Path
) -> None:
    code = """
      helper <- SasBlob()
      container <- Sys.getenv("CONTAINER")
      uri <- helper$write_blob_from_text(container, "a/caf\\u00e9 1.txt", "caf\\u00e9")
      stopifnot(helper$get_blob_from_uri(uri) == "a/caf\\u00e9 1.txt")
      stopifnot(identical(helper$get_blob(uri), charToRaw("caf\\u00e9")))
      kept <- function(bytes) helper$get_blob(helper$write_blob_from_bytes(container, "bytes", bytes))
      stopifnot(identical(kept(as.raw(0:255)), as.raw(0:255)), identical(kept(raw()), raw()))
      large <- tempfile()
      writeBin(as.raw(rep(0:250, length.out = 20e6)), large)
      uri <- helper$write_blob(container, "large.tif", large)
      helper$save_local_text(uri, paste0(large, ".back"))
      stopifnot(tools::md5sum(large) == tools::md5sum(paste0(large, ".back")), file.size(large) == 20e6)
      stream <- file(large, "rb")
      uri <- helper$write_blob(container, "streamed", stream)
      close(stream)
      stopifnot(length(ReadBlob(uri)) == 20e6)
      cat("all right\\n")
    """
    assert "all right" in r(code, CONTAINER=container, SERVICE_STORAGE=container.partition("?")[0])
    name = container.partition("?")[0].rpartition("/")[2]
    service = BlobServiceClient.from_connection_string(azurite.connection_string)
    stored = service.get_blob_client(name, "large.tif").get_blob_properties()
    assert (stored.size, stored.content_settings.content_type) == (20_000_000, "application/octet-stream")
    assert service.get_blob_client(name, "a/café 1.txt").download_blob().readall().decode() == "café"


def test_what_the_storage_refuses_tells_nothing_of_the_url(container: str, r: Callable[..., str]) -> None:
    code = """
      told <- function(code) tryCatch({ code; "nothing" }, BlobError = conditionMessage)
      missing <- SasBlob()$get_blob_sas_uri(Sys.getenv("CONTAINER"), "missing")
      file <- tempfile()
      stopifnot(told(ReadBlob(missing, file)) == "The storage answered 404 BlobNotFound.", !file.exists(file))
      forged <- sub("sig=.", "sig=forged", missing)
      cat(told(ReadBlob(forged)), "\\n")
      cat(told(WriteBlob(forged, "x")), "\\n")
      Sys.unsetenv("SERVICE_STORAGE")
      cat(told(ReadBlob(missing)), "\\n")
    """
    printed = r(code, CONTAINER=container, SERVICE_STORAGE=container.partition("?")[0])
    assert printed.count("The storage answered 403 ") == 2
    assert "SERVICE_STORAGE does not name 127.0.0.1" in printed
    assert "sig" not in printed
