"""`/metrics`, in the text format of Prometheus."""

from __future__ import annotations

from ._supervisor import BUCKETS_S, Supervisor


def text(supervisor: Supervisor) -> str:
    """What the supervisor has counted since its start."""
    counts = supervisor.counts
    lines: list[str] = []

    def add(name: str, kind: str, meaning: str, values: dict[str, float]) -> None:
        lines.append(f"# HELP taskbackbone_{name} {meaning}")
        lines.append(f"# TYPE taskbackbone_{name} {kind}")
        lines.extend(f"taskbackbone_{name}{labels} {value:g}" for labels, value in values.items())

    def labelled(label: str, values: dict[str, int]) -> dict[str, float]:
        return {f'{{{label}="{name}"}}': count for name, count in sorted(values.items())}

    add("running", "gauge", "Tasks and direct calls at work.", {"": supervisor.taken})
    add("slots", "gauge", "How many are taken at a time.", {"": supervisor.told_slots})
    add("accepted_total", "counter", "Tasks and direct calls let in.", labelled("kind", counts.accepted))
    add("refused_total", "counter", "Tasks and direct calls not let in.", labelled("reason", counts.refused))
    add("ended_total", "counter", "Ends of work, by outcome.", labelled("outcome", counts.ended))
    restarts = getattr(supervisor.runner, "restarts", 0)
    add("worker_restarts_total", "counter", "Workers that were replaced.", {"": restarts})
    retried = supervisor.reporter.retried if supervisor.reporter else 0
    add("reports_retried_total", "counter", "Calls to the backbone that were made again.", {"": retried})
    so_far, durations = 0, {}
    for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], counts.buckets):
        so_far += count
        durations[f'_bucket{{le="{bound}"}}'] = float(so_far)
    add("seconds", "histogram", "How long work took.", {**durations, "_sum": counts.seconds, "_count": so_far})
    return "\n".join(lines) + "\n"
