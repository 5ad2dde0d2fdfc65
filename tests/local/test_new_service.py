"""``dev.py new-service``: what it makes runs as it was made; and the list of services that it adds to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest

from local.azurite import Azurite
from local.new_service import __main__ as new_service
from local.new_service.__main__ import REGISTRY, TEMPLATE, Refused, make_service
from local.processes import free_port
from local.stack import ROOT, PolledProcess, Stack
from shared.backend_settings import MAX_STEPS, BackendSettings, BackendsSettings, parse_backends
from tests.test_images import copied, instructions, is_sent

SCHEMA: dict[str, Any] = json.loads((ROOT / "infra" / "services.schema.json").read_text())
LIST: dict[str, Any] = json.loads((ROOT / REGISTRY).read_text())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What of the repository is read."""
    for file in (REGISTRY, new_service.GATEWAY, new_service.DOCKERFILE):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / file, tmp_path / file)
    return tmp_path


def backends_of(services: dict[str, Any]) -> dict[str, Any]:
    """``BACKENDS``, as the infrastructure makes it of the list."""
    entries = {
        each["path"]: {key: value for key, value in each.items() if key not in ("name", "path")}
        for each in services["services"]
    }
    return {**entries, "pipelines": services["pipelines"]}


def test_the_tests_of_a_made_service_pass_and_it_answers_a_task(tree: Path, azurite: Azurite) -> None:
    folder = make_service(tree, "land-cover", "/v1/land")
    make_service(tree, "land-use", "/v1/use")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "services"],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in tested.stdout, tested.stdout

    services = json.loads((tree / REGISTRY).read_text())
    port = free_port()
    for each in services["services"]:
        if each["name"] == "land-cover":
            each["url"] = f"http://127.0.0.1:{port}"
    with Stack(tree / "stack", azurite=azurite, backends=backends_of(services), with_model=False) as stack:
        service = PolledProcess(
            "the made service",
            [sys.executable, folder / "service.py"],
            port=port,
            health="/readyz",
            log_path=tree / "service.log",
            environment={
                "PORT": str(port),
                "BACKBONE_URL": stack.url,
                "BACKBONE_KEY": stack.key,
                "SERVICE_DRAIN_S": "1",
            },
        )
        service.start()
        try:
            with stack.client() as app:
                headers = {"Prefer": "wait=60"}
                ended = app.post("/api/v1/submit/v1/land/predict?scale=10", json=[1, 2, 3], headers=headers)
                assert (ended.status_code, ended.json()["BackendStatus"]) == (200, "completed")
                assert app.get(f"{ended.headers['Location']}/result").json() == {"mean": 20.0}
                assert app.post("/api/v1/submit/v1/land/other", json=[1]).status_code == 404
        finally:
            service.stop()


def test_a_made_service_is_named_everywhere(tree: Path) -> None:
    folder = make_service(tree, "land-cover", "/v1/land")
    names = {file.name for file in folder.iterdir()}
    assert names == {
        *("service.py", "test_land_cover.py", "requirements.txt", "values.yaml", "Dockerfile"),
    }
    assert len(names) == 1 + len([file for file in TEMPLATE.iterdir() if file.is_file()])
    for file in folder.iterdir():
        assert not re.search(r"\b(NAME|HOST)\b", file.read_text()), file
    entry = json.loads((tree / REGISTRY).read_text())["services"][-1]
    assert entry == {
        "name": "land-cover",
        "path": "/v1/land",
        "url": LIST["services"][0]["url"],
        "endpoints": ["/v1/land/predict"],
    }


def test_a_path_may_have_the_words_of_the_template(tree: Path) -> None:
    folder = make_service(tree, "land-cover", "/v1/NAME/HOST")
    assert "path: /v1/NAME/HOST\n" in (folder / "values.yaml").read_text()


def test_the_list_keeps_its_form(tree: Path) -> None:
    """So that a new service is a few lines of a change."""
    before = (tree / REGISTRY).read_text()
    make_service(tree, "land-cover", "/v1/land")
    after = (tree / REGISTRY).read_text()
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert len(added) <= 5
    assert before == (ROOT / REGISTRY).read_text() == json.dumps(LIST, indent=2) + "\n"


