/** One task: where it is, how it came there, what went in and what came out. A batch, with its children. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { absoluteBase, may, sendJson, session } from "./api";
import { serverNow, shownTime, zone } from "./clock";
import { Content, headerOption } from "./content";
import { bytes, counted, duration, isTaskId, shellQuoted, visible } from "./format";
import { type Polled, refreshes, usePolled } from "./poll";
import { href, route } from "./router";
import { type Batch, hasEnded, type History, isBatch, type Task, type TaskList } from "./shapes";
import { TASK_COLUMNS } from "./tasks";
import { Events, Timeline } from "./timeline";
import { Confirm, Copy, Head, Meter, Note, Path, Said, Shown, StateMark, Table, Time, useClock } from "./ui";

export function TaskPage() {
  const id = route.value.rest.slice(1);
  if (!isTaskId(id)) return <Note>“{visible(id)}” is no task's id. <a href={href("tasks")}>All tasks</a></Note>;
  return <TaskOf key={id} id={id} />;
}

/** A task, asked for as long as it changes. A batch's end may be undone by a replay of a child; a failed task's too. */
export function useTask(id: string): Polled<Task> {
  return usePolled<Task>(`task ${id}`, () => `tasks/${id}`, {
    isFinal: (task) => hasEnded(task) && task.BackendStatus !== "failed",
    conditional: (task) => task.BackendStatus !== "created",
  });
}

function TaskOf({ id }: { id: string }) {
  const polled = useTask(id);
  const task = polled.data.value;
  return (
    <>
      <Head title={<>{task && isBatch(task) ? "Batch" : "Task"} <span class="id said">{id}</span></>} name={id}
        polled={polled as Polled<unknown>}>
        <Copy text={id} label="Copy the id" />
        {task && <TaskActions task={task} />}
      </Head>
      <Shown polled={polled} missing={<>
        There is no task <code>{id}</code>. Finished tasks are kept for{" "}
        {session.value?.me.RetentionSeconds ? duration(session.value.me.RetentionSeconds) : "a while"}, and it may have
        been removed. <a href={href("tasks")}>All tasks</a>
      </>}>
        {(data) => (isBatch(data) ? <BatchView batch={data} /> : <TaskView task={data} />)}
      </Shown>
    </>
  );
}

function TaskView({ task }: { task: Task }) {
  return (
    <>
      <Facts task={task} />
      <Steps task={task} />
      <HistoryOf task={task} />
      <div class="cols">
        <section class="card">
          <h2>Body</h2>
          <Content id={task.TaskId} kind="body" isWanted={false} version={`${task.Step ?? ""}`} />
        </section>
        <section class="card">
          <h2>Result</h2>
          {task.ResultSize === null ? <p class="dim">{hasEnded(task) ? "The task has stored none." : "None yet."}</p> : (
            <Content id={task.TaskId} kind="result" isWanted={task.ResultSize <= 5 * 1024 * 1024}
              version={`${task.Attempt} ${task.ResultSize} ${task.BackendStatus}`} />
          )}
        </section>
      </div>
      <Elsewhere task={task} />
    </>
  );
}

export function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return <div><dt>{name}</dt><dd>{children}</dd></div>;
}

function Facts({ task }: { task: Task }) {
  return (
    <>
      <p><StateOf task={task} /></p>
      <Place task={task} />
      <dl class="facts">
        <Fact name="Endpoint"><Path path={task.EndpointPath} link={task.EndpointPath.startsWith("/")} /></Fact>
        <Fact name={`Submitted, ${zone.value}`}><Time at={task.CreatedAt} /></Fact>
        <Fact name={`Changed, ${zone.value}`}><Time at={task.Timestamp} /></Fact>
        <Fact name="Attempt">{task.Attempt}</Fact>
        <Fact name="Priority">{task.Priority}</Fact>
        {task.Owner && <Fact name="Owner"><Said text={task.Owner} /></Fact>}
        {task.Batch && <Fact name="Batch"><a class="id" href={href(`tasks/${task.Batch}`)}>{task.Batch.slice(0, 8)}…</a></Fact>}
        {task.ResultSize !== null && (
          <Fact name="Result">{bytes(task.ResultSize)}, {visible(task.ResultContentType ?? "of no type")}</Fact>
        )}
        {task.StartAt && <Fact name={`Starts, ${zone.value}`}><Time at={task.StartAt} /></Fact>}
        {task.ExpiresAt && <Fact name={`Expires, ${zone.value}`}><Time at={task.ExpiresAt} /></Fact>}
        {task.MaxRunSeconds != null && <Fact name="May run for">{duration(task.MaxRunSeconds)}</Fact>}
        {task.Callback && <Fact name="Calls when it ends"><Said text={task.Callback} /></Fact>}
        {!hasEnded(task) && <Fact name="Lease"><Lease task={task} /></Fact>}
      </dl>
    </>
  );
}

