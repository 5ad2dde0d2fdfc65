/** The list of tasks: filtered, selected, cancelled and replayed. */

import { signal, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { getJson, may, Problem, sendJson } from "./api";
import { Bulk, unfinishedBulk } from "./bulk";
import { asLocalInput, ofLocalInput, serverNow, zone } from "./clock";
import { csv, download, stamp } from "./export";
import { counted, isTaskId } from "./format";
import { type Polled, refreshes, usePolled } from "./poll";
import { go, href, route, setQuery } from "./router";
import { hasEnded, type Task, type TaskList } from "./shapes";
import { Confirm, Exports, Head, isPointedAt, Meter, Note, Path, Said, Shown, StateMark, Table, type TableColumn, Time,
  Trouble } from "./ui";

const PAGE = 50;
const MOST_EXPORTED = 10_000;
const SPANS: Record<string, number> = { "1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800 };
const FILTERS = ["path", "status", "owner", "batch", "q", "attempts"] as const;
const STATES = ["created", "dispatched", "running", "completed", "failed", "cancelled"];

/** What the address asks for, as a query of the server; `key` is the same as long as the question is. */
function taskQuery(extra: Record<string, string>, asked: URLSearchParams): { key: string; path: () => string } {
  const given = new URLSearchParams();
  for (const name of FILTERS) {
    const value = asked.get(name);
    if (value) given.set(name, value);
  }
  const span = SPANS[asked.get("since") ?? ""];
  const key = `${given} ${asked.get("since") ?? ""} ${asked.get("until") ?? ""}`;
  const path = () => {
    const query = new URLSearchParams({ limit: String(PAGE), ...Object.fromEntries(given), ...extra });
    const since = asked.get("since");
    // A span begins anew with each question; to the minute, so that most questions are the same.
    if (span) query.set("since", new Date(Math.floor(serverNow() / 60_000) * 60_000 - span * 1000).toISOString());
    else if (since) query.set("since", since);
    const until = asked.get("until");
    if (until) query.set("until", until);
    return `tasks?${query}`;
  };
  return { key, path };
}

export function TasksPage() {
  const asked = route.value.query;
  const { key, path } = taskQuery({}, asked);
  const polled = usePolled<TaskList>(`tasks ${key}`, path);
  // Another question begins anew; the filters stay, with the focus in them.
  const later = useMemo(() => signal<TaskList[]>([]), [key]);
  const problem = useMemo(() => signal<Problem | null>(null), [key]);
  const chosen = useMemo(() => signal<ReadonlySet<string>>(new Set()), [key]);
  const isLoading = useSignal(false);
  const shown = useHeldBack(key, polled, chosen.value.size > 0);
  const first = shown.page;
  const last = later.value.at(-1) ?? first;
  const tasks = first ? withoutTwins([first, ...later.value].flatMap((page) => page.Tasks)) : [];
  const further = async () => {
    if (!last?.NextCursor) return;
    isLoading.value = true;
    problem.value = null;
    try {
      const page = await getJson<TaskList>(taskQuery({ cursor: last.NextCursor }, asked).path());
      later.value = [...later.value, page];
    } catch (error) {
      problem.value = error as Problem;
    } finally {
      isLoading.value = false;
    }
  };
  const selection = may("operate") ? {
    chosen: chosen.value,
    toggle: (id: string) => (chosen.value = toggled(chosen.value, [id])),
    toggleAll: (ids: string[]) => (chosen.value = toggled(chosen.value, ids)),
  } : undefined;
  return (
    <>
      <Head title="Tasks" name="Tasks" polled={polled as Polled<unknown>}>
        <Exports name="tasks" rows={tasks} columns={EXPORTED} />
        <ExportAll asked={asked} />
      </Head>
      <Unfinished />
      <Filters asked={asked} />
      <Shown polled={polled} missing="There is no such batch, or it is another owner's.">
        {() => (
          <>
            <div class="news">
              {chosen.value.size > 0 ? (
                <Chosen tasks={tasks.filter((task) => chosen.value.has(task.TaskId))}
                  clear={() => (chosen.value = new Set())} />
              ) : shown.waiting > 0 ? (
                <button type="button" onClick={shown.release}>
                  Show {counted(shown.waiting, "newer task")}
                </button>
              ) : (
                <Extent pages={first ? [first, ...later.value] : []} tasks={tasks.length} />
              )}
              <Bulk asked={asked} />
            </div>
            {tasks.length > 0 && (
              <Table label="Tasks" columns={COLUMNS} rows={tasks} rowKey={(task) => task.TaskId} selection={selection} />
            )}
            {tasks.length === 0 && <NoTasks asked={asked} mayBeMore={Boolean(last?.NextCursor)} />}
            {problem.value && <Trouble problem={problem.value} retry={() => void further()} />}
            {last?.NextCursor && (
              <p>
                <button type="button" disabled={isLoading.value} onClick={() => void further()}>
                  {isLoading.value ? "Asking the server …" : tasks.length ? "Older tasks" : "Look further back"}
                </button>
              </p>
            )}
          </>
        )}
      </Shown>
    </>
  );
}

/**
 * The first page as it is shown. News of the tasks in it come at once, and new tasks while nobody points at a row or
 * has chosen any; else they wait behind a button, so that no row moves.
 */
function useHeldBack(key: string, polled: Polled<TaskList>, isChosen: boolean) {
  const page = useMemo(() => signal<TaskList | null>(null), [key]);
  const waiting = useMemo(() => signal(0), [key]);
  const latest = polled.data.value;
  const release = () => {
    page.value = polled.data.peek();
    waiting.value = 0;
  };
  const chosen = useRef(isChosen);
  chosen.current = isChosen;
  useEffect(() => {
    const known = page.peek();
    if (latest === null) return;
    const ids = new Set(known?.Tasks.map((task) => task.TaskId));
    const isPointed = chosen.current || isPointedAt();
    if (known === null || known.Tasks.length === 0 || !isPointed) return release();
    const news = new Map(latest.Tasks.map((task) => [task.TaskId, task]));
    page.value = { ...known, Tasks: known.Tasks.map((task) => news.get(task.TaskId) ?? task) };
    waiting.value = latest.Tasks.filter((task) => !ids.has(task.TaskId)).length;
  }, [latest, page]);
  return { page: page.value, waiting: waiting.value, release };
}

function withoutTwins(tasks: Task[]): Task[] {
  return [...new Map(tasks.map((task) => [task.TaskId, task])).values()];
}

function toggled(before: ReadonlySet<string>, ids: string[]): ReadonlySet<string> {
  const after = new Set(before);
  const isAll = ids.every((id) => before.has(id));
  for (const id of ids) {
    if (isAll) after.delete(id);
    else after.add(id);
  }
  return after;
}

function Extent({ pages, tasks }: { pages: TaskList[]; tasks: number }) {
  const looked = pages.reduce((all, page) => all + (page.Looked ?? 0), 0);
  const isAll = pages.at(-1)?.NextCursor === null;
  return (
    <span>
      {counted(tasks, "task")}
      {looked > 0 && `, of ${counted(looked, "task")} looked at`}
      {isAll ? ": all that there are." : ", the newest first."}
    </span>
  );
}

function NoTasks({ asked, mayBeMore }: { asked: URLSearchParams; mayBeMore: boolean }) {
  const isFiltered = [...FILTERS, "since", "until"].some((name) => asked.get(name));
  return (
    <Note>
      {mayBeMore ? "No task among those that were looked at fits. There are older ones."
        : isFiltered ? <>No task that the app keeps fits these filters. <a href={href("tasks")}>All tasks</a></>
        : <>The app keeps no task. <a href={href("try")}>Try an endpoint</a>, or submit one by <code>POST
          v1/submit/PATH</code>.</>}
    </Note>
  );
}

export const TASK_COLUMNS = {
  id: {
    id: "id", head: "Task", cell: (task: Task) => (
      <a class="id" href={href(`tasks/${task.TaskId}`)} title={task.TaskId}>{shortId(task.TaskId)}</a>
    ),
  },
  state: {
    id: "state", head: "State", cell: (task: Task) => (
      <>
        <StateMark state={task.BackendStatus} />
        {task.Progress !== null && !hasEnded(task) && (
          <> <Meter value={task.Progress} label={`${Math.round(task.Progress * 100)} %`} /></>
        )}
      </>
    ),
  },
  path: {
    id: "path", head: "Endpoint", cell: (task: Task) => (
      <>
        {task.EndpointPath.startsWith("/") ? <Path path={task.EndpointPath} /> : task.EndpointPath}
        {task.Steps !== undefined && <div class="small dim">step {task.Step} of {task.Steps}</div>}
      </>
    ),
  },
  text: { id: "text", head: "Status", cell: (task: Task) => (task.Status === task.BackendStatus ? "" : <Said text={task.Status} most={300} />) },
  attempt: { id: "attempt", head: "Attempt", isFigure: true, cell: (task: Task) => task.Attempt },
  created: { id: "created", head: () => `Submitted, ${zone.value}`, isFigure: true, cell: (task: Task) => <Time at={task.CreatedAt} /> },
  changed: { id: "changed", head: () => `Changed, ${zone.value}`, isFigure: true, cell: (task: Task) => <Time at={task.Timestamp} /> },
} satisfies Record<string, TableColumn<Task>>;

const COLUMNS: TableColumn<Task>[] = [TASK_COLUMNS.id, TASK_COLUMNS.state, TASK_COLUMNS.path, TASK_COLUMNS.text,
  TASK_COLUMNS.attempt, TASK_COLUMNS.created, TASK_COLUMNS.changed];

function shortId(id: string): string {
  return /^[0-9a-f]{8}-[0-9a-f-]{27}$/i.test(id) ? `${id.slice(0, 8)}…` : id.length > 24 ? `${id.slice(0, 24)}…` : id;
}

const EXPORTED = (["TaskId", "BackendStatus", "EndpointPath", "Status", "Attempt", "Priority", "Progress", "CreatedAt",
  "Timestamp", "ResultSize", "ResultContentType", "Step", "Steps", "Pipeline", "Batch"] as const).map((name) => ({
  name, value: (task: Task) => task[name] ?? null,
}));

function Filters({ asked }: { asked: URLSearchParams }) {
  const text = (name: string, label: string, extra: Record<string, string> = {}, isWide = false) => (
    <label class={isWide ? "grow" : undefined}>
      {label}
      <input type="search" value={asked.get(name) ?? ""} {...extra}
        onChange={(event) => setQuery({ [name]: event.currentTarget.value.trim() })} />
    </label>
  );
  const since = asked.get("since") ?? "";
  const isCustom = since !== "" && !(since in SPANS);
  const moment = (name: "since" | "until", label: string) => {
    const value = Date.parse(asked.get(name) ?? "");
    return (
      <label>
        {label}, {zone.value}
        <input type="datetime-local" value={Number.isNaN(value) ? "" : asLocalInput(value)}
          onChange={(event) => setQuery({ [name]: ofLocalInput(event.currentTarget.value) })} />
      </label>
    );
  };
  const open = (event: SubmitEvent) => {
    event.preventDefault();
    const field = (event.currentTarget as HTMLFormElement).elements.namedItem("id") as HTMLInputElement;
    if (isTaskId(field.value.trim())) go(href(`tasks/${field.value.trim()}`));
  };
  return (
    <div class="filters" role="search">
      {text("path", "Endpoint", { "data-filter": "", placeholder: "/v1/…" }, true)}
      <label>
        State
        <select value={asked.get("status") ?? ""} onChange={(event) => setQuery({ status: event.currentTarget.value })}>
          <option value="">any</option>
          {[...STATES, "delayed"].map((state) => <option key={state}>{state}</option>)}
        </select>
      </label>
      {text("q", "Text in the status", {}, true)}
      {text("owner", "Owner")}
      {text("batch", "Batch")}
      <label>
        Attempts, at least
        <input type="number" min="1" value={asked.get("attempts") ?? ""}
          onChange={(event) => setQuery({ attempts: event.currentTarget.value })} />
      </label>
      <label>
        Submitted
        <select value={isCustom || asked.get("until") ? "custom" : since} onChange={(event) => {
          const value = event.currentTarget.value;
          setQuery(value === "custom" ? { since: new Date(serverNow() - 3_600_000).toISOString() }
            : { since: value, until: null });
        }}>
          <option value="">at any time</option>
          <option value="1h">in the last hour</option>
          <option value="6h">in the last 6 hours</option>
          <option value="24h">in the last 24 hours</option>
          <option value="7d">in the last 7 days</option>
          <option value="custom">between …</option>
        </select>
      </label>
      {(isCustom || asked.get("until")) && <>{moment("since", "After")}{moment("until", "Before")}</>}
      <form onSubmit={open}>
        <label>
          Go to the task
          <input type="text" name="id" placeholder="its id" autocomplete="off" spellcheck={false} />
        </label>
      </form>
    </div>
  );
}

/** What can be done with the rows that somebody has chosen. */
function Chosen({ tasks, clear }: { tasks: Task[]; clear: () => void }) {
  const asked = useSignal<"cancel" | "replay" | null>(null);
  const done = useSignal<{ text: string } | null>(null);
  const failed = tasks.filter((task) => task.BackendStatus === "failed");
  const open = tasks.filter((task) => !hasEnded(task));
  const fits = asked.value === "replay" ? failed : open;
  const act = async () => {
    const action = asked.peek();
    const refused: string[] = [];
    for (const task of fits) {
      try {
        if (action === "replay") await sendJson("POST", `tasks/${task.TaskId}/replay`);
        else await sendJson("DELETE", `tasks/${task.TaskId}`);
      } catch (error) {
        // What has changed meanwhile is told, and the others go on; without an answer it makes no sense to go on.
        if ((error as Problem).isPassing) throw error;
        refused.push(task.TaskId);
      }
    }
    done.value = refused.length ? { text: `${counted(refused.length, "task")} had changed meanwhile: ${refused.join(", ")}` } : null;
    refreshes.value += 1;
    if (refused.length === 0) clear();
  };
  return (
    <>
      <strong>{counted(tasks.length, "task")} chosen</strong>
      <button type="button" disabled={!failed.length} onClick={() => (asked.value = "replay")}>
        Replay {failed.length} failed
      </button>
      <button type="button" disabled={!open.length} onClick={() => (asked.value = "cancel")}>
        Cancel {open.length} unfinished
      </button>
      <button type="button" class="link" onClick={clear}>Choose none</button>
      {done.value && <span class="warn">{done.value.text}</span>}
      {asked.value && (
        <Confirm title={`${asked.value === "replay" ? "Replay" : "Cancel"} ${counted(fits.length, "task")}?`}
          action={asked.value === "replay" ? `Replay ${fits.length}` : `Cancel ${fits.length}`}
          isDangerous={asked.value === "cancel"} act={act} onClose={() => (asked.value = null)}>
          <p>At {list([...new Set(fits.map((task) => task.EndpointPath))])}.</p>
          <p>{asked.value === "replay" ? "Each begins again with its body, at the end of its queue. Results that they had stored are dropped."
            : "They end at once, and cannot be replayed. Services that work on them are told with their next report."}</p>
        </Confirm>
      )}
    </>
  );
}

function list(paths: string[]): string {
  return paths.length > 5 ? `${paths.slice(0, 5).join(", ")} and ${paths.length - 5} more` : paths.join(", ");
}

/** Everything that fits, page by page, as far as a browser should hold it. */
function ExportAll({ asked }: { asked: URLSearchParams }) {
  const got = useSignal<number | null>(null);
  const isStopped = useRef(false);
  useEffect(() => () => void (isStopped.current = true), []);
  const run = async () => {
    isStopped.current = false;
    const tasks: Task[] = [];
    let cursor: string | null = "";
    got.value = 0;
    try {
      while (cursor !== null && !isStopped.current && tasks.length < MOST_EXPORTED) {
        const page: TaskList = await getJson(taskQuery({ limit: "200", ...(cursor ? { cursor } : {}) }, asked).path());
        tasks.push(...page.Tasks);
        cursor = page.NextCursor;
        got.value = tasks.length;
      }
    } catch {
      // What was read is handed over; its name says that it is not all.
    }
    const isWhole = cursor === null;
    download(`tasks-${isWhole ? "" : "part-"}${stamp()}.csv`, csv(EXPORTED, tasks));
    got.value = null;
  };
  return got.value === null ? (
    <button type="button" onClick={() => void run()} title={`Up to ${MOST_EXPORTED.toLocaleString("en")} tasks`}>
      CSV of all that fit
    </button>
  ) : (
    <button type="button" onClick={() => (isStopped.current = true)}>Stop at {got.value}</button>
  );
}

function Unfinished() {
  const kept = unfinishedBulk.value;
  if (kept === null || !may("operate")) return null;
  return <Bulk asked={new URLSearchParams()} resumed={kept} />;
}
