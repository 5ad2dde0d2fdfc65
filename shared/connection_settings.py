"""The settings that say what the app is connected to: Redis, Event Grid, the gateway, the model services, storage."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, field_validator, model_validator

from shared.backend_settings import BackendsSettings, parse_backends
from shared.callback_settings import CallbacksSettings, parse_callbacks


class ConnectionSettings(BaseModel):
    """The first part of :class:`shared.settings.Settings`."""

    redis_connection_string: SecretStr = Field(
        description="Address of Redis: `redis[s]://…`, or `host:port,password=…,ssl=True` as Azure shows it. "
        "Without a password, the app signs in with Entra ID on a host under `redis.azure.net`.",
        min_length=1,
    )
    durability: Literal["none", "replica", "fsync"] = Field(
        default="none",
        description="What Redis must have done before the app says that something is stored: `none`, taken it into "
        "memory; `replica`, sent it to a replica; `fsync`, [written it to its disk](reliability.md#durability), "
        "which needs Redis 7.2 or Valkey. Without that in 1.5 s, the app answers 503.",
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
        "key, and believes nobody's if the setting is absent. At least 16 characters.",
    )
    gateway_key_previous: SecretStr | None = Field(
        default=None,
        description="A second key that the app believes as it believes `GATEWAY_KEY`, while [a new key takes the old "
        "one's place](operations.md#rotate-the-gateways-key). At least 16 characters.",
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
    backends: Annotated[BackendsSettings, BeforeValidator(parse_backends)] = Field(
        default_factory=BackendsSettings,
        description="JSON: path prefix → base URL of the model service, or → "
        '`{"url": …, "lease_s": …, "max_run_s": …, "expires_s": …, "limit": …, "rate": …, "burst": …, '
        '"endpoints": […], "busy": […], "answer": …, "reference": …}`; and `"pipelines"` → name → endpoints. The app '
        "never calls anything outside this registry.",
    )
    callbacks: Annotated[CallbacksSettings, BeforeValidator(parse_callbacks)] = Field(
        default_factory=CallbacksSettings,
        description='JSON: name → `{"url": …, "secret_setting": …, "events": […], "owner": …}`: the '
        "[destinations](callbacks.md) that are told when tasks end. `secret_setting` names the setting with the "
        "secret, `whsec_…`; that of the same name and `_PREVIOUS` may have the one that is rotated out.",
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
    blob_service_uri: str | None = Field(
        default=None,
        description="Blob endpoint of an account of its own for bodies and results, which the app uses with its "
        "managed identity. Without it, they lie in that of `AzureWebJobsStorage`.",
        pattern=r"^https?://[^/?#\s]+",
    )
    blob_container: str = Field(
        default="task-backbone",
        description="Container for bodies and results.",
        pattern=r"^[a-z0-9](?:-?[a-z0-9]){2,62}$",
    )

    @field_validator("azurewebjobsstorage")
    @classmethod
    def _is_connection_string(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not all("=" in part for part in value.get_secret_value().strip(" ;").split(";")):
            raise ValueError("must be a storage account's connection string, `Name=value;…`")
        return value

    @field_validator("gateway_key", "gateway_key_previous")
    @classmethod
    def _is_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value()) < 16:
            raise ValueError("it must have at least 16 characters")
        return value

    @model_validator(mode="after")
    def _a_previous_key_has_a_successor(self) -> Self:
        if self.gateway_key_previous and not self.gateway_key:
            raise ValueError("setting GATEWAY_KEY: GATEWAY_KEY_PREVIOUS needs it")
        return self

    @model_validator(mode="after")
    def _completions_have_a_topic(self) -> Self:
        if self.publish_completions and not self.completions_topic_uri:
            raise ValueError("setting COMPLETIONS_TOPIC_URI: PUBLISH_COMPLETIONS needs it")
        return self

    @model_validator(mode="after")
    def _has_a_backend(self) -> Self:
        if not self.backends.entries and not self.backend_base_url:
            raise ValueError("BACKENDS or BACKEND_BASE_URL must name at least one model service")
        return self

    @model_validator(mode="after")
    def _webhook_is_whole(self) -> Self:
        if bool(self.webhook_tenant_id) != bool(self.webhook_audience):
            raise ValueError("WEBHOOK_TENANT_ID and WEBHOOK_AUDIENCE must be set together")
        if not self.webhook_authority.startswith("https://") and not self.allow_loopback_backends:
            raise ValueError("setting WEBHOOK_AUTHORITY: it must be an https URL")
        return self

    @property
    def gateway_keys(self) -> list[SecretStr]:
        """Each key by which the gateway may prove itself."""
        return [key for key in (self.gateway_key, self.gateway_key_previous) if key]
