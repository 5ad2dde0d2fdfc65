"""A pod with a `TaskService`."""

from __future__ import annotations

from words import NoSuchWord, work

from taskbackbone import Fail, TaskService

service = TaskService(workers=2)


@service.task("/{path}")
def model(body: bytes, *, seconds: float = 0) -> bytes:
    try:
        return work(body, seconds)
    except NoSuchWord as error:
        raise Fail(str(error)) from None


service.run()
