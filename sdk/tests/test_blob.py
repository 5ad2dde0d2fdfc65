"""``taskbackbone.blob`` with the real Azurite: by shared access signatures, and by tokens of Entra ID."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from azurite import Azurite, azurite
from scripted_server import ScriptedServer, answer, reset

from taskbackbone import _storage, blob, errors
from taskbackbone._storage import Places, Transfer, is_allowed, is_azures

MIB = 1024 * 1024
LARGE = os.urandom(20 * MIB + 17)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with azurite(tmp_path_factory.mktemp("azurite")) as started:
        yield started


@pytest.fixture
def storage(plain: Azurite, monkeypatch: pytest.MonkeyPatch) -> Azurite:
    """An Azurite that the service may call."""
    monkeypatch.setenv("SERVICE_STORAGE", plain.url)
    return plain


class TestBySignature:
    def test_a_blob_goes_up_and_comes_down(self, storage: Azurite, tmp_path: Path) -> None:
        source = tmp_path / "scene.tiff"
        source.write_bytes(LARGE)
        blob.upload(storage.signed("a scene/1 %.tiff", "cw"), source)
        assert storage.content("a scene/1 %.tiff") == LARGE
        assert storage.content_type("a scene/1 %.tiff") == "image/tiff"

        target = blob.download(storage.signed("a scene/1 %.tiff", "r"), tmp_path / "back.tiff")
        assert target.read_bytes() == LARGE
        assert sorted(file.name for file in tmp_path.iterdir()) == ["back.tiff", "scene.tiff"]

    @pytest.mark.parametrize(
        ("data", "stored", "kind"),
        [
            (b"abc", b"abc", "application/octet-stream"),
            ("größer", "größer".encode(), "text/plain; charset=utf-8"),
            ({"a": 1}, b'{"a": 1}', "application/json"),
            (b"", b"", "application/octet-stream"),
            (io.BytesIO(b"a stream"), b"a stream", "application/octet-stream"),
            (iter([b"a ", b"generator"]), b"a generator", "application/octet-stream"),
        ],
    )
    def test_it_takes_what_a_submit_takes(self, storage: Azurite, data: Any, stored: bytes, kind: str) -> None:
        blob.upload(storage.signed("any", "cw"), data)
        assert (storage.content("any"), storage.content_type("any")) == (stored, kind)

    def test_an_empty_blob_is_an_empty_file(self, storage: Azurite, tmp_path: Path) -> None:
        storage.put("empty", b"")
        assert blob.download(storage.signed("empty", "r"), tmp_path / "empty").read_bytes() == b""
        with blob.open(storage.signed("empty", "r")) as file:
            assert file.read() == b""

    def test_a_blob_can_be_read_from_any_place_on(self, storage: Azurite) -> None:
        storage.put("large", LARGE)
        with blob.open(storage.signed("large", "r")) as file:
            assert file.read(10) == LARGE[:10]
            file.seek(-17, os.SEEK_END)
            assert file.read() == LARGE[-17:]
            file.seek(5 * MIB)
            assert file.read(3 * MIB) == LARGE[5 * MIB : 8 * MIB]
            assert file.tell() == 8 * MIB
            file.seek(0)
            assert file.read() == LARGE
            file.seek(len(LARGE) + 10)
            assert file.read(1) == b""
            with pytest.raises(ValueError, match="before the beginning"):
                file.seek(-1)

    def test_only_what_is_read_is_fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with ScriptedServer([part(0, b"x" * 10, MIB), part(500_000, b"y" * 548_576, MIB)]) as server:
            monkeypatch.setenv("SERVICE_STORAGE", server.url)
            with blob.open(server.url + "/c/b?sig=secret") as file:
                file.seek(500_000)
                assert file.read(10) == b"y" * 10
        assert [request.headers["range"][:15] for request in server.requests] == [
            "bytes=0-1048575",
            "bytes=500000-10",
        ]

    def test_the_blobs_of_a_container_are_listed(self, storage: Azurite, tmp_path: Path) -> None:
        for number in range(3):
            storage.put(f"list/{number} ä&.txt", b"x" * number)
        items = list(blob.list(storage.signed_container("rl"), "list/"))
        assert [(item.name, item.size) for item in items] == [
            ("list/0 ä&.txt", 0),
            ("list/1 ä&.txt", 1),
            ("list/2 ä&.txt", 2),
        ]
        assert blob.download(items[2].url, tmp_path / "it").read_bytes() == b"xx"
        assert "sig" not in repr(items)

    @pytest.mark.parametrize(
        ("permission", "hours", "error"), [("cw", 1, errors.NotAllowed), ("r", -1, errors.NotAllowed)]
    )
    def test_what_the_signature_does_not_allow_is_not_done(
        self, storage: Azurite, tmp_path: Path, permission: str, hours: float, error: type[Exception]
    ) -> None:
        storage.put("any", b"abc")
        with pytest.raises(error, match="The storage answered 403"):
            blob.download(storage.signed("any", permission, hours), tmp_path / "it")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_not_there_is_not_found(self, storage: Azurite, tmp_path: Path) -> None:
        with pytest.raises(errors.NotFound, match="BlobNotFound"):
            blob.download(storage.signed("nothing", "r"), tmp_path / "it")


def part(start: int, content: bytes, size: int, **headers: str) -> Any:
    told = {"Content-Range": f"bytes {start}-{start + len(content) - 1}/{size}", "ETag": '"1"', **headers}
    return answer(206, content, told)


class TestTrouble:
    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        return tmp_path / "it"

    def get(self, server: ScriptedServer, target: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> bytes:
        monkeypatch.setenv("SERVICE_STORAGE", server.url)
        return blob.download(server.url + "/c/b?sp=r&sig=secret", target, **options).read_bytes()

    def test_a_download_goes_on_where_it_broke_off(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        head = {"Content-Range": "bytes 0-9/10", "ETag": '"1"'}
        broken = answer(206, b"01234", head, announced=10)
        with ScriptedServer([broken, reset, part(5, b"56789", 10)]) as server:
            assert self.get(server, target, monkeypatch) == b"0123456789"
        assert [request.headers["range"] for request in server.requests[1:]] == ["bytes=5-9"] * 2
        assert server.requests[-1].headers["if-match"] == '"1"'

    def test_a_blob_that_changes_meanwhile_is_no_file(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = answer(206, b"01234", {"Content-Range": "bytes 0-9/10", "ETag": '"1"'}, announced=10)
        with ScriptedServer([broken, answer(412)]) as server, pytest.raises(errors.Conflict, match="has changed"):
            self.get(server, target, monkeypatch)
        assert list(target.parent.iterdir()) == []

    @pytest.mark.parametrize("deed", [answer(200, b"all of it"), answer(206, b"x", {"Content-Range": "bytes 7-7/9"})])
    def test_another_part_than_was_asked_for_is_no_file(
        self, target: Path, monkeypatch: pytest.MonkeyPatch, deed: Any
    ) -> None:
        with ScriptedServer([deed]) as server, pytest.raises(errors.Refused, match="something else"):
            self.get(server, target, monkeypatch)

    def test_a_redirect_is_not_followed(self, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with ScriptedServer([answer(200, b"a secret of another")]) as other:
            leads = answer(302, b"", {"Location": other.url + "/c/b"})
            with ScriptedServer([leads]) as server, pytest.raises(errors.Refused, match="302"):
                self.get(server, target, monkeypatch)
        assert other.requests == []

    @pytest.mark.parametrize("deed", [reset, answer(503), answer(403, b"sig=secret"), answer(500, b"?sig=secret")])
    def test_no_error_and_no_log_has_the_signature(
        self, target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, deed: Any
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with ScriptedServer([deed]) as server, pytest.raises(errors.BackboneError) as failed:
            self.get(server, target, monkeypatch, retry_for_s=0.5)
        error: BaseException | None = failed.value
        while error is not None:
            assert "secret" not in "".join(traceback.format_exception(type(error), error, None)) + repr(error)
            error = error.__cause__ or error.__context__
        assert "secret" not in caplog.text
        assert "sig=…" in caplog.text or deed is reset

    def test_a_block_that_was_damaged_on_the_way_is_sent_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        damaged = answer(400, b"", {"x-ms-error-code": "Md5Mismatch"})
        with ScriptedServer([damaged, answer(201)]) as server:
            monkeypatch.setenv("SERVICE_STORAGE", server.url)
            blob.upload(server.url + "/c/b?sig=secret", b"abc")
        assert [request.body for request in server.requests[:2]] == [b"abc", b"abc"]
        assert {request.headers["content-md5"] for request in server.requests[:2]} == {"kAFQmDzST7DWlj99KOF/cg=="}

    def test_one_that_is_always_damaged_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        damaged = answer(400, b"", {"x-ms-error-code": "Md5Mismatch"})
        with ScriptedServer([damaged]) as server, pytest.raises(errors.Refused, match="Md5Mismatch"):
            monkeypatch.setenv("SERVICE_STORAGE", server.url)
            blob.upload(server.url + "/c/b?sig=secret", b"abc")
        assert len(server.requests) == 3


class TestPlaces:
    """What may be called."""

    @pytest.mark.parametrize(
        "url",
        [
            "https://acct.blob.core.windows.net/c/b?sig=x",
            "https://acct.blob.core.windows.net:443/c/b",
            "https://acct-secondary.blob.core.windows.net/c/b",
            "https://acct.z12.blob.storage.azure.net/c/b",
            "https://acct.blob.core.usgovcloudapi.net/c/b",
            "https://acct.blob.core.chinacloudapi.cn/c/b",
        ],
    )
    def test_azures_storage_is_known_by_its_names(self, url: str) -> None:
        assert is_azures(url)

    @pytest.mark.parametrize(
        "url",
        [
            "http://acct.blob.core.windows.net/c/b",
            "https://acct.blob.core.windows.net.example.org/c/b",
            "https://example.org/acct.blob.core.windows.net",
            "https://acct.blob.core.windows.net@example.org/c/b",
            "https://acct.blob.core.windows.net:8443/c/b",
            "https://acct.table.core.windows.net/c/b",
            "https://a.b.blob.core.windows.net/c/b",
            "https://blob.core.windows.net/c/b",
            "https://acct.blob.core.windows.net\\@example.org/c",
            "https://acct.blob.core.windows.net/c/../d",
            "https://acct.blob.core.windows.net/c/%2E%2e/d",
            "https://acct.blob.core.windows.net/c%2f..%2fd",
            "https://acct.blob.core.windows.net /c",
            "//acct.blob.core.windows.net/c",
            "https://[::1/c",
            "",
        ],
    )
    def test_nothing_else_is(self, url: str) -> None:
        assert not is_azures(url)

    def test_a_place_is_a_beginning_of_whole_segments(self) -> None:
        places = Places("https://acct.blob.core.windows.net/images, http://127.0.0.1:10000/acct", "ANY")
        assert places.has("https://ACCT.blob.core.windows.net:443/images/a/b?sig=x")
        assert places.has("http://127.0.0.1:10000/acct/any")
        for other in ("images2/a", "Images/a", "other/images", "", "images/../other", "images%2f..%2fother/x"):
            assert not places.has(f"https://acct.blob.core.windows.net/{other}")
        assert not places.has("https://127.0.0.1:10000/acct/any")

    @pytest.mark.parametrize("text", ["acct", "ftp://acct/c", "https://acct/c?sig=x", "https://u@acct/c"])
    def test_a_place_that_is_none_stops_the_start(self, text: str) -> None:
        with pytest.raises(ValueError, match="SERVICE_STORAGE"):
            Places(text, "SERVICE_STORAGE")

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "169.254.169.254", "0.0.0.0",
            "168.63.129.16", "224.0.0.1", "::1", "::", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1",
            "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a00:1::1",
            "::a9fe:a9fe", "::ffff:0:a9fe:a9fe",
        ],
    )  # fmt: skip
    def test_only_public_addresses_are_called(self, address: str) -> None:
        assert not is_allowed(address, private=False)

    def test_private_ones_are_where_a_setting_names_the_place(self) -> None:
        for address in ("127.0.0.1", "10.1.2.3", "::1", "fd00::1", "20.60.1.1", "2603:1030::1"):
            assert is_allowed(address, private=True)
        assert is_allowed("20.60.1.1", private=False)
        for address in ("169.254.169.254", "168.63.129.16", "0.0.0.0", "fe80::1", "::ffff:169.254.169.254",
                        "64:ff9b:1::a9fe:a9fe", "::a9fe:a9fe", "::ffff:0:a9fe:a9fe"):  # fmt: skip
            assert not is_allowed(address, private=True)

    @pytest.mark.parametrize("address", ["10.1.2.3", "169.254.169.254", "127.0.0.1"])
    def test_a_name_that_leads_to_a_private_address_is_not_called(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
    ) -> None:
        def look_up(name: str, port: int, *rest: Any, **options: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        with pytest.raises(errors.NotAllowed, match="not allowed") as refused:
            blob.download("https://acct.blob.core.windows.net/c/b?sig=secret", tmp_path / "it")
        assert "secret" not in str(refused.value)

    def test_the_address_that_was_looked_at_is_the_one_that_is_called(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name that leads elsewhere the next time it is looked up gains nothing."""
        looked_up = socket.getaddrinfo
        seen: list[str] = []

        def look_up(name: Any, *rest: Any, **options: Any) -> Any:
            seen.append(str(name))
            return looked_up("127.0.0.1" if name == "storage.test" else name, *rest, **options)

        with ScriptedServer([answer(200, b"abc")]) as server:
            monkeypatch.setattr(socket, "getaddrinfo", look_up)
            url = server.url.replace("127.0.0.1", "storage.test")
            assert Transfer(1, _storage.guarded(private=True)).call("GET", url + "/c/b").body == b"abc"
        assert seen.count("storage.test") == 1

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:1/c/b?sig=x", "https://example.org/c/b?sig=x", "file:///etc/passwd", "nothing"]
    )
    def test_another_place_is_not_called(self, tmp_path: Path, url: str) -> None:
        with pytest.raises(errors.NotAllowed, match="SERVICE_STORAGE"):
            blob.download(url, tmp_path / "it")


