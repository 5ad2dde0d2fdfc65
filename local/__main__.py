"""``python -m local demo|up``: the commands that ``dev.py`` runs once everything is installed."""

from __future__ import annotations

import errno
import os
import signal
import sys

from local.arguments import parse

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OF_THE_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def main() -> int:
    # For both, because a shell starts its background jobs with SIGINT ignored.
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        # `dev.py` has them wait until here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return _run()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    finally:
        # What is left is the end of the interpreter.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _run() -> int:
    options = parse(sys.argv[1:])
    # Not before a signal is handled: it takes a second.
    from local import demo, up
    from local.processes import LocalStackError

    try:
        return demo.run(options) if options.command == "demo" else up.run(options)
    except LocalStackError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        if error.errno not in _OF_THE_PLACE or not error.filename:
            raise
        print(f"{os.fsdecode(error.filename)} cannot be written: {error.strerror}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
