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
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from taskbackbone._dispatch import free_port, is_listening, is_loading
from taskbackbone._rules import ADVICE, RIGHT, RULES, UNSEEN, WRONG, Case, Finding, Trial, Work
from taskbackbone.testing import PlayedBackbone, ServiceEnded

FAILED, USAGE, UNREACHABLE = 1, 2, 3
LARGE_BYTES = 1024**2
_MARKS = {RIGHT: "right", WRONG: "WRONG", ADVICE: "advice", UNSEEN: "-"}
_NO_TYPE = "application/x-no-service-takes-this"


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 if a rule is broken, 2 for usage, 3 if the service cannot be reached."""
    own, command = _split(argv)
    parser = _parser()
    arguments = parser.parse_args(own)
    try:
        path, url = _address(arguments.url, bool(command))
        case = _case(arguments, path)
    except (ValueError, OSError) as error:
        parser.print_usage(sys.stderr)
        sys.stderr.write(f"taskbackbone check: {error}\n")
        return USAGE
    host, _, port = arguments.listen.rpartition(":")
    offset_s = time.time() - time.monotonic()
    with PlayedBackbone(
        url,
        key=arguments.key or (secrets.token_urlsafe(12) if command else ""),
        host=host or "127.0.0.1",
        port=int(port),
        lease_s=arguments.lease,
        host_body_bytes=LARGE_BYTES if case.large else 100 * LARGE_BYTES,
        dispatches=False,
        now_s=lambda: offset_s + time.monotonic(),
    ) as backbone:
        try:
            with _service(backbone, case, command, arguments.start_timeout):
                findings = Trial(backbone, case, _progress).run(arguments.only)
        except (ServiceEnded, _Unreachable) as error:
            sys.stderr.write(f"taskbackbone check: {error}\n")
            return UNREACHABLE
    _print(findings, as_json=arguments.json)
    is_broken = any(finding.verdict == WRONG for finding in findings)
    return FAILED if is_broken or (arguments.strict and any(each.verdict == ADVICE for each in findings)) else 0


class _Unreachable(Exception):
    pass


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taskbackbone check",
        usage="taskbackbone check [OPTIONS] URL [-- COMMAND ...]",
        description="Tell which rules of docs/model-services.md a model service keeps and which it breaks.",
        epilog="With a COMMAND, the service is started with BACKBONE_URL, BACKBONE_KEY and PORT, and ended last; "
        "URL may be a path then. Exit codes: 1 a rule is broken, 2 usage, 3 not reached.",
    )
    add = parser.add_argument
    add("url", metavar="URL", help="where the service takes tasks, such as http://127.0.0.1:8080/v1/words/count")
    add("--text", help="a body that the model can work on")
    add("--body", metavar="FILE", type=Path, help="the same from a file")
    add("--content-type", help="of all bodies (default: text/plain for --text, else application/octet-stream)")
    add("--slow", metavar="FILE", type=Path, help="a body that takes some seconds: best longer than the lease")
    add("--slow-text", metavar="TEXT", help="the same as a text")
    add("--slow-query", metavar="QUERY", help="the query string that makes the usual body take some seconds")
    add("--bad", metavar="FILE", type=Path, help="a body that can never work (default: of no known type)")
    add("--bad-text", metavar="TEXT", help="the same as a text")
    add("--large", metavar="FILE", type=Path, help="a body whose result has more than a MiB")
    add("--large-query", metavar="QUERY", help="the query string that makes the result so large")
    add("--lease", metavar="S", type=float, default=10.0, help="X-Task-Lease in seconds (default: 10)")
    add("--patience", metavar="S", type=float, default=60.0, help="for how long an end is awaited (default: 60)")
    add("--listen", metavar="[HOST:]PORT", default="127.0.0.1:0", help="where the backbone is played (default: free)")
    add("--key", default="", help="the key that the service has to send (default: any)")
    add("--pid", type=int, default=0, help="the service's process, to see what becomes of its tasks at SIGTERM")
    add("--start-timeout", metavar="S", type=float, default=60.0, help="for how long the service may take to start")
    add("--only", metavar="RULE", action="append", default=[], choices=list(RULES), help=f"of {', '.join(RULES)}")
    add("--strict", action="store_true", help="advice counts as a broken rule")
    add("--json", action="store_true", help="print JSON")
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    arguments = list(argv)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def _address(url: str, has_command: bool) -> tuple[str, str]:
    """The path of the endpoint, and the URL before it."""
    split = urlsplit(url)
    if not split.scheme and split.path.startswith("/"):
        if not has_command:
            raise ValueError("the URL of a service has a scheme and a host")
        return split.path, f"http://127.0.0.1:{free_port()}"
    if split.scheme not in ("http", "https") or not split.hostname:
        raise ValueError(f"{url!r} is no http URL")
    return split.path or "/", f"{split.scheme}://{split.netloc}"


def _case(arguments: argparse.Namespace, path: str) -> Case:
    query = urlsplit(str(arguments.url)).query

    def work(file: Path | None, text: str | None, own_query: str | None = None, kind: str = "") -> Work | None:
        if file is None and text is None:
            return None
        data = file.read_bytes() if file is not None else (text or "").encode()
        default = "text/plain; charset=utf-8" if file is None else "application/octet-stream"
        return Work(data, kind or arguments.content_type or default, query if own_query is None else own_query)

    def varied(file: Path | None, text: str | None, own_query: str | None) -> Work | None:
        if own_query is not None and file is None and text is None:
            return Work(good.body, good.content_type, own_query)
        return work(file, text, own_query)

    good = work(arguments.body, arguments.text) or Work(b"{}", arguments.content_type or "application/json", query)
    return Case(
        path,
        good,
        work(arguments.bad, arguments.bad_text) or Work(b"\xff\xfe\x00 no model reads this", _NO_TYPE, query),
        slow=varied(arguments.slow, arguments.slow_text, arguments.slow_query),
        large=varied(arguments.large, None, arguments.large_query),
        pid=arguments.pid,
        patience_s=arguments.patience,
    )


@contextmanager
def _service(
    backbone: PlayedBackbone, case: Case, command: Sequence[str], within_s: float
) -> Generator[None, None, None]:
    """The service, once it listens."""
    if command:
        port = urlsplit(backbone.service_url).port or 80
        with backbone.start(command, port=port, stop_s=case.patience_s) as case.process:
            _until_loaded(backbone.service_url, within_s)
            yield
        return
    variables = " ".join(f"{name}={value}" for name, value in backbone.environment.items())
    _progress(f"start the service with {variables}")
    deadline_s = time.monotonic() + within_s
    while not is_listening(backbone.service_url):
        if time.monotonic() > deadline_s:
            raise _Unreachable(f"nothing listens at {backbone.service_url}")
        time.sleep(0.1)
    _until_loaded(backbone.service_url, within_s)
    yield


def _until_loaded(url: str, within_s: float) -> None:
    """It may refuse tasks until its model is there."""
    deadline_s = time.monotonic() + within_s
    while is_loading(url) and time.monotonic() < deadline_s:
        time.sleep(0.1)


def _progress(text: str) -> None:
    sys.stderr.write(f"… {text}\n")
    sys.stderr.flush()


def _print(findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        rules = [
            {"Rule": each.rule, "Section": RULES[each.rule][1], "Verdict": each.verdict, "Text": each.text}
            for each in findings
        ]
        sys.stdout.write(json.dumps({"Rules": rules}, ensure_ascii=False, indent=2) + "\n")
        return
    width = max(len(title) for title, _ in RULES.values())
    for finding in findings:
        title, section = RULES[finding.rule]
        mark = _MARKS[finding.verdict]
        sys.stdout.write(f"{mark:7}{section:>2}  {title:{width}}  {finding.text}\n")
    verdicts = [finding.verdict for finding in findings]
    counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (RIGHT, WRONG, ADVICE, UNSEEN))
    sys.stdout.write(f"{counted}. The numbers are those of docs/model-services.md.\n")
