"""``taskbackbone check`` notices which rule a model service breaks, and finds nothing wrong with a careful one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taskbackbone import check
from taskbackbone.testing import PlayedBackbone

SERVICE = [sys.executable, str(Path(__file__).with_name("careful_service.py"))]
ARGUMENTS = [
    *("/v1/words/count?seconds=0.1", "--body", "to be or not to be", "--json"),
    *("--slow", "?seconds=2.5", "--large", "?copies=100000", "--lease", "2", "--patience", "5"),
]


SEEN_WITH = {"lease": "twice", "told": "full"}
"""The trial of another rule, in which one is seen."""
WORKS_LONG = {"stops": ("--slow", "?seconds=20")}
"""So that a loaded machine does not end the work before anybody can see that it goes on."""
AT_ONCE = 6


def checked(flaw: str, *more: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """The exit code, and by rule the verdict and its reason."""
    code = "import sys; from taskbackbone.check import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *ARGUMENTS, *more, "--", *SERVICE]
    environment = {**os.environ, "FLAW": flaw}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    rules: list[dict[str, Any]] = json.loads(done.stdout)["Rules"]
    return done.returncode, {each["Rule"]: (each["Verdict"], each["Text"]) for each in rules}


@pytest.fixture(scope="module")
def checks() -> Iterator[dict[str, Future[tuple[int, dict[str, tuple[str, str]]]]]]:
    """A check of each flaw, some of them at once: most of the time, they wait."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            flaw: pool.submit(checked, flaw, "--only", SEEN_WITH.get(rule, rule), *WORKS_LONG.get(rule, ()))
            for flaw, (rule, _, _) in FLAWS.items()
        }


def test_nothing_is_wrong_with_a_service_that_keeps_the_rules() -> None:
    code, rules = checked("", "--patience", "60")

    assert {rule: text for rule, (verdict, text) in rules.items() if verdict == "wrong"} == {}
    assert code == 0
    assert [rule for rule, (verdict, _) in rules.items() if verdict == "not seen"] == ["answers"]


FLAWS = {
    "works before it answers": ("accepts", "advice", "when the work was done"),
    "the result in the answer": ("answers", "wrong", "bytes that nobody reads"),
    "a completion text that is no UTF-8": ("answers", "wrong", "no percent-encoded UTF-8"),
    "a quick answer, and an end": ("answers", "wrong", "reported an end too"),
    "409 when full": ("full", "wrong", "answered 409"),
    "takes any number": ("full", "not seen", "it took 64 tasks"),
    "slots that are no number": ("told", "wrong", "'many'"),
    "more slots than it has": ("told", "wrong", "told 9 slots, and refused a task while it had 2"),
    "no slots": ("told", "wrong", "0 slots"),
    "a name that changes": ("told", "wrong", "stays the same"),
    "500 for bad input": ("bad", "wrong", "answered 500"),
    "no end": ("reports", "wrong", "no end came"),
    "the end in the text only": ("reports", "advice", "only the text tells the end"),
    "a status of its own": ("reports", "wrong", "BackendStatus"),
    "no key": ("reports", "wrong", "without the key"),
    "no attempt": ("attempt", "wrong", "had none"),
    "no heartbeat": ("lease", "wrong", "silent for longer than X-Task-Lease"),
    "no heartbeat and no attempt": ("lease", "wrong", "silent for longer than X-Task-Lease"),
    "the result after the end": ("result", "wrong", "came after the end"),
    "a slot that is freed too late": ("slot", "wrong", "refused another task"),
    "goes on after a 409": ("stops", "wrong", "after the 409"),
    "gives up after 500": ("repeats", "wrong", "gave up after 500"),
    "fails the task after 500": ("repeats", "wrong", "gave up after 500"),
    "gives up after 429": ("repeats", "wrong", "gave up after 429"),
    "gives up without an answer": ("repeats", "wrong", "gave up after no answer"),
    "a result that is too large": ("size", "wrong", "sent the too large result"),
    "chunks": ("size", "wrong", "came in chunks"),
    "keeps its task at the end": ("gives back", "wrong", "ended with a task"),
    "does not end": ("gives back", "wrong", "after SIGTERM"),
    "runs an attempt twice": ("twice", "wrong", "it ran twice"),
    "refuses an attempt that comes twice": ("twice", "wrong", "answered 503"),
    "knows a task but not its attempts": ("newer", "wrong", "nothing came of it"),
}
"""What each of the flaws of the careful service is noticed as."""


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_broken_rule_is_noticed(
    flaw: str, checks: dict[str, Future[tuple[int, dict[str, tuple[str, str]]]]]
) -> None:
    rule, verdict, reason = FLAWS[flaw]

    code, rules = checks[flaw].result()

    assert rules[rule][0] == verdict, rules
    assert reason in rules[rule][1]
    assert code == any(found == "wrong" for found, _ in rules.values())
    others = {name: text for name, (found, text) in rules.items() if found == "wrong" and name != rule}
    assert set(others) <= CONSEQUENCES.get(flaw, set()), others


