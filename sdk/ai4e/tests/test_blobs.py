"""The modules for blobs, on the real Azurite: by SAS, by Entra ID and a managed identity, and in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from aad_blob import AadBlob
from sas_blob import SasBlob

from conftest import TOOLS, Backbone, ask, eventually

NAMES = ["plain.txt", "a/b/c.txt", "caf\u00e9 & co/100 %.txt"]
PUBLIC = "https://account.blob.core.windows.net/container"


@pytest.mark.parametrize(
    ("uri", "account", "container", "blob"),
    [
        (PUBLIC + "?sig=x", "account", "container", ""),
        (PUBLIC + "/blob.txt?sig=x", "account", "container", "blob.txt"),
        (PUBLIC + "/a/b/c%20d.txt?sig=x", "account", "container", "a/b/c d.txt"),
        ("https://account.blob.core.chinacloudapi.cn/container/a/b?sig=x", "account", "container", "a/b"),
        ("http://127.0.0.1:10000/devstoreaccount1/container/a/b?sig=x", "devstoreaccount1", "container", "a/b"),
        ("http://azurite:10000/devstoreaccount1/container?sig=x", "devstoreaccount1", "container", ""),
    ],
)
def test_what_a_uri_says(uri: str, account: str, container: str, blob: str) -> None:
    helper = SasBlob()
    assert helper.get_account_from_uri(uri) == account
    assert helper.get_container_from_uri(uri) == container
    assert helper.get_blob_from_uri(uri) == blob
    assert helper.get_sas_key_from_uri(uri) == "sig=x"


def test_a_blobs_uri_keeps_the_containers_host() -> None:
    there = SasBlob().get_blob_sas_uri("https://account.blob.core.chinacloudapi.cn/container?sig=x", "a/b c?.txt")
    assert there == "https://account.blob.core.chinacloudapi.cn/container/a/b%20c%3F.txt?sig=x"


@pytest.fixture
def sas(blobs: Any, monkeypatch: Any) -> str:
    """The URI of a container of the test's own."""
    pytest.importorskip("azure.storage.blob")
    monkeypatch.setenv("AI4E_BLOB_ENDPOINT", blobs["url"].rpartition("/")[0] + "/{account}")
    account = blobs["url"].rpartition("/")[2]
    return SasBlob().create_writable_container_sas(account, blobs["key"], uuid.uuid4().hex, 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_blob_is_written_and_read_by_its_uri(sas: str, name: str, tmp_path: Path) -> None:
    helper = SasBlob()
    uri = helper.write_blob_from_text(sas, name, "caf\u00e9\r\n")
    assert helper.get_blob_from_uri(uri) == name
    with urlopen(uri) as answer:  # as a caller gets it
        assert answer.read() == b"caf\xc3\xa9\r\n"
    assert helper.get_blob(uri).read() == b"caf\xc3\xa9\r\n"
    helper.save_local_text(uri, str(tmp_path / "saved"))
    assert (tmp_path / "saved").read_bytes() == b"caf\xc3\xa9\r\n"
    assert helper.get_blob(helper.write_blob_from_bytes(sas, name, b"\x00\xff")).read() == b"\x00\xff"
    assert helper.get_blob(helper.write_blob(sas, name, BytesIO(b"of a stream"))).read() == b"of a stream"
    assert helper.get_blob_sas_uri(sas, name) == uri


def test_a_uri_permits_neither_to_delete_nor_to_go_elsewhere(sas: str, blobs: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    helper = SasBlob()
    uri = helper.write_blob_from_text(sas, "kept", "kept")
    with pytest.raises(HttpResponseError):
        helper._blob(uri).delete_blob()
    with pytest.raises(HTTPError):
        urlopen(uri.replace(helper.get_container_from_uri(uri), "another"))
    helper.delete_container(blobs["url"], blobs["key"], helper.get_container_from_uri(sas))
    with pytest.raises(HTTPError):
        urlopen(uri)


@pytest.fixture(params=["managed_identity", "client_secret", "local"])
def aad(request: Any, blobs: Any, monkeypatch: Any, tmp_path: Path) -> AadBlob:
    """An ``AadBlob`` of each kind, with a container ``container`` of its own."""
    if request.param == "local":
        return AadBlob(local_test_directory=str(tmp_path / "local"))
    pytest.importorskip("azure.identity")
    from azure.core.exceptions import ResourceExistsError

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", blobs["certificate"])
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", blobs["authority"])
    monkeypatch.setenv("IDENTITY_ENDPOINT", blobs["identity_endpoint"])
    monkeypatch.setenv("IDENTITY_HEADER", blobs["identity_header"])
    secret = blobs["secret"] if request.param == "client_secret" else None
    made = AadBlob(blobs["tenant"], str(uuid.uuid4()), secret, blobs["tls_url"])
    assert made.credential_type == request.param
    try:
        made._client("container", "any")
        made._made.create_container("container")
    except ResourceExistsError:
        return made
    return made


@pytest.mark.parametrize("name", NAMES)
def test_an_identity_writes_and_reads(aad: AadBlob, name: str, tmp_path: Path) -> None:
    assert not aad.does_blob_exist("container", name + "-missing")
    assert aad.write_blob_from_text("container", name, "caf\u00e9\r\n") == aad.get_blob_uri("container", name)
    assert aad.does_blob_exist("container", name)
    assert not aad.does_blob_exist("container", name[:-1])
    assert aad.get_blob_to_text("container", name) == "caf\u00e9\r\n"
    assert aad.get_blob_to_bytes("container", name) == b"caf\xc3\xa9\r\n"
    assert aad.get_blob("container", name).read() == b"caf\xc3\xa9\r\n"
    saved = tmp_path / "saved"
    for save in (aad.save_local_blob, aad.save_local_text, aad.save_blob_locally):
        save("container", name, str(saved))
        assert saved.read_bytes() == b"caf\xc3\xa9\r\n"
    aad.create_blob_from_path("container", name, str(saved))
    assert aad.get_blob_to_bytes("container", name) == b"caf\xc3\xa9\r\n"
    aad.write_blob_from_text("container", name, b"caf\xe9")
    aad.save_blob_locally("container", name, str(saved), encoding="latin-1")
    assert saved.read_text(encoding="utf-8") == "caf\u00e9"


def test_nothing_is_printed(aad: AadBlob, capsys: Any) -> None:
    aad.write_blob_from_text("container", "quiet", "quiet")
    aad.get_blob_to_text("container", "quiet")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", ""])
def test_a_folder_has_no_blobs_outside(tmp_path: Path, name: str) -> None:
    aad = AadBlob(local_test_directory=str(tmp_path / "local"))
    with pytest.raises(ValueError, match="no blob's name"):
        aad.write_blob_from_text(name and "container/..", name, "outside")


def test_a_service_whose_results_are_blobs(backbone: Backbone, blobs: Any, start: Any) -> None:
    pytest.importorskip("azure.storage.blob")
    place = backbone.place()
    variables = {"STORAGE_ACCOUNT_NAME": blobs["url"], "STORAGE_ACCOUNT_KEY": blobs["key"]}
    start("pictures", place, {**backbone.variables, **variables}, server="gunicorn")
    submit = f"{backbone.url}/api/v1/submit{place.path}/negative"
    headers = {"x-functions-key": backbone.key, "Content-Type": "image/x-raw"}
    status, task = ask("POST", submit, bytes(range(100)), headers)
    assert status == 202
    told = eventually(lambda: backbone.ended(task["TaskId"]))["Status"]
    assert told.startswith("completed - output written to: ")
    with urlopen(told.split(": ", 1)[1]) as answer:
        assert answer.read() == bytes(255 - each for each in range(100))


@pytest.mark.parametrize(
    "module",
    [
        "aad_blob",
        "sas_blob",
        "ai4e_app_insights",
        "ai4e_app_insights_context",
        "ai4e_app_insights_wrapper",
        "azure_monitor_logger",
        "ai4e_service",
        "task_management.api_task",
        "task_management.distributed_api_task",
    ],
)
def test_no_module_loads_what_it_does_not_need(module: str) -> None:
    say = (
        "import sys, json, importlib; importlib.import_module(sys.argv[1]);"
        "late = ('azure', 'opentelemetry', 'requests');"
        "print(json.dumps([each for each in sys.modules if each.split('.')[0] in late]))"
    )
    variables = {**os.environ, "PYTHONPATH": str(TOOLS)}
    printed = subprocess.check_output([sys.executable, "-c", say, module], env=variables)
    assert json.loads(printed.decode()) == []
