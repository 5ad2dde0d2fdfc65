/** One endpoint: its throughput, its times, what failed and why. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { getJson } from "./api";
import { Chart, type Line } from "./chart";
import { serverNow } from "./clock";
import { count, counted, duration, isPath, percent, roughly, visible } from "./format";
import { type Polled, usePolled } from "./poll";
import { QueueActions } from "./queue_actions";
import { Oldest, Service } from "./queues";
import { ownerWords, rateWords } from "./queue_words";
import { href, route, setQuery } from "./router";
import type { Queue, Series, SeriesList, Task, TaskList } from "./shapes";
import { Exports, Head, Meter, Note, Path, Said, Shown, Table } from "./ui";

const RANGES: Record<string, { text: string; seconds: number; step: number }> = {
  "1h": { text: "1 hour", seconds: 3600, step: 60 },
  "6h": { text: "6 hours", seconds: 21_600, step: 60 },
  "24h": { text: "24 hours", seconds: 86_400, step: 600 },
  "7d": { text: "7 days", seconds: 604_800, step: 600 },
  "30d": { text: "30 days", seconds: 2_592_000, step: 3600 },
  "90d": { text: "90 days", seconds: 7_776_000, step: 3600 },
};

export function QueuePage() {
  const path = route.value.rest;
  if (!isPath(path)) return <Note>“{path}” is no path of an endpoint. <a href={href("queues")}>All queues</a></Note>;
  return <QueueOf key={path} path={path} />;
}

function QueueOf({ path }: { path: string }) {
  const polled = usePolled<Queue>(`queue ${path}`, () => `queues${path}`);
  const queue = polled.data.value;
  return (
    <>
      <Head title={<Path path={path} link={false} />} name={path} polled={polled as Polled<unknown>}>
        <a class="button" href={href("tasks", { path })}>Tasks</a>
        <a class="button" href={href("try", { path })}>Try</a>
        {queue && <QueueActions queue={queue} />}
      </Head>
      <Shown polled={polled} missing={<>
        No backend is registered for <Path path={path} link={false} />, and it has no tasks.{" "}
        <a href={href("queues")}>All queues</a>
      </>}>
        {(data) => <><Facts queue={data} /><Owners queue={data} /></>}
      </Shown>
      <Figures path={path} />
      <Failures path={path} />
      <PipelineOf path={path} />
    </>
  );
}

function Facts({ queue }: { queue: Queue }) {
  const fact = (name: string, value: ComponentChildren) => <div><dt>{name}</dt><dd>{value}</dd></div>;
  return (
    <dl class="facts">
      {fact("Service", <Service queue={queue} />)}
      {fact("Waiting", <a href={href("tasks", { path: queue.EndpointPath, status: "created" })}>
        {count(queue.Waiting)}</a>)}
      {!!queue.Delayed && fact("Start later", <a href={href("tasks", { path: queue.EndpointPath, status: "delayed" })}>
        {count(queue.Delayed)}</a>)}
      {fact("Oldest waits for", <Oldest queue={queue} />)}
      {fact("In flight", `${count(queue.InFlight)}: ${count(queue.Dispatched)} dispatched, ${count(queue.Running)} running`)}
      {fact("Slots", `${count(queue.Slots)}, as the service was found to hold`)}
      {fact("Limit", queue.Limit === null ? "none" : count(queue.Limit))}
      {queue.Rate && fact("Rate", `${rateWords(queue.Rate)}, ${queue.Burst ? "also at once" : "evenly"}`)}
      {queue.PerOwner && fact("Of one owner", ownerWords(queue.PerOwner))}
      {queue.Outage && fact("Why it is away", <Said text={queue.Outage.Cause} />)}
      {queue.Backend?.MeanSeconds != null && fact("A task takes", duration(queue.Backend.MeanSeconds))}
      {fact("Kept", `${count(queue.Completed)} completed, ${count(queue.Failed)} failed, ${count(queue.Cancelled)} cancelled`)}
      {fact("Failed", percent(queue.Failed, queue.Failed + queue.Completed))}
    </dl>
  );
}

/** Who has most of the queue, where it has owners. */
function Owners({ queue: { EndpointPath: path, Owners: owners } }: { queue: Queue }) {
  if (!owners?.some(({ Owner }) => Owner)) return null;
  return (
    <section aria-label="Owners">
      <h2>Owners</h2>
      <Table label="Owners" rows={owners} rowKey={({ Owner }) => Owner ?? ""} columns={[
        { id: "owner", head: "Owner", cell: ({ Owner: owner }) => owner
          ? <a href={href("tasks", { path, owner })}><Said text={owner} /></a> : "none" },
        { id: "waiting", head: "Waiting", isFigure: true, cell: ({ Waiting }) => count(Waiting) },
        { id: "inflight", head: "In flight", isFigure: true, cell: ({ InFlight }) => count(InFlight) },
      ]} />
    </section>
  );
}

