"""``python sdk/tools/unasync.py``: write the synchronous halves of modules from the asynchronous ones above them.

With ``--check``, only say whether they are up to date.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src" / "taskbackbone"
BEGINS = {"client.py": "class _AsyncLine", "batch.py": "class AsyncBatch"}
END = "# Made of the classes above by tools/unasync.py: change those.\n"
WORDS = {
    "AsyncBatch": "Batch",
    "AsyncIterator": "Iterator",
    "_AsyncLine": "_Line",
    "AsyncResult": "Result",
    "AsyncSchedules": "Schedules",
    "AsyncTask": "Task",
    "AsyncTaskClient": "TaskClient",
    "Aiohttp": "Requests",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "adigest": "digest",
    "aeach": "each",
    "afill": "fill",
    "aiter_chunks": "iter_chunks",
    "aready": "ready",
    "run_async": "run_sync",
}


def whole(source: str, begin: str) -> str:
    """The module with its synchronous half: without ``async`` and ``await``, and with the other names."""
    written = source[: source.index(END) + len(END)]
    body = re.sub(r"\b(?:async|await) (?=\S)", "", written[written.index(begin) : written.index(END)])
    body = body.replace("; needs the extra ``async``", "")
    body = re.sub(r"\w+", lambda word: WORDS.get(word[0], word[0]), body)
    return formatted(f"{written}\n\n{body}")


def formatted(source: str) -> str:
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(SOURCES / "any.py"), "-"]
    return subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout


def main() -> int:
    differ = False
    for name, begin in BEGINS.items():
        source = (SOURCES / name).read_text()
        made = whole(source, begin)
        if sys.argv[1:] != ["--check"]:
            (SOURCES / name).write_text(made)
        elif made != source:
            print(f"The halves of {name} differ: run python sdk/tools/unasync.py", file=sys.stderr)
            differ = True
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
