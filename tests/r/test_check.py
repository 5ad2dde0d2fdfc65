"""The example in R, on trial: whether it keeps the rules of ``docs/model-services.md``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from local.stack import ROOT
from tests.r.installing import SDK


@pytest.mark.parametrize("drain_s", ["20", "1"])
def test_the_example_keeps_every_rule(drain_s: str) -> None:
    check = [
        "--body",
        "to be or not to be",
        "--slow",
        "?pause_s=1.5",
        "--bad",
        " ",
        "--lease",
        "6",
        "--patience",
        "120",
    ]
    only = ["--only", "gives back"] if drain_s == "1" else []
    service = [str(SDK / "serve"), str(SDK / "example" / "words.R")]
    command = [sys.executable, "-m", "taskbackbone", "check", "--json", "--strict", *check, *only, "/v1/r/count"]
    done = subprocess.run(
        [*command, "--", *service],
        cwd=ROOT,
        env={
            **os.environ,
            "AI4E_API_TOOLS": str(SDK / "ai4e_api_tools"),
            "TASK_DRAIN_S": drain_s,
            "TASK_GRACE_S": "2",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    found = {each["Rule"]: (each["Verdict"], each["Text"]) for each in json.loads(done.stdout)["Rules"]}
    assert done.returncode == 0, found
    unseen = {rule for rule, (verdict, _) in found.items() if verdict == "not seen"}
    if not only:
        assert unseen == {"answers", "size"}, found
    else:
        assert found["gives back"] == ("right", "it gave the task back before it ended")
