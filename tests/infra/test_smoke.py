"""infra/smoke.sh through the gateway's own policies, as it is called after a deployment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from local.azurite import Azurite
from local.gateway.process import GatewayProcess
from local.redis_server import RedisCluster, RedisServer
from local.stack import ROOT
from tests.infra.gateway_under_test import KEY, WORDS, gateway_before, stack_behind
from tests.scripted_backend import ScriptedBackend

pytestmark = pytest.mark.usefixtures("mono")


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    redis_server: RedisServer | RedisCluster,
    azurite: Azurite,
    backend: ScriptedBackend,
) -> Iterator[GatewayProcess]:
    with (
        stack_behind(tmp_path_factory.mktemp("behind"), redis_server, azurite, backend) as stack,
        gateway_before(stack.url, tmp_path_factory.mktemp("gateway"), function_key=stack.key) as process,
    ):
        yield process


def smoke(url: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    variables = {"KEY": key, "SMOKE_S": "60"}
    return subprocess.run(
        ["sh", "infra/smoke.sh", url],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_task_is_completed_with_a_subscription_and_every_url_is_the_gateways(gateway: GatewayProcess) -> None:
    done = smoke(f"{gateway.url}/api/v1/submit{WORDS}")
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = done.stdout.splitlines()
    assert first.startswith(f"202, and the task is at {gateway.url}/api/v1/tasks/")
    assert last == 'The result: {"words": 6}'


def test_a_key_that_is_no_subscriptions_is_refused(gateway: GatewayProcess) -> None:
    done = smoke(f"{gateway.url}/api/v1/submit{WORDS}", "guessed")
    assert done.returncode == 1
    assert "refuses the key in Ocp-Apim-Subscription-Key with 401" in done.stderr


def test_the_path_of_the_former_platform_is_told_from_that_of_the_api(gateway: GatewayProcess) -> None:
    done = smoke(f"{gateway.url}{WORDS}")
    assert done.returncode == 1
    assert done.stderr == (
        f"{gateway.url}{WORDS} answers 200 and no Location: is it a path of the former platform? "
        "Put /api/v1/submit before it.\n"
    )
