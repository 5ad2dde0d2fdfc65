"""The circuit breaker, with calls that end when the test ends them."""

from __future__ import annotations

import asyncio

import pytest

from shared.resilience.circuit_breaker import CircuitBreaker, CircuitOpen


class NoAnswer(Exception):
    pass


async def fine() -> str:
    return "fine"


async def fails() -> str:
    raise NoAnswer


async def refused() -> str:
    raise ValueError


async def forbidden() -> str:
    raise AssertionError("attempted")


@pytest.fixture
async def circuit() -> CircuitBreaker:
    return CircuitBreaker((NoAnswer,), patience_s=60)


@pytest.fixture
async def impatient() -> CircuitBreaker:
    return CircuitBreaker((NoAnswer,))


async def open_(circuit: CircuitBreaker) -> None:
    with pytest.raises(NoAnswer):
        await circuit.call(fails, probe=forbidden)


class Call:
    """A call or a probe that is in flight until the test ends it."""

    def __init__(self) -> None:
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.times = 0

    def __call__(self) -> asyncio.Future[str]:
        self.times += 1
        return self._end

    def succeed(self) -> None:
        self._end.set_result("fine")

    def fail(self) -> None:
        self._end.set_exception(NoAnswer())


async def test_a_closed_circuit_lets_calls_run_side_by_side(circuit: CircuitBreaker) -> None:
    slow = Call()
    calls = [asyncio.ensure_future(circuit.call(slow, probe=forbidden)) for _ in range(2)]
    await asyncio.sleep(0)
    assert slow.times == 2
    assert await circuit.call(fine, probe=forbidden) == "fine"
    slow.succeed()
    assert await asyncio.gather(*calls) == ["fine", "fine"]


async def test_no_call_is_attempted_while_a_probe_has_no_answer(impatient: CircuitBreaker) -> None:
    await open_(impatient)
    probe = Call()
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            await impatient.call(forbidden, probe=probe)
    assert probe.times == 1


async def test_calls_that_wait_for_a_probe_succeed_with_it(circuit: CircuitBreaker) -> None:
    await open_(circuit)
    probe = Call()
    calls = [asyncio.ensure_future(circuit.call(fine, probe=probe)) for _ in range(3)]
    await asyncio.sleep(0)
    probe.succeed()
    assert await asyncio.gather(*calls) == ["fine"] * 3
    assert await circuit.call(fine, probe=forbidden) == "fine"


async def test_calls_that_wait_for_a_probe_fail_with_it_and_a_later_call_starts_another(
    circuit: CircuitBreaker,
) -> None:
    await open_(circuit)
    probe = Call()
    calls = [asyncio.ensure_future(circuit.call(forbidden, probe=probe)) for _ in range(3)]
    await asyncio.sleep(0)
    probe.fail()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [CircuitOpen] * 3
    assert await circuit.call(fine, probe=fine) == "fine"


async def test_a_probe_goes_on_when_the_calls_that_wait_for_it_are_cancelled(circuit: CircuitBreaker) -> None:
    await open_(circuit)
    probe = Call()
    left = asyncio.ensure_future(circuit.call(forbidden, probe=probe))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    other = asyncio.ensure_future(circuit.call(fine, probe=forbidden))
    await asyncio.sleep(0)
    probe.succeed()
    assert await other == "fine"


async def test_a_call_that_bypasses_the_circuit_closes_it_for_all_if_it_succeeds(impatient: CircuitBreaker) -> None:
    await open_(impatient)
    with pytest.raises(CircuitOpen):
        await impatient.call(forbidden, probe=Call())
    assert await impatient.call(fine, probe=forbidden, bypass_circuit=True) == "fine"
    assert await impatient.call(fine, probe=forbidden) == "fine"


@pytest.mark.parametrize("is_open", [False, True])
async def test_an_error_that_is_an_answer_keeps_the_circuit_closed_or_closes_it(
    impatient: CircuitBreaker, is_open: bool
) -> None:
    if is_open:
        await open_(impatient)
    with pytest.raises(ValueError):
        await impatient.call(refused, probe=forbidden, bypass_circuit=True)
    assert await impatient.call(fine, probe=forbidden) == "fine"


async def test_a_failure_is_ignored_if_a_later_call_has_succeeded(impatient: CircuitBreaker) -> None:
    end = Call()
    slow = asyncio.ensure_future(impatient.call(end, probe=forbidden))
    await asyncio.sleep(0)
    assert await impatient.call(fine, probe=forbidden) == "fine"
    end.fail()
    with pytest.raises(NoAnswer):
        await slow
    assert await impatient.call(fine, probe=forbidden) == "fine"


async def test_the_circuit_reports_the_state_of_its_dependency(circuit: CircuitBreaker) -> None:
    assert circuit.state == "untried"
    await open_(circuit)
    assert circuit.state == "unavailable"
    await circuit.call(fine, probe=fine)
    assert circuit.state == "ok"
