/** Try an endpoint: give it a file or a text, watch the task, see the result beside the input. */

import { signal, useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { getJson, may, Problem, send } from "./api";
import { asText, Content, pictureOf } from "./content";
import { bytes, isPath, isTaskId, randomId, shellQuoted, visible } from "./format";
import { readHealth } from "./queues";
import { href, route, setQuery } from "./router";
import { hasEnded, type QueueList, type Task } from "./shapes";
import { Place, StateOf, useTask } from "./task";
import { Copy, Head, Note, Shown, Trouble } from "./ui";

/** Endpoints to choose from; any other can be typed. */
const endpoints = signal<string[]>([]);
const mostBytes = signal<number | null>(null);

async function learn(): Promise<void> {
  const health = await readHealth();
  if (health) mostBytes.value = health.MaxBodyBytes;
  try {
    const { Queues } = await getJson<QueueList>("queues/?limit=200");
    endpoints.value = Queues.map((queue) => queue.EndpointPath);
  } catch {
    // They can be typed.
  }
}

export function TryPage() {
  const { query } = route.value;
  const file = useSignal<File | null>(null);
  const text = useSignal("");
  const type = useSignal("");
  const priority = useSignal("");
  const problem = useSignal<Problem | null>(null);
  const isSending = useSignal(false);
  // The same key until something is changed: a submit that is repeated after a lost answer makes no second task.
  const idempotency = useMemo(() => randomId(), [file.value, text.value, type.value, priority.value, String(query)]);
  useEffect(() => void learn(), []);
  const path = query.get("path") ?? "";
  const asked = query.get("query") ?? "";
  const task = query.get("task") ?? "";
  const size = file.value ? file.value.size : new Blob([text.value]).size;
  const isTooLarge = mostBytes.value !== null && size > mostBytes.value;
  const contentType = type.value || file.value?.type || (file.value ? "application/octet-stream" : guessed(text.value));

  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    problem.value = null;
    isSending.value = true;
    try {
      const response = await send(`submit${path}${asked ? `?${asked}` : ""}`, {
        method: "POST",
        body: file.value ?? text.value,
        headers: { "Content-Type": contentType, "Idempotency-Key": idempotency, ...(priority.value ? { Priority: priority.value } : {}) },
      });
      setQuery({ task: ((await response.json()) as Task).TaskId });
    } catch (error) {
      problem.value = error instanceof Problem ? error : new Problem(0, "The file could not be read.");
    } finally {
      isSending.value = false;
    }
  };

  return (
    <>
      <Head title="Try an endpoint" name="Try">
        <Copy label="Copy the link to this page" text={linkTo(path, asked)} />
      </Head>
      <div class="cols">
        <form class="card stack" onSubmit={(event) => void submit(event)}>
          <h2>Input</h2>
          <label>
            Endpoint
            <input list="endpoints" data-filter required value={path} placeholder="/v1/…" spellcheck={false} autocomplete="off"
              onChange={(event) => setQuery({ path: event.currentTarget.value.trim(), task: null }, true)} />
            <datalist id="endpoints">{endpoints.value.map((each) => <option key={each} value={each} />)}</datalist>
          </label>
          {path && !isPath(path) && <p class="bad">A path begins with a slash, and has no blanks, ? or #.</p>}
          <label>
            Query
            <input value={asked} placeholder="classes=6" spellcheck={false} autocomplete="off"
              onChange={(event) => setQuery({ query: event.currentTarget.value.trim().replace(/^\?/, ""), task: null }, true)} />
          </label>
          <Drop file={file.value} take={(taken) => (file.value = taken)} />
          {!file.value && (
            <label>
              or a text
              <textarea value={text.value} spellcheck={false} onInput={(event) => (text.value = event.currentTarget.value)} />
            </label>
          )}
          <div class="filters">
            <label>
              Content type
              <input value={type.value} placeholder={contentType} list="types" spellcheck={false}
                onChange={(event) => (type.value = event.currentTarget.value.trim())} />
              <datalist id="types">
                {["application/json", "text/plain", "image/jpeg", "image/png", "application/octet-stream"].map((each) => (
                  <option key={each} value={each} />
                ))}
              </datalist>
            </label>
            <label>
              Priority
              <select value={priority.value} onChange={(event) => (priority.value = event.currentTarget.value)}>
                <option value="">5, as usual</option>
                {[9, 8, 7, 6, 4, 3, 2, 1, 0].map((each) => <option key={each} value={String(each)}>{each}{each === 9 ? ", first" : each === 0 ? ", last" : ""}</option>)}
              </select>
            </label>
          </div>
          {isTooLarge && file.value && <TooLarge file={file.value} path={path} query={asked} />}
          {!may("operate") && <Note>Your key or role reads only. To submit takes one that operates.</Note>}
          {problem.value && <Trouble problem={problem.value} />}
          <div class="answers">
            <button type="submit" class="primary" disabled={!may("operate") || !isPath(path) || isTooLarge || isSending.value}>
              {isSending.value ? `Sending ${bytes(size)} …` : `Submit ${bytes(size)}`}
            </button>
          </div>
          {file.value && <Preview file={file.value} />}
        </form>
        <section class="card" aria-label="Output" aria-live="polite">
          <h2>Output</h2>
          {isTaskId(task) ? <Watched key={task} id={task} /> : (
            <p class="dim">What the endpoint makes of it will be here.</p>
          )}
        </section>
      </div>
    </>
  );
}

function Watched({ id }: { id: string }) {
  const polled = useTask(id);
  return (
    <Shown polled={polled} missing="There is no such task any more.">
      {(task) => (
        <div class="stack">
          <p><a class="id" href={href(`tasks/${id}`)}>{id.slice(0, 8)}…</a> · <StateOf task={task} /></p>
          <Place task={task} />
          {task.ResultSize !== null && (
            <Content id={id} kind="result" isWanted={task.ResultSize <= 5 * 1024 * 1024}
              version={`${task.Attempt} ${task.ResultSize} ${task.BackendStatus}`} />
          )}
          {hasEnded(task) && task.ResultSize === null && <p class="dim">The task has stored no result.</p>}
          <details>
            <summary>The input, as the service got it</summary>
            <Content id={id} kind="body" isWanted={false} />
          </details>
        </div>
      )}
    </Shown>
  );
}

function Drop({ file, take }: { file: File | null; take: (file: File | null) => void }) {
  const isOver = useSignal(false);
  return (
    <div class={`drop ${isOver.value ? "over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        isOver.value = true;
      }}
      onDragLeave={() => (isOver.value = false)}
      onDrop={(event) => {
        event.preventDefault();
        isOver.value = false;
        take(event.dataTransfer?.files[0] ?? null);
      }}>
      {file ? (
        <>
          <span class="said">{visible(file.name)}</span>, {bytes(file.size)}{" "}
          <button type="button" onClick={() => take(null)}>Take it out</button>
        </>
      ) : (
        <label>
          Drop a file here, or choose one
          <input type="file" onChange={(event) => take(event.currentTarget.files?.[0] ?? null)} />
        </label>
      )}
    </div>
  );
}

/** The file as it will be sent, shown by the rules for results. */
function Preview({ file }: { file: File }) {
  const url = useSignal<string | null>(null);
  const text = useSignal<string | null>(null);
  useEffect(() => {
    let made: string | null = null;
    let isGone = false;
    const read = async () => {
      if (file.size > 5 * 1024 * 1024) return;
      const content = new Uint8Array(await file.arrayBuffer());
      if (isGone) return;
      const picture = pictureOf(content);
      if (picture) url.value = made = URL.createObjectURL(picture);
      else if (content.length <= 64 * 1024) text.value = asText(content);
    };
    read().catch(() => undefined);
    return () => {
      isGone = true;
      url.value = text.value = null;
      if (made) URL.revokeObjectURL(made);
    };
  }, [file]);
  if (url.value) return <img src={url.value} alt={`The input, ${file.name}`} />;
  return text.value === null ? null : <pre>{visible(text.value)}</pre>;
}

function TooLarge({ file, path, query }: { file: File; path: string; query: string }) {
  const command = ["taskbackbone", "submit", path || "/PATH", file.name, ...(query ? ["--query", ...query.split("&").map(decoded)] : [])]
    .map(shellQuoted).join(" ");
  return (
    <Note>
      The file has {bytes(file.size)}, and the app takes {bytes(mostBytes.value)}. The command line uploads it to Blob
      Storage instead: <pre>{command} --output results</pre>
    </Note>
  );
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch {
    return text;
  }
}

function guessed(text: string): string {
  try {
    JSON.parse(text);
    return "application/json";
  } catch {
    return "text/plain; charset=utf-8";
  }
}

/** Whoever gets it signs in for themselves: it has no key. */
function linkTo(path: string, query: string): string {
  return `${location.href.split("#")[0]}${href("try", { path, query })}`;
}
