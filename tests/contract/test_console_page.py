"""The console's page over HTTP (contract B19). ``tests/operator_console`` looks at each file and header of it."""

from __future__ import annotations

import gzip
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from local.azurite import Azurite
from local.redis_server import RedisCluster, RedisServer
from local.stack import Stack
from operator_console.page import POLICY, files
from shared.settings import Settings
from tests.in_process import InProcessApp
from tests.scripted_backend import ScriptedBackend
from tests.waiting import PATIENCE_S

PAGE = "/api/console"
SCRIPT = next(name for name in files() if name.endswith(".js"))


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("console_page")
    backends = {"/v1/test": backend.url}
    with Stack(directory, redis=redis_server, azurite=azurite, backends=backends, with_model=False) as stack:
        yield stack


@pytest.fixture(scope="module")
def stranger(stack: Stack) -> Iterator[httpx.Client]:
    """Somebody without a key."""
    with httpx.Client(base_url=stack.url, headers={"accept-encoding": "identity"}, timeout=PATIENCE_S) as client:
        yield client


@pytest.mark.contract("B19.1")
@pytest.mark.parametrize("path", [PAGE, f"{PAGE}/", f"{PAGE}?x=1", "/API/Console/"])
def test_the_console_begins_at_its_index(stranger: httpx.Client, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 302
    assert not answer.headers["location"].startswith(("/", "http"))
    reached = answer.url.join(answer.headers["location"])
    assert reached.path.lower() == f"{PAGE}/index.html"
    assert stranger.get(reached).status_code == 200


@pytest.mark.contract("B19.2")
@pytest.mark.parametrize("name", ["index.html", SCRIPT])
def test_the_page_needs_no_key_and_forbids_what_it_does_not_need(stranger: httpx.Client, name: str) -> None:
    answer = stranger.get(f"{PAGE}/{name}")
    assert answer.status_code == 200
    assert answer.content == gzip.decompress(files()[name].packed)
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert stranger.head(f"{PAGE}/{name}").headers["content-length"] == answer.headers["content-length"]


@pytest.mark.contract("B19.3")
def test_the_page_is_packed_for_a_browser(stranger: httpx.Client) -> None:
    plain = stranger.get(f"{PAGE}/{SCRIPT}")
    with stranger.stream("GET", f"{PAGE}/{SCRIPT}", headers={"accept-encoding": "gzip, br"}) as packed:
        content = b"".join(packed.iter_raw())
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(content) == plain.content
    assert len(content) < len(plain.content) / 2


@pytest.mark.contract("B19.4")
def test_only_the_index_is_asked_for_again(stranger: httpx.Client) -> None:
    index, script = stranger.get(f"{PAGE}/index.html"), stranger.get(f"{PAGE}/{SCRIPT}")
    assert index.headers["cache-control"] == "no-cache"
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    etag = index.headers["etag"]
    for known in (etag, f'"another", {etag}', "*"):  # as caches on the way send what they have
        again = stranger.get(f"{PAGE}/index.html", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert stranger.get(f"{PAGE}/index.html", headers={"if-none-match": '"another"'}).status_code == 200


@pytest.mark.contract("B19.5")
@pytest.mark.parametrize(
    "target",
    [
        f"{PAGE}/nothing.js",
        f"{PAGE}/dist/index.html",
        f"{PAGE}/..%2fpage.py",
        f"{PAGE}/%2e%2e%2fpage.py",
        f"{PAGE}/..%5cpage.py",
        f"{PAGE}/../page.py",
        f"{PAGE}/../../operator_console/page.py",
        f"{PAGE}/%2fetc%2fpasswd",
        f"{PAGE}//etc/passwd",
    ],
)
def test_no_path_leads_to_another_file(stack: Stack, target: str) -> None:
    # As it stands: clients write dots in another way before they send them.
    place = urlsplit(stack.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert re.match(rb"HTTP/1\.1 40[04] ", answer)
    assert b"import" not in answer
    assert b"root:" not in answer


@pytest.mark.contract("B19.6")
async def test_the_page_is_there_while_redis_is_not() -> None:
    settings = {
        "REDIS_CONNECTION_STRING": "redis://127.0.0.1:1",
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": '{"/v1": "https://models.example.org"}',
    }
    app = InProcessApp(Settings.from_env(settings))
    answer = await app.call("Console", "GET", route_params={"file": "index.html"})
    assert answer.status_code == 200


@pytest.mark.contract("B19.7")
@pytest.mark.parametrize(
    "name", [{"X-Operator": "ada"}, {"X-Operator": "ada", "X-Operator-Roles": "read"}, {"X-Task-Owner": "bob"}]
)
def test_the_page_is_the_same_for_whomever_a_gateway_names(stranger: httpx.Client, name: dict[str, str]) -> None:
    answer = stranger.get(f"{PAGE}/index.html", headers=name)
    assert (answer.status_code, answer.content) == (200, gzip.decompress(files()["index.html"].packed))
