"""``APIService`` of the AI for Earth images: makes endpoints of functions.

It takes the place of the images' file of this name, and needs Flask 1.1 or newer and Python 3.7.

What a service gets by it, and did not have before: its limits hold, also with ``API_PREFIX`` and for paths with
parameters; the leases of its tasks are renewed while its functions run; a slot is free before the end of its task is
reported; and on SIGTERM it takes nothing more, lets its functions end for ``AI4E_DRAIN_S`` seconds (5), and gives
back what has not ended, so that another pod begins with it at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
import time
import traceback
from contextlib import ExitStack
from functools import wraps
from typing import Any, Callable, Dict, Iterable

from ai4e_app_insights_wrapper import AI4EAppInsights
from ai4e_process import Departure, RequestCounts, is_metric_disabled
from flask import Response, abort, current_app, g, jsonify, make_response, request
from task_management.api_task import Task, TaskManager
from task_management.calls import seconds_of
from task_management.distributed_api_task import DistributedApiTaskManager
from task_management.held_tasks import Held, holdings, slots_headers
from werkzeug.exceptions import HTTPException

__all__ = ["AI4EAppInsights", "APIService", "Task", "TaskManager"]

MAX_REQUESTS_KEY_NAME = "max_requests"
CONTENT_TYPE_KEY_NAME = "content_types"
CONTENT_MAX_KEY_NAME = "content_max_length"
APP_INSIGHTS_REQUESTS_KEY_NAME = "REJECTED_STATE"

_IS_ASYNC = "is_async"
_DRAIN_S = 5.0
_STOPPING = "the service is stopping"
_FAILED = "Task failed - try again"

logger = logging.getLogger("ai4e")


class APIService:
    """The endpoints of a service.

    Parameters:
        flask_app: the app that gets them.
        logger: an ``AI4EAppInsights``, or an ``AzureMonitorLogger``, whose ``tracer`` traces each call.
    """

    def __init__(self, flask_app: Any, logger: Any) -> None:
        self.app = flask_app
        self.log = logger
        self.tracer = getattr(logger, "tracer", None)
        self.is_terminating = False
        self.api_prefix = (os.environ.get("API_PREFIX") or "").rstrip("/")
        self.func_properties: Dict[str, Dict[str, Any]] = {}
        self.func_request_counts: Dict[str, int] = {}
        self.api_task_manager = TaskManager()
        self._api: Any = None
        self._counting = threading.Lock()
        self._requests = RequestCounts()
        self._runs = _Runs()
        self._departure = Departure(self.initialize_term, self.leave)

        self.app.add_url_rule(self.api_prefix + "/", "ai4e_health_check", self.health_check, methods=["GET"])
        view = Task.as_view("ai4e_task", task_manager=self.api_task_manager)
        self.app.add_url_rule(self.api_prefix + "/task/<id>", view_func=view)
        self.app.before_request(self.before_request)
        self.app.after_request(self._tell_slots)
        self.app.teardown_request(self._free_what_nobody_took)

    @property
    def api(self) -> Any:
        """The Flask-RESTful ``Api`` of the app, for services that add resources to it."""
        if self._api is None:
            self._api = importlib.import_module("flask_restful").Api(self.app)
        return self._api

    def health_check(self) -> str:
        return "Health check OK"

    # How a function becomes an endpoint

    def api_async_func(
        self,
        api_path: str,
        methods: Iterable[str],
        request_processing_function: Callable[[Any], Dict[str, Any] | None] | None = None,
        maximum_concurrent_requests: int | None = None,
        content_types: Iterable[str] | None = None,
        content_max_length: int | None = None,
        trace_name: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorates a function that works on a task: each request starts it in a thread, and is answered at once.

        Parameters:
            api_path: below ``API_PREFIX``; it may have parameters, as Flask writes them.
            request_processing_function: is called with the request; what it returns are arguments of the function.
            maximum_concurrent_requests: how many of these functions this process runs at a time; one more is
                answered 503, and stays in its queue. None: any number.
            content_types: others are answered 401.
            content_max_length: bytes; longer bodies are answered 413.
        """
        limits = (maximum_concurrent_requests, content_types, content_max_length)
        return self.api_func(
            True, api_path, methods, request_processing_function, *limits, trace_name, *args, **kwargs
        )

    def api_sync_func(
        self,
        api_path: str,
        methods: Iterable[str],
        request_processing_function: Callable[[Any], Dict[str, Any] | None] | None = None,
        maximum_concurrent_requests: int | None = None,
        content_types: Iterable[str] | None = None,
        content_max_length: int | None = None,
        trace_name: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorates a function whose result is the answer. The parameters are those of ``api_async_func``."""
        limits = (maximum_concurrent_requests, content_types, content_max_length)
        return self.api_func(
            False, api_path, methods, request_processing_function, *limits, trace_name, *args, **kwargs
        )

    def api_func(
        self,
        is_async: bool,
        api_path: str,
        methods: Iterable[str],
        request_processing_function: Callable[[Any], Dict[str, Any] | None] | None,
        maximum_concurrent_requests: int | None,
        content_types: Iterable[str] | None = None,
        content_max_length: int | None = None,
        trace_name: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        rule = self.api_prefix + api_path
        types = [content_types] if isinstance(content_types, str) else content_types

        def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
            if rule not in self.func_properties:
                self.func_properties[rule] = {
                    MAX_REQUESTS_KEY_NAME: maximum_concurrent_requests,
                    CONTENT_TYPE_KEY_NAME: None if types is None else list(types),
                    CONTENT_MAX_KEY_NAME: content_max_length,
                    _IS_ASYNC: is_async,
                }
                self.func_request_counts[rule] = 0

            @wraps(func)
            def api(*args: Any, **kwargs: Any) -> Any:
                arguments = {"func": func, "api_path": api_path, **kwargs}
                if request_processing_function:
                    arguments.update(request_processing_function(request) or {})
                if not is_async:
                    return self.wrap_sync_endpoint(trace_name, *args, **arguments)
                return self._accept(trace_name, *args, **arguments)

            name = "api_" + api_path.replace("/", "").replace(".", "_")
            if name in self.app.view_functions:
                name += "_" + "_".join(sorted(methods)).lower()
            api.__name__ = name
            self.app.add_url_rule(rule, name, api, methods=list(methods))
            return func

        return decorate

    def _accept(self, trace_name: str | None, *args: Any, **arguments: Any) -> Any:
        if not holdings.comes(*_dispatch_of(request)):
            return "TaskId: " + request.headers["taskId"]
        task = self.api_task_manager.AddTask(request)
        if task["TaskId"] == "-1":
            return _refusal(503, "No task can be created now, please try again later.")
        arguments["taskId"] = task["TaskId"]
        try:
            self.wrap_async_endpoint(trace_name, *args, **arguments)
        except RuntimeError:  # no thread can be started
            logger.exception("task %s: its function cannot be started", task["TaskId"])
            holdings.never_came(*_dispatch_of(request))
            return _refusal(503, "Service is busy, please try again later.")
        return "TaskId: " + task["TaskId"]

    # What a request meets before its function

    def before_request(self) -> Any:
        if self.is_terminating:
            return _refusal(503, "Service is busy, please try again later.")
        rule = self._rule()
        if rule is None or request.method == "OPTIONS":
            return None
        limits = self.func_properties[rule]
        if limits[_IS_ASYNC] and holdings.came(*_dispatch_of(request)):
            # The backbone heard no answer, and dispatched the same attempt once more. Its function runs.
            return "TaskId: " + request.headers["taskId"]
        types, most_bytes = limits[CONTENT_TYPE_KEY_NAME], limits[CONTENT_MAX_KEY_NAME]
        if types and not _is_one_of(request.content_type, request.mimetype, types):
            return _refusal(401, "Content-type must be " + str(types))
        if (
            most_bytes
            and request.content_length is None
            and "chunked" in request.headers.get("Transfer-Encoding", "")
        ):
            return _refusal(411, "Content-Length is needed.")
        if most_bytes and (request.content_length or 0) > most_bytes:
            told = "Request content too large ({}). Must be smaller than: {}"
            return _refusal(413, told.format(request.content_length, most_bytes))
        taken = self._take_slot(rule)
        self._track_refusal(0 if taken else 1)
        if not taken:
            return _refusal(503, "Service is busy, please try again later.")
        return None

    def _rule(self) -> str | None:
        """The rule of the request, if one of the functions serves it."""
        rule = request.url_rule.rule if request.url_rule is not None else None
        return rule if rule in self.func_properties else None

    def _take_slot(self, rule: str) -> bool:
        most = self.func_properties[rule][MAX_REQUESTS_KEY_NAME]
        with self._counting:
            if most is not None and self.func_request_counts[rule] >= most:
                return False
            self.func_request_counts[rule] += 1
        g.ai4e_slot = _Slot(lambda: self._release_slot(rule))
        self._requests.change(rule, 1)
        return True

    def _release_slot(self, rule: str) -> None:
        with self._counting:
            self.func_request_counts[rule] -= 1
        self._requests.change(rule, -1)

    def _free_what_nobody_took(self, exception: BaseException | None = None) -> None:
        slot = g.pop("ai4e_slot", None)
        if slot is not None:
            slot.free()

    def _tell_slots(self, response: Response) -> Response:
        rule = self._rule()
        if rule is not None and "taskId" in request.headers:
            most = self.func_properties[rule][MAX_REQUESTS_KEY_NAME]
            told = 0 if self.is_terminating and most is not None else most
            response.headers.extend(slots_headers(told))
        return response

    def _track_refusal(self, refused: int) -> None:
        if not is_metric_disabled() and hasattr(self.log, "track_metric"):
            self.log.track_metric(APP_INSIGHTS_REQUESTS_KEY_NAME + request.path, refused)

    # How a function runs

    def wrap_sync_endpoint(self, trace_name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return self._execute_func_with_counter(False, trace_name, *args, **kwargs)

    def wrap_async_endpoint(self, trace_name: str | None = None, *args: Any, **kwargs: Any) -> None:
        self._create_and_execute_thread(trace_name, *args, **kwargs)

    def _create_and_execute_thread(self, trace_name: str | None, *args: Any, **kwargs: Any) -> None:
        # The thread outlives the request, so it gets the request itself, with its body.
        this_request = _unwrapped(request)
        this_request.get_data()
        kwargs["request"] = this_request
        slot = g.ai4e_slot
        run = _Run(kwargs["taskId"], slot)
        manager = self.api_task_manager.distributed_api_task
        if isinstance(manager, DistributedApiTaskManager):
            rule = self.api_prefix + kwargs["api_path"]
            most = self.func_properties[rule][MAX_REQUESTS_KEY_NAME]
            run.held = manager.run(kwargs["taskId"], slots=most, free_slot=slot.free)
        thread = threading.Thread(
            target=self._run_task,
            args=(_unwrapped(current_app), run, trace_name, args, kwargs),
            name="ai4e-" + kwargs["taskId"],
            daemon=True,  # the departure waits for it, within limits
        )
        self._departure.is_needed()
        self._runs.begin(run)
        try:
            thread.start()
        except RuntimeError:
            self._runs.end(run)
            if run.held is not None:
                manager.drop(run.held)
            raise
        g.pop("ai4e_slot")

    def _run_task(self, app: Any, run: _Run, trace_name: str | None, args: Any, kwargs: Dict[str, Any]) -> None:
        try:
            with app.app_context():
                self._execute_func_with_counter(True, trace_name, *args, **kwargs)
        except BaseException:
            logger.exception("task %s: its end was not told", run.task_id)
        finally:
            run.slot.free()
            try:
                if run.held is not None:
                    self.api_task_manager.distributed_api_task.ran(run.held)
            finally:
                self._runs.end(run)

    def _execute_func_with_counter(self, is_async: bool, trace_name: str | None, *args: Any, **kwargs: Any) -> Any:
        func = kwargs["func"]
        with ExitStack() as stack:
            if self.tracer:
                stack.enter_context(self.tracer.span(name=trace_name or kwargs["api_path"]))
            try:
                return func(*args, **kwargs)
            except HTTPException as error:
                self._log_and_fail_exeception(is_async, **kwargs)
                return error
            except BaseException as error:
                if not is_async and not isinstance(error, Exception):
                    raise  # the server is told to stop
                self._log_and_fail_exeception(is_async, **kwargs)
        return None if is_async else abort(500)

    def _log_and_fail_exeception(self, is_async: bool, **kwargs: Any) -> None:
        told = "".join(traceback.format_exception(*sys.exc_info()))
        task_id = kwargs.get("taskId")
        self.log.log_exception(told, task_id)
        held = holdings.find(task_id) if task_id else None
        if is_async and task_id and not (held is not None and held.has_ended):
            self.api_task_manager.FailTask(task_id, _FAILED)

    # Requests in flight

    def update_processing_count(self, api_path: str, increment_by: int, decrement_by: int) -> None:
        self._requests.change(self.api_prefix + api_path, increment_by - decrement_by)

    def increment_requests(self, api_path: str) -> None:
        with self._counting:
            self.func_request_counts[self.api_prefix + api_path] += 1
        self.update_processing_count(api_path, increment_by=1, decrement_by=0)

    def decrement_requests(self, api_path: str) -> None:
        self._release_slot(self.api_prefix + api_path)

    # The end of the process

    def initialize_term(self, signum: int, frame: Any) -> None:
        """The handler of SIGTERM and SIGINT."""
        self.is_terminating = True
        self._departure.handle(signum, frame)

    def leave(self, until: Callable[[float], bool]) -> None:
        """Let functions end for a while, give back the tasks of the others, and take the counts back."""
        self.is_terminating = True
        drain_s = seconds_of("AI4E_DRAIN_S", _DRAIN_S)
        give_up_s = time.monotonic() + drain_s
        while self._runs.all() and time.monotonic() < give_up_s and not until(0.05):
            pass
        left = [run.held for run in self._runs.all() if run.held is not None]
        if left:
            logger.warning("%d tasks are given back: %s", len(left), _STOPPING)
            self.api_task_manager.distributed_api_task.give_back(left, _STOPPING)
        self._requests.leave()


class _Slot:
    """Room for one function. It is freed once, however often it is told to."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release
        self._lock = threading.Lock()

    def free(self) -> None:
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()


class _Run:
    """A function that works on a task."""

    def __init__(self, task_id: str, slot: _Slot) -> None:
        self.task_id = task_id
        self.slot = slot
        self.held: Held | None = None


class _Runs:
    """Those at work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: Dict[_Run, None] = {}

    def begin(self, run: _Run) -> None:
        with self._lock:
            self._runs[run] = None

    def end(self, run: _Run) -> None:
        with self._lock:
            self._runs.pop(run, None)

    def all(self) -> list[_Run]:
        with self._lock:
            return list(self._runs)


def _unwrapped(proxy: Any) -> Any:
    """What a proxy of Flask stands for in this thread, so that another one can have it."""
    return proxy._get_current_object()


def _dispatch_of(this_request: Any) -> tuple[str, str]:
    """The task's id and the attempt, as the backbone tells them; empty texts for a direct call."""
    return this_request.headers.get("taskId", ""), this_request.headers.get("X-Task-Attempt", "")


def _is_one_of(content_type: str | None, media_type: str, types: list[str]) -> bool:
    """Whether a content type is listed, as it stands there or without its parameters, such as the charset."""
    return content_type in types or media_type.lower() in [each.split(";")[0].strip().lower() for each in types]


def _refusal(status: int, message: str) -> Response:
    """Refuses a request. The backbone shows ``detail`` to the caller of a task; the images had ``message``."""
    return make_response(jsonify(message=message, detail=message), status)
