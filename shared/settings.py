"""The app's settings. A process reads them once from the environment, checks them, and never prints them.

Each variable is a field of :class:`Settings`, or of the class that it extends. ``python -m tools.settings_table``
makes the table in ``docs/settings.md`` from these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from shared.connection_settings import ConnectionSettings
from shared.host_json import of_time_span, read_host_json, settings_of
from shared.settings_problems import KEY_VAULT_REFERENCE, UNRESOLVED, explained, plain

INLINE_LIMIT_BYTES = 64 * 1024
"""The largest body or result that Redis keeps. Larger ones go to Blob Storage (claim check)."""
LONGEST_URL_S: Final = 7 * 86_400
"""How long a URL of an upload, a body or a result may be valid: Azure delegates no key for longer."""
LONGEST_WAIT_S: Final = 60
"""How long a request may wait for a task's change, at most."""

_MIB: Final = 1024 * 1024
_GIB: Final = 1024 * _MIB


class SettingsError(Exception):
    """Raised if the environment does not describe a working app. It names the settings, never their values."""


Seconds = Annotated[float, Field(gt=0, le=366 * 86_400)]
UrlSeconds = Annotated[float, Field(ge=1, le=LONGEST_URL_S)]
TelemetryEvents = Literal["all", "ends", "none"]


