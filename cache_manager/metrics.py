"""What Prometheus reads of the app, in its text format 0.0.4, which readers of OpenMetrics take too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal

from shared.store import FIRST_BIN_S, LAST_BIN, Depth, RequestCount, Totals

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
STATES: Final = ("created", "delayed", "dispatched", "running", "completed", "failed", "cancelled")
"""Those of a depth: of the created tasks, the ones that start later are told apart."""
_COUNTERS: Final = (
    ("created", "Tasks that came to the endpoint: new ones, replayed ones, and those that a pipeline sent on."),
    ("completed", "Tasks that were completed at the endpoint, or went on from it to the next one."),
    ("failed", "Tasks that failed at the endpoint."),
    ("cancelled", "Tasks that were cancelled."),
    ("retried", "Dispatched tasks that went back to the queue."),
)
_BUCKETS: Final = (*(f"{FIRST_BIN_S * 2**number:.12g}" for number in range(LAST_BIN)), "+Inf")
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """How an endpoint stands.

    Attributes:
        totals: None of what is no endpoint: a pipeline, or batches, which have tasks and no queue.
    """

    path: str
    depth: Depth
    totals: Totals | None


@dataclass(frozen=True, slots=True)
class _Family:
    """The samples of one name."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list[tuple[str, Labels, float]])

    def add(self, value: float, *labels: tuple[str, str], suffix: str = "") -> None:
        self.samples.append((suffix, labels, value))

    def add_histogram(self, bins: Mapping[int, int], *labels: tuple[str, str]) -> None:
        """Without a sum: the bins do not tell it."""
        counts = accumulate(bins.get(number, 0) for number in range(LAST_BIN + 1))
        for edge, count in zip(_BUCKETS, counts, strict=True):
            self.add(count, *labels, ("le", edge), suffix="_bucket")
        self.add(sum(bins.values()), *labels, suffix="_count")

    @property
    def lines(self) -> Iterator[str]:
        if self.samples:
            yield f"# HELP {self.name} {self.help}"
            yield f"# TYPE {self.name} {self.kind}"
        for suffix, labels, value in self.samples:
            pairs = ",".join(f'{name}="{text.translate(_ESCAPES)}"' for name, text in labels)
            yield f"{self.name}{suffix}{'{' if pairs else ''}{pairs}{'}' if pairs else ''} {value:.15g}"


def metrics_text(standings: Sequence[Standing], left_out: int, requests: Sequence[RequestCount] = ()) -> str:
    """The whole answer.

    Args:
        left_out: how many endpoints there are beside those in *standings*.
        requests: those in flight, as model services report them.
    """
    families = [*_tasks(standings), *_queues(standings), *_counted(standings), _requests(requests)]
    rest = _Family("backbone_endpoints_left_out", "gauge", "Endpoints that are not told of here: there are too many.")
    rest.add(left_out)
    return "".join(f"{line}\n" for family in (*families, rest) for line in family.lines)


def _tasks(standings: Sequence[Standing]) -> Iterator[_Family]:
    tasks = _Family("backbone_tasks", "gauge", "Tasks that the app keeps, by their state.")
    for each in standings:
        for state in STATES:
            tasks.add(getattr(each.depth, state), ("path", each.path), ("state", state))
    yield tasks


def _queues(standings: Sequence[Standing]) -> Iterator[_Family]:
    waiting = _Family("backbone_queue_waiting", "gauge", "Tasks that wait in the queue for a slot.")
    in_flight = _Family("backbone_queue_in_flight", "gauge", "Tasks that hold a slot of the model service.")
    slots = _Family("backbone_queue_slots", "gauge", "Slots that the model service is known to have.")
    limit = _Family("backbone_queue_limit", "gauge", "Tasks that the model service is given at a time at most.")
    rate = _Family("backbone_queue_rate", "gauge", "Tasks that the model service is given within a second at most.")
    paused = _Family("backbone_queue_paused", "gauge", "1 if an operator has paused the queue.")
    oldest = _Family("backbone_queue_oldest_wait_seconds", "gauge", "How long the oldest waiting task has waited.")
    for each in standings:
        if each.totals is None:
            continue
        path = "path", each.path
        waiting.add(each.totals.waiting, path)
        in_flight.add(each.totals.in_flight, path)
        slots.add(each.totals.slots, path)
        if each.totals.limit is not None:
            limit.add(each.totals.limit, path)
        if each.totals.rate is not None:
            rate.add(each.totals.rate, path)
        paused.add(each.totals.paused, path)
        oldest.add(each.depth.oldest_waiting_ms / 1000, path)
    yield from (waiting, in_flight, slots, limit, rate, paused, oldest)


def _requests(counts: Sequence[RequestCount]) -> _Family:
    requests = _Family("backbone_requests_in_flight", "gauge", "Requests in flight, as model services report them.")
    for each in counts:
        requests.add(each.count, ("cluster", each.cluster), ("path", each.path))
    return requests


def _counted(standings: Sequence[Standing]) -> Iterator[_Family]:
    known = [(each.path, each.totals) for each in standings if each.totals is not None]
    for name, description in _COUNTERS:
        counter = _Family(f"backbone_tasks_{name}_total", "counter", description)
        for path, totals in known:
            counter.add(totals.counts[name], ("path", path))
        yield counter
    waits = _Family(
        "backbone_task_wait_seconds", "histogram", "From the queue to the first dispatch that the service accepted."
    )
    runs = _Family("backbone_task_run_seconds", "histogram", "From the last dispatch to the end of completed tasks.")
    for path, totals in known:
        waits.add_histogram(totals.waits, ("path", path))
        runs.add_histogram(totals.runs, ("path", path))
    yield from (waits, runs)
