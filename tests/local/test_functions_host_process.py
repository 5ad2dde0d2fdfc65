"""The development host as a process: ready line, settings, refusals at the start, the drain at the end."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from local.functions_host.__main__ import listen
from local.functions_host.errors import HostError
from local.functions_host.keys import Keys
from local.functions_host.script_root import load_host_json
from local.processes import ChildProcess, free_port
from tests.waiting import PATIENCE_S

APP = """
import asyncio, logging, os, pathlib, time
import azure.functions as func
import neighbour

app = func.FunctionApp()
here = pathlib.Path(__file__).parent

@app.route(auth_level=func.AuthLevel.ANONYMOUS)
async def settings(req: func.HttpRequest) -> func.HttpResponse:
    print("the app prints")
    return func.HttpResponse(f"{os.environ['FROM_FILE']} {os.environ['FROM_BOTH']} {neighbour.NAME}")

@app.route(auth_level=func.AuthLevel.ANONYMOUS)
async def talkative(req: func.HttpRequest) -> func.HttpResponse:
    logging.getLogger("azure.core.pipeline.policies.http_logging_policy").info("a request to storage")
    return func.HttpResponse("said")

@app.route()
async def locked(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("opened")

@app.route(auth_level=func.AuthLevel.ANONYMOUS)
async def broken(req: func.HttpRequest) -> func.HttpResponse:
    raise RuntimeError("what went wrong")

@app.route(auth_level=func.AuthLevel.ANONYMOUS)
def until_released(req: func.HttpRequest) -> func.HttpResponse:
    (here / "begun").touch()
    with open(here / "release"):
        return func.HttpResponse("finished")
"""
REPOSITORY = Path(__file__).parents[2]
SETTINGS = '{"IsEncrypted": false, "Values": {"FROM_FILE": "file", "FROM_BOTH": "file"}}'


@pytest.fixture
def script_root(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    root.mkdir()
    (root / "function_app.py").write_text(APP)
    (root / "neighbour.py").write_text('NAME = "neighbour"')
    (root / "host.json").write_text('{"version": "2.0"}')
    (root / "local.settings.json").write_text(SETTINGS)
    return root


def command(script_root: Path, port: int = 0) -> list[str | Path]:
    return [sys.executable, "-m", "local.functions_host", "--script-root", script_root, "--port", str(port)]


def run_to_its_end(script_root: Path, port: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(script_root, port), capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=REPOSITORY
    )


def host_process(script_root: Path, **environment: str) -> ChildProcess:
    return ChildProcess(
        "The development host",
        command(script_root),
        log_path=script_root.parent / "host.log",
        environment={"PYTHONPATH": str(REPOSITORY), **environment},
    )


def test_host_serves_the_app_of_its_script_root_with_its_settings(script_root: Path) -> None:
    process = host_process(script_root, FROM_BOTH="environment", LOCAL_HOST_KEY="given")
    with process:
        assert httpx.get(f"{process.url}/api/settings", timeout=PATIENCE_S).text == "file environment neighbour"
        assert httpx.get(f"{process.url}/api/locked", timeout=PATIENCE_S).status_code == 401
        assert httpx.get(f"{process.url}/api/locked?code=given", timeout=PATIENCE_S).text == "opened"
        assert httpx.get(f"{process.url}/api/broken", timeout=PATIENCE_S).status_code == 500
        assert process.stop() == 0
    log = process.log_path.read_text()
    assert log.count("READY ") == 1
    assert "LOCAL_HOST_KEY" not in log
    assert log.count("LOCAL_MASTER_KEY is not set; for this run it is ") == 1
    assert log.count("Executed 'Functions.broken' (Failed, Id=") == 1
    assert "RuntimeError: what went wrong" in log
    assert "GET /api" not in log


def test_a_function_s_own_key_opens_that_function(script_root: Path) -> None:
    keys = '{"locked": "own", "another": "its-own"}'
    with host_process(script_root, FROM_BOTH="", LOCAL_FUNCTION_KEYS=keys, LOCAL_HOST_KEY="given") as process:
        answers = {
            key: httpx.get(f"{process.url}/api/locked", headers={"x-functions-key": key}, timeout=PATIENCE_S)
            for key in ("own", "its-own", "given", "locked")
        }
    assert {key: answer.status_code for key, answer in answers.items()} == {
        "own": 200,
        "its-own": 401,
        "given": 200,
        "locked": 401,
    }
    assert "LOCAL_FUNCTION_KEYS" not in process.log_path.read_text()


@pytest.mark.parametrize("keys", ["{", "[]", '"locked"', '{"locked": 7}'])
def test_functions_keys_that_cannot_be_read_stop_the_start(keys: str) -> None:
    with pytest.raises(HostError, match="LOCAL_FUNCTION_KEYS must be a JSON object"):
        Keys.from_environment({"LOCAL_FUNCTION_KEYS": keys})


def test_what_a_library_logs_at_info_is_in_the_log(script_root: Path) -> None:
    with host_process(script_root, FROM_BOTH="") as process:
        assert httpx.get(f"{process.url}/api/talkative", timeout=PATIENCE_S).text == "said"
    assert "azure.core.pipeline.policies.http_logging_policy: a request to storage" in process.log_path.read_text()


@pytest.mark.parametrize(
    ("flag", "connection", "provider"),
    [
        ("true", "InstrumentationKey=00000000-0000-0000-0000-000000000001;{endpoints}", "TracerProvider"),
        ("true", "", "ProxyTracerProvider"),
        ("", "InstrumentationKey=00000000-0000-0000-0000-000000000001;{endpoints}", "ProxyTracerProvider"),
    ],
)
def test_telemetry_is_configured_before_the_app_is_loaded_if_the_setting_says_so(
    script_root: Path, flag: str, connection: str, provider: str
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/"
    settings = {
        "PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY": flag,
        "APPLICATIONINSIGHTS_CONNECTION_STRING": connection.format(
            endpoints=f"IngestionEndpoint={nobody};LiveEndpoint={nobody}"
        ),
        "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true",
    }
    (script_root / "neighbour.py").write_text(
        "from opentelemetry.trace import get_tracer_provider\nNAME = type(get_tracer_provider()).__name__"
    )
    with host_process(script_root, FROM_BOTH="", **settings) as process:
        assert httpx.get(f"{process.url}/api/settings", timeout=PATIENCE_S).text.split()[-1] == provider
    failed = "Application Insights could not be configured" in process.log_path.read_text()
    assert failed == (flag == "true" and not connection)


@pytest.mark.parametrize(
    ("given", "mode"),
    [({}, "Default"), ({"AZUREFUNCTIONSJOBHOST__TELEMETRYMODE": "OpenTelemetry"}, "OpenTelemetry")],
)
def test_this_host_tells_no_requests_unless_a_variable_of_any_case_says_so(
    script_root: Path, given: dict[str, str], mode: str
) -> None:
    (script_root / "neighbour.py").write_text(
        "import os\n"
        "NAME = ','.join(value for name, value in os.environ.items() if name.lower().endswith('telemetrymode'))"
    )
    with host_process(script_root, FROM_BOTH="", **given) as process:
        assert httpx.get(f"{process.url}/api/settings", timeout=PATIENCE_S).text.split()[-1] == mode


def test_a_variable_below_a_setting_that_has_no_parts_is_named(script_root: Path) -> None:
    name = "AzureFunctionsJobHost__version__x"
    with pytest.raises(HostError, match=f"^{name} "):
        load_host_json(script_root, {name: "1"})


def test_variables_of_the_host_have_precedence_over_host_json(script_root: Path) -> None:
    (script_root / "host.json").write_text('{"version": "2.0", "extensions": {"http": {"routePrefix": "api"}}}')
    given = {
        "AzureFunctionsJobHost__extensions__http__RoutePrefix": "v1",
        "AzureFunctionsJobHost__extensions__http__maxOutstandingRequests": "0",
        "azurefunctionsjobhost__functionTimeout": "00:05:00",
    }
    assert load_host_json(script_root, given) == {
        "version": "2.0",
        "extensions": {"http": {"routePrefix": "v1", "maxOutstandingRequests": 0}},
        "functionTimeout": "00:05:00",
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_closes_the_port_and_lets_a_running_function_finish_and_respond(
    script_root: Path, number: signal.Signals
) -> None:
    os.mkfifo(script_root / "release")
    process = host_process(script_root)
    answers: list[httpx.Response] = []
    exit_codes: list[int | None] = []
    with process:
        url = f"{process.url}/api/until_released"
        caller = threading.Thread(target=lambda: answers.append(httpx.get(url, timeout=PATIENCE_S)))
        caller.start()
        wait_for(lambda: (script_root / "begun").exists())
        os.kill(process.pid, number)
        wait_for(lambda: refuses_connections(process.url))
        (script_root / "release").write_text("")
        caller.join()
        wait_for(lambda: not process.is_running)
        exit_codes.append(process.stop())
    assert [answer.text for answer in answers] == ["finished"]
    assert exit_codes == [0]


def wait_for(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not holds():
        pause.wait(0.01)


def refuses_connections(url: str) -> bool:
    try:
        httpx.get(url, timeout=PATIENCE_S)
    except httpx.TransportError:
        return True
    return False


def _no_app(root: Path) -> None:
    (root / "function_app.py").write_text("")


def _two_apps(root: Path) -> None:
    (root / "function_app.py").write_text("import azure.functions as f\na = f.FunctionApp()\nb = f.FunctionApp()")


def _import_fails(root: Path) -> None:
    (root / "neighbour.py").write_text("\nraise KeyError('REDIS')")


def _no_host_json(root: Path) -> None:
    (root / "host.json").unlink()


def _old_host_json(root: Path) -> None:
    (root / "host.json").write_text('{"version": "1.0"}')


def _broken_settings(root: Path) -> None:
    (root / "local.settings.json").write_text("{")


def _encrypted_settings(root: Path) -> None:
    (root / "local.settings.json").write_text('{"IsEncrypted": true}')


def _number_in_settings(root: Path) -> None:
    (root / "local.settings.json").write_text('{"Values": {"PORT": 1}}')


def _bad_function(root: Path) -> None:
    (root / "function_app.py").write_text(APP + "\n@app.route()\ndef f(a): ...")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_no_app, "function_app.py must define one function app at its top level, not 0."),
        (_two_apps, "function_app.py must define one function app at its top level, not 2."),
        (_import_fails, "function_app.py cannot be imported: KeyError: 'REDIS' ({root}/neighbour.py, line 2)."),
        (_no_host_json, "There is no host.json in {root}."),
        (_old_host_json, 'host.json: "version" must be "2.0".'),
        (_broken_settings, "local.settings.json is not JSON: "),
        (_encrypted_settings, "local.settings.json is encrypted; run `func settings decrypt`."),
        (_number_in_settings, "local.settings.json: the value of PORT is not a string."),
        (_bad_function, "f: the parameter a has no binding."),
    ],
)
def test_app_that_cannot_be_served_ends_the_host_with_one_sentence(
    script_root: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(script_root)
    ended = run_to_its_end(script_root)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(sentence.format(root=script_root))


def test_port_in_use_ends_the_host_with_one_sentence(script_root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run_to_its_end(script_root, port)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"Port {port} cannot be had: {os.strerror(errno.EADDRINUSE)}.\n"


def test_standard_output_has_only_the_ready_line(script_root: Path) -> None:
    with subprocess.Popen(command(script_root), stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        try:
            assert process.stdout is not None
            ready, _, url = process.stdout.readline().partition(" ")
            assert ready == "READY"
            assert httpx.get(f"{url.strip()}/api/settings", timeout=PATIENCE_S).status_code == 200
            process.terminate()
            assert process.stdout.read() == ""
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


async def test_response_is_sent_without_waiting_for_tcp_acknowledgements() -> None:
    accepted: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.set_result(transport)

    with listen(0) as listener:
        server = await asyncio.get_running_loop().create_server(Accepting, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(*listener.getsockname())
            transport = await accepted
            assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            transport.close()
            await writer.wait_closed()
