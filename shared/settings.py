"""The app's settings. A process reads them once from the environment, checks them, and never prints them.

Each variable is a field of :class:`Settings`. ``python -m tools.settings_table`` makes the table in
``docs/settings.md`` from these fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

INLINE_LIMIT_BYTES = 64 * 1024
"""The largest body or result that Redis keeps. Larger ones go to Blob Storage (claim check)."""


class SettingsError(Exception):
    """Raised if the environment does not describe a working app. It names the settings, never their values."""


class BackendSettings(BaseModel):
    """One entry of ``BACKENDS``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    lease_s: float | None = Field(default=None, gt=0)
    """How long a task may go without an update. Then the app takes it for lost. None: ``LEASE_S``."""
    limit: int | None = Field(default=None, ge=1)
    """How many tasks each endpoint of the backend gets at a time, at most. None: as many as it accepts."""
    endpoints: list[str] | None = Field(default=None, min_length=1)
    """The paths that the model service has. None: any path below the prefix."""


def _parse_backends(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed: Any = json.loads(value or "{}")
    except ValueError:
        raise ValueError("must be a JSON object of path prefix → base URL") from None
    if not isinstance(parsed, dict):
        raise ValueError("must be a JSON object of path prefix → base URL")
    entries = cast("dict[str, Any]", parsed)
    return {path: {"url": entry} if isinstance(entry, str) else entry for path, entry in entries.items()}


Seconds = Annotated[float, Field(gt=0, le=366 * 86_400)]


class Settings(BaseModel):
    """The settings in the environment. A field has the name of its variable in lower case."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    redis_connection_string: SecretStr = Field(
        description="Address of Redis: `redis[s]://…`, or `host:port,password=…,ssl=True` as Azure shows it. "
        "Without a password, the app signs in with Entra ID on a host under `redis.azure.net`.",
        min_length=1,
    )
    event_grid_topic_uri: str = Field(
        description="Endpoint of the custom topic, `https://…/api/events`.", pattern=r"^https?://[^/?#\s]+"
    )
    event_grid_key: SecretStr | None = Field(
        default=None, description="Key of the topic. Without it, the app uses its managed identity."
    )
    publish_completions: bool = Field(
        default=False, description="Publish an event when a task has ended, so that callers need not poll."
    )
    completions_topic_uri: str | None = Field(
        default=None,
        description="Endpoint of the topic for these events. It must have the CloudEvents schema.",
        pattern=r"^https?://[^/?#\s]+",
    )
    completions_key: SecretStr | None = Field(
        default=None, description="Key of that topic. Without it, the app uses its managed identity."
    )
    gateway_key: SecretStr | None = Field(
        default=None,
        description="Key that the gateway sends as `X-Gateway-Key`. The app believes `X-Task-Owner` only beside this "
        "key, and believes nobody's if the setting is absent.",
        min_length=16,
    )
    event_grid_topic_id: str | None = Field(
        default=None,
        description="Resource id of the topic, `/subscriptions/…/topics/NAME`. With it, the app refuses events that "
        "do not name it as their `topic` (CloudEvents: `source`).",
        pattern=r"^/",
    )
    event_grid_subscription: str | None = Field(
        default=None,
        description="Name of the event subscription. With it, the app refuses deliveries of other subscriptions.",
    )
    webhook_tenant_id: str | None = Field(
        default=None,
        description="Tenant whose Entra ID issues Event Grid's tokens. With it, `BackendWebhook` takes such a token "
        "in place of a function key.",
        pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    )
    webhook_audience: str | None = Field(
        default=None,
        description="Audience of these tokens: the webhook's application in Entra ID, by the id or URI that the "
        "event subscription names. Set it together with `WEBHOOK_TENANT_ID`.",
    )
    webhook_authority: str = Field(
        default="https://login.microsoftonline.com",
        description="Address of Entra ID. A sovereign cloud has another one.",
        pattern=r"^https?://[^/?#\s@]+$",
    )
    backends: Annotated[dict[str, BackendSettings], BeforeValidator(_parse_backends)] = Field(
        default_factory=dict,
        description="JSON: path prefix → base URL of the model service, or → "
        '`{"url": …, "lease_s": …, "limit": …, "endpoints": […]}`. '
        "The app never calls anything outside this registry.",
    )
    backend_base_url: str | None = Field(
        default=None,
        description="One gateway in front of all model services. It serves every path that `BACKENDS` does not.",
    )
    allow_loopback_backends: bool = Field(
        default=False, description="Allow backends on loopback addresses. For the local stack only."
    )
    azurewebjobsstorage: SecretStr | None = Field(
        default=None,
        description="Storage account for bodies and results over 64 KiB, for long status texts, and for the "
        "Functions host.",
    )
    azurewebjobsstorage__blobserviceuri: str | None = Field(
        default=None,
        description="The same account, for a managed identity: its blob endpoint.",
        pattern=r"^https?://[^/?#\s]+",
    )
    azurewebjobsstorage__accountname: str | None = Field(
        default=None, description="The same account, for a managed identity: its name."
    )
    blob_container: str = Field(
        default="task-backbone",
        description="Container for bodies and results.",
        pattern=r"^[a-z0-9](?:-?[a-z0-9]){2,62}$",
    )
    max_body_bytes: int = Field(
        default=100 * 1024 * 1024,
        ge=1,
        le=100 * 1024 * 1024,
        description="Largest request body or result. The Functions host allows 100 MiB at most.",
    )
    max_body_bytes_in_flight: int = Field(
        default=512 * 1024 * 1024,
        ge=1,
        description="How many bytes of bodies and results over 64 KiB a process may have in flight. The app answers "
        "503 to more. A task returns to its queue if there is no room for its body.",
    )
    max_in_flight: int = Field(
        default=200,
        ge=1,
        description="How many requests a process may have in flight, including requests that wait, but not health "
        "checks and deliveries of events. The app answers 503 to more.",
    )
    max_waits: int = Field(
        default=100,
        ge=1,
        description="How many of these requests may wait for a task's change. For each further one, the app answers "
        "the oldest wait of the client that has the most.",
    )
    max_dispatches: int = Field(
        default=100,
        ge=1,
        description="How many calls to model services a process may have in flight. Further tasks return to their "
        "queues.",
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
        description="How many tasks may wait at one endpoint. The app answers 429 to more, with the time until there "
        "is room as `Retry-After`.",
    )
    republish_s: Seconds = Field(
        default=30,
        description="Time until the app publishes an unclaimed event again. It doubles up to 10 minutes.",
    )
    retention_s: Seconds = Field(
        default=7 * 86_400, description="How long the app keeps a finished task with its body and result."
    )
    reconciler_schedule: str = Field(
        default="*/5 * * * * *", description="NCRONTAB schedule of the reconciler.", min_length=1
    )
    applicationinsights_connection_string: SecretStr | None = Field(
        default=None, description="Where the app sends telemetry. Without it, the app sends none."
    )

    @field_validator("azurewebjobsstorage")
    @classmethod
    def _is_connection_string(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not all("=" in part for part in value.get_secret_value().strip(" ;").split(";")):
            raise ValueError("must be a storage account's connection string, `Name=value;…`")
        return value

    @model_validator(mode="after")
    def _completions_have_a_topic(self) -> Self:
        if self.publish_completions and not self.completions_topic_uri:
            raise ValueError("setting COMPLETIONS_TOPIC_URI: PUBLISH_COMPLETIONS needs it")
        return self

    @model_validator(mode="after")
    def _leaves_room_beside_waits(self) -> Self:
        if self.max_waits >= self.max_in_flight:
            raise ValueError("setting MAX_WAITS: it must be less than MAX_IN_FLIGHT")
        return self

    @model_validator(mode="after")
    def _has_a_backend(self) -> Self:
        if not self.backends and not self.backend_base_url:
            raise ValueError("BACKENDS or BACKEND_BASE_URL must name at least one model service")
        return self

    @model_validator(mode="after")
    def _webhook_is_whole(self) -> Self:
        if bool(self.webhook_tenant_id) != bool(self.webhook_audience):
            raise ValueError("WEBHOOK_TENANT_ID and WEBHOOK_AUDIENCE must be set together")
        if not self.webhook_authority.startswith("https://") and not self.allow_loopback_backends:
            raise ValueError("setting WEBHOOK_AUTHORITY: it must be an https URL")
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from *environ*. Names match in any case; an empty value counts as absent.

        Raises:
            SettingsError: a setting is missing or bad. One line names all such settings.
        """
        values = {name.lower(): value for name, value in environ.items() if value.strip()}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(
                _explain(e["loc"], e["msg"]) for e in error.errors(include_input=False, include_url=False)
            )
            raise SettingsError(f"The app cannot start: {problems}.") from None


def _explain(location: tuple[int | str, ...], message: str) -> str:
    if not location:
        return message.removeprefix("Value error, ")
    name = str(location[0]).upper() + "".join(f"[{part!r}]" for part in location[1:])
    return f"setting {name}: {message.removeprefix('Value error, ')}"
