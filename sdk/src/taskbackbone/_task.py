"""What a task's function sees of its task, and how one attempt is done, in whatever process it is.

Tracing plugs in at `span`: it is called in the thread that works on the attempt, and the function runs within the
context that it returns. `_tracing` replaces it where OpenTelemetry is in use; elsewhere it costs nothing.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ._attempts import Attempt, Data, Failed, NextStep, Outcome, Released, Stopped
from ._bodies import BadInput, Given, completed, encoded
from .errors import Cancelled, Fail, TryAgain

if TYPE_CHECKING:
    from .service import Route

_TELL_EVERY_S = 0.1
_LONGEST_PAUSE_S = 86_400.0  # that a release may ask for

logger = logging.getLogger("taskbackbone")


def _no_span(attempt: Attempt) -> AbstractContextManager[Any]:
    return nullcontext()


span: Callable[[Attempt], AbstractContextManager[Any]] = _no_span


class Desk:
    """How the work on one attempt reaches the supervisor, and is reached. Its subclass knows the way."""

    def __init__(self, folder: Path) -> None:
        self.is_over = False
        self.stop_reason: str | None = None
        """Why the attempt is cancelled, if it is."""
        self._folder = folder
        self._shields = threading.local()
        self._told_at = 0.0
        self._untold: tuple[float | None, str | None] | None = None

    def check(self) -> None:
        """Raises Cancelled if the attempt is cancelled, and the thread is not within a shield."""
        if self.stop_reason is not None and not self.is_shielded():
            self.disarm()
            raise Cancelled(self.stop_reason)

    def tell(self, fraction: float | None, text: str | None) -> None:
        """Passes on progress, ten times a second at most; with None for both, that the work is alive."""
        says_nothing = fraction is None and text is None
        wait_s = self._told_at + _TELL_EVERY_S - time.monotonic()
        if says_nothing and (wait_s > 0 or self._untold):
            return
        is_timed = self._untold is not None
        self._untold = fraction, text
        if wait_s <= 0:
            self._tell_now()
        elif not is_timed:  # what is told last must arrive, even if the function tells nothing any more
            with self.whole():
                timer = threading.Timer(wait_s, self._tell_now)
                timer.daemon = True
                timer.start()

    def _tell_now(self) -> None:
        untold, self._untold = self._untold, None
        if untold is None or self.is_over:
            return
        self._told_at = time.monotonic()
        with self.whole():
            self.send_progress(*untold)

    def send_progress(self, fraction: float | None, text: str | None) -> None:
        raise NotImplementedError

    def ask(self, what: str, data: Data | None = None) -> bytes | None:
        """Has the supervisor do `checkpoint`, `restored` or `previous`. Raises BackboneError or Cancelled."""
        raise NotImplementedError

    def whole(self) -> AbstractContextManager[Any]:
        """Keeps a signal from raising Cancelled in the middle of what must be whole."""
        return nullcontext()

    def shield(self) -> AbstractContextManager[Any]:
        """Keeps Cancelled from being raised in this thread within; it is raised at the end of the block."""
        return self._shield()

    @contextmanager
    def _shield(self) -> Generator[None, None, None]:
        self._shields.depth = getattr(self._shields, "depth", 0) + 1
        try:
            yield
        finally:
            self._shields.depth -= 1
            self.check()

    def is_shielded(self) -> bool:
        return getattr(self._shields, "depth", 0) > 0

    def arm(self) -> None:
        """From here on, Cancelled may be raised."""
        self.check()

    def disarm(self) -> None:
        """From here on, it is not."""

    def folder(self) -> Path:
        """The attempt's folder, which is made if it is not there."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder


