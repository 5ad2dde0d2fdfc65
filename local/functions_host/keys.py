"""Access keys, and what each of them opens."""

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from local.functions_host.errors import HostError

_HOST, _MASTER, _EVENTGRID = "LOCAL_HOST_KEY", "LOCAL_MASTER_KEY", "LOCAL_EVENTGRID_KEY"
_FUNCTIONS = "LOCAL_FUNCTION_KEYS"


@dataclass(frozen=True, slots=True)
class Keys:
    host: str = field(repr=False)
    """The default host key. It opens every function of level `function`."""
    master: str = field(repr=False)
    """The master key. It opens everything."""
    eventgrid: str = field(repr=False)
    """The system key `eventgrid_extension`. It opens the Event Grid webhook and nothing else."""
    functions: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Each function's own key, by the function's name. It opens that function."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> tuple[Self, dict[str, str]]:
        """Returns the keys, and a mapping from variable to key for the keys that it had to make up.

        Raises:
            HostError: the functions' keys are no JSON object of texts.
        """
        missing = [name for name in (_HOST, _MASTER, _EVENTGRID) if not environment.get(name)]
        made_up = {name: secrets.token_urlsafe(32) for name in missing}
        values = {**environment, **made_up}
        functions = _functions_keys(environment.get(_FUNCTIONS) or "{}")
        return cls(values[_HOST], values[_MASTER], values[_EVENTGRID], functions), made_up

    def open_function(self, presented: str | None, function: str) -> bool:
        return _is_one_of(presented, self.functions.get(function, ""), self.host, self.master)

    def open_eventgrid_webhook(self, presented: str | None) -> bool:
        return _is_one_of(presented, self.eventgrid, self.master)

    def open_admin(self, presented: str | None) -> bool:
        return _is_one_of(presented, self.master)

    def are_any(self, presented: str | None) -> bool:
        """Whether the key is one of these, whatever it opens."""
        return _is_one_of(presented, self.host, self.master, self.eventgrid, *self.functions.values())


def _functions_keys(text: str) -> dict[str, str]:
    try:
        keys: Any = json.loads(text)
    except ValueError:
        keys = None
    if isinstance(keys, dict):
        named = cast("dict[str, Any]", keys)
        if all(isinstance(key, str) for key in named.values()):
            return named
    raise HostError(f"{_FUNCTIONS} must be a JSON object: the name of a function → its key.")


def _is_one_of(presented: str | None, *keys: str) -> bool:
    """Compares in a time that reveals nothing about any key. An empty key opens nothing."""
    if not presented:
        return False
    key_bytes = presented.encode()
    return sum(hmac.compare_digest(key_bytes, key.encode()) for key in keys) > 0
