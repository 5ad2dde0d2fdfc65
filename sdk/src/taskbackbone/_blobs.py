"""Large bodies and results are blobs of Azure Storage, which go there in blocks and come from there in parts.

What goes there is read twice: its hashes first, then its blocks, several at a time. Each block has to have the hash
of the first reading, here and at the storage. So what is stored is what was declared, even if the file changes
meanwhile. A block that is lost on the way is sent again, and no other.

What comes from there comes into a file, several parts at a time, or as a stream. A part that breaks off goes on where
it was. The whole is what was stored, by its length and its SHA-256 if these are known, or there is an error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import random
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple
from urllib.parse import urlsplit

from . import errors
from ._core import LARGE_BYTES, Answer, NoAnswer, Steps, Work, refusal, request, task_path
from ._drivers import run_sync
from ._payload import Payload
from ._storage import PLACES, Gate, Places, Transfer, call_of, refused

if TYPE_CHECKING:
    from ._calls import Caller

UPLOADS = "/api/v1/uploads"
BLOCK_BYTES = 4 * 1024 * 1024
_MOST_BLOCKS = 50_000
_DAMAGED = 3
"""So many times a block is sent that arrives as another."""
PART_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_MOST_FAILURES = 6
_REACH_S = 5.0
"""For how long the storage is tried before the backbone is asked for the bytes instead."""
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class Sums(NamedTuple):
    """The hashes of a body: SHA-256 of the whole in hex digits, and the MD5 of each block."""

    sha256: str
    blocks: list[bytes]
    block_bytes: int


class Opened(NamedTuple):
    """An upload that the backbone has answered with."""

    id: str
    url: str

    def __repr__(self) -> str:
        return f"Opened({self.id!r})"


def sums_of(body: bytes | Payload, transfer: Transfer) -> Sums:
    """Raises BodyUnreadable, Halted."""
    size = len(body)
    mib = 1024 * 1024
    block_bytes = max(BLOCK_BYTES, -(-size // (_MOST_BLOCKS * mib)) * mib)
    whole, blocks = hashlib.sha256(), list[bytes]()
    for start in range(0, size, block_bytes):
        transfer.check()
        block = _block(body, start, min(block_bytes, size - start))
        whole.update(block)
        blocks.append(_md5(block))
    return Sums(whole.hexdigest(), blocks, block_bytes)


def put(
    transfer: Transfer, url: str, body: bytes | Payload, sums: Sums, content_type: str, content_encoding: str = ""
) -> None:
    """Make a block blob of a body, which replaces one that is there.

    Raises:
        BodyUnreadable: it cannot be read, or has changed since *sums* were made.
        NotAllowed, NotFound, Refused, Unreachable: the storage does not take it.
        Halted.
    """
    names = [base64.b64encode(b"%09d" % number).decode() for number in range(len(sums.blocks))]

    def put_block(number: int) -> None:
        start = number * sums.block_bytes
        block = _block(body, start, min(sums.block_bytes, len(body) - start))
        if _md5(block) != sums.blocks[number]:
            raise errors.BodyUnreadable("The body has changed while it was sent.")
        headers = {"Content-MD5": base64.b64encode(sums.blocks[number]).decode()}
        for left in reversed(range(_DAMAGED)):
            answer = transfer.call("PUT", url, f"comp=block&blockid={names[number]}", headers, block)
            if answer.is_success:
                return
            if not left or answer.headers.get("x-ms-error-code") != "Md5Mismatch":  # damaged on the way
                raise refused(answer)

    transfer.each(put_block, len(names))
    listed = "".join(f"<Latest>{name}</Latest>" for name in names)
    whole = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
    headers = {"Content-Type": "application/xml", "Content-MD5": base64.b64encode(_md5(whole)).decode()}
    headers["x-ms-blob-content-type"] = content_type
    if content_encoding:
        headers["x-ms-blob-content-encoding"] = content_encoding
    transfer.demand("PUT", url, "comp=blocklist", headers, whole)


def upload(
    caller: Caller,
    hand_in: Callable[[Mapping[str, str]], Steps[Answer]],
    body: bytes | Payload,
    headers: Mapping[str, str],
    told: Mapping[str, str],
) -> Steps[Answer]:
    """Hand in a body as an upload. It is handed in before it is written, too: so what is refused, or known already,
    is not written at all.

    Parameters:
        hand_in: makes the call that takes the upload, with these headers.
        headers: of that call, and of the body.
        told: of ``POST /api/v1/uploads``, beside what says what the body is.
    """
    transfer = Transfer(caller.retry_for_s)
    content_type, encoding = headers["Content-Type"], headers.get("Content-Encoding", "")
    sums: Sums = yield Work(lambda: sums_of(body, transfer), transfer.halt)
    document = json.dumps(described(len(body), content_type, encoding, sums, told)).encode()
    sent = {
        name: value for name, value in headers.items() if name.startswith("X-Task-") and name != "X-Task-Complete"
    }
    sent["Content-Type"] = "application/json"
    opened = opened_by((yield from caller.demand("POST", UPLOADS, body=document, headers=sent)).json())
    kept = {name: value for name, value in headers.items() if not name.startswith("Content-")}
    kept["X-Upload"] = opened.id
    try:
        return (yield from hand_in(kept))
    except errors.Refused as error:
        if error.kind != "upload-mismatch":
            raise
    yield Work(lambda: put(transfer, opened.url, body, sums, content_type, encoding), transfer.halt)
    return (yield from hand_in(kept))


def described(
    size: int, content_type: str, content_encoding: str, sums: Sums, told: Mapping[str, str]
) -> dict[str, Any]:
    """What the backbone is told of a body that is to be uploaded."""
    document: dict[str, Any] = {"Size": size, "ContentType": content_type, "Sha256": sums.sha256, **told}
    if content_encoding:
        document["ContentEncoding"] = content_encoding
    return document


def opened_by(document: Mapping[str, Any]) -> Opened:
    try:
        return Opened(str(document["UploadId"]), str(document["Url"]))
    except KeyError:
        raise errors.Unreachable("What answers is not the backbone: is the URL right?") from None


def _block(body: bytes | Payload, start: int, size: int) -> bytes:
    return body.part(start, size) if isinstance(body, Payload) else body[start : start + size]


def _md5(block: bytes) -> bytes:
    return hashlib.md5(block, usedforsecurity=False).digest()


class Source(NamedTuple):
    """A blob: its URL, and what is known of its content, its length and its SHA-256."""

    url: str
    size: int | None = None
    sha256: bytes | None = None

    def __repr__(self) -> str:
        return f"Source({self.size} bytes)"


def digest_of(headers: Mapping[str, str]) -> bytes | None:
    """The SHA-256 that ``Repr-Digest`` (RFC 9530) tells."""
    found = _DIGEST.search(headers.get("repr-digest", ""))
    try:
        return base64.b64decode(found[1], validate=True) if found else None
    except binascii.Error:
        return None


def check_digest(found: bytes, expected: bytes | None) -> None:
    """Raises Corrupted."""
    if expected is not None and found != expected:
        raise errors.Corrupted("The content is not what was stored: its SHA-256 is another.")


def source_of(headers: Mapping[str, str]) -> Source:
    """Where the body of a dispatch lies. Raises ValueError, KeyError."""
    return Source(headers["x-task-body"], int(headers["x-task-body-length"]), digest_of(headers))


def fetch(headers: Mapping[str, str], path: Path, retry_for_s: float) -> Path:
    """Fetch the body that a dispatch names. Raises KeyError, OSError, and what ``Blob`` raises."""
    source, places = source_of(headers), Places.of_environment(PLACES)
    transport = Gate(places, is_open=not places).transport(source.url)
    Blob(Transfer(retry_for_s, transport), source).save(path)
    return path


class Blob:
    """A blob that is read in parts. The first one, of *first_bytes*, is on its way already.

    Parameters:
        renew: makes a URL anew when the storage refuses the one before.

    Raises:
        Corrupted: it has another length than its source says.
        NotAllowed, NotFound, Refused, Unreachable: the storage does not give it.
        Halted.
    """

    def __init__(
        self,
        transfer: Transfer,
        source: Source,
        renew: Callable[[], str] | None = None,
        *,
        first_bytes: int = PART_BYTES,
    ) -> None:
        self._transfer = transfer
        self._url = source.url
        self._sha256 = source.sha256
        self._renew: Callable[[], str] | None = None
        self.etag = ""
        first = self._ask(0, first_bytes)
        self._renew = renew
        is_empty = first.status == 416
        self._first: Answer | None = None if is_empty else _checked(first, 0)
        self.etag = first.headers.get("etag", "")
        self.encoding = first.headers.get("content-encoding", "")
        self.content_type = first.headers.get("content-type", "")
        self.size = 0 if is_empty else int(first.headers["content-range"].rpartition("/")[2])
        if source.size not in (None, self.size):
            self.close()
            raise errors.Corrupted(f"The content has {self.size:,} bytes, and not {source.size:,}.")

    def save(self, path: Path) -> None:
        """Write it to a file. Raises OSError, and what the class raises."""
        path.open("wb").close()
        self._transfer.each(lambda number: self._save_part(number, path), -(-self.size // PART_BYTES))
        if self._sha256 is not None:
            check_digest(_sha256_of(path, self._transfer), self._sha256)

    def read(self, start: int, end: int) -> bytes:
        """Its bytes from *start* up to *end*. Raises what the class raises."""
        parts: list[bytes] = []
        self._fetch(start, min(end, self.size), parts.append)
        return b"".join(parts)

    def close(self) -> None:
        first, self._first = self._first, None
        _close(first)

    def _ask(self, start: int, end: int | None) -> Answer:
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        if self.etag:
            headers["If-Match"] = self.etag
        answer = self._transfer.call("GET", self._url, "", headers, streamed=True)
        if answer.status == 403 and self._renew is not None:  # the time of its URL may be over
            self._url = self._renew()
            answer = self._transfer.call("GET", self._url, "", headers, streamed=True)
        return answer

    def _save_part(self, number: int, path: Path) -> None:
        start = number * PART_BYTES
        with path.open("r+b", buffering=0) as file:  # its own, since it may outlive the others

            def write(chunk: bytes) -> None:
                left = memoryview(chunk)
                while left:
                    left = left[file.write(left) :]

            file.seek(start)
            self._fetch(start, min(self.size, start + PART_BYTES), write)

    def _fetch(self, at: int, end: int, write: Callable[[bytes], object]) -> None:
        failures = 0
        while at < end:
            before, why, answer = at, "nothing came", None
            if at == 0:
                answer, self._first = self._first, None
            answer = answer or _checked(self._ask(at, end), at)
            try:
                for chunk in answer.stream:
                    self._transfer.check()
                    write(chunk[: end - at])
                    at = min(end, at + len(chunk))
                    if at == end:
                        break
            except NoAnswer as error:
                why = str(error)
            finally:
                answer.stream.close()
            failures = failures + 1 if at == before else 0
            if failures == _MOST_FAILURES:
                raise errors.Unreachable(f"The content broke off again and again: {why}")
            if at < end:
                self._transfer.pause(random.uniform(0, 0.25 * 2**failures))


def _checked(answer: Answer, start: int) -> Answer:
    """An answer with the bytes from *start* on."""
    if answer.status == 412:
        raise errors.Conflict("The content has changed while it was read.", 412)
    found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
    if answer.status == 206 and found and int(found[1]) == start:
        return answer
    _close(answer)
    if answer.is_success:
        raise errors.Refused("The storage has answered with something else.", answer.status)
    raise refused(answer)


def _close(answer: Answer | None) -> None:
    if answer is not None and answer.stream is not None:
        answer.stream.close()


def _sha256_of(path: Path, transfer: Transfer) -> bytes:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            transfer.check()
            whole.update(chunk)
    return whole.digest()


class Opener:
    """Where the bytes of a result come from: the storage if it is large and can be reached, else the backbone."""

    def __init__(self, caller: Caller, task_id: str, size: int) -> None:
        self._caller = caller
        self._task_id = task_id
        self._is_linked = size > LARGE_BYTES
        self._size = size
        self._etag = ""
        self._sha256: bytes | None = None

    def sha256(self) -> Any:
        """A hash for what comes."""
        return hashlib.sha256()

    def check(self, whole: Any) -> None:
        """Raises Corrupted if the hash of what has come is not the one of what was stored, if that is known."""
        check_digest(whole.digest(), self._sha256)

    def open(self, start: int) -> Steps[Answer]:
        """The streamed bytes from *start* on; all of them, if others have taken their place."""
        answer = yield from self._ask(start)
        if answer.status == 400 and self._is_linked:  # a backbone that knows no links
            self._is_linked = False
            answer = yield from self._ask(start)
        if answer.status == 303:
            answer = (yield from self._open_blob(self._source(answer).url, start)) or (yield from self._ask(start))
        if answer.status == 303:
            raise errors.Unreachable("The result is too large for the backbone, and its storage cannot be reached.")
        if not answer.is_success:
            raise refusal(answer)
        self._etag = answer.headers.get("etag", "")
        self._sha256 = self._sha256 or digest_of(answer.headers)
        return answer

    def _open_blob(self, url: str, start: int) -> Steps[Answer | None]:
        """The streamed bytes; None if the storage takes no calls from here."""
        headers = {"Range": f"bytes={start}-", **({"If-Match": self._etag} if start and self._etag else {})}
        call, answer = call_of("GET", url, headers, streamed=True), None
        with suppress(errors.Unreachable):
            answer = yield from request(call, retry_for_s=self._caller.retry_for_s if start else _REACH_S)
        if answer is not None and answer.status == 412:
            raise errors.Conflict("The result has changed while it was read.", 412)
        if answer is not None and answer.is_success:
            return answer
        if start:
            raise errors.Unreachable("The storage does not answer.") if answer is None else refused(answer)
        self._is_linked = False
        return None

    def save(self, path: Path) -> Steps[bool]:
        """Write them to a file, in parts, if they come from the storage as they are. Says whether they did."""
        if not self._is_linked:
            return False
        transfer = Transfer(_REACH_S)
        return (yield Work(lambda: self._save(path, transfer), transfer.halt))

    def _save(self, path: Path, transfer: Transfer) -> bool:
        answer = run_sync(self._ask(0))
        if answer.status != 303:
            _close(answer)
            return False
        try:
            blob = Blob(transfer, self._source(answer), lambda: self._source(run_sync(self._ask(0))).url)
        except (errors.Unreachable, errors.NotAllowed):  # such as an account that takes no calls from here
            self._is_linked = False
            return False
        if blob.encoding:
            blob.close()
            return False
        transfer.retry_for_s = self._caller.retry_for_s
        blob.save(path)
        return True

    def _ask(self, start: int) -> Steps[Answer]:
        caller, headers = self._caller, dict[str, str]()
        if start and self._etag:
            headers = {"Range": f"bytes={start}-", "If-Range": self._etag}
        path, query = task_path(self._task_id, "/result"), "link=1" if self._is_linked else ""
        timeout_s = caller.timeout_s
        call = caller.backbone.call("GET", path, query=query, headers=headers, timeout_s=timeout_s, streamed=True)
        return (yield from request(call, retry_for_s=caller.retry_for_s))

    def _source(self, answer: Answer) -> Source:
        """What a 303 leads to. The key stays behind."""
        if answer.status != 303:
            raise refusal(answer)
        url = answer.headers.get("location", "")
        if urlsplit(self._caller.backbone.url).scheme == "https" and not url.startswith("https:"):
            raise errors.Refused("The link to the result is not https, and the backbone is.", 303)
        self._sha256 = self._sha256 or digest_of(answer.headers)
        return Source(url, self._size, self._sha256)