/** Its state, and its text if that says more. */
export function StateOf({ task }: { task: Task }) {
  // Many services begin their text with the state.
  const text = task.Status.replace(new RegExp(`^${task.BackendStatus}(\\s+-\\s+|$)`, "i"), "");
  return (
    <>
      <StateMark state={task.BackendStatus} />
      {text && <> · <Said text={text} /></>}
    </>
  );
}

function Lease({ task }: { task: Task }) {
  useClock();
  if (task.BackendStatus !== "running") return <>{duration(task.LeaseSeconds)}</>;
  const silent = (serverNow() - Date.parse(task.Timestamp)) / 1000;
  return <>{duration(task.LeaseSeconds)}; last report {duration(silent)} ago</>;
}

/** Where a waiting task is in its queue, and when it will start; how far one at work is. */
export function Place({ task }: { task: Task }) {
  useClock();
  if (task.QueuePosition !== undefined) {
    const starts = task.EstimatedStart ? (Date.parse(task.EstimatedStart) - serverNow()) / 1000 : null;
    return (
      <p>
        {task.QueuePosition === 1 ? "Next in its queue" : <>At position {task.QueuePosition.toLocaleString("en")} of its queue</>}
        {starts === null ? "; nobody knows yet when it will start."
          : starts > 1 ? <>; starts in about {duration(starts)}, at <Time at={task.EstimatedStart} /> {zone.value}.</>
          : "; starts any moment."}
      </p>
    );
  }
  if (task.BackendStatus === "created" && task.StartAt && Date.parse(task.StartAt) > serverNow()) {
    return <p>Starts in {duration((Date.parse(task.StartAt) - serverNow()) / 1000)}, at <Time at={task.StartAt} /> {zone.value}.</p>;
  }
  if (task.Progress !== null && !hasEnded(task)) {
    return <p><Meter value={task.Progress} label={`${Math.round(task.Progress * 100)} % done`} /> {Math.round(task.Progress * 100)} %</p>;
  }
  return null;
}

/** A pipeline's steps, and which one the task is in. */
function Steps({ task }: { task: Task }) {
  if (task.Steps === undefined || task.Step === undefined) return null;
  const present = task.Step;
  return (
    <section aria-label="Pipeline">
      <h2>Pipeline {task.Pipeline && <Path path={task.Pipeline} />}</h2>
      <ol class="steps">
        {Array.from({ length: task.Steps }, (_, index) => index + 1).map((step) => (
          <li key={step} aria-current={step === present ? "step" : undefined}>
            {step < present ? "✓ " : ""}Step {step}
            {step === present && <>: <Path path={task.EndpointPath} /> <StateMark state={task.BackendStatus} /></>}
          </li>
        ))}
      </ol>
    </section>
  );
}

function HistoryOf({ task }: { task: Task }) {
  const polled = usePolled<History>(`history ${task.TaskId}`, () => `tasks/${task.TaskId}/history`,
    { isFinal: () => true });
  // Asked anew when the task has changed, and not in between. What was shown stays until then.
  const version = `${task.Attempt} ${task.BackendStatus} ${task.EndpointPath}`;
  const before = useRef(version);
  useEffect(() => {
    if (before.current !== version) polled.refresh();
    before.current = version;
  }, [version]);
  return (
    <section aria-label="History">
      <h2>Timeline</h2>
      <Shown polled={polled}>
        {(history) => (
          <>
            <Timeline history={history} start={task.CreatedAt} />
            <details>
              <summary>All {counted(history.Events.length, "transition")}</summary>
              <Events history={history} />
            </details>
          </>
        )}
      </Shown>
    </section>
  );
}

