"""Which problem a client gets for an error of the app's parts: one table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from shared.bodies import BlobsUnavailable, NoSas
from shared.dispatch.endpoint_bound import TooManyEndpoints
from shared.http.problems import Problem, no_sas, overloaded, too_many_endpoints, unavailable
from shared.resilience.limits import Overloaded
from shared.store import NOT_PERMITTED, StoreNotPermitted, StoreUnavailable

log = logging.getLogger("task_backbone")


def _not_permitted(error: Exception) -> Problem:
    log.error("%s", error)
    problem = unavailable("The task store")
    problem.document["detail"] = f"{NOT_PERMITTED}."
    return problem


def _unavailable(what: str) -> Callable[[Exception], Problem]:
    def problem(error: Exception) -> Problem:
        log.warning("%s does not answer: %s", what, error)
        return unavailable(what)

    return problem


PROBLEM_OF_ERROR: Final[dict[type[Exception], Callable[[Exception], Problem]]] = {
    Overloaded: lambda error: overloaded(str(error)),
    StoreNotPermitted: _not_permitted,
    StoreUnavailable: _unavailable("The task store"),
    BlobsUnavailable: _unavailable("Blob Storage"),
    NoSas: lambda error: no_sas(str(error)),
    TooManyEndpoints: lambda error: too_many_endpoints(str(error)),
}


def problem_of(error: Exception) -> Problem:
    """The problem for any error; one that the table does not have is the app's fault, and is logged."""
    if isinstance(error, Problem):
        return error
    for kind, make in PROBLEM_OF_ERROR.items():
        if isinstance(error, kind):
            return make(error)
    log.error("A handler failed", exc_info=error)
    return Problem(500, "internal-error", "The app failed.", "This is a fault of the app; its log says more.")
