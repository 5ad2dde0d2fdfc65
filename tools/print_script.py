"""Print a Lua script as Redis runs it: ``python -m tools.print_script [NAME]``; without a name, the names.

The line numbers are those of Redis' error messages (``user_script:57: …``).
"""

from __future__ import annotations

import sys

from shared.store.redis.scripts import read_scripts


def main(arguments: list[str]) -> int:
    scripts = read_scripts()
    if not arguments:
        print("\n".join(scripts))
        return 0
    (name, *rest) = arguments
    if rest or name not in scripts:
        print(f"usage: python -m tools.print_script [NAME]; NAME is one of {', '.join(scripts)}", file=sys.stderr)
        return 2
    for number, line in enumerate(scripts[name].splitlines(), start=1):
        print(f"{number:4}  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
