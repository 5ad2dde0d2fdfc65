"""The destinations of callbacks: the only URLs, beside those of backends, that this app ever calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from shared.callback_settings import secret_bytes
from shared.dispatch.registry import BackendRegistry
from shared.settings import Settings, SettingsError
from shared.tasks.callback import CallbackEvent, WantedCallback
from shared.tasks.task import NewTask


@dataclass(frozen=True, slots=True)
class Destination:
    """Somebody who is told of tasks."""

    name: str
    url: str = field(repr=False)
    """It may have a key in its query."""
    events: tuple[CallbackEvent, ...]
    owner: str | None
    keys: Sequence[bytes] = field(repr=False)
    """By each of which what it is told is signed."""

    def is_for(self, owner: str | None) -> bool:
        """Whether the tasks of an *owner* may name it."""
        return self.owner is None or self.owner == owner

    @property
    def wanted(self) -> WantedCallback:
        return WantedCallback(self.name, self.events)


class Destinations:
    """
    Raises:
        SettingsError: the URL of one is none, or its address is forbidden; a backend names one that is not there.
    """

    def __init__(self, settings: Settings, registry: BackendRegistry) -> None:
        entries, secrets = settings.callbacks.entries, settings.callbacks.secrets
        self.by_name: Final[Mapping[str, Destination]] = {
            name: Destination(
                name,
                registry.checked_url(f"CALLBACKS[{name!r}]", entry.url, takes_query=True),
                tuple(dict.fromkeys(entry.events)),
                entry.owner,
                [secret_bytes(secret.get_secret_value()) for secret in secrets[entry.secret_setting]],
            )
            for name, entry in entries.items()
        }
        self._of_owners: dict[str, Destination] = {}
        for destination in self.by_name.values():
            if destination.owner is not None:
                self._of_owners.setdefault(destination.owner, destination)
        for prefix, backend in settings.backends.entries.items():
            if backend.callback is not None and self.find(backend.callback, None) is None:
                raise SettingsError(
                    f"The app cannot start: setting BACKENDS[{prefix!r}]: its callback must be a destination of "
                    "CALLBACKS that has no owner."
                )
        self._registry = registry

    def find(self, name: str, owner: str | None) -> Destination | None:
        """The destination that an *owner* names; None if it is another's, as if there were none."""
        destination = self.by_name.get(name)
        return destination if destination is not None and destination.is_for(owner) else None

    def with_default(self, new: NewTask) -> NewTask:
        """The task with the destination that holds if its caller names none: its owner's, or its backend's."""
        if not self.by_name or new.callback is not None:
            return new
        destination = self._of_owners.get(new.owner) if new.owner else None
        if destination is None:
            endpoint = self._registry.endpoint_of(new.path)
            name = endpoint.backend.callback if endpoint else None
            destination = self.by_name[name] if name is not None else None
        return new if destination is None else replace(new, callback=destination.wanted)
