"""``python -m tests.judges``: lints ``docs/openapi.json``, and generates clients from it, checks their types and runs
them against the stack; reads and runs the queries, alerts and dashboards of ``infra/monitor``. Everything it needs
goes into ``.local/judges``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from local.azurite import find_node, install_npm_package
from local.processes import LocalStackError
from local.stack import ROOT, Stack
from tests.judges.monitor import queries
from tests.judges.monitor.recorded import BRIEF, record
from tests.judges.monitor.tables import SCHEMA
from tests.scripted_backend import Answer, Call, ScriptedBackend

HERE = Path(__file__).resolve().parent
DOCUMENT = ROOT / "docs" / "openapi.json"
REQUIREMENTS = HERE / "requirements.txt"
INSTALLED = ROOT / ".local" / "judges"
PYTHON = INSTALLED / "venv" / "bin" / "python"
GENERATED = INSTALLED / "clients" / "generated"
OLDEST_NODE_MAJOR = 22
"""Some of the generators need it."""
COMMAND_TIMEOUT_S = 300.0
DAYS_TIMEOUT_S = 1800.0
"""For a judge that asks some thousand queries: a minute, where nothing else runs."""


class Failure(Exception):
    """Raised when a judge finds something, or cannot be asked."""


@dataclass(frozen=True)
class Generator:
    """A generator of TypeScript: its command, without the document, and whether its client is run too."""

    name: str
    command: tuple[str, ...]
    is_run: bool = True


TYPESCRIPT = (
    Generator("openapi-fetch", ("openapi-typescript", "{document}", "-o", "{target}/schema.ts")),
    Generator("hey-api", ("openapi-ts", "-i", "{document}", "-o", "{target}", "-c", "@hey-api/client-fetch")),
    Generator("orval", ("orval", "--config", "{target}/orval.config.json")),
    Generator("oazapfts", ("oazapfts", "{document}", "{target}/client.ts"), is_run=False),
    Generator(
        "swagger-typescript-api",
        ("swagger-typescript-api", "generate", "-p", "{document}", "-o", "{target}", "-n", "client.ts"),
        is_run=False,
    ),
)
PYTHON_CLIENTS = ("openapi_python_client", "datamodel_code_generator")


def main() -> int:
    judged = failed = 0
    try:
        node = install()
    except (Failure, LocalStackError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    judges = [("redocly", redocly), ("spectral", spectral), ("TypeScript", typescript), ("Python", python)]
    judges += [("Kusto", kusto), ("monitor", monitor)]
    for name, judge in judges:
        judged += 1
        try:
            judge(node)
        except Failure as failure:
            failed += 1
            say(f"{name}: {failure}")
        else:
            say(f"{name}: right")
    if not failed:
        run, wrong = run_all(node)
        judged, failed = judged + run, failed + wrong
    say(f"{judged - failed} passed, {failed} failed")
    return 1 if failed else 0


def install() -> Path:
    """Install what the judges are made of; returns Node.js."""
    node, _ = find_node(OLDEST_NODE_MAJOR)
    install_npm_package(HERE / "npm", INSTALLED, "The judges", oldest_node_major=OLDEST_NODE_MAJOR)
    marker, wanted = INSTALLED / "venv" / "installed", hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not marker.exists() or marker.read_text() != wanted:
        call([sys.executable, "-m", "venv", "--clear", str(INSTALLED / "venv")])
        call([str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(REQUIREMENTS)])
        marker.write_text(wanted)
    shutil.rmtree(INSTALLED / "clients", ignore_errors=True)
    shutil.copytree(HERE / "clients", INSTALLED / "clients")
    return node


def redocly(node: Path) -> None:
    printed = tool(node, "redocly", "lint", "--extends", "recommended", "--format", "json", str(DOCUMENT))
    report, _ = json.JSONDecoder().raw_decode(printed, printed.index("{"))
    problems = report["problems"]
    if problems:
        raise Failure("\n".join(f"{each['ruleId']}: {each['message']}" for each in problems))


def spectral(node: Path) -> None:
    rules = INSTALLED / "spectral.json"
    rules.write_text(json.dumps({"extends": ["spectral:oas"]}))
    tool(node, "spectral", "lint", "-r", str(rules), "--fail-severity", "hint", str(DOCUMENT))


def typescript(node: Path) -> None:
    """Generate all clients, check their types, and bundle those that are run."""
    for generator in TYPESCRIPT:
        target = GENERATED / generator.name
        target.mkdir(parents=True)
        if generator.name == "orval":  # its base URL can be set in a file only
            output = {"target": "client.ts", "client": "fetch", "baseUrl": {"runtime": "process.env.BACKBONE_URL"}}
            configured = {"backbone": {"input": str(DOCUMENT), "output": output}}
            (target / "orval.config.json").write_text(json.dumps(configured))
        tool(node, *(part.format(document=DOCUMENT, target=target) for part in generator.command))
    options = {
        "strict": True,
        "noEmit": True,
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "lib": ["es2023", "dom", "dom.iterable"],
        "types": ["node"],
        "skipLibCheck": True,
    }
    project = INSTALLED / "clients" / "tsconfig.json"
    project.write_text(json.dumps({"compilerOptions": options, "include": ["*.ts", "generated/**/*.ts"]}))
    tool(node, "tsc", "-p", str(project))
    for generator in TYPESCRIPT:
        if generator.is_run:
            source = INSTALLED / "clients" / f"{generator.name}.ts"
            bundle = f"--outfile={bundle_of(generator)}"
            tool(node, "esbuild", str(source), "--bundle", "--platform=node", "--format=esm", bundle)


def python(_: Path) -> None:
    """Generate both clients and check their types."""
    clients = INSTALLED / "clients"
    bin_first = {"PATH": f"{PYTHON.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    package = str(clients / "task-backbone-client")
    arguments = ["--path", str(DOCUMENT), "--output-path", package, "--overwrite"]
    call([str(PYTHON.parent / "openapi-python-client"), "generate", *arguments], bin_first)
    shutil.move(clients / "task-backbone-client" / "task_backbone_client", clients / "task_backbone_client")
    model = ["--output", str(clients / "models.py"), "--output-model-type", "pydantic_v2.BaseModel"]
    style = ["--formatters", "builtin", "--use-annotated", "--use-title-as-name", "--target-python-version", "3.11"]
    kind = ["--input", str(DOCUMENT), "--input-file-type", "openapi"]
    call([str(PYTHON.parent / "datamodel-codegen"), *kind, *model, *style], bin_first)
    # The second generator writes calls, as pydantic has it, for the types of what may be a text or a number.
    settings = {"typeCheckingMode": "standard", "pythonVersion": "3.11", "reportInvalidTypeForm": False}
    (clients / "pyrightconfig.json").write_text(json.dumps(settings))
    call([sys.executable, "-m", "basedpyright", "-p", str(clients), "--pythonpath", str(PYTHON), str(clients)])


def kusto(node: Path) -> None:
    """Have Microsoft's parser read each query that is shipped, with the tables of Application Insights."""
    asked = [{"name": each.name, "text": each.filled(BRIEF, uuid.uuid4().hex)} for each in queries.everything()]
    # It has to know a mistake when it sees one.
    bad = {"name": "bad", "text": "customMetrics | where nmae == 1 | summarise count()"}
    file = INSTALLED / "queries.json"
    for each, is_good in (([bad], False), (asked, True)):
        file.write_text(json.dumps({"schema": SCHEMA, "queries": each}))
        found = json.loads(call([str(node), str(HERE / "monitor" / "kusto.mjs"), str(file)]))
        if bool(found) == is_good:
            raise Failure("\n".join(f"{each['name']}: {each['message']} ({each['at']})" for each in found) or "blind")
    say(f"{len(asked)} queries are Kusto's")


