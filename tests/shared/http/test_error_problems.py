"""Which problem each error becomes."""

from __future__ import annotations

import pytest

from shared.bodies import BlobsUnavailable
from shared.http.error_problems import problem_of
from shared.http.problems import Problem, no_such_task
from shared.resilience.limits import Overloaded
from shared.store import StoreUnavailable


@pytest.mark.parametrize(
    ("error", "status", "slug", "named"),
    [
        (StoreUnavailable("ConnectionError"), 503, "unavailable", "The task store"),
        (BlobsUnavailable("ServiceRequestError"), 503, "unavailable", "Blob Storage"),
        (Overloaded("requests"), 503, "overloaded", "requests"),
        (AttributeError("secret"), 500, "internal-error", "fault of the app"),
        (TimeoutError("secret"), 500, "internal-error", "fault of the app"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_becomes_its_problem_and_tells_nothing_of_its_text(
    error: Exception, status: int, slug: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.document["type"]) == (status, f"urn:task-backbone:problem:{slug}")
    assert named in problem.document["detail"]
    assert "secret" not in str(problem.document)
    assert ("Traceback" in caplog.text or "A handler failed" in caplog.text) == (status == 500)


def test_a_problem_stays_as_it_is() -> None:
    problem = no_such_task()
    assert isinstance(problem, Problem)
    assert problem_of(problem) is problem