CONSEQUENCES = {
    "the result in the answer": {"reports"},
    "slots that are no number": {"reports"},
    "the end in the text only": {"attempt"},
    "chunks": {"reports"},
    "no heartbeat and no attempt": {"attempt", "twice"},
    "runs an attempt twice": {"result"},
}
"""Other rules that a flaw breaks too."""


LOADING = """
import time
from taskbackbone import TaskService

service = TaskService()


@service.setup
def load() -> None:
    time.sleep(1)


@service.task("/v1/words/count")
def count(body: str) -> dict:
    return {"words": len(body.split())}


service.run()
"""


def test_a_service_that_loads_its_model_is_checked_when_it_is_ready(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "service.py").write_text(LOADING)
    arguments = ["/v1/words/count", "--body", "to be", "--only", "accepts", "--"]
    assert check.main([*arguments, sys.executable, str(tmp_path / "service.py")]) == 0
    assert capsys.readouterr().out.startswith("right")


def test_the_quickest_model_is_at_work_when_its_task_is_cancelled_lost_or_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "service.py").write_text(LOADING.replace("time.sleep(1)", "pass"))
    arguments = ["/v1/words/count", "--body", "to be", "--json"]
    tried = [argument for rule in ("newer", "stops", "gives back") for argument in ("--only", rule)]
    assert check.main([*arguments, *tried, "--", sys.executable, str(tmp_path / "service.py")]) == 0

    rules = {each["Rule"]: each["Verdict"] for each in json.loads(capsys.readouterr().out)["Rules"]}
    assert [rules[rule] for rule in ("newer", "stops", "gives back")] == ["right"] * 3


def test_a_quick_answer_is_the_completed_task() -> None:
    code, rules = checked("a quick answer")

    assert code == 0
    assert rules["answers"] == ("right", "1 bytes with X-Task-Complete")
    assert rules["accepts"][0] == "right"


def test_advice_counts_if_it_is_to() -> None:
    code, _ = checked("works before it answers", "--only", "bad", "--strict")

    assert code == 1


def test_the_table_says_which_section_a_rule_is_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLAW", "500 for bad input")
    arguments = [argument for argument in ARGUMENTS if argument != "--json"]
    assert check.main([*arguments, "--only", "bad", "--", *SERVICE]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if "WRONG" in line] == [["WRONG", "3"]]
    assert "1 wrong" in lines[-1]


def test_a_service_of_somebody_elses_process_is_told_where_the_backbone_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLAW", "")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    elsewhere = {"BACKBONE_URL": f"http://127.0.0.1:{port}"}
    with PlayedBackbone() as other, other.start(SERVICE, environment=elsewhere) as process:
        threading.Thread(target=process.wait).start()  # as its parent does
        url = f"{other.service_url}/v1/words/count?seconds=0.5"
        arguments = [url, "--body", "a b", "--listen", port, "--lease", "5"]
        code = check.main([*arguments, "--pid", str(process.pid), "--only", "gives back", "--json"])

        printed = capsys.readouterr()
        rules = {each["Rule"]: each["Verdict"] for each in json.loads(printed.out)["Rules"]}
        assert (code, rules["gives back"], rules["reports"]) == (0, "right", "right")
        assert f"BACKBONE_URL=http://127.0.0.1:{port}" in printed.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ftp://127.0.0.1/v1/x"], 2),
        (["/v1/x"], 2),
        (["http://127.0.0.1:9/v1/x", "--body", "@no such file"], 2),
        (["http://127.0.0.1:{free}/v1/x", "--patience", "0.2"], 3),
        (["/v1/x", "--", sys.executable, "-c", "raise SystemExit('it cannot start')"], 3),
    ],
)
def test_what_cannot_be_checked_has_an_exit_code_of_its_own(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = str(listener.getsockname()[1])
    filled = [argument.replace("{free}", free) for argument in arguments]

    try:
        found = check.main(filled)
    except SystemExit as error:
        found = error.code
    assert found == code
    assert capsys.readouterr().err
