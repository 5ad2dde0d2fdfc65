/** All endpoints: what waits, what is at work, what is wrong. */

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { getJson, may, sendOpen } from "./api";
import { serverNow } from "./clock";
import { count, counted, duration, percent } from "./format";
import { live, type Polled, usePolled } from "./poll";
import { failures, needsAttention, oldestSeconds, serviceWords, settingWords } from "./queue_words";
import { QueueActions } from "./queue_actions";
import { href, route, setQuery } from "./router";
import type { Health, Queue, QueueList, Requests, Series, SeriesList } from "./shapes";
import { Exports, Head, Note, Path, Said, Shown, Sparkline, Table, type TableColumn, Time, useSteady } from "./ui";

const HOUR_MS = 3_600_000;
const PAGE = 200;

/** The last hour of each endpoint, by its path; null before the first answer. */
const hours = signal<ReadonlyMap<string, Series> | null>(null);
const hasSeries = signal(true);

function hoursPath(cursor: string): string {
  const to = serverNow();
  return `series?${new URLSearchParams({
    from: new Date(to - HOUR_MS).toISOString(), to: new Date(to).toISOString(), step: "180", limit: String(PAGE),
    ...(cursor ? { cursor } : {}),
  })}`;
}

export function QueuesPage() {
  const cursor = route.value.query.get("cursor") ?? "";
  // An older server knows no `all`, and says so: then it is asked without.
  const polled = usePolled<QueueList>(`queues ${cursor}`, () => queuesPath(cursor));
  useEffect(() => polled.problem.subscribe((problem) => {
    if (problem?.status === 400 && knowsAll.peek()) {
      knowsAll.value = false;
      setTimeout(polled.refresh); // once this answer has been dealt with
    }
  }), [polled]);
  // What happened in the last hour is asked for on its own: what waits must not wait for it.
  const past = usePolled<SeriesList>(`hours ${cursor}`, () => hoursPath(cursor), { atLeastMs: 60_000 });
  useEffect(() => past.data.subscribe((data) => {
    hours.value = data && new Map(data.Series.map((series) => [series.Path ?? "", series]));
  }), [past]);
  useEffect(() => past.problem.subscribe((problem) => {
    hasSeries.value = !problem?.isAbsent;
  }), [past]);
  return (
    <>
      <Head title="Queues" name="Queues" polled={polled as Polled<unknown>}>
        <Exports name="queues" rows={polled.data.value?.Queues ?? []} columns={EXPORTED} />
      </Head>
      <HealthLine />
      <Shown polled={polled}>{(data) => <Queues data={data} />}</Shown>
      <Reported />
    </>
  );
}

const knowsAll = signal(true);

function queuesPath(cursor: string): string {
  const query = new URLSearchParams({ limit: String(PAGE), ...(cursor ? { cursor } : {}) });
  if (knowsAll.peek()) query.set("all", "true");
  return `queues/?${query}`;
}

function Queues({ data }: { data: QueueList }) {
  const filter = route.value.query.get("filter") ?? "";
  const queues = data.Queues.filter((queue) => queue.EndpointPath.toLowerCase().includes(filter.toLowerCase()));
  const troubled = useSteady(data.Queues.map((queue) => [queue, needsAttention(queue)] as const).filter(([, why]) => why));
  if (data.Queues.length === 0 && !route.value.query.get("cursor")) return <NoQueues />;
  return (
    <>
      {troubled.length > 0 && (
        <div class="attention">
          <strong>{counted(troubled.length, "endpoint needs", "endpoints need")} a look</strong>
          <ul>
            {troubled.slice(0, 8).map(([queue, why]) => (
              <li key={queue.EndpointPath}><Path path={queue.EndpointPath} />: <Said text={why ?? ""} /></li>
            ))}
          </ul>
          {troubled.length > 8 && <p>and {troubled.length - 8} more</p>}
        </div>
      )}
      <div class="filters">
        <label class="grow">
          Endpoint has
          <input type="search" data-filter value={filter} placeholder="/v1/…"
            onInput={(event) => setQuery({ filter: event.currentTarget.value }, true)} />
        </label>
      </div>
      <Table label="Queues" columns={COLUMNS} rows={queues} rowKey={(queue) => queue.EndpointPath} sortable />
      {queues.length === 0 && <Note>No endpoint on this page has “{filter}” in its path.</Note>}
      {data.NextCursor && (
        <p><a class="button" href={href("queues", { cursor: data.NextCursor })}>Further endpoints</a></p>
      )}
    </>
  );
}

function NoQueues() {
  return (
    <Note>
      <h2>Nothing is queued</h2>
      <p>
        An endpoint appears here with its first task. Submit one: on the page {may("operate") ? (
          <a href={href("try")}>Try</a>
        ) : "Try"}, or by <code>POST v1/submit/PATH</code>.
      </p>
    </Note>
  );
}