function TaskActions({ task }: { task: Task }) {
  const asked = useSignal<"cancel" | "replay" | "seal" | null>(null);
  const isAllowed = may("operate");
  const what = isBatch(task) ? "batch" : "task";
  const title = isAllowed ? undefined : "Your key or role does not operate tasks.";
  const act = async () => {
    if (asked.peek() === "cancel") await sendJson("DELETE", `tasks/${task.TaskId}`);
    else if (asked.peek() === "replay") await sendJson("POST", `tasks/${task.TaskId}/replay`);
    else await sendJson("POST", `batches/${task.TaskId}/seal`);
    refreshes.value += 1;
  };
  return (
    <>
      {isBatch(task) && !task.Sealed && !hasEnded(task) && (
        <button type="button" disabled={!isAllowed} title={title} onClick={() => (asked.value = "seal")}>Seal</button>
      )}
      {!hasEnded(task) && (
        <button type="button" disabled={!isAllowed} title={title} onClick={() => (asked.value = "cancel")}>Cancel</button>
      )}
      {task.BackendStatus === "failed" && (
        <button type="button" class="primary" disabled={!isAllowed} title={title} onClick={() => (asked.value = "replay")}>
          Replay
        </button>
      )}
      {asked.value && (
        <Confirm isDangerous={asked.value === "cancel"} act={act} onClose={() => (asked.value = null)}
          action={`${{ cancel: "Cancel", replay: "Replay", seal: "Seal" }[asked.value]} the ${what}`}
          title={`${{ cancel: "Cancel", replay: "Replay", seal: "Seal" }[asked.value]} this ${what}?`}>
          <p>{consequence(task, asked.value)}</p>
        </Confirm>
      )}
    </>
  );
}

function consequence(task: Task, action: "cancel" | "replay" | "seal"): string {
  if (isBatch(task)) {
    if (action === "seal") return "It takes no more children then, and ends with the last of those that it has.";
    if (action === "cancel") return `The batch and its ${counted(task.Unfinished, "unfinished child", "unfinished children")} end, and cannot be replayed.`;
    return `Its ${counted(task.Failed, "failed child", "failed children")} begin again.`;
  }
  return action === "cancel"
    ? `The task at ${task.EndpointPath} ends at once, and cannot be replayed. A service that works on it is told with its next report.`
    : `One task begins again at ${task.EndpointPath}, with its body, as attempt ${task.Attempt + 1}, at the end of the queue. A result that it had stored is dropped.`;
}

/** Where else to look: commands to copy, and the task's trace. */
function Elsewhere({ task }: { task: Task }) {
  const base = absoluteBase();
  const url = `${base}/tasks/${task.TaskId}`;
  return (
    <section aria-label="Elsewhere">
      <h2>Elsewhere</h2>
      <div class="tools">
        <Copy label="Copy as curl" text={`curl -sS${headerOption()} ${shellQuoted(`${url}?wait=30`)}`} />
        <Copy label="Copy as Python" text={python(url)} />
        <Copy label="Copy the query for its trace" text={kql(task)} />
        <Trace task={task} />
        <a class="button" href={href("try", { path: task.EndpointPath })}>Try this endpoint</a>
      </div>
      {headerOption() && (
        <p class="small dim">
          The commands read the key from <code>key.txt</code>, with the line <code>{session.value?.header}: KEY</code>, or from
          the variable <code>BACKBONE_KEY</code>: the page never copies it.
        </p>
      )}
    </section>
  );
}

/** A link to the task's trace, if the server says where traces are shown. */
function Trace({ task }: { task: Task }) {
  const link = useSignal("");
  useEffect(() => void traceOf(task).then((url) => (link.value = url)), [task.TaskId]);
  // The server refuses a setting of another kind; a link that runs a script would be the worst of all.
  return /^https:|^http:..127\.0\.0\.1[:/]/.test(link.value)
    ? <a class="button" href={link.value} rel="noreferrer" target="_blank">Its trace</a> : null;
}

async function traceOf(task: Task): Promise<string> {
  const url = session.peek()?.me.TraceUrl ?? "";
  const gzipped = new Response(new Blob([kql(task)]).stream().pipeThrough(new CompressionStream("gzip")));
  const query = btoa(String.fromCharCode(...new Uint8Array(await gzipped.arrayBuffer())));
  return url.replace("{TaskId}", task.TaskId).replace("{Query}", encodeURIComponent(query));
}

function python(url: string): string {
  const current = session.peek();
  const headers = current?.key ? `, headers={"${current.header}": os.environ["BACKBONE_KEY"]}` : "";
  return [
    "import json", ...(headers ? ["import os"] : []), "from urllib.request import Request, urlopen", "",
    `with urlopen(Request(${JSON.stringify(url)}${headers})) as answer:`,
    "    print(json.load(answer))", "",
  ].join("\n");
}

