"""Writes the table in ``docs/settings.md`` from ``shared/settings.py``: ``python -m tools.settings_table``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from shared.backend_settings import BackendsSettings
from shared.callback_settings import CallbacksSettings
from shared.settings import Settings

TARGET = Path(__file__).parent.parent / "docs" / "settings.md"
BEGIN, END = "<!-- begin: python -m tools.settings_table -->", "<!-- end -->"

# The Functions host reads these too. The app matches names in any case, the host does not.
_HOST_SPELLING = {
    "azurewebjobsstorage": "AzureWebJobsStorage",
    "azurewebjobsstorage__blobserviceuri": "AzureWebJobsStorage__blobServiceUri",
    "azurewebjobsstorage__accountname": "AzureWebJobsStorage__accountName",
    "azurefunctionsjobhost__extensions__http__maxconcurrentrequests": (
        "AzureFunctionsJobHost__extensions__http__maxConcurrentRequests"
    ),
    "azurefunctionsjobhost__functiontimeout": "AzureFunctionsJobHost__functionTimeout",
    "azurefunctionsjobhost__telemetrymode": "AzureFunctionsJobHost__telemetryMode",
}
_KINDS = {"string": "text", "boolean": "true or false", "object": "JSON", "integer": "integer", "number": "number"}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "maximum": "≤"}


def variable(field: str) -> str:
    """The environment variable of a setting, in the spelling that works everywhere."""
    return _HOST_SPELLING.get(field, field.upper())


def table() -> str:
    """The table of all settings, as Markdown."""
    schemas: dict[str, dict[str, Any]] = Settings.model_json_schema()["properties"]
    rows = ["| variable | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        meaning = (field.description or "").replace("|", r"\|")
        rows.append(f"| `{variable(name)}` | {_value(schemas[name])} | {_default(name)} | {meaning} |")
    return "\n".join(rows)


def with_table(page: str) -> str:
    """Replace what is between the two markers of *page* with the table."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def _value(schema: dict[str, Any]) -> str:
    kind = next((option for option in schema.get("anyOf", ()) if option.get("type") != "null"), schema)
    bounds = ", ".join(f"{sign} {kind[name]:.15g}" for name, sign in _BOUNDS.items() if name in kind)
    name = "secret" if kind.get("format") == "password" else _KINDS[kind.get("type", "object")]
    return f"{name}, {bounds}" if bounds else name


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    if field.is_required():
        return "**required**"
    default = field.get_default(call_default_factory=True)
    if default in (None, {}, "", BackendsSettings(), CallbacksSettings()) or isinstance(default, SecretStr):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    TARGET.write_text(with_table(TARGET.read_text()))