const COLUMNS: TableColumn<Queue>[] = [
  {
    id: "path", head: "Endpoint", sort: (queue) => queue.EndpointPath,
    cell: (queue) => <Path path={queue.EndpointPath} />,
  },
  { id: "service", head: "Service", cell: (queue) => <Service queue={queue} /> },
  {
    id: "waiting", head: "Waiting", isFigure: true, sort: (queue) => queue.Waiting,
    cell: (queue) => (
      <a href={href("tasks", { path: queue.EndpointPath, status: "created" })}>{count(queue.Waiting)}</a>
    ),
  },
  {
    id: "slots", head: "In flight / slots / limit", isFigure: true, sort: (queue) => queue.InFlight,
    cell: (queue) => (
      <>
        {count(queue.InFlight)} / {count(queue.Slots)} / {queue.Limit === null ? "none" : count(queue.Limit)}
      </>
    ),
  },
  {
    id: "oldest", head: "Oldest waits", isFigure: true, sort: (queue) => queue.OldestWaitingSeconds,
    cell: (queue) => <Oldest queue={queue} />,
  },
  { id: "failed", head: "Failed", isFigure: true, cell: (queue) => <Failed queue={queue} /> },
  { id: "hour", head: "Last hour", cell: (queue) => <Hour path={queue.EndpointPath} /> },
  { id: "actions", head: "Settings", cell: (queue) => <QueueActions queue={queue} /> },
];

const EXPORTED = (["EndpointPath", "Waiting", "InFlight", "Slots", "Limit", "OldestWaitingSeconds", "Running",
  "Completed", "Failed", "Cancelled", "Paused", "Draining"] as const).map((name) => ({
  name, value: (queue: Queue) => queue[name],
}));

export function Service({ queue }: { queue: Queue }) {
  const words = [serviceWords(queue), ...settingWords(queue)];
  return (
    <>
      {words.map((word) => <div key={word.text} class={word.level}><Said text={word.text} /></div>)}
    </>
  );
}

/** How long the oldest task has waited, by the clock. */
export function Oldest({ queue }: { queue: Queue }) {
  const seconds = oldestSeconds(queue, serverNow());
  return (
    <span class={seconds > 900 && !queue.Paused ? "warn" : undefined}>{queue.Waiting ? duration(seconds) : "–"}</span>
  );
}

function Failed({ queue }: { queue: Queue }) {
  const { failed, ended, of } = failures(queue, hours.value?.get(queue.EndpointPath) ?? null);
  const share = ended ? failed / ended : 0;
  return (
    <a href={href("tasks", { path: queue.EndpointPath, status: "failed" })} title={`${failed} of ${ended} ${of}`}
      class={share > 0.05 && failed >= 5 ? "bad" : undefined}>
      {ended ? percent(failed, ended) : "–"}
    </a>
  );
}

function Hour({ path }: { path: string }) {
  const series = hours.value?.get(path);
  if (!hasSeries.value) return <span title="This server has no series" class="dim">no series</span>;
  if (!series) return <span class="spark" />;
  const ended = series.Completed.map((value, index) => {
    const failed = series.Failed[index] ?? null;
    return value === null && failed === null ? null : (value ?? 0) + (failed ?? 0);
  });
  return <Sparkline values={ended} label={`Tasks ended at ${path} in every three minutes of the last hour`} />;
}

/** Whether the app and what it needs are there. */
function HealthLine() {
  useEffect(() => {
    let isGone = false;
    let timer: ReturnType<typeof setTimeout>;
    const look = async () => {
      if (!document.hidden && live.peek()) health.value = await readHealth();
      if (!isGone) timer = setTimeout(() => void look(), 60_000);
    };
    void look();
    return () => {
      isGone = true;
      clearTimeout(timer);
    };
  }, []);
  const found = useSteady(health.value);
  if (found === null || found.Status === "ok") return null;
  const wrong = Object.entries(found.Dependencies).filter(([, state]) => ["unavailable", "unsafe"].includes(state));
  return (
    <div class="attention" role="status">
      <strong>The app is {found.Status}.</strong>{" "}
      {wrong.map(([name, state]) => `${name.replace(/(?<=[a-z])(?=[A-Z])/g, " ")}: ${state}`).join(", ")}
    </div>
  );
}

const health = signal<Health | null>(null);

export async function readHealth(): Promise<Health | null> {
  try {
    return (await (await sendOpen("health")).json()) as Health;
  } catch {
    return null; // the page says on its own that nobody answers
  }
}

const reported = signal<Requests | "absent" | "failed" | null>(null);

/** Requests in flight as services report them, which belong to no queue: read when somebody opens it. */
function Reported() {
  const open = async () => {
    try {
      reported.value = await getJson<Requests>("requests?limit=200");
    } catch (error) {
      reported.value = (error as { isAbsent?: boolean }).isAbsent ? "absent" : "failed";
    }
  };
  const found = reported.value;
  return (
    <details onToggle={(event) => event.currentTarget.open && void open()}>
      <summary>Requests in flight that services report</summary>
      {found === "absent" ? <Note>This server does not list them.</Note>
        : found === "failed" ? <Note>The server does not answer. Close this and open it again.</Note>
        : found === null ? <p>Asking the server …</p>
        : found.Counters.length === 0 ? <Note>No service reports any.</Note>
        : (
          <Table label="Requests in flight" rows={found.Counters} rowKey={(row) => `${row.Cluster} ${row.Path}`}
            columns={[
              { id: "cluster", head: "Cluster", cell: (row) => <Said text={row.Cluster || "–"} /> },
              { id: "path", head: "Path", cell: (row) => <Said text={row.Path || "–"} /> },
              { id: "count", head: "In flight", isFigure: true, cell: (row) => count(row.Count) },
              { id: "at", head: "Reported", isFigure: true, cell: (row) => <Time at={row.UpdatedAt} /> },
            ]} />
        )}
      {found !== null && typeof found === "object" && found.NextCursor && <p>There are more: <code>GET v1/requests</code>.</p>}
    </details>
  );
}
