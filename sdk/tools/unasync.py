"""``python sdk/tools/unasync.py``: write the synchronous half of ``client.py`` from the asynchronous one above it.

With ``--check``, only say whether it is up to date.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "src" / "taskbackbone" / "client.py"
BEGIN, END = "class _AsyncLine", "# Made of the classes above by tools/unasync.py: change those.\n"
WORDS = {
    "AsyncIterator": "Iterator",
    "_AsyncLine": "_Line",
    "AsyncResult": "Result",
    "AsyncTask": "Task",
    "AsyncTaskClient": "TaskClient",
    "Aiohttp": "Requests",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "aiter_chunks": "iter_chunks",
    "run_async": "run_sync",
}


def whole(source: str) -> str:
    """The module with its synchronous half: without ``async`` and ``await``, and with the other names."""
    written = source[: source.index(END) + len(END)]
    body = re.sub(r"\b(?:async|await) (?=\S)", "", written[written.index(BEGIN) : written.index(END)])
    body = body.replace("; needs the extra ``async``", "")
    body = re.sub(r"\w+", lambda word: WORDS.get(word[0], word[0]), body)
    return formatted(f"{written}\n\n{body}")


def formatted(source: str) -> str:
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout


def main() -> int:
    made = whole(TARGET.read_text())
    if sys.argv[1:] == ["--check"]:
        if made == TARGET.read_text():
            return 0
        print("The halves of client.py differ: run python sdk/tools/unasync.py", file=sys.stderr)
        return 1
    TARGET.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
