"""Scripts by which a shell completes the command line: source one, or put it where the shell looks for them."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Mapping

_SHELLS = "bash zsh fish"
_BASH = """_taskbackbone() {
    local words="%(commands)s" current="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -gt 1 ]; then
        case "${COMP_WORDS[1]}:$current" in
        completion:*) words="%(shells)s" ;;
%(cases)s
        *) return 0 ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _taskbackbone taskbackbone
"""
_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


def script(shell: str, commands: Mapping[str, ArgumentParser]) -> str:
    """The script for *shell*: ``bash``, ``zsh`` or ``fish``."""
    flags = {
        name: list(dict.fromkeys(re.findall(r"--[a-z][a-z-]+", parser.format_help())))
        for name, parser in commands.items()
    }
    if shell == "fish":
        begin = "complete -c taskbackbone -n "
        lines = [
            f"{begin}__fish_use_subcommand -f -a {name} -d '{_escaped(parser.description or '')}'"
            for name, parser in commands.items()
        ]
        for name, own in flags.items():
            lines += [f"{begin}'__fish_seen_subcommand_from {name}' -l {flag[2:]}" for flag in own]
        lines.append(f"{begin}'__fish_seen_subcommand_from completion' -f -a '{_SHELLS}'")
        return "\n".join(lines) + "\n"
    cases = "\n".join(f'        {name}:-*) words="{" ".join(own)}" ;;' for name, own in flags.items() if own)
    body = _BASH % {"commands": " ".join(commands), "shells": _SHELLS, "cases": cases}
    return _ZSH + body if shell == "zsh" else body


def _escaped(text: str) -> str:
    return text.replace("'", "\\'")
