"""An event subscription: its settings, and the settings that have passed the handshake."""

import re
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from local.event_grid.schema import Event, is_cloud_event, subject_of, type_of

NAME_PATTERN = re.compile(r"[a-z0-9-]{3,64}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")


def _check_endpoint(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    is_clean = endpoint.isascii() and endpoint.isprintable() and " " not in endpoint
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not is_clean:
        raise ValueError("must be an absolute http or https URL")
    return endpoint


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower().startswith("aeg-"):
            raise ValueError("a name must be letters, digits and hyphens, and must not start with aeg-")
        if not value.isascii() or not value.isprintable():
            raise ValueError("a value must be printable ASCII")
    return headers


class SubscriptionSettings(BaseModel):
    """The body of a ``PUT``. The limits and defaults are those of the service."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", hide_input_in_errors=True, frozen=True
    )

    endpoint: Annotated[str, AfterValidator(_check_endpoint)]
    delivery_schema: Literal["EventGridSchema", "CloudEventSchemaV1_0"] = Field("EventGridSchema", alias="schema")
    max_delivery_attempts: Annotated[int, Field(ge=1, le=30)] = 30
    event_time_to_live_in_minutes: Annotated[int, Field(ge=1, le=1440)] = 1440
    dead_letter_container: Annotated[str, Field(pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$")] | None = None
    included_event_types: tuple[str, ...] | None = None
    subject_begins_with: str = ""
    delivery_headers: Annotated[dict[str, str], Field(max_length=10), AfterValidator(_check_headers)] = {}
    max_events_per_batch: Annotated[int, Field(ge=1, le=5000)] = 1

    def matches(self, event: Event) -> bool:
        """Whether the event passes the filters. All of them ignore case."""
        types = self.included_event_types
        if types is not None and type_of(event).lower() not in (included.lower() for included in types):
            return False
        return subject_of(event).lower().startswith(self.subject_begins_with.lower())

    def wants_cloud_event(self, event: Event) -> bool:
        """A CloudEvent stays one, whatever the subscription asks for, because the other schema cannot hold it."""
        return self.delivery_schema == "CloudEventSchemaV1_0" or is_cloud_event(event)

    def shares_handshake_with(self, other: "SubscriptionSettings | None") -> bool:
        """Whether a handshake with these settings would prove no more than one with `other` did."""
        return other is not None and self.endpoint == other.endpoint and self.delivery_schema == other.delivery_schema

    def public(self) -> dict[str, Any]:
        """The settings without possible secrets: query and user of the endpoint, values of headers."""
        parts = urlsplit(self.endpoint)
        netloc = parts.netloc.rpartition("@")[2]
        return self.model_dump(mode="json", by_alias=True) | {
            "endpoint": f"{parts.scheme}://{netloc}{parts.path}",
            "deliveryHeaders": sorted(self.delivery_headers),
        }


@dataclass
class Subscription:
    """Deliveries use the `active` settings. The `candidate` awaits its handshake and then takes over."""

    name: str
    active: SubscriptionSettings | None = None
    candidate: SubscriptionSettings | None = None
    handshake_failure: str | None = None
    validation_code: str = field(default_factory=lambda: str(uuid.uuid4()))

    def propose(self, settings: SubscriptionSettings) -> None:
        if settings.shares_handshake_with(self.active):
            self.active, self.candidate = settings, None
        else:
            self.candidate, self.validation_code = settings, str(uuid.uuid4())
        self.handshake_failure = None

    def activate(self) -> None:
        self.active, self.candidate, self.handshake_failure = self.candidate or self.active, None, None

    def public(self) -> dict[str, Any]:
        settings = self.candidate or self.active
        return {
            "name": self.name,
            "state": "AwaitingManualAction" if self.candidate else "Active",
            "handshakeFailure": self.handshake_failure,
            **(settings.public() if settings else {}),
        }