def test_the_image_of_a_made_service_has_its_folder(tree: Path) -> None:
    file = make_service(tree, "land-cover", "/v1/land") / "Dockerfile"
    assert [value for name, value in instructions(file) if name == "ARG"] == ["SERVICE=services/land-cover"] * 2
    assert "services/land-cover" in copied(file)
    assert is_sent("services/land-cover")
    original = instructions(ROOT / new_service.DOCKERFILE)
    assert [name for name, _ in instructions(file)] == [name for name, _ in original]
    linted = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), file], capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize(
    ("name", "path", "reason"),
    [
        ("Land", "/v1/land", "is no name"),
        ("land_cover", "/v1/land", "is no name"),
        ("../land", "/v1/land", "is no name"),
        ("land-", "/v1/land", "is no name"),
        ("l" * 41, "/v1/land", "is no name"),
        ("land", "v1/land", "is no path prefix"),
        ("land", "/v1/land/", "is no path prefix"),
        ("land", "/v1/la nd", "is no path prefix"),
        ("words", "/v1/land", "has words already"),
        ("land", "/v1/words", "has /v1/words already"),
        ("land", "/v1/Words", "has /v1/words already"),
        ("land", "/v1/../land", "is no path prefix"),
        ("land", "/v1/..", "is no path prefix"),
        ("tasks", "/v1/land", "gateway has tasks at /api already"),
        ("land", "/api/v1/tasks", "gateway has tasks at /api already"),
        ("land", "/API", "gateway has tasks at /api already"),
        ("land", "/taskmanagement", "gateway has taskmanagement at /taskmanagement already"),
        ("there", "/v1/there", "services/there exists"),
    ],
)
def test_what_cannot_be_a_service_changes_nothing(tree: Path, name: str, path: str, reason: str) -> None:
    (tree / "services" / "there").mkdir(parents=True)
    before = sorted(tree.rglob("*"))
    with pytest.raises(Refused, match=reason):
        make_service(tree, name, path)
    assert sorted(tree.rglob("*")) == before
    assert (tree / REGISTRY).read_text() == (ROOT / REGISTRY).read_text()


def test_the_command_says_the_three_steps(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new_service, "ROOT", tree)
    monkeypatch.setattr(sys, "argv", ["dev.py", "land-cover"])
    assert new_service.main() == 0
    said = capsys.readouterr().out
    steps = re.findall(r"^(\d)\. .*\n +(.*)", said, re.MULTILINE)
    assert [number for number, _ in steps] == ["1", "2", "3"]
    assert [command.split()[0] for _, command in steps] == ["azd", "az", "helm"]
    assert "--backend /v1/land-cover=" in said
    assert said.index("pytest") < said.index("dev.py up"), "up runs until Ctrl-C"
    assert "/api/v1/submit/v1/land-cover/predict" in said
    for file in re.findall(r"services/land-cover/[\w.]+", said):
        assert (tree / file).exists()
    assert new_service.main() == 1
    assert capsys.readouterr().err == "services/land-cover exists.\n"


def test_the_list_fits_its_schema_and_the_app() -> None:
    jsonschema_rs.validator_for(SCHEMA).validate(LIST)
    names = [each["name"] for each in LIST["services"]]
    assert len(set(names)) == len(names)
    BackendsSettings.model_validate(parse_backends(json.dumps(backends_of(LIST))))
    examples = json.loads((ROOT / "examples" / "backends.json").read_text())
    assert {each["path"] for each in LIST["services"]} >= set(examples)


def test_the_schema_of_the_list_has_the_keys_of_the_registry() -> None:
    service = SCHEMA["definitions"]["service"]["properties"]
    assert service.keys() - {"name", "path"} == BackendSettings.model_fields.keys()
    assert service["answer"]["enum"] == [*get_args(BackendSettings.model_fields["answer"].annotation)]
    assert SCHEMA["properties"]["pipelines"]["additionalProperties"]["maxItems"] == MAX_STEPS


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Words"},
        {"name": "words-"},
        {"path": "/v1/words/"},
        {"path": "v1/words"},
        {"url": "https://models.example.org/"},
        {"url": "https://models.example.org?code=key"},
        {"url": "models.example.org"},
        {"endpoints": []},
        {"lease": 60},
        {"lease_s": 0},
        {"limit": 0},
        {"busy": [200]},
        {"answer": "results"},
        {"reference": "yes"},
    ],
    ids=str,
)
def test_the_schema_of_the_list_refuses_what_the_app_would(change: dict[str, Any]) -> None:
    services = [{**LIST["services"][0], **change}]
    assert not jsonschema_rs.validator_for(SCHEMA).is_valid({**LIST, "services": services})
