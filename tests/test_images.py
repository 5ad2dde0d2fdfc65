"""The images: nothing builds them here, so all that can be looked at without building is."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest

from local.stack import ROOT

FILES = sorted((ROOT / "images").glob("*.Dockerfile"))
SERVICES = [file for file in FILES if file.name != "function-app.Dockerfile"]
IN_R = ROOT / "images" / "r.Dockerfile"
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
APP = {
    "backend_webhook",
    "cache_manager",
    "operator_console",
    "request_reporter",
    "shared",
    "task_logger",
    "function_app.py",
    "host.json",
}


def instructions(file: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments, on one line, with the defaults of ``ARG`` filled in."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found = [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]
    defaults = dict(value.split("=", 1) for name, value in found if name == "ARG" and "=" in value)
    for argument, default in defaults.items():
        found = [(name, value.replace(f"${{{argument}}}", default)) for name, value in found]
    return found


def last_stage(file: Path) -> list[tuple[str, str]]:
    found = instructions(file)
    begin = max(number for number, (name, _) in enumerate(found) if name == "FROM")
    return found[begin:]


def copied(file: Path) -> list[str]:
    """What is copied from the repository, by its path there."""
    arguments = [value.split() for name, value in instructions(file) if name == "COPY" and "--from" not in value]
    return [word.rstrip("/") for words in arguments for word in [w for w in words if not w.startswith("--")][:-1]]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file or folder through: the last pattern that fits decides."""
    sent = True
    for pattern in IGNORED:
        is_exception = pattern.startswith("!")
        plain = pattern.lstrip("!").rstrip("/")
        parents = [str(each) for each in (PurePosixPath(path), *PurePosixPath(path).parents)]
        if any(fnmatch(parent, plain) for parent in parents if parent != "."):
            sent = is_exception
    return sent


def environment(file: Path) -> dict[str, str]:
    """The variables that the last stage sets."""
    values = " ".join(value for name, value in last_stage(file) if name == "ENV")
    return dict(word.split("=", 1) for word in shlex.split(values))


def test_there_are_images_of_the_app_and_of_services() -> None:
    assert {"function-app.Dockerfile", "service.Dockerfile", "served.Dockerfile", "sidecar.Dockerfile"} <= {
        file.name for file in FILES
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_everything_that_an_image_copies_exists_and_is_sent_to_the_builder(file: Path) -> None:
    sources = copied(file)
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if not is_sent(source)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_image_runs_as_somebody_else_than_root_and_says_whether_it_works(file: Path) -> None:
    names = [name for name, _ in last_stage(file)]
    [user] = [value for name, value in last_stage(file) if name == "USER"]
    assert user.isdigit(), "Kubernetes' runAsNonRoot can tell by a number only"
    assert int(user) > 0
    assert names.index("USER") < names.index("CMD")
    [health] = [value for name, value in last_stage(file) if name == "HEALTHCHECK"]
    program, *options, last = json.loads(health.partition(" CMD ")[2])
    if file == IN_R:
        assert program == "sh"
        assert last.split()[0] == "curl"
    else:
        assert program == "python"
        assert options[-1] == "-c"
        compile(last, "HEALTHCHECK", "exec")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_image_starts_its_program_without_a_shell_that_would_keep_signals_from_it(file: Path) -> None:
    started = [value for name, value in last_stage(file) if name in ("CMD", "ENTRYPOINT")]
    assert all(json.loads(value) for value in started)


@pytest.mark.parametrize("file", SERVICES, ids=lambda file: file.name)
def test_a_service_is_reached_from_outside_of_its_container(file: Path) -> None:
    assert environment(file)["SERVICE_HOST"] == "0.0.0.0"
    [port] = [value for name, value in last_stage(file) if name == "EXPOSE"]
    assert environment(file)["PORT"] == port


def test_the_image_of_a_service_in_r_has_its_tools_launcher_and_script() -> None:
    [target] = [value.split()[1] for name, value in last_stage(IN_R) if name == "COPY" and "/serve" in value]
    [command] = [value for name, value in last_stage(IN_R) if name == "CMD"]
    assert json.loads(command) == [target.rpartition("/")[2]]
    assert os.access(ROOT / "sdk" / "r" / "serve", os.X_OK)
    variables = environment(IN_R)
    assert (ROOT / "sdk" / "r" / "example" / variables["SERVICE_SCRIPT"]).is_file()
    [tools] = [value.split() for name, value in last_stage(IN_R) if name == "COPY" and "ai4e_api_tools" in value]
    assert tools == ["sdk/r/ai4e_api_tools/", variables["AI4E_API_TOOLS"] + "/"]


@pytest.mark.parametrize("file", [file for file in SERVICES if file != IN_R], ids=lambda file: file.name)
def test_what_a_service_starts_is_in_its_image(file: Path) -> None:
    words = [word for name, value in last_stage(file) if name in ("ENTRYPOINT", "CMD") for word in json.loads(value)]
    assert words[0] == "python"
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None
    else:
        places = [value.split() for name, value in last_stage(file) if name == "COPY" and "--from" not in value]
        sources = [ROOT / source / (words[1] if target == "./" else "") for source, target in places]
        assert [source for source in sources if source.name == Path(words[1]).name and source.is_file()]


def test_the_image_of_the_app_has_all_that_is_deployed_and_no_more() -> None:
    assert {*copied(ROOT / "images" / "function-app.Dockerfile")} == {*APP, "requirements.lock"}


def test_what_belongs_to_the_machine_is_not_sent_to_the_builder() -> None:
    kept = (".local/up/key", ".git/config", "local.settings.json", ".venv/bin/python", "tests/conftest.py", "dev.py")
    assert [path for path in kept if is_sent(path)] == []
    assert [path for path in ("sdk/src/taskbackbone/service.py", "shared/settings.py") if not is_sent(path)] == []
    assert not is_sent("sdk/tests/conftest.py")
    assert not is_sent("sdk/r/tests/testthat/setup.R")
    assert not is_sent("shared/__pycache__/settings.cpython-312.pyc")
