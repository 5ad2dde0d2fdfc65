"""The bodies and results of a service's tasks that lie in Blob Storage: fetched before the work, put there after it.

Threads do it, beside the supervisor's loop, which goes on sending heartbeats. A task that is no longer this service's
halts its transfer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Callable, TypeVar

from . import errors
from ._attempts import Attempt, Data, Failed, Outcome, Released, Stopped
from ._blobs import Blob, Opened, Source, Sums, digest_of, put, sums_of
from ._core import Answer
from ._payload import Payload, unpacked
from ._storage import PLACES, Gate, Halted, Places, Transfer

T = TypeVar("T")
_FETCH_FOR_S, _UPLOAD_FOR_S = 60.0, 900.0
"""For how long the storage may be away: before the work another instance may be better off, after it there is work to
lose.
"""


class NotStored(errors.BackboneError):
    """The storage does not take a result; *is_refused* if that is because of the URL."""

    def __init__(self, message: str, *, is_refused: bool) -> None:
        super().__init__(message)
        self.is_refused = is_refused


class Transfers:
    """Those of one service. It is true while there are some.

    Raises:
        ValueError: the variable ``SERVICE_STORAGE`` has something else than URLs.
    """

    def __init__(self) -> None:
        places = Places.of_environment(PLACES)
        self._gate = Gate(places, is_open=not places)
        self._running: dict[Attempt, Transfer] = {}
        self.is_leaving = False

    def __bool__(self) -> bool:
        return bool(self._running)

    def check(self, source: Source) -> None:
        """Raises NotAllowed: this service fetches nothing from there."""
        self._gate.transport(source.url)

    def halt(self, attempt: Attempt) -> None:
        if transfer := self._running.get(attempt):
            transfer.halt()

    def leave(self) -> None:
        """The process is about to end: what is on its way is given back."""
        self.is_leaving = True
        for transfer in self._running.values():
            transfer.halt()

    async def fetch(self, attempt: Attempt, source: Source) -> Outcome | None:
        """Writes the body to the attempt's file. If that cannot be, what becomes of the attempt is returned."""
        assert isinstance(attempt.body, Path)
        transfer = Transfer(_FETCH_FOR_S, self._gate.transport(source.url))
        try:
            with self._noted(attempt, transfer):
                await _in_thread(transfer, partial(_save, transfer, source, attempt.body))
        except Halted:
            return Stopped()
        except errors.Refused as error:
            return Failed(f"the body cannot be fetched: {error}")
        except errors.BackboneError as error:
            return Released(f"the body could not be fetched: {error}", counted=True)
        except OSError as error:
            return Released(f"the body cannot be kept in a file ({type(error).__name__})", counted=True)
        return None

    async def fetch_result(self, attempt: Attempt, answer: Answer) -> Data:
        """The earlier step's result that a 303 of the backbone leads to: a file, or bytes if it was compressed.

        Raises:
            BackboneError: it cannot be fetched.
        """
        path, transfer = attempt.folder / ".previous", Transfer(_FETCH_FOR_S)
        source = Source(answer.headers.get("location", ""), None, digest_of(answer.headers))
        with self._noted(attempt, transfer):
            encoding = await _in_thread(transfer, partial(_save, transfer, source, path))
        return await unpacked(encoding, path.read_bytes()) if encoding else path

    async def upload(
        self,
        attempt: Attempt,
        body: bytes | Payload,
        content_type: str,
        encoding: str,
        open_upload: Callable[[Sums], Awaitable[Opened]],
    ) -> str:
        """Puts a result into the storage, and returns the upload's id.

        Parameters:
            open_upload: has the backbone make a URL for it.

        Raises:
            NotStored: the storage does not take it.
            BodyUnreadable: it cannot be read.
            Halted: the task is no longer this service's, or the service stops.
        """
        transfer = Transfer(_UPLOAD_FOR_S)
        with self._noted(attempt, transfer):
            sums = await _in_thread(transfer, partial(sums_of, body, transfer))

        async def once() -> str:
            transfer = Transfer(_UPLOAD_FOR_S)
            with self._noted(attempt, transfer):
                opened = await open_upload(sums)
                try:
                    await _in_thread(transfer, partial(put, transfer, opened.url, body, sums, content_type, encoding))
                except (errors.Refused, errors.Unreachable) as error:
                    raise NotStored(str(error), is_refused=isinstance(error, errors.NotAllowed)) from None
            return opened.id

        try:
            return await once()
        except NotStored as error:
            if not error.is_refused:
                raise
        return await once()  # the time of its URL may have been over

    @contextmanager
    def _noted(self, attempt: Attempt, transfer: Transfer) -> Generator[None, None, None]:
        self._running[attempt] = transfer
        if self.is_leaving:
            transfer.halt()
        try:
            yield
        finally:
            del self._running[attempt]


def _save(transfer: Transfer, source: Source, path: Path) -> str:
    """Returns its content encoding."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    blob = Blob(transfer, source)
    blob.save(path)
    return blob.encoding


async def _in_thread(transfer: Transfer, do: Callable[[], T]) -> T:
    """Does it in a thread of its own, which is not waited for once the transfer is halted or this is cancelled."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if end.done():
            return
        if error is not None:
            end.set_exception(error)
        else:
            end.set_result(value)

    def work() -> None:
        value, error = None, None
        try:
            value = do()
        except BaseException as failure:
            error = failure
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, value, error)

    transfer.on_halt = lambda: settle(None, Halted("The transfer was stopped."))
    try:
        transfer.check()
        threading.Thread(target=work, name="transfer", daemon=True).start()
        return await end
    finally:
        transfer.on_halt = lambda: None
        if not end.done() or end.cancelled():
            transfer.halt()
