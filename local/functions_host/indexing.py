"""The functions of an app, read once, with the checks of the real worker when it loads an app."""

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import azure.functions as func
from azure.functions.meta import Datum

from local.functions_host.errors import HostError
from local.functions_host.http_messages import Response
from local.functions_host.schedules import parse_time_span

HTTP_TRIGGER, TIMER_TRIGGER, EVENT_GRID_TRIGGER = "httpTrigger", "timerTrigger", "eventGridTrigger"
_HTTP_OUTPUT = "http"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    max_retries: int
    """-1: without limit."""
    first_delay_s: float
    longest_delay_s: float

    def delay_s(self, retry: int) -> float | None:
        """The wait before the `retry`-th retry (counted from 1), or None to give up. Doubles up to the longest."""
        if 0 <= self.max_retries < retry:
            return None
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(retry - 1, 64))


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    handler: Callable[..., Any]
    is_async: bool
    directory: str
    takes_context: bool
    trigger: Mapping[str, Any]
    """The trigger's binding, with the keys of function.json, as the real host gets it."""
    is_disabled: bool
    retry_policy: RetryPolicy | None
    """Only timers have one; the host ignores it for HTTP and Event Grid triggers."""

    @property
    def trigger_type(self) -> str:
        return self.trigger["type"]

    @property
    def is_http(self) -> bool:
        return self.trigger_type == HTTP_TRIGGER

    @property
    def route(self) -> str:
        return self.trigger.get("route") or self.name

    def decode(self, value: object, datum_type: str) -> Any:
        """Converts a value that the host sends to the worker into the handler's argument."""
        return _converter(self.trigger_type).decode(Datum(value, datum_type), trigger_metadata={})

    def encode(self, result: object) -> Response | None:
        """Converts the handler's return value: to a response for an HTTP function, to None for any other.

        Raises `TypeError` or `ValueError` if the real invocation would fail because of the return value.
        """
        if self.is_http:
            try:
                return Response.from_datum(_converter(_HTTP_OUTPUT).encode(result, expected_type=None))
            except NotImplementedError:
                raise TypeError(f"an HTTP function cannot return {type(result).__name__}") from None
        if result is not None:
            raise TypeError(f"a function without a $return binding returned {type(result).__name__}, not None")
        return None


def _converter(binding_type: str) -> Any:
    return func.get_binding_registry().get(binding_type)


def index_functions(app: func.FunctionRegister, settings: Mapping[str, str]) -> dict[str, Function]:
    """Returns the app's functions by name; raises `HostError`. It enumerates the app, which works only once."""
    try:
        declared = app.get_functions()
    except ValueError as error:
        raise HostError(str(error)) from error
    functions: dict[str, Function] = {}
    for declaration in declared:
        function = _index(declaration, settings)
        if any(function.name.lower() == name.lower() for name in functions):
            raise HostError(f"{function.name}: another function has this name; the host ignores case.")
        functions[function.name] = function
    return functions


def _index(declaration: func.Function, settings: Mapping[str, str]) -> Function:
    name, handler = declaration.get_function_name() or "", declaration.get_user_function()
    bindings = {binding["name"]: binding for binding in map(json.loads, declaration.get_raw_bindings())}
    declared_trigger = declaration.get_trigger()
    assert declared_trigger is not None, "get_functions() refuses a function without a trigger"
    trigger = bindings.pop(declared_trigger.name)

    if trigger["type"] not in (HTTP_TRIGGER, TIMER_TRIGGER, EVENT_GRID_TRIGGER):
        raise HostError(f"{name}: {trigger['type']} is not supported by the development host.")
    output = bindings.pop("$return", None) if trigger["type"] == HTTP_TRIGGER else None
    if trigger["type"] == HTTP_TRIGGER and (output is None or output["type"] != _HTTP_OUTPUT):
        raise HostError(f"{name}: an HTTP function needs an http output named $return.")
    for binding in bindings.values():
        raise HostError(f"{name}: the binding {binding['type']} is not supported by the development host.")

    takes_context = _check_signature(name, handler, trigger)
    return Function(
        name=name,
        handler=handler,
        is_async=inspect.iscoroutinefunction(handler),
        directory=str(Path(inspect.getfile(handler)).parent),
        takes_context=takes_context,
        trigger=trigger,
        is_disabled=settings.get(f"AzureWebJobs.{name}.Disabled", "").lower() in ("true", "1"),
        retry_policy=_retry_policy(name, declaration) if trigger["type"] == TIMER_TRIGGER else None,
    )


def _check_signature(name: str, handler: Callable[..., Any], trigger: Mapping[str, Any]) -> bool:
    """Returns whether the handler takes the context. Refuses signatures that `azure_functions_runtime` refuses."""
    parameters = set(inspect.signature(handler).parameters)
    try:
        annotations = typing.get_type_hints(handler)
    except Exception as error:
        raise HostError(f"{name}: its annotations cannot be resolved: {error}.") from error

    takes_context = "context" in parameters - {trigger["name"]}
    if takes_context:
        parameters.remove("context")
        annotation = annotations.get("context", func.Context)
        if not isinstance(annotation, type) or annotation.__name__ != "Context":
            raise HostError(f"{name}: the parameter context is expected to be an azure.functions.Context.")
    if unbound := sorted(parameters - {trigger["name"]}):
        raise HostError(f"{name}: the parameter {unbound[0]} has no binding.")
    if trigger["name"] not in parameters:
        raise HostError(f"{name}: the binding {trigger['name']} has no parameter.")

    annotation = annotations.get(trigger["name"])
    if annotation is not None and not (
        isinstance(annotation, type) and _converter(trigger["type"]).check_input_type_annotation(annotation)
    ):
        raise HostError(f"{name}: the annotation of {trigger['name']} does not match its {trigger['type']}.")
    returned = annotations.get("return")
    if (
        trigger["type"] == HTTP_TRIGGER
        and returned is not None
        and not (isinstance(returned, type) and _converter(_HTTP_OUTPUT).check_output_type_annotation(returned))
    ):
        raise HostError(f"{name}: its return annotation does not match its http output.")
    return takes_context


def _retry_policy(name: str, declaration: func.Function) -> RetryPolicy | None:
    settings = declaration.get_settings_dict("retry_policy")
    if settings is None:
        return None

    def interval_s(key: str, default: timedelta | None = None) -> float:
        if default is not None and not settings.get(key):
            return default.total_seconds()
        return parse_time_span(settings.get(key) or "").total_seconds()

    try:
        max_retries = int(settings["max_retry_count"])
        match settings.get("strategy"):
            case "fixed_delay":
                first_delay_s = longest_delay_s = interval_s("delay_interval")
            case "exponential_backoff":
                first_delay_s = interval_s("minimum_interval", timedelta())
                longest_delay_s = interval_s("maximum_interval", timedelta(seconds=2**31 - 1))
            case strategy:
                raise ValueError(f"{strategy!r} is neither fixed_delay nor exponential_backoff")
    except (KeyError, ValueError) as error:
        raise HostError(f"{name}: its retry policy cannot be used: {error}.") from error
    return RetryPolicy(max_retries, first_delay_s, longest_delay_s)
