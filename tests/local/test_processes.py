"""Child processes: start, death, stop and kill; none is left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from local.processes import _PORTS, ChildProcess, LocalStackError, free_port

READY_THEN_SLEEP = "echo READY http://127.0.0.1:1234; exec sleep 1000"

ROOT = Path(__file__).parents[2]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")


def shell(tmp_path: Path, script: str, start_timeout_s: float = 60) -> ChildProcess:
    return ChildProcess(
        "The part", ["sh", "-c", script], log_path=tmp_path / "part.log", start_timeout_s=start_timeout_s
    )


def fifo_held_by_child(tmp_path: Path) -> tuple[Path, str]:
    """A FIFO, and the start of a shell script that keeps it open: reading it ends when the last such process ends."""
    path = tmp_path / "held"
    os.mkfifo(path)
    return path, f"exec 9>'{path}'; echo held >&9; "


def test_start_returns_after_the_ready_line(tmp_path: Path) -> None:
    with shell(tmp_path, "echo starting; " + READY_THEN_SLEEP) as part:
        assert part.url == "http://127.0.0.1:1234"
        assert part.is_running
        part.check()
    assert not part.is_running


def test_process_gets_its_environment_and_logs_output_and_errors(tmp_path: Path) -> None:
    part = ChildProcess(
        "The part",
        ["sh", "-c", "echo $GREETING; echo oops >&2; " + READY_THEN_SLEEP],
        log_path=tmp_path / "logs" / "part.log",
        environment={"GREETING": "hello"},
    )
    with part:
        assert part.log_path.read_text() == "hello\noops\nREADY http://127.0.0.1:1234\n"


def test_death_during_start_is_reported_with_the_end_of_the_log(tmp_path: Path) -> None:
    part = shell(tmp_path, "echo the disk is full >&2; exit 3")
    with pytest.raises(LocalStackError) as caught:
        part.start()
    first, *rest = str(caught.value).splitlines()
    assert first == "The part has ended unexpectedly (exit code 3)."
    assert rest[-1].strip() == "the disk is full"


def test_log_of_an_earlier_run_is_ignored_in_errors_and_ready_checks(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    part = shell(tmp_path, f"[ -e {mark} ] && exit 1; touch {mark}; " + READY_THEN_SLEEP)
    part.start()
    part.kill()
    with pytest.raises(LocalStackError) as caught:
        part.start()
    assert str(caught.value) == "The part has ended unexpectedly (exit code 1)."
    with pytest.raises(LocalStackError, match="has printed no READY line"):
        _ = part.url


def test_process_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    part = shell(tmp_path, "exec sleep 1000", start_timeout_s=0.1)
    with pytest.raises(LocalStackError, match=r"^The part was not ready after 0\.1 s\.$"):
        part.start()
    assert not part.is_running


def test_missing_program_error_names_the_program(tmp_path: Path) -> None:
    part = ChildProcess("The part", ["no-such-program"], log_path=tmp_path / "part.log")
    with pytest.raises(LocalStackError, match=r"^The part cannot be started: there is no program no-such-program\.$"):
        part.start()


def test_a_running_process_is_not_started_twice(tmp_path: Path) -> None:
    with (
        shell(tmp_path, READY_THEN_SLEEP) as part,
        pytest.raises(LocalStackError, match=r"^The part is already running\.$"),
    ):
        part.start()


def test_check_detects_a_death_after_the_start(tmp_path: Path) -> None:
    with shell(tmp_path, READY_THEN_SLEEP) as part:
        os.kill(part.pid, signal.SIGKILL)
        os.waitid(os.P_PID, part.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(LocalStackError, match=r"^The part has ended unexpectedly \(SIGKILL\)\."):
            part.check()


def test_stop_lets_the_process_end_gracefully(tmp_path: Path) -> None:
    part = shell(tmp_path, "trap 'echo bye; exit 0' TERM; echo READY http://x; while :; do sleep 0.01; done")
    part.start()
    assert part.stop() == 0
    assert part.log_path.read_text().endswith("bye\n")
    assert part.stop() is None


def test_stop_kills_a_process_that_ignores_sigterm(tmp_path: Path) -> None:
    part = shell(tmp_path, "trap '' TERM; echo READY http://x; while :; do sleep 0.01; done")
    part.start()
    assert part.stop(grace_s=0.05) == -signal.SIGKILL


@pytest.mark.parametrize("end", [ChildProcess.stop, ChildProcess.kill])
def test_no_grandchild_outlives_the_process(tmp_path: Path, end: Callable[[ChildProcess], object]) -> None:
    path, hold = fifo_held_by_child(tmp_path)
    part = shell(tmp_path, f"({hold} sleep 1000) & {READY_THEN_SLEEP}")
    part.spawn()
    with path.open() as held:
        assert held.readline() == "held\n"
        part.wait_until_ready()
        end(part)
        assert held.read() == ""


def test_restart_runs_the_same_command_in_a_new_process(tmp_path: Path) -> None:
    with shell(tmp_path, READY_THEN_SLEEP) as part:
        before = part.pid
        part.restart()
        assert part.is_running
        assert part.pid != before


@linux_only
def test_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    path, hold = fifo_held_by_child(tmp_path)
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, hold + "echo READY http://x; exec sleep 1000", str(tmp_path / "part.log")]
    )
    with path.open() as held:
        assert held.readline() == "held\n"
        parent.kill()
        parent.wait()
        assert held.read() == ""


_PARENT = """
import sys, pathlib
from local.processes import ChildProcess
ChildProcess("The part", ["sh", "-c", sys.argv[1]], log_path=pathlib.Path(sys.argv[2])).start()
input()
"""


@linux_only
def test_a_child_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    part = shell(tmp_path, READY_THEN_SLEEP)
    thread = threading.Thread(target=part.start)
    thread.start()
    thread.join()
    while Path(f"/proc/self/task/{thread.native_id}").exists():
        pass
    part.check()
    part.stop()


def test_free_ports_are_all_different() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50


def test_no_other_process_gets_a_port_that_is_given_out() -> None:
    mine = free_port()
    program = (
        "import sys; from local import processes as p; p._untried_ports = iter([int(sys.argv[1]), *p._PORTS]);"
        "print(p.free_port())"
    )
    chosen = subprocess.check_output([sys.executable, "-c", program, str(mine)], cwd=ROOT, text=True)
    assert int(chosen) != mine


def test_no_port_is_the_cluster_bus_of_another() -> None:
    assert {port + 10_000 for port in _PORTS}.isdisjoint(_PORTS)