class Token(NamedTuple):
    token: str
    expires_on: int


class Identity:
    """A credential as those of azure.identity are."""

    def __init__(self, lasts_s: float = 3600, audience: str = "https://storage.azure.com") -> None:
        self.asked: list[str] = []
        self._lasts_s = lasts_s
        self._audience = audience

    def get_token(self, *scopes: str, **_: Any) -> Token:
        self.asked += scopes
        now = int(time.time())
        claims = {
            "aud": self._audience,
            "iss": "https://sts.windows.net/00000000-0000-0000-0000-000000000000/",
            "iat": now - 60,
            "nbf": now - 60,
            "exp": now + 3600,
        }
        parts = (coded({"alg": "none", "typ": "JWT"}), coded(claims), "secret")
        return Token(".".join(parts), int(now + self._lasts_s))


def coded(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """An Azurite that takes tokens of Entra ID, over TLS."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("secure")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(folder / "certificate.pem"), append=True)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    tls = ("--tls", folder / "certificate.pem", folder / "key.pem")
    trusted = str(folder / "authority.pem")
    with azurite(folder / "azurite", *tls, connection_verify=trusted) as started:
        os.environ["REQUESTS_CA_BUNDLE"] = trusted
        yield started
        del os.environ["REQUESTS_CA_BUNDLE"]


class TestByIdentity:
    @pytest.fixture
    def identity(self, secure: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identity]:
        """One that may be used for the container."""
        monkeypatch.setenv("SERVICE_STORAGE_IDENTITY", secure.url)
        identity = Identity()
        blob.use(identity)
        yield identity
        blob.use(None)

    def test_a_blob_goes_up_and_comes_down(self, secure: Azurite, identity: Identity, tmp_path: Path) -> None:
        blob.upload(secure.plain("scenes/1.bin"), LARGE)
        assert secure.content("scenes/1.bin") == LARGE
        assert blob.download(secure.plain("scenes/1.bin"), tmp_path / "it").read_bytes() == LARGE
        with blob.open(secure.plain("scenes/1.bin")) as file:
            file.seek(1000)
            assert file.read(10) == LARGE[1000:1010]
        [item] = blob.list(secure.url, "scenes/")
        assert (item.name, item.size, item.url) == ("scenes/1.bin", len(LARGE), secure.plain("scenes/1.bin"))
        assert identity.asked == ["https://storage.azure.com/.default"]

    def test_a_token_that_is_about_to_end_is_replaced(self, secure: Azurite, tmp_path: Path) -> None:
        os.environ["SERVICE_STORAGE_IDENTITY"] = secure.url
        brief = Identity(lasts_s=10)
        blob.use(brief)
        try:
            secure.put("any", b"abc")
            for _ in range(2):
                blob.download(secure.plain("any"), tmp_path / "it")
        finally:
            blob.use(None)
            del os.environ["SERVICE_STORAGE_IDENTITY"]
        assert len(brief.asked) >= 2

    def test_a_token_that_the_storage_does_not_take_is_an_error(
        self, secure: Azurite, identity: Identity, tmp_path: Path
    ) -> None:
        blob.use(Identity(audience="https://vault.azure.net"))
        with pytest.raises(errors.NotAllowed) as refused:
            blob.download(secure.plain("any"), tmp_path / "it")
        assert "secret" not in str(refused.value)

    def test_it_is_used_for_no_other_container(
        self, secure: Azurite, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SERVICE_STORAGE_IDENTITY", secure.url + "/scenes")
        monkeypatch.setenv("SERVICE_STORAGE", secure.url)
        secure.put("other/1", b"abc")
        for url in (
            secure.plain("other/1"),
            secure.url + "/scenes/../other/1",
            secure.url + "/scenes%2f..%2fother/1",
        ):
            with pytest.raises(errors.BackboneError):
                blob.download(url, tmp_path / "it")
        with pytest.raises(errors.BackboneError):
            list(blob.list(secure.url))
        assert list(blob.list(secure.url, "scenes/none")) == []
        assert identity.asked == ["https://storage.azure.com/.default"]

    def test_without_a_setting_it_is_used_for_nothing(
        self, secure: Azurite, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SERVICE_STORAGE_IDENTITY")
        with pytest.raises(errors.NotAllowed, match="SERVICE_STORAGE"):
            blob.download(secure.plain("any"), tmp_path / "it")
        assert identity.asked == []

    def test_what_else_a_url_could_ask_for_is_not_done(
        self, secure: Azurite, identity: Identity, tmp_path: Path
    ) -> None:
        for query in ("comp=metadata", "restype=container&comp=acl", "comp="):
            with pytest.raises(errors.NotAllowed, match="parameters"):
                blob.download(f"{secure.plain('any')}?{query}", tmp_path / "it")
        assert identity.asked == []

    def test_no_token_goes_over_a_plain_connection(
        self, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SERVICE_STORAGE_IDENTITY", "http://127.0.0.1:1/acct")
        with pytest.raises(errors.NotAllowed, match="https only"):
            blob.download("http://127.0.0.1:1/acct/c/b", tmp_path / "it")
        assert identity.asked == []

    def test_an_identity_that_gets_no_token_says_why_in_a_word(
        self, secure: Azurite, identity: Identity, tmp_path: Path
    ) -> None:
        class Broken:
            def get_token(self, *_: str) -> None:
                raise RuntimeError("the tenant's secret")

        blob.use(Broken())
        with pytest.raises(errors.NotAllowed, match=r"no token for the storage \(RuntimeError\)") as refused:
            blob.download(secure.plain("any"), tmp_path / "it")
        assert refused.value.__context__ is None