/** For Log Analytics: everything that the app told about the task. */
function kql(task: Task): string {
  const begun = new Date(Date.parse(task.CreatedAt) - 60_000).toISOString();
  return [
    "union requests, dependencies, traces, customEvents, exceptions",
    `| where timestamp > datetime(${begun})`,
    `| where tostring(customDimensions["task.id"]) == ${JSON.stringify(task.TaskId)} or message has ${JSON.stringify(task.TaskId)}`,
    "| order by timestamp asc",
  ].join("\n");
}

function BatchView({ batch }: { batch: Batch }) {
  const status = route.value.query.get("status") ?? "";
  const children = usePolled<TaskList>(`children ${batch.TaskId} ${status}`,
    () => `tasks?${new URLSearchParams({ batch: batch.TaskId, limit: "50", ...(status ? { status } : {}) })}`);
  const part = (number: number) => `${(100 * number) / Math.max(1, batch.Total)}%`;
  return (
    <>
      <p>{batch.Name && <><strong><Said text={batch.Name} /></strong> · </>}<StateOf task={batch} /></p>
      <div class="tally" role="img" aria-label={`${batch.Completed} of ${batch.Total} completed, ${batch.Failed} failed, ${batch.Cancelled} cancelled, ${batch.Unfinished} unfinished`}>
        <span class="t-completed" style={{ width: part(batch.Completed) }} />
        <span class="t-failed" style={{ width: part(batch.Failed) }} />
        <span class="t-cancelled" style={{ width: part(batch.Cancelled) }} />
      </div>
      <dl class="facts">
        <Fact name="Children">{batch.Total.toLocaleString("en")}{batch.Sealed ? ", sealed" : ", takes more"}</Fact>
        <Fact name="Completed">{batch.Completed.toLocaleString("en")}</Fact>
        <Fact name="Failed">{batch.Failed.toLocaleString("en")}</Fact>
        <Fact name="Cancelled">{batch.Cancelled.toLocaleString("en")}</Fact>
        <Fact name="Unfinished">{batch.Unfinished.toLocaleString("en")}</Fact>
        <Fact name="Then">{batch.Then === null ? "nothing" : batch.ThenTaskId ? (
          <a href={href(`tasks/${batch.ThenTaskId}`)}><Said text={batch.Then} /></a>
        ) : <><Said text={batch.Then} />, once all have ended</>}</Fact>
        <Fact name={`Begun, ${zone.value}`}><Time at={batch.CreatedAt} /></Fact>
        <Fact name={`Changed, ${zone.value}`}><Time at={batch.Timestamp} /></Fact>
        {!hasEnded(batch) && batch.Progress !== null && batch.Progress > 0 && <Fact name="Estimated end"><BatchEnd batch={batch} /></Fact>}
      </dl>
      <div class="head">
        <h2>Children</h2>
        <div class="tools">
          {["", "created", "running", "failed", "completed", "cancelled"].map((state) => (
            <a key={state} class="button" aria-current={state === status ? "true" : undefined}
              href={href(`tasks/${batch.TaskId}`, { status: state })}>{state || "all"}</a>
          ))}
        </div>
      </div>
      <Shown polled={children}>
        {({ Tasks, NextCursor }) => (
          <>
            {Tasks.length === 0 ? <Note>No such child{batch.Total === 0 ? ": the batch is empty as yet" : ""}.</Note> : (
              <Table label="Children" rows={Tasks} rowKey={(task) => task.TaskId}
                columns={[TASK_COLUMNS.id, TASK_COLUMNS.state, TASK_COLUMNS.path, TASK_COLUMNS.text, TASK_COLUMNS.attempt, TASK_COLUMNS.changed]} />
            )}
            {NextCursor && <p><a class="button" href={href("tasks", { batch: batch.TaskId, status })}>All of them, in the list of tasks</a></p>}
          </>
        )}
      </Shown>
      <HistoryOf task={batch} />
      {batch.ThenTaskId && hasEnded(batch) && (
        <section class="card"><h2>Result</h2><Content id={batch.TaskId} kind="result" isWanted={false} /></section>
      )}
    </>
  );
}

function BatchEnd({ batch }: { batch: Batch }) {
  useClock();
  const begun = Date.parse(batch.CreatedAt);
  const end = begun + (serverNow() - begun) / (batch.Progress ?? 1);
  return <>{shownTime(end)}, at the rate so far</>;
}