function Figures({ path }: { path: string }) {
  const name = route.value.query.get("range") ?? "1h";
  const range = RANGES[name] ?? RANGES["1h"]!;
  const polled = usePolled<SeriesList>(`series ${path} ${name}`, () => {
    const to = serverNow();
    // A little less: what is older than that is kept by longer steps only.
    const from = new Date(to - (range.seconds - 2 * range.step) * 1000).toISOString();
    return `series?${new URLSearchParams({ path, from, to: new Date(to).toISOString(), step: String(range.step) })}`;
  }, { atLeastMs: range.step === 60 ? 20_000 : 120_000 });
  const series = polled.data.value?.Series[0];
  return (
    <section aria-label="Figures over time">
      <div class="head">
        <h2>Figures over time</h2>
        <div class="tools">
          <span class="group" role="group" aria-label="Range">
            {Object.entries(RANGES).map(([id, { text }]) => (
              <button key={id} type="button" aria-pressed={id === name} onClick={() => setQuery({ range: id })}>
                {text}
              </button>
            ))}
          </span>
          <Exports name="series" rows={series ? rowsOf(series) : []} columns={SERIES_COLUMNS} />
        </div>
      </div>
      <Shown polled={polled} absent="This server has no series: it does not count over time."
        missing="Nothing was counted here.">
        {() => series && <Charts series={series} />}
      </Shown>
    </section>
  );
}

function Charts({ series }: { series: Series }) {
  const unit = series.StepSeconds === 60 ? "a minute" : series.StepSeconds === 600 ? "10 minutes" : "an hour";
  const chart = (title: string, show: (value: number | null | undefined) => string, lines: Line[]) => (
    <Chart title={title} times={series.Times} lines={lines} show={show} showShort={show === duration ? roughly : count}
      summary={`${title}. Largest: ${lines.map((line) => `${line.name} ${show(largest(line.values))}`).join(", ")}.`} />
  );
  return (
    <div class="cols charts">
      {chart(`Throughput, tasks ${unit}`, count, [
        { name: "created", colour: "busy", values: series.Created },
        { name: "completed", colour: "good", values: series.Completed },
        { name: "failed", colour: "bad", values: series.Failed },
        { name: "retried", colour: "warn", values: series.Retried },
        { name: "cancelled", colour: "dim", values: series.Cancelled },
      ])}
      {chart("Waiting and at work", count, [
        { name: "waiting", colour: "wait", values: series.Waiting },
        { name: "in flight", colour: "busy", values: series.InFlight },
        { name: "slots", colour: "dim", values: series.Slots },
      ])}
      {chart("Wait before the first dispatch", duration, [
        { name: "p50", colour: "good", values: series.WaitSeconds.P50 },
        { name: "p95", colour: "busy", values: series.WaitSeconds.P95 },
        { name: "p99", colour: "wait", values: series.WaitSeconds.P99 },
        { name: "oldest waiting", colour: "warn", values: series.OldestWaitingSeconds },
      ])}
      {chart("Run", duration, [
        { name: "p50", colour: "good", values: series.RunSeconds.P50 },
        { name: "p95", colour: "busy", values: series.RunSeconds.P95 },
        { name: "p99", colour: "wait", values: series.RunSeconds.P99 },
      ])}
    </div>
  );
}

function largest(values: readonly (number | null)[]): number | null {
  return values.reduce((most, value) => (value !== null && (most === null || value > most) ? value : most), null);
}

type SeriesRow = Record<string, string | number | null>;

const COUNTS = ["Created", "Completed", "Failed", "Cancelled", "Retried", "Waiting", "InFlight", "Slots",
  "OldestWaitingSeconds"] as const;

function rowsOf(series: Series): SeriesRow[] {
  return series.Times.map((time, index) => {
    const row: SeriesRow = { Time: time };
    for (const name of COUNTS) row[name] = series[name][index] ?? null;
    for (const kind of ["WaitSeconds", "RunSeconds"] as const) {
      for (const part of ["P50", "P95", "P99"] as const) row[`${kind}${part}`] = series[kind][part][index] ?? null;
    }
    return row;
  });
}

