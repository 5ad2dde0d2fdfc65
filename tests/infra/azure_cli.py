"""Run by the Python that has the Azure CLI: says of commands which options they have.

Reads a list of commands, each a list of words, and prints a list of ``{"name": …, "options": […]}``, or of
``{"problem": …}``. Nothing is asked of Azure.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    json.dump([look_up(words) for words in json.load(sys.stdin)], sys.stdout)


def look_up(words: list[str]) -> dict[str, Any]:
    from azure.cli.core import get_default_cli  # pyright: ignore[reportMissingImports]

    cli = get_default_cli()
    cli.invocation = cli.invocation_cls(
        cli_ctx=cli, parser_cls=cli.parser_cls, commands_loader_cls=cli.commands_loader_cls, help_cls=cli.help_cls
    )
    loader = cli.invocation.commands_loader
    table = loader.load_command_table(list(words))
    name = next((name for size in range(len(words), 0, -1) if (name := " ".join(words[:size])) in table), None)
    if name is None:
        return {"problem": f"the CLI has no command {' '.join(words)}"}
    cli.invocation.data["command_string"] = loader.command_name = name
    try:
        loader.load_arguments(name)
    except ImportError as error:
        return {"problem": f"{name} cannot be looked at: {error}"}
    options = {
        getattr(option, "target", option)  # an option that is to go away has a record of its own
        for parameter, argument in table[name].arguments.items()
        for option in argument.type.settings.get("options_list") or ()
        if parameter != "cmd"  # the CLI's own
    }
    return {"name": name, "options": sorted(options)}


if __name__ == "__main__":
    main()
