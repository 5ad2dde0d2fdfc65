"""``taskbackbone check URL``: whether a model service, in whatever language, keeps the rules of the backbone.

It plays the backbone: it listens on a port of its own, gives tasks to the service, and looks at what the service
sends. The service has to know where: it is started with the variables that the check prints, or by the check itself,
with its command behind ``--``.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from ._dispatch import free_port, is_up
from ._rules import ADVICE, RULES, UNSEEN, VERDICTS, WRONG, Case, Trial, Work
from .testing import PlayedBackbone, ServiceEnded

FAILED, USAGE, UNREACHABLE = 1, 2, 3
_MIB = 1024**2
_NO_WORK = b"\xff\xfe\x00", "application/x-no-service-takes-this"
_EPILOG = """WORK is a text, @FILE, or ?QUERY, which goes with the usual body. With a COMMAND, the service is started
with BACKBONE_URL, BACKBONE_KEY and PORT, and ended last; URL may be a path then. Exit codes: 1 a rule is broken, 2
usage, 3 not reached."""


def main(argv: Sequence[str]) -> int:
    """Returns the exit code."""
    at = argv.index("--") if "--" in argv else len(argv)
    command, parser = argv[at + 1 :], _parser()
    options = parser.parse_args(argv[:at])
    try:
        case, url = _case(options, is_started=bool(command))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    host, _, port = options.listen.rpartition(":")
    with PlayedBackbone(
        url,
        key=options.key or (secrets.token_urlsafe(12) if command else ""),
        host=host or "127.0.0.1",
        port=int(port),
        lease_s=options.lease,
        host_body_bytes=_MIB if case.large else 100 * _MIB,
        dispatches=False,
        now_s=time.time,
    ) as backbone:
        try:
            with _service(backbone, case, command):
                findings = Trial(backbone, case, _progress).run(options.only)
        except (ServiceEnded, TimeoutError) as error:
            _progress(str(error))
            return UNREACHABLE
    if options.json:
        rules = [
            {"Rule": rule, "Section": RULES[rule][1], "Verdict": verdict, "Text": text}
            for rule, (verdict, text) in findings.items()
        ]
        sys.stdout.write(json.dumps({"Rules": rules}, ensure_ascii=False, indent=2) + "\n")
    else:
        _print(findings)
    verdicts = {verdict for verdict, _ in findings.values()}
    return FAILED if verdicts & ({WRONG, ADVICE} if options.strict else {WRONG}) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taskbackbone check",
        usage="taskbackbone check [OPTIONS] URL [-- COMMAND ...]",
        description="Tell which rules of docs/model-services.md a model service keeps and which it breaks.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("url", metavar="URL", help="such as http://127.0.0.1:8080/v1/words/count")
    add("--body", metavar="WORK", help="what the model can work on")
    add("--content-type", help="of the bodies (default: text/plain; application/octet-stream for a file)")
    add("--slow", metavar="WORK", help="what takes some seconds, best longer than the lease")
    add("--bad", metavar="WORK", help="what can never work (default: a body of no known type)")
    add("--large", metavar="WORK", help="what has a result of more than a MiB")
    add("--lease", metavar="S", type=float, default=10.0, help="X-Task-Lease in seconds (default: 10)")
    add(
        "--patience",
        metavar="S",
        type=float,
        default=60.0,
        help="for how long its start and each end are awaited (default: 60)",
    )
    add("--listen", metavar="[HOST:]PORT", default="127.0.0.1:0", help="where the backbone is played (default: free)")
    add("--key", default="", help="the key that the service has to send (default: any)")
    add("--pid", type=int, default=0, help="the service's process, to be ended by SIGTERM")
    add("--only", metavar="RULE", action="append", default=[], choices=list(RULES), help=f"of {', '.join(RULES)}")
    add("--strict", action="store_true", help="advice counts as a broken rule")
    add("--json", action="store_true", help="print JSON")
    return parser


def _case(options: argparse.Namespace, *, is_started: bool) -> tuple[Case, str]:
    """What to try, and the URL of the service without its path."""
    split = urlsplit(str(options.url))
    base = f"{split.scheme}://{split.netloc}"
    if is_started and not split.scheme and split.path.startswith("/"):
        base = f"http://127.0.0.1:{free_port()}"
    elif split.scheme not in ("http", "https") or not split.hostname:
        raise ValueError(f"{options.url!r} is no http URL")

    def work(text: str) -> Work:
        if text.startswith("?"):
            return Work(good.body, good.content_type, text[1:])
        kind, data = options.content_type, text.encode()
        if text.startswith("@"):
            kind, data = kind or "application/octet-stream", Path(text[1:]).read_bytes()
        return Work(data, kind or "text/plain; charset=utf-8", split.query)

    good = Work(b"{}", options.content_type or "application/json", split.query)
    good = work(options.body) if options.body else good
    case = Case(
        split.path or "/",
        good,
        work(options.slow) if options.slow else good,
        work(options.bad) if options.bad else Work(*_NO_WORK, split.query),
        work(options.large) if options.large else None,
        pid=options.pid,
        patience_s=options.patience,
    )
    return case, base


@contextmanager
def _service(backbone: PlayedBackbone, case: Case, command: Sequence[str]) -> Generator[None, None, None]:
    """The service, once it takes tasks. Raises TimeoutError or ServiceEnded."""
    if command:
        port = urlsplit(backbone.service_url).port or 80
        starting = backbone.start(command, port=port, stop_s=case.patience_s)
    else:
        variables = " ".join(f"{name}={value}" for name, value in backbone.environment.items())
        _progress(f"start the service with {variables}")
        starting = nullcontext()
    with starting as case.process:
        if not backbone.wait_for(lambda: is_up(backbone.service_url, until_loaded=True), case.patience_s):
            raise TimeoutError(f"{backbone.service_url} does not listen, or is not ready")
        yield


def _progress(text: str) -> None:
    sys.stderr.write(f"… {text}\n")
    sys.stderr.flush()


def _print(findings: dict[str, tuple[str, str]]) -> None:
    width = max(len(title) for title, _ in RULES.values())
    for rule, (verdict, text) in findings.items():
        title, section = RULES[rule]
        mark = {WRONG: "WRONG", UNSEEN: "-"}.get(verdict, verdict)
        sys.stdout.write(f"{mark:7}{section:>2}  {title:{width}}  {text}\n")
    verdicts = [verdict for verdict, _ in findings.values()]
    counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)
    sys.stdout.write(f"{counted}. The numbers are those of docs/model-services.md.\n")