const SERIES_COLUMNS = ["Time", ...COUNTS, "WaitSecondsP50", "WaitSecondsP95", "WaitSecondsP99", "RunSecondsP50",
  "RunSecondsP95", "RunSecondsP99"].map((name) => ({ name, value: (row: SeriesRow) => row[name] }));

/** Why the latest failed tasks did: their texts, with what differs from one to the next left out. */
function Failures({ path }: { path: string }) {
  const polled = usePolled<TaskList>(`failures ${path}`,
    () => `tasks?${new URLSearchParams({ path, status: "failed", limit: "200" })}`, { atLeastMs: 30_000 });
  return (
    <section aria-label="Failures by reason">
      <h2>Failures by reason</h2>
      <Shown polled={polled}>
        {({ Tasks, NextCursor }) => Tasks.length === 0 ? <Note>No task that is kept has failed here.</Note> : (
          <>
            <p class="dim">
              {NextCursor ? `Of the latest ${counted(Tasks.length, "failed task")}:` : `All ${counted(Tasks.length, "failed task")} that are kept:`}
            </p>
            <Table label="Failures by reason" rows={byReason(Tasks)} rowKey={(row) => row.reason} columns={[
              { id: "count", head: "Tasks", isFigure: true, cell: (row) => (
                <>{count(row.tasks)} <Meter value={row.tasks / Tasks.length} label={percent(row.tasks, Tasks.length)} /></>
              ) },
              { id: "reason", head: "Reason", cell: (row) => <Said text={row.reason} most={300} /> },
              { id: "latest", head: "Latest", cell: (row) => (
                <a class="id" href={href(`tasks/${row.latest.TaskId}`)}>{row.latest.TaskId.slice(0, 8)}</a>
              ) },
            ]} />
          </>
        )}
      </Shown>
    </section>
  );
}

function byReason(tasks: readonly Task[]): { reason: string; tasks: number; latest: Task }[] {
  const found = new Map<string, { reason: string; tasks: number; latest: Task }>();
  for (const task of tasks) {
    // Ids, counters and times would make a reason of each task.
    const reason = visible(task.Status.split("\n", 1)[0] ?? "").slice(0, 300)
      .replace(/[0-9a-f]{8}-[0-9a-f-]{27}/gi, "…").replace(/\(attempt \d+ of \d+\)/g, "").replace(/\d{6,}/g, "…").trim();
    const known = found.get(reason);
    if (known) known.tasks += 1;
    else found.set(reason, { reason: reason || "failed, without a text", tasks: 1, latest: task });
  }
  return [...found.values()].sort((a, b) => b.tasks - a.tasks);
}

/** If the path is a pipeline's name: in which steps its latest tasks are. */
function PipelineOf({ path }: { path: string }) {
  const tasks = useSignal<Task[]>([]);
  useEffect(() => {
    getJson<TaskList>(`tasks?${new URLSearchParams({ path, limit: "200" })}`)
      .then((page) => (tasks.value = page.Tasks.filter((task) => task.Pipeline === path)), () => undefined);
  }, [path]);
  if (tasks.value.length === 0) return null;
  const steps = Math.max(...tasks.value.map((task) => task.Steps ?? 1));
  const rows = Array.from({ length: steps }, (_, index) => {
    const there = tasks.value.filter((task) => (task.Step ?? 1) === index + 1);
    const of = (state: string) => there.filter((task) => task.BackendStatus === state).length;
    return { step: index + 1, path: there[0]?.EndpointPath ?? null, waiting: of("created"), running: of("running"),
      completed: of("completed"), failed: of("failed") };
  });
  return (
    <section aria-label="Steps of the pipeline">
      <h2>Steps of the pipeline</h2>
      <p class="dim">Where the latest {counted(tasks.value.length, "task")} of this pipeline are. Pause, drain and limit
        the queues of its steps: a pipeline has no slots.</p>
      <Table label="Steps" rows={rows} rowKey={(row) => String(row.step)} columns={[
        { id: "step", head: "Step", cell: (row) => `${row.step} of ${steps}` },
        { id: "path", head: "Endpoint", cell: (row) => (row.path ? <Path path={row.path} /> : "no task is there") },
        { id: "waiting", head: "Waiting or dispatched", isFigure: true, cell: (row) => count(row.waiting) },
        { id: "running", head: "Running", isFigure: true, cell: (row) => count(row.running) },
        { id: "failed", head: "Failed", isFigure: true, cell: (row) => count(row.failed) },
        { id: "completed", head: "Completed", isFigure: true, cell: (row) => count(row.completed) },
      ]} />
    </section>
  );
}
