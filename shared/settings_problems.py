"""How bad settings are told of: by their names, never by their values."""

from __future__ import annotations

from typing import Final

KEY_VAULT_REFERENCE: Final = "@microsoft.keyvault"
UNRESOLVED: Final = "its reference to Key Vault was not resolved"
"""Azure then leaves the reference itself as the value. As a key it could be guessed, also with a blank too many."""


def plain(text: str) -> str:
    """The text in lower case and without blanks."""
    return "".join(text.lower().split())


def explained(location: tuple[int | str, ...], message: str) -> str:
    """A problem that pydantic found, in the words of the environment."""
    if not location:
        return message.removeprefix("Value error, ")
    keys = location[2:] if location[1:2] == ("entries",) else location[1:]
    name = str(location[0]).upper() + "".join(f"[{part!r}]" for part in keys)
    return f"setting {name}: {message.removeprefix('Value error, ')}"