def monitor(_: Path) -> None:
    """Record what the app sends, run each query on that, each alert through days and faults, read the dashboards."""
    recorded = INSTALLED / "recorded.json"
    with tempfile.TemporaryDirectory(prefix="judges-") as directory:
        record(Path(directory), recorded)
    for judge in ("judge", "dashboards"):
        command = [str(PYTHON), "-m", f"tests.judges.monitor.{judge}", str(recorded)]
        say(call(command, {"PYTHONPATH": str(ROOT)}, DAYS_TIMEOUT_S).rstrip())


def run_all(node: Path) -> tuple[int, int]:
    """Run each client against the stack. Returns how many were run, and how many of them failed."""
    runs: list[tuple[str, list[str]]] = [
        *((each.name, [str(node), str(bundle_of(each))]) for each in TYPESCRIPT if each.is_run),
        *((name, [str(PYTHON), str(INSTALLED / "clients" / f"{name}.py")]) for name in PYTHON_CLIENTS),
    ]
    failed = 0
    with (
        tempfile.TemporaryDirectory(prefix="judges-") as directory,
        ScriptedBackend() as backend,
        Stack(Path(directory), backends={"/v1/judged": backend.url}, with_model=False) as stack,
    ):
        for name, command in runs:
            path = f"/v1/judged/{uuid.uuid4().hex}"
            backend.react(path, lambda call: answered(stack, call))
            environment = {
                "BACKBONE_URL": f"{stack.url}/api",
                "BACKBONE_KEY": stack.key,
                "BACKBONE_PATH": path.lstrip("/"),
            }
            try:
                call(command, environment)
            except Failure as failure:
                failed += 1
                say(f"{name} ran: {failure}")
            else:
                say(f"{name} ran: submit, wait, result, list, queue, conflict")
    return len(runs), failed


def answered(stack: Stack, call: Call) -> Answer | None:
    """What the model service does with a task: its result is the body that it got."""
    with stack.client() as app:
        app.put(f"/api/v1/tasks/{call.task_id}/result", content=call.body).raise_for_status()
        done = {"TaskId": call.task_id, "BackendStatus": "completed", "Status": "completed"}
        app.post("/api/CacheConnectorUpsert", json=done).raise_for_status()
    return None


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def bundle_of(generator: Generator) -> Path:
    return INSTALLED / "bundles" / f"{generator.name}.mjs"


def tool(node: Path, name: str, *arguments: str) -> str:
    """Run an installed npm package's program; returns what it printed."""
    program = INSTALLED / "node_modules" / ".bin" / name
    # Whatever a program starts shall be this Node.js too, and nothing is to be told to anybody.
    path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return call([str(program), *arguments], {"PATH": path, "REDOCLY_TELEMETRY": "off", "DO_NOT_TRACK": "1"})


def call(
    command: Sequence[str], environment: Mapping[str, str] | None = None, timeout_s: float = COMMAND_TIMEOUT_S
) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=INSTALLED if INSTALLED.exists() else ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{Path(command[0]).name} took over {timeout_s:g} s") from None
    if done.returncode != 0:
        raise Failure(f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
