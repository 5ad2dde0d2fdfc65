"""The rules of docs/model-services.md, by the SDK's own check of services."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import HERE, HOUSE, TOOLS


def test_a_service_on_the_drop_in_keeps_every_rule_that_the_check_sees() -> None:
    # The command gets its port and the URLs of the played backbone by the check.
    command = [HOUSE, "-m", "taskbackbone", "check", "--lease", "4", "--content-type", "application/json"]
    bodies = ["--body", '{"text": "a b"}', "--slow", '{"text": "a b", "seconds": 12}', "--bad", ""]
    service = ["/v1/my/words", "--", sys.executable, "runserver.py"]
    variables = {**os.environ, "API_PREFIX": "/v1/my", "PYTHONPATH": str(TOOLS), "AI4E_DRAIN_S": "1"}
    done = subprocess.run(
        [*command, *bodies, *service],
        cwd=str(HERE / "services" / "steps"),
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    printed = done.stdout.decode()
    assert done.returncode == 0, printed
    assert " 0 wrong" in printed
    assert "gave the task back before it ended" in printed
