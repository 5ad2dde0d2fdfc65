"""The app's settings: read once from the environment, checked at start, never printed.

Every variable is one field of :class:`Settings`; the table in ``docs/settings.md`` is made from them.
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
"""Bodies and results up to this size live in Redis, larger ones in Blob Storage (claim check)."""


class SettingsError(Exception):
    """Raised when the environment does not describe a working app. Names the settings, never their values."""


class BackendSettings(BaseModel):
    """One entry of ``BACKENDS``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    lease_s: float | None = Field(default=None, gt=0)
    """How long a task may go without an update before it is taken for lost; ``LEASE_S`` if not given."""
    limit: int | None = Field(default=None, ge=1)
    """How many tasks each of its endpoints is given at a time, at most; without it, as many as it takes."""


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
    """What the environment says. Field names are the variables' names in lower case."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    redis_connection_string: SecretStr = Field(
        description="Where Redis is: `redis[s]://…`, or `host:port,password=…,ssl=True` as Azure shows it. "
        "A host under `redis.azure.net` without a password is entered with Entra ID.",
        min_length=1,
    )
    event_grid_topic_uri: str = Field(
        description="The custom topic's endpoint, `https://…/api/events`.", pattern=r"^https?://[^/?#\s]+"
    )
    event_grid_key: SecretStr | None = Field(
        default=None, description="The topic's key. Without it the app's managed identity is used."
    )
    publish_completions: bool = Field(
        default=False, description="Publish an event when a task has ended, so that callers need not ask."
    )
    completions_topic_uri: str | None = Field(
        default=None,
        description="The topic for that: one with the CloudEvents schema.",
        pattern=r"^https?://[^/?#\s]+",
    )
    completions_key: SecretStr | None = Field(
        default=None, description="Its key. Without it the app's managed identity is used."
    )
    gateway_key: SecretStr | None = Field(
        default=None,
        description="What a gateway sends as `X-Gateway-Key`, so that its `X-Task-Owner` is believed. "
        "Without it nobody's is.",
        min_length=16,
    )
    event_grid_topic_id: str | None = Field(
        default=None,
        description="The topic's resource id, `/subscriptions/…/topics/NAME`. With it, events that do not name it as "
        "their `topic` (CloudEvents: `source`) are refused.",
        pattern=r"^/",
    )
    event_grid_subscription: str | None = Field(
        default=None,
        description="The event subscription's name. With it, deliveries of other subscriptions are refused.",
    )
    webhook_tenant_id: str | None = Field(
        default=None,
        description="The tenant whose Entra ID issues Event Grid's tokens. With it, `BackendWebhook` takes such a "
        "token in place of a function key.",
        pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
    )
    webhook_audience: str | None = Field(
        default=None,
        description="For whom those tokens are issued: the webhook's application in Entra ID, by the id or URI that "
        "the event subscription names. Goes with `WEBHOOK_TENANT_ID`.",
    )
    webhook_authority: str = Field(
        default="https://login.microsoftonline.com",
        description="Entra ID's address; another one in a sovereign cloud.",
        pattern=r"^https?://[^/?#\s@]+$",
    )
    backends: Annotated[dict[str, BackendSettings], BeforeValidator(_parse_backends)] = Field(
        default_factory=dict,
        description="JSON: path prefix → base URL of the model service, or → "
        '`{"url": …, "lease_s": …, "limit": …}`. Nothing outside the registry is ever called.',
    )
    backend_base_url: str | None = Field(
        default=None,
        description="One gateway in front of all model services; serves every path `BACKENDS` does not.",
    )
    allow_loopback_backends: bool = Field(
        default=False, description="Let backends be on loopback addresses. For the local stack only."
    )
    azurewebjobsstorage: SecretStr | None = Field(
        default=None,
        description="Storage account for bodies and results over 64 KiB (and for the Functions host).",
    )
    azurewebjobsstorage__blobserviceuri: str | None = Field(
        default=None,
        description="The same with a managed identity: the account's blob endpoint.",
        pattern=r"^https?://[^/?#\s]+",
    )
    azurewebjobsstorage__accountname: str | None = Field(
        default=None, description="The same with a managed identity: the account's name."
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
        description="How many bytes of bodies and results over 64 KiB a process has in hand at a time. More are "
        "answered 503; a task whose body finds no room goes back to its queue.",
    )
    max_in_flight: int = Field(
        default=200,
        ge=1,
        description="How many requests a process has in hand at a time, waiting ones included, health and deliveries "
        "of events not. More are answered 503.",
    )
    max_waits: int = Field(
        default=100,
        ge=1,
        description="How many of these may be waiting for a task's change. Who comes then is answered as if the time "
        "were up.",
    )
    max_dispatches: int = Field(
        default=100,
        ge=1,
        description="How many model services a process calls at a time. Tasks beyond it go back to their queues.",
    )
    lease_s: Seconds = Field(
        default=600,
        description="How long a dispatched or running task may go without an update before it is tried again.",
    )
    dispatch_timeout_s: Annotated[float, Field(gt=0, le=25)] = Field(
        default=25,
        description="How long a model service may take to accept a task (Event Grid waits 30 s for us).",
    )
    max_attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=10, description="Failed attempts, or publishes without a delivery, before a task is failed."
    )
    backoff_base_s: Seconds = Field(
        default=5, description="First delay after a failed attempt; doubles up to 10 minutes, with jitter."
    )
    busy_retry_s: Seconds = Field(
        default=5,
        description="How often at most a backend that answered 429 or 503 without `Retry-After` is tried with more. "
        "The first time it is tried again after 50 ms.",
    )
    max_backlog: int | None = Field(
        default=None,
        ge=1,
        description="How many tasks may wait at one endpoint. More are answered 429, with the time until there is "
        "room as `Retry-After`.",
    )
    republish_s: Seconds = Field(
        default=30,
        description="When an event that nobody claimed is published again; doubles up to 10 minutes.",
    )
    retention_s: Seconds = Field(
        default=7 * 86_400, description="How long a finished task is kept with its body and result."
    )
    reconciler_schedule: str = Field(
        default="*/5 * * * * *", description="NCRONTAB schedule of the reconciler.", min_length=1
    )
    applicationinsights_connection_string: SecretStr | None = Field(
        default=None, description="Where telemetry goes. Without it the app runs silently."
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
        """Read the settings from *environ*; names are case-insensitive, empty means absent.

        Raises:
            SettingsError: a setting is missing or bad; names each of them in one line.
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
