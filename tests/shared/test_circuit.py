"""The circuit breaker, with attempts that end when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from shared.circuit import Circuit, CircuitOpen


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
async def circuit() -> Circuit:
    return Circuit((NoAnswer,), patience_s=60)


@pytest.fixture
async def impatient() -> Circuit:
    return Circuit((NoAnswer,))


async def open_(circuit: Circuit) -> None:
    with pytest.raises(NoAnswer):
        await circuit.call(fails)


class Trial:
    """An attempt that is under way in an open circuit, until the test ends it."""

    def __init__(self, circuit: Circuit) -> None:
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.call = asyncio.ensure_future(circuit.call(lambda: self._end))

    def succeed(self) -> None:
        self._end.set_result("fine")

    def fail(self) -> None:
        self._end.set_exception(NoAnswer())


@pytest.fixture
async def start() -> AsyncIterator[Callable[[Circuit], Awaitable[Trial]]]:
    trials: list[Trial] = []

    async def start(circuit: Circuit) -> Trial:
        trials.append(Trial(circuit))
        await asyncio.sleep(0)
        return trials[-1]

    yield start
    for trial in trials:
        trial.call.cancel()
    await asyncio.gather(*(trial.call for trial in trials), return_exceptions=True)


Start = Callable[[Circuit], Awaitable[Trial]]


async def test_while_all_is_well_calls_pass_side_by_side(circuit: Circuit, start: Start) -> None:
    first, second = await start(circuit), await start(circuit)
    second.succeed()
    first.succeed()
    assert await asyncio.gather(first.call, second.call) == ["fine", "fine"]


async def test_the_first_call_after_a_failure_is_made_and_closes_the_circuit(
    impatient: Circuit, start: Start
) -> None:
    await open_(impatient)
    assert await impatient.call(fine) == "fine"
    await start(impatient)
    assert await impatient.call(fine) == "fine"


async def test_while_one_tries_the_others_are_refused(impatient: Circuit, start: Start) -> None:
    await open_(impatient)
    trial = await start(impatient)
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            await impatient.call(forbidden)
    trial.fail()


async def test_who_is_patient_shares_the_success_of_the_one_that_tries(circuit: Circuit, start: Start) -> None:
    await open_(circuit)
    trial = await start(circuit)
    others = [asyncio.ensure_future(circuit.call(fine)) for _ in range(3)]
    await asyncio.sleep(0)
    trial.succeed()
    assert await asyncio.gather(*others) == ["fine"] * 3


async def test_who_is_patient_shares_its_failure_and_tries_nothing(circuit: Circuit, start: Start) -> None:
    await open_(circuit)
    trial = await start(circuit)
    others = [asyncio.ensure_future(circuit.call(forbidden)) for _ in range(3)]
    await asyncio.sleep(0)
    trial.fail()
    results = await asyncio.gather(*others, return_exceptions=True)
    assert [type(result) for result in results] == [CircuitOpen] * 3


async def test_who_insists_is_let_through_and_closes_the_circuit_for_all(impatient: Circuit, start: Start) -> None:
    await open_(impatient)
    await start(impatient)
    assert await impatient.call(fine, insist=True) == "fine"
    assert await impatient.call(fine) == "fine"


async def test_an_error_that_is_an_answer_does_not_open_the_circuit_and_closes_it(
    impatient: Circuit, start: Start
) -> None:
    for is_open in (False, True):
        if is_open:
            await open_(impatient)
        with pytest.raises(ValueError):
            await impatient.call(refused)
        await start(impatient)
        assert await impatient.call(fine) == "fine"


async def test_who_tries_waits_no_longer_than_the_others_and_what_it_tries_goes_on(impatient: Circuit) -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    await open_(impatient)
    with pytest.raises(CircuitOpen):
        await impatient.call(lambda: answer)
    with pytest.raises(CircuitOpen):
        await impatient.call(forbidden)
    answer.set_result("fine")
    while True:
        with suppress(CircuitOpen):
            assert await impatient.call(fine) == "fine"
            break


async def test_a_failure_of_a_call_that_another_has_overtaken_is_old_news(impatient: Circuit, start: Start) -> None:
    slow = await start(impatient)
    assert await impatient.call(fine) == "fine"
    slow.fail()
    with pytest.raises(NoAnswer):
        await slow.call
    await start(impatient)
    assert await impatient.call(fine) == "fine"


async def test_the_circuit_tells_how_it_found_the_dependency(circuit: Circuit) -> None:
    assert circuit.state == "untried"
    await open_(circuit)
    assert circuit.state == "unavailable"
    await circuit.call(fine)
    assert circuit.state == "ok"


async def test_a_caller_that_leaves_does_not_end_what_it_tries(circuit: Circuit, start: Start) -> None:
    await open_(circuit)
    trial = await start(circuit)
    trial.call.cancel()
    await asyncio.gather(trial.call, return_exceptions=True)
    other = asyncio.ensure_future(circuit.call(fine))
    await asyncio.sleep(0)
    trial.succeed()
    assert await other == "fine"
