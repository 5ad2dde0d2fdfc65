"""``python sdk/tools/unasync.py``: write the synchronous face, ``_sync.py``, from ``_async.py``.

With ``--check``, only say whether it is up to date.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "taskbackbone"
SOURCE, TARGET = PACKAGE / "_async.py", PACKAGE / "_sync.py"
HEAD = '"""Callers. Made of ``_async.py`` by ``tools/unasync.py``: change that one."""\n'
WORDS = {
    "AsyncIterator": "Iterator",
    "AsyncLine": "Line",
    "AsyncResult": "Result",
    "AsyncTask": "Task",
    "AsyncTaskClient": "TaskClient",
    "Aiohttp": "Requests",
    "_aiohttp": "_drivers",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "aiter_chunks": "iter_chunks",
    "run_async": "run_sync",
}


def synchronous(source: str) -> str:
    """The same module without ``async`` and ``await``, and with the other names."""
    body = source.split('"""\n', 1)[1]
    body = re.sub(r"\b(?:async|await) (?=\S)", "", body)
    body = body.replace("; needs the extra ``async``", "")
    body = re.sub(r"\w+", lambda word: WORDS.get(word[0], word[0]), body)
    return formatted(HEAD + body)


def formatted(source: str) -> str:
    for command in (("check", "--quiet", "--fix", "--select", "I"), ("format", "--quiet")):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        source = subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout
    return source


def main() -> int:
    made = synchronous(SOURCE.read_text())
    if sys.argv[1:] == ["--check"]:
        if made == TARGET.read_text():
            return 0
        print("_sync.py is not what _async.py says: run python sdk/tools/unasync.py", file=sys.stderr)
        return 1
    TARGET.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
