"""The documentation matches the code: its table, links, names and example."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from dev import COMMANDS
from local.azurite import Azurite
from local.processes import ChildProcess, free_port
from local.stack import ROOT, Stack
from shared.settings import Settings
from tests.waiting import PATIENCE_S
from tools.settings_table import TARGET, table, variable, with_table

EXAMPLES = ROOT / "examples"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *EXAMPLES.rglob("*.md"),
        ROOT / "sdk" / "README.md",
        ROOT / "sdk" / "ai4e" / "README.md",
        ROOT / "sdk" / "r" / "README.md",
    ]
)
DECISIONS = ROOT / "docs" / "decisions"
ROOMS = ("backend_webhook", "cache_manager", "operator_console", "request_reporter", "shared", "task_logger")

_CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def prose(page: Path) -> str:
    return _CODE_BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = _HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_table_of_settings_is_up_to_date():
    assert table() in TARGET.read_text()
    assert with_table(TARGET.read_text()) == TARGET.read_text(), "run: python -m tools.settings_table"


def test_the_short_table_names_only_settings_that_exist():
    section = TARGET.read_text().partition("\n## The settings of every deployment\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    assert "BACKENDS" in rows
    assert set(rows) <= {variable(name) for name in Settings.model_fields}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_of_dev_py_that_a_page_names_exists(page: Path):
    named = re.findall(r"dev\.py ([a-z][\w-]*)", page.read_text())
    assert [command for command in named if command not in COMMANDS] == []


def test_every_file_script_and_program_that_the_page_for_contributors_names_exists():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    # What is made on first use is not there in a fresh clone.
    named = {name for name in re.findall(r"`([\w.-]+/[\w./-]*)`", page) if not name.startswith(".local/")}
    programs = {f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m ([\w.]+)", page)}
    assert {"shared/tasks/task.py", "task/apply"} <= named
    assert "tools/openapi.py" in programs
    folders = (ROOT, ROOT / "shared" / "store" / "lua")
    exists = {
        name
        for name in named | programs
        for folder in folders
        for suffix in ("", ".lua")
        if (folder / f"{name}{suffix}").exists()
    }
    assert sorted((named | programs) - exists) == []


def test_the_decisions_are_numbered_and_listed():
    records = sorted(DECISIONS.glob("[0-9]*.md"))
    index = (DECISIONS / "README.md").read_text()
    assert records
    for number, record in enumerate(records, start=1):
        assert record.name.startswith(f"{number:04}-")
        assert record.read_text().startswith(f"# {number}. ")
        assert f"[{number}]({record.name})" in index
        headings = _HEADING.findall(record.read_text())[1:]
        assert headings == ["Context", "Decision", "Consequences"], record.name


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_relative_link_leads_somewhere(page: Path):
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


LEGACY_DEPLOYMENT = [
    "setup_env.sh",
    "deploy_infrastructure.sh",
    "deploy_prerequisites.sh",
    "deploy_aks.sh",
    "customize_aks.sh",
    "deploy_custom_metrics_adapter.sh",
    "deploy_cache_prerequisites.sh",
    "deploy_cache_manager.sh",
    "deploy_backend_webhook_function.sh",
    "deploy_request_reporter_function.sh",
    "deploy_task_process_logger_function.sh",
    "deploy_event_grid_topic.sh",
    "deploy_event_grid_subscription.sh",
    "deploy_servicebus_queue.sh",
    "deploy_backend_queue_function.sh",
    "deploy_api_management.sh",
    "create_async_api_management_api.sh",
    "create_sync_api_management_api.sh",
    "api_management_customizer.py",
    "api_management_body.json",
    "request_policy.xml",
    "request_backend_policy.xml",
    "task_management_policy.xml",
    "task_management_api_body.json",
    "task_management_operation_body.json",
    "appinsights-metric.yaml",
    "autoscaler.yaml",
    "routing.yml",
    "routing.yaml",
    "prod-values.yaml",
    "async_retrieve_cache_connector_urls.sh",
    "assign_storage_auth_to_aks.sh",
    "nvidia-device-plugin-ds.yaml",
    "routing_base.yml",
    "secure_routing_base.yml",
    "dashboard-admin.yaml",
    "rbac_config.yaml",
    "application-insights-istio-adapter",
    "remove_deployment.sh",
]
"""What the legacy repository deploys by, at d57ff7e. Of it and of 2021: nothing will be added."""


def test_the_page_for_those_who_move_says_what_replaces_each_script():
    page = (ROOT / "docs" / "migrate.md").read_text()
    section = page.partition("\n## The scripts of the legacy platform\n")[2].partition("\n## ")[0]
    assert [name for name in LEGACY_DEPLOYMENT if name not in section] == []
    cells = re.findall(r"`((?:infra|charts|\.github)/[\w./-]+)`", section)
    assert cells
    assert [name for name in cells if not (ROOT / name).exists()] == []


def test_the_page_of_the_examples_names_each():
    page = (EXAMPLES / "README.md").read_text()
    notebooks = {f"({notebook.name})" for notebook in EXAMPLES.glob("*.ipynb")}
    pages = {f"({example.parent.name}/README.md)" for example in EXAMPLES.glob("*/README.md")}
    assert pages
    assert {link for link in notebooks | pages if link not in page} == set()


def test_the_service_and_the_caller_of_the_readme_are_those_of_the_first_example():
    """`python3 dev.py examples` runs these."""
    readme, example = (ROOT / "README.md").read_text(), EXAMPLES / "hello"
    service, caller = (text for language, text in _CODE_BLOCK.findall(readme) if language == "python")
    assert (example / "service.py").read_text().endswith(service)
    assert (example / "call.py").read_text().endswith(caller)
    [printed] = re.findall(r"^\$ python caller\.py\n(.+)$", readme, re.MULTILINE)
    assert f"\n$ python examples/hello/call.py\n{printed}\n" in (example / "README.md").read_text()


def test_every_function_is_in_the_api_page():
    # Runs in a separate process: an app can be enumerated only once, and reads its settings on import.
    script = "import function_app as f; print(*(g.get_function_name() for g in f.app.get_functions()))"
    environment = {
        **os.environ,
        "REDIS_CONNECTION_STRING": "redis://127.0.0.1",
        "EVENT_GRID_TOPIC_URI": "https://topic.example.org/api/events",
        "BACKENDS": '{"/v1": "https://models.example.org"}',
        "APPLICATIONINSIGHTS_CONNECTION_STRING": "",
    }
    command = [sys.executable, "-c", script]
    listed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    functions = listed.stdout.split()
    assert functions
    page = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in functions if f"`{name}`" not in page] == []


def test_every_kind_of_problem_is_in_the_api_page():
    sources = [*(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
    raised = [re.findall(r"Problem\(\s*\d{3},\s*\"([a-z-]+)\"", file.read_text()) for file in sources]
    kinds = {kind for found in raised for kind in found}
    assert "conflict" in kinds
    page = (ROOT / "docs" / "api.md").read_text()
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in page] == []


class Example(ChildProcess):
    """The example service of a page: the one block of Python under a heading."""

    def __init__(self, page: str, heading: str, directory: Path, stack: Stack, port: int) -> None:
        text = (ROOT / "docs" / f"{page}.md").read_text()
        section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        [source] = [text for language, text in _CODE_BLOCK.findall(section) if language == "python"]
        script = directory / f"{page}.py"
        script.write_text(source)
        environment = {"PORT": str(port), "BACKBONE_URL": stack.url, "BACKBONE_KEY": stack.key}
        log_path = directory / f"{page}.log"
        super().__init__(script.name, [sys.executable, script], log_path=log_path, environment=environment)
        self._address = f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        try:
            httpx.get(self._address, timeout=PATIENCE_S)
        except httpx.TransportError:
            return False
        return True


@pytest.fixture(scope="module")
def stack_of_examples(tmp_path_factory: pytest.TempPathFactory, azurite: Azurite) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("examples")
    words, text, scenes, pages = (free_port() for _ in range(4))
    backends = {
        "/v1/words": f"http://127.0.0.1:{words}",
        "/v1/text": f"http://127.0.0.1:{text}",
        "/v1/scenes": {"url": f"http://127.0.0.1:{scenes}", "reference": True},
        "/v1/pages": f"http://127.0.0.1:{pages}",
        "pipelines": {"/v1/count": ["/v1/text/split", "/v1/text/count"]},
    }
    with (
        Stack(directory / "stack", azurite=azurite, backends=backends, with_model=False) as stack,
        Example("model-services", "A minimal one", directory, stack, words),
        Example("pipelines", "Try it", directory, stack, text),
        Example("large-files", "Try it", directory, stack, scenes),
        Example("batches", "Try it", directory, stack, pages),
    ):
        yield stack


@pytest.fixture
def app_of_example(stack_of_examples: Stack) -> Iterator[httpx.Client]:
    with stack_of_examples.client() as client:
        yield client


def test_the_example_model_service_does_what_its_page_says(app_of_example: httpx.Client):
    wait = {"Prefer": "wait=60"}
    counted = app_of_example.post("/api/v1/submit/v1/words/count", content="to be or not to be", headers=wait)
    assert (counted.status_code, counted.json()["Status"]) == (200, "completed - 6 words")
    assert json.loads(app_of_example.get(counted.headers["Location"] + "/result").content) == {"words": 6}

    refused = app_of_example.post("/api/v1/submit/v1/words/count", content=b"\xff", headers=wait)
    assert (refused.json()["BackendStatus"], refused.json()["Status"]) == (
        "failed",
        "failed - the body is not UTF-8 text",
    )


@pytest.mark.parametrize(
    ("name", "file", "answers_shown"),
    [("pipelines", "task.json", 4), ("batches", "batch.json", 7), ("large-files", "upload.json", 9)],
)
def test_the_commands_of_a_page_answer_what_it_says(
    stack_of_examples: Stack, tmp_path: Path, name: str, file: str, answers_shown: int
):
    page = (ROOT / "docs" / f"{name}.md").read_text()
    [block] = [text for language, text in _CODE_BLOCK.findall(page) if language == "console" and file in text]
    environment = {**os.environ, "API": f"{stack_of_examples.url}/api", "KEY": stack_of_examples.key}
    commands, expected = _commands_and_answers(block)
    # The commands' own text is not shown: each is followed by a mark, behind which its answer ends.
    script = "".join(f"{command}\necho; echo {_MARK}\n" for command in commands)
    shown = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    answers = [answer.strip() for answer in shown.stdout.split(_MARK)]
    assert len(expected) == answers_shown
    for command, answer, pattern in zip(commands, answers, expected, strict=False):
        assert re.fullmatch(pattern, answer, re.DOTALL), (command, answer)


def test_the_pipeline_with_a_name_counts_what_its_steps_do(app_of_example: httpx.Client):
    counted = app_of_example.post("/api/v1/submit/v1/count", content="to be", headers={"Prefer": "wait=60"})
    assert (counted.status_code, counted.json()["Pipeline"]) == (200, "/v1/count")
    assert app_of_example.get(counted.headers["Location"] + "/result").content == b"2 words"


_MARK = "--- end of an answer ---"


def _commands_and_answers(block: str) -> tuple[list[str], list[str]]:
    """The commands of a block, and patterns of what the page shows as their answers; an ellipsis is any text."""
    commands: list[str] = []
    patterns: list[str] = []
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.rstrip("\n").split("\n")
        size = 1
        # A command goes on behind a backslash, and within quotes.
        while lines[size - 1].endswith("\\") or "\n".join(lines[:size]).count("'") % 2:
            size += 1
        commands.append("\n".join(lines[:size]))
        patterns.append(".*".join(re.escape(text) for text in re.split(r" ?… ?", "\n".join(lines[size:]))))
    return commands, patterns