class Task:
    """The task that a function works on.

    Attributes:
        id: its id; empty when the service is called directly, without the backbone.
        attempt: the number of this attempt; None if the backbone does not number attempts.
        path: the path that it came to.
        content_type: of its body, as it came.
        query: the query string, as it came.
    """

    def __init__(self, attempt: Attempt, desk: Desk) -> None:
        self.id = attempt.task_id or ""
        self.attempt = attempt.number
        self.path = attempt.path
        self.content_type = attempt.content_type
        self.query = attempt.query
        self._desk = desk
        self._kept: dict[str, bytes | None] = {}
        self.next_step: NextStep | None = None

    def progress(self, fraction: float | None = None, text: str | None = None) -> None:
        """Tells the caller how far the task is, 0 to 1, and what is being done. It may be called at any rate.

        Raises:
            Cancelled: the task is no longer this service's.
        """
        self._desk.check()
        if fraction is not None:
            fraction = min(1.0, max(0.0, float(fraction)))
        self._desk.tell(fraction, None if text is None else str(text))

    def check(self) -> None:
        """Shows that the function is alive.

        Raises:
            Cancelled: the task is no longer this service's.
        """
        self._desk.check()
        self._desk.tell(None, None)

    def uninterrupted(self) -> AbstractContextManager[Any]:
        """`with task.uninterrupted():` holds Cancelled up until the end of the block."""
        return self._desk.shield()

    def checkpoint(self, data: Data) -> None:
        """Keeps bytes, or the content of a file, for the task's next attempt. It replaces what was kept before.

        Raises:
            BackboneError: the backbone did not take it.
            Cancelled: the task is no longer this service's.
        """
        if self.id and self._desk.stop_reason in (None, "shutdown"):  # else it is another's to keep things for
            self._desk.ask("checkpoint", data if isinstance(data, Path) else bytes(data))

    @property
    def restored(self) -> bytes | None:
        """What an earlier attempt kept by `checkpoint`; None if there is nothing. Raises what that raises."""
        return self._once("restored")

    @property
    def previous_result(self) -> bytes | None:
        """The result of the pipeline's previous step; None if there is none. Raises what `checkpoint` raises."""
        return self._once("previous")

    def next(self, path: str, body: Any = None, *, query: Any = None, content_type: str | None = None) -> None:
        """Makes the task go on to another endpoint when the function returns.

        Parameters:
            path: of that endpoint, perhaps with a query.
            body: what it gets: anything that a function may return. What this function returns is then its
                `previous_result`. Without *body*, it gets what this function returns, or, if that is None, the body
                that came here.
            query: for that endpoint: a mapping, pairs, or a text that is escaped already.
            content_type: of the body; without it, what fits its type.
        """
        from ._calls import endpoint

        data, kind = encoded(body)
        if isinstance(data, bytes):
            file = self.folder / ".next"
            file.write_bytes(data)
            data = file
        self.next_step = *endpoint(path, query), content_type or kind, "" if data is None else str(data)

    @property
    def folder(self) -> Path:
        """A folder for the files of this attempt, which is removed at its end."""
        return self._desk.folder()

    def _once(self, what: str) -> bytes | None:
        if what not in self._kept:
            self._kept[what] = self._desk.ask(what) if self.id else None
        return self._kept[what]


def perform(route: Route, attempt: Attempt, desk: Desk) -> Outcome:
    """Does the work of one attempt."""
    task = Task(attempt, desk)
    given = Given(
        attempt.body, attempt.content_type, attempt.content_encoding, attempt.query, route.max_body_bytes, desk.folder
    )
    try:
        with _named(task), span(attempt):
            try:
                desk.arm()
                arguments, keywords = route.signature.bind(task, given)
                result = completed(route.function(*arguments, **keywords))
            finally:
                desk.disarm()
    except Cancelled:
        return Stopped()
    except BadInput as error:
        return Failed(str(error), 400)
    except Fail as error:
        return Failed(str(error), 422)
    except TryAgain as error:
        after_s = min(_LONGEST_PAUSE_S, max(0.0, float(error.after_s or 0)))
        return Released(error.text or "the service asks for another attempt", counted=True, after_s=after_s)
    except BaseException as error:
        with _named(task):  # the text is for the log alone: it may tell what is nobody's business
            logger.error("the attempt failed", exc_info=error)
        reason = f"{type(error).__name__}; see the service's log"
        return Released(reason, counted=True) if isinstance(error, route.retry_on) else Failed(reason)
    return result if task.next_step is None else replace(result, next_step=task.next_step)


_here = threading.local()
_main_text = ""  # of the attempt in the main thread, for the threads that its function starts


@contextmanager
def _named(task: Task) -> Generator[None, None, None]:
    """Has log lines say which task and attempt they are about."""
    global _main_text
    text = f" [task {task.id}, attempt {task.attempt}]" if task.id else ""
    _here.text = text
    if threading.current_thread() is threading.main_thread():
        _main_text = text
    try:
        yield
    finally:
        _here.text = ""
        if threading.current_thread() is threading.main_thread():
            _main_text = ""


def set_up_logs() -> None:
    """Gives each log record `task`, and the root logger a handler to standard output if it has none."""
    make = logging.getLogRecordFactory()

    def make_with_task(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.task = getattr(_here, "text", "") or _main_text
        return record

    logging.setLogRecordFactory(make_with_task)
    if not logging.getLogger().handlers:
        layout = "%(asctime)s %(levelname)s %(name)s%(task)s: %(message)s"
        logging.basicConfig(stream=sys.stdout, level=logging.INFO, format=layout)


def trace_if_configured() -> None:
    """Makes spans, if anybody has imported OpenTelemetry in this process: else there is no place for them to go."""
    if "opentelemetry" in sys.modules:
        from ._tracing import install

        install()