class Settings(ConnectionSettings):
    """The settings in the environment. A field has the name of its variable in lower case."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    max_body_bytes: int = Field(
        default=100 * _MIB,
        ge=1,
        le=100 * _MIB,
        description="Largest request body or result, if `FUNCTIONS_REQUEST_BODY_SIZE_LIMIT` is not smaller. The app "
        "answers 413 to more.",
    )
    max_upload_bytes: int = Field(
        default=100 * _GIB,
        ge=0,
        description="Largest body or result that clients write to Blob Storage [themselves](large-files.md). The app "
        "answers 413 to more; with 0, there are no uploads, and no URLs of results or bodies for callers.",
    )
    upload_url_s: UrlSeconds = Field(
        default=86_400, description="How long the URL of an upload can be written to, and the upload be used."
    )
    read_url_s: UrlSeconds = Field(
        default=86_400,
        description="How long a URL can be read from that the app gives for a body or result in Blob Storage. That "
        "of a dispatch is valid for twice the task's lease at least. Each dispatch and each answer has a new one.",
    )
    functions_request_body_size_limit: int = Field(
        default=100 * _MIB,
        ge=1,
        description="Largest request body that the Functions host takes. It answers 500 to more, before the app is "
        "asked. Times the HTTP concurrency, it says [how much memory](capacity.md) bodies can take.",
    )
    functions_worker_process_count: int = Field(
        default=1, ge=1, description="How many worker processes an instance has. They share its requests."
    )
    http_concurrency: int | None = Field(
        default=None,
        ge=1,
        description="How many HTTP requests the platform gives an instance at a time. The app cannot see what is set "
        "on Flex Consumption, so set this to the same number. Without it, `maxConcurrentRequests` of `host.json` "
        "counts.",
    )
    instance_memory_mb: int = Field(
        default=2048, ge=1, description="Memory of an instance in MB, which the app cannot see either."
    )
    azurefunctionsjobhost__extensions__http__maxconcurrentrequests: int | None = Field(
        default=None, description="Replaces that of `host.json`, for the Functions host too."
    )
    azurefunctionsjobhost__functiontimeout: str | None = Field(
        default=None,
        description="Replaces `functionTimeout` of `host.json`, for the Functions host too. The app refuses one that "
        "is not longer than the longest wait, 60 s: at this time the host ends all requests of the process.",
    )
    azurefunctionsjobhost__telemetrymode: str = Field(
        default="", description="Replaces `telemetryMode` of `host.json`, for the Functions host too."
    )
    max_body_bytes_in_flight: int = Field(
        default=512 * 1024 * 1024,
        ge=1,
        description="How many bytes of bodies and results over 64 KiB a process may have in flight. The app answers "
        "503 to more. A task returns to its queue if there is no room for its body. While dispatches have all of it, "
        "requests may have half as much more, and the other way round.",
    )
    max_in_flight: int = Field(
        default=200,
        ge=1,
        description="How many requests a process may have in flight, including requests that wait, but not health "
        "checks and deliveries of events. The app answers 503 to more.",
    )
    max_waits: int | None = Field(
        default=None,
        ge=1,
        description="How many of these requests may wait for a task's change. For each further one, the app answers "
        "the oldest wait of the client that has the most. Without it, half of what the HTTP concurrency and "
        "`MAX_IN_FLIGHT` allow. More would shut out the requests that make changes.",
    )
    max_dispatches: int = Field(
        default=100,
        ge=1,
        description="How many calls to model services a process may have in flight. Further tasks return to their "
        "queues. While others have all of them, each backend may have an equal share more; of the services behind "
        "one, each branch of the paths a sixteenth of that.",
    )
    lease_s: Seconds = Field(
        default=600,
        description="How long a dispatched or running task may go without an update. Then the app tries it again.",
    )
    dispatch_timeout_s: Annotated[float, Field(gt=0, le=25)] = Field(
        default=25,
        description="How long a model service may take to accept a task. (Event Grid waits 30 s for the app.)",
    )
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=10, description="How many failed attempts, or publishes without a delivery, make a task fail."
    )
    backoff_base_s: Seconds = Field(
        default=5, description="First delay after a failed attempt. It doubles up to 10 minutes, with jitter."
    )
    busy_retry_s: Seconds = Field(
        default=5,
        description="Longest pause between probes of a backend that answers 429 or 503 without `Retry-After`. The "
        "first pause is 50 ms.",
    )
    max_outage_s: Seconds = Field(
        default=86_400,
        description="How long a task waits for a model service that is away. The app fails the task once both the "
        "outage and its own wait are that long.",
    )
    max_unregistered_s: Seconds | None = Field(
        default=None,
        description="The same for a path that is no longer in `BACKENDS`. Without it, `RETENTION_S`.",
    )
    max_backlog: int | None = Field(
        default=None,
        ge=1,
        description="How many tasks may wait at one endpoint, and how many may wait or "
        "[start later](scheduling.md#later) there for one more of these. The app answers 429 to more, with the time "
        "until there is room as `Retry-After`.",
    )
    max_waiting_per_owner: int | None = Field(
        default=None,
        ge=1,
        description="How many tasks of one owner may wait at one endpoint; all tasks without an owner count as one "
        "owner's. The app answers 429 to more. `per_owner` in `BACKENDS` replaces it for "
        "[one backend](queues.md#what-one-owner-may-have).",
    )
    republish_s: Seconds = Field(
        default=30,
        description="Time until the app publishes an unclaimed event again. It doubles up to 10 minutes.",
    )
    retention_s: Seconds = Field(
        default=7 * 86_400, description="How long the app keeps a finished task with its body and result."
    )
    max_delay_s: Seconds = Field(
        default=30 * 86_400,
        description="How far ahead a task can be [submitted to start](scheduling.md#later), at most.",
    )
    batch_idle_s: Seconds = Field(
        default=86_400,
        description="After how long without a new or an ended task the app seals a [batch](batches.md) that its "
        "caller has not sealed.",
    )
    reconciler_interval_s: Seconds = Field(
        default=5,
        description="How often the reconciler looks for what is overdue. Each process that is awake can run it; one "
        "at a time does.",
    )
    reconciler_schedule: str = Field(
        default="0 * * * * *",
        description="NCRONTAB schedule of the timer that runs the reconciler too, and wakes a sleeping app for it.",
        min_length=1,
    )
    applicationinsights_connection_string: SecretStr | None = Field(
        default=None, description="Where the app sends telemetry. Without it, the app sends none."
    )
    telemetry_events: TelemetryEvents = Field(
        default="all",
        description="Which transitions of tasks are sent as [events](telemetry.md#event): `all`, `ends` or `none`. "
        "Each costs [by its size](performance.md#what-a-million-tasks-cost-on-azure).",
    )
    trace_url: str | None = Field(
        default=None,
        description="Where a task's trace is shown, for [the console's link](console.md#a-tasks-trace): `https://…` "
        "(or `http://127.0.0.1…`) with `{TaskId}` or `{Query}`.",
        pattern=r"^(https://[^/?#\s@]+|http://127\.0\.0\.1(:\d+)?)([/?#]\S*)?$",
    )
    azure_functions_environment: str = Field(
        default="Production",
        description="With `Development`, which `func start` and `dev.py up` set, the app logs each transition of a "
        "task, also if it sends no telemetry.",
    )
    # The platform's word: one that the app does not know stops no start, and means no.
    website_auth_enabled: Annotated[bool, BeforeValidator(lambda said: str(said).lower() in ("true", "1"))] = Field(
        default=False,
        description="Whether the platform [signs people in](security.md#operators). Azure says so. Never set it: the "
        "app would then believe anybody.",
    )
    python_enable_debug_logging: bool = Field(
        default=False,
        description="Log and send what libraries log below `WARNING` too. The Functions worker reads it as well and "
        "then logs from `DEBUG` on.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _has_no_reference(cls, value: Any) -> Any:
        # Anywhere in it: nobody resolves one within a connection string or within BACKENDS.
        if isinstance(value, str) and KEY_VAULT_REFERENCE in plain(value):
            raise ValueError(UNRESOLVED)
        return value

    @model_validator(mode="after")
    def _leaves_room_beside_waits(self) -> Self:
        if self.most_waits >= self.max_in_flight:
            raise ValueError("setting MAX_IN_FLIGHT: it must be more than MAX_WAITS, and than 1")
        return self

    @model_validator(mode="after")
    def _functions_may_wait(self) -> Self:
        timeout_s = of_time_span(self.azurefunctionsjobhost__functiontimeout or "")
        if timeout_s is not None and timeout_s <= LONGEST_WAIT_S:
            raise ValueError(
                f"functionTimeout of host.json: it must be longer than the longest wait, {LONGEST_WAIT_S} s, or a "
                "wait ends all requests of the process"
            )
        return self

    @property
    def largest_body_bytes(self) -> int:
        """The limit that holds for a request body."""
        return min(self.max_body_bytes, self.functions_request_body_size_limit)

    @property
    def host_concurrency(self) -> int | None:
        """How many HTTP requests the process is given at a time; None: any number."""
        if self.http_concurrency is not None:
            return self.http_concurrency
        at_a_time = self.azurefunctionsjobhost__extensions__http__maxconcurrentrequests
        return at_a_time if at_a_time is not None and at_a_time > 0 else None

    @property
    def host_tells_requests(self) -> bool:
        """Whether the Functions host sends a span for each request that it gives a trace context to."""
        return self.azurefunctionsjobhost__telemetrymode.lower() == "opentelemetry"

    @property
    def host_body_bytes(self) -> int | None:
        """How many bytes of bodies the Functions host may hold at a time; None: any number."""
        at_a_time = self.host_concurrency
        return None if at_a_time is None else at_a_time * self.functions_request_body_size_limit

    @property
    def most_waits(self) -> int:
        """How many requests may wait at a time."""
        if self.max_waits is not None:
            return self.max_waits
        places = (self.host_concurrency or self.max_in_flight) // self.functions_worker_process_count
        return max(1, min(places, self.max_in_flight) // 2)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], host_json: Mapping[str, Any] | None = None) -> Settings:
        """Read the settings from *environ*. Names match in any case; an empty value counts as absent.

        Args:
            host_json: the Functions host's own settings; None: those of the app's ``host.json``.

        Raises:
            SettingsError: a setting is missing or bad. One line names all such settings.
        """
        values = {
            **settings_of(read_host_json() if host_json is None else host_json),
            **{name.lower(): value for name, value in environ.items() if value.strip()},
        }
        # Of every variable, since libraries and the platform read more of them than the app does.
        problems = [
            f"setting {name}: {UNRESOLVED}"
            for name, value in environ.items()
            if name.lower() not in cls.model_fields and plain(value).startswith(KEY_VAULT_REFERENCE)
        ]
        try:
            settings = cls.model_validate(values, context=environ)
        except ValidationError as error:
            found = error.errors(include_input=False, include_url=False)
            problems = [*(explained(problem["loc"], problem["msg"]) for problem in found), *problems]
        else:
            if not problems:
                return settings
        raise SettingsError(f"The app cannot start: {'; '.join(problems)}.")
