/**
 * Bodies and results. They are strangers' bytes: fetched, never navigated to. Pictures become an image of a type that
 * has no scripts, text is shown as text, and everything else is a file to save.
 */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { absoluteBase, may, Problem, send, session } from "./api";
import { download } from "./export";
import { bytes, indented, shellQuoted, visible } from "./format";
import { Note, Trouble } from "./ui";

const MOST_PICTURE_BYTES = 5 * 1024 * 1024;
const MOST_TEXT_BYTES = 64 * 1024;
const MOST_SAVED_BYTES = 256 * 1024 * 1024;

/** By how they begin: what a service says of the type is no proof. SVG is none of them, since it can have scripts. */
const PICTURES: [type: string, begins: (bytes: Uint8Array) => boolean][] = [
  ["image/png", (b) => has(b, 0, [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])],
  ["image/jpeg", (b) => has(b, 0, [0xff, 0xd8, 0xff])],
  ["image/gif", (b) => has(b, 0, [0x47, 0x49, 0x46, 0x38])],
  ["image/webp", (b) => has(b, 0, [0x52, 0x49, 0x46, 0x46]) && has(b, 8, [0x57, 0x45, 0x42, 0x50])],
  ["image/bmp", (b) => has(b, 0, [0x42, 0x4d])],
  ["image/avif", (b) => has(b, 4, [0x66, 0x74, 0x79, 0x70, 0x61, 0x76, 0x69, 0x66])],
];

function has(bytes: Uint8Array, at: number, wanted: number[]): boolean {
  return wanted.every((value, index) => bytes[at + index] === value);
}

/** The picture in *content*, as a blob of its own type; null if it is none that a browser shows. */
export function pictureOf(content: Uint8Array<ArrayBuffer>): Blob | null {
  const found = PICTURES.find(([, begins]) => begins(content));
  return found && content.length <= MOST_PICTURE_BYTES ? new Blob([content], { type: found[0] }) : null;
}

function isTextual(type: string): boolean {
  return /^text\/|[/+](json|xml|yaml|csv|javascript|x-ndjson|x-www-form-urlencoded)\b|^image\/svg/i.test(type);
}

export type Found =
  | { kind: "picture"; url: string; size: number }
  | { kind: "text"; text: string; size: number }
  | { kind: "other"; type: string; size: number | null; why: string };

/** What to show of the body or the result of a task. */
async function look(path: string, abort: AbortController): Promise<Found> {
  const response = await send(path, { signal: abort.signal });
  const type = response.headers.get("content-type") ?? "application/octet-stream";
  const told = response.headers.get("content-length");
  const most = isTextual(type) ? MOST_TEXT_BYTES : MOST_PICTURE_BYTES;
  const larger = (size: number | null): Found => {
    abort.abort(); // no more of it is fetched
    return { kind: "other", type, size, why: `It has more than ${bytes(most)}, which is too large to show here.` };
  };
  if (told !== null && Number(told) > most) return larger(Number(told));
  // A packed body has another length once it is unpacked: what counts is what comes.
  const content = await upTo(response, most);
  if (content === null) return larger(null);
  const picture = pictureOf(content);
  if (picture) return { kind: "picture", url: URL.createObjectURL(picture), size: content.length };
  const text = content.length <= MOST_TEXT_BYTES ? asText(content) : null;
  if (text !== null) return { kind: "text", text: shownText(text), size: content.length };
  return { kind: "other", type, size: content.length, why: "It is neither a picture that a browser shows nor text." };
}

async function upTo(response: Response, most: number): Promise<Uint8Array<ArrayBuffer> | null> {
  if (response.body === null) return new Uint8Array();
  const reader = response.body.getReader();
  const pieces: Uint8Array[] = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > most) return null;
    pieces.push(value);
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

export function asText(content: Uint8Array<ArrayBuffer>): string | null {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(content);
    return text.includes("\u0000") ? null : text;
  } catch {
    return null;
  }
}

function shownText(text: string): string {
  const begins = text.trimStart()[0];
  return visible(begins === "{" || begins === "[" ? indented(text) : text);
}

/** The body or the result of a task: shown at once if *isWanted*, else when somebody asks for it. */
export function Content({ id, kind, isWanted, version = "" }: {
  id: string; kind: "body" | "result"; isWanted: boolean; version?: string;
}) {
  const found = useSignal<Found | null>(null);
  const problem = useSignal<Problem | null>(null);
  const isAsked = useSignal(isWanted);
  const path = `tasks/${id}/${kind}`;
  useEffect(() => {
    if (!isAsked.value || !may("content")) return;
    const abort = new AbortController();
    let isGone = false;
    problem.value = null;
    look(path, abort).then((what) => {
      if (!isGone) found.value = what;
      else if (what.kind === "picture") URL.revokeObjectURL(what.url);
    }, (error) => {
      if (!isGone) problem.value = error instanceof Problem ? error : new Problem(0, "It could not be read.");
    });
    return () => {
      isGone = true;
      abort.abort();
      const old = found.peek();
      if (old?.kind === "picture") URL.revokeObjectURL(old.url);
      found.value = null;
    };
  }, [path, isAsked.value, version]);
  if (!may("content")) return <Note>Your key or role does not show bodies and results.</Note>;
  if (problem.value?.status === 303) return <TooLarge id={id} kind={kind} />;
  if (problem.value?.kind === "no-result" || problem.value?.kind === "no-body") {
    return <Note>The task has no {kind}, or not yet.</Note>;
  }
  if (problem.value) return <Trouble problem={problem.value} />;
  if (!isAsked.value) {
    return <p><button type="button" onClick={() => (isAsked.value = true)}>Show the {kind}</button></p>;
  }
  if (found.value === null) return <p class="dim">Reading the {kind} …</p>;
  return <FoundContent found={found.value} id={id} kind={kind} />;
}

function FoundContent({ found, id, kind }: { found: Found; id: string; kind: string }) {
  return (
    <div class="preview">
      {found.kind === "picture" ? <img src={found.url} alt={`The ${kind} of task ${id}`} />
        : found.kind === "text" ? <pre tabIndex={0} aria-label={`The ${kind} of task ${id}`}>{found.text || "(empty)"}</pre>
        : <Note>{visible(found.type)}. {found.why}</Note>}
      <Save id={id} kind={kind} size={found.size} />
    </div>
  );
}

function Save({ id, kind, size }: { id: string; kind: string; size: number | null }) {
  const problem = useSignal<string | null>(null);
  const save = async () => {
    problem.value = null;
    try {
      const response = await send(`tasks/${id}/${kind}`);
      if (Number(response.headers.get("content-length") ?? 0) > MOST_SAVED_BYTES) {
        problem.value = "It is too large for a browser: use the command below.";
        return;
      }
      download(`${id}-${kind}${ending(response.headers.get("content-type") ?? "")}`, await response.blob());
    } catch (error) {
      problem.value = error instanceof Problem && error.status !== 303 ? error.message
        : "It is too large for a browser: use the command below.";
    }
  };
  return (
    <p>
      <button type="button" onClick={() => void save()}>Save</button> <span class="dim">{size === null ? "" : bytes(size)}</span>
      {problem.value && <span class="bad"> {problem.value} <code>{fetchCommand(id, kind)}</code></span>}
    </p>
  );
}

function ending(type: string): string {
  const known: Record<string, string> = {
    "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp", "image/tiff": ".tif",
    "application/json": ".json", "text/plain": ".txt", "text/csv": ".csv", "application/zip": ".zip",
    "application/pdf": ".pdf", "application/geo+json": ".geojson",
  };
  return known[type.split(";")[0]?.trim().toLowerCase() ?? ""] ?? ".bin";
}

function TooLarge({ id, kind }: { id: string; kind: string }) {
  return (
    <Note>
      The {kind} is too large to pass through the app. Fetch it by <pre>{fetchCommand(id, kind)}</pre>
    </Note>
  );
}

/** The key is in a file: others on the machine can read a command line. */
export function fetchCommand(id: string, kind: string): string {
  return `curl -L${headerOption()} -o ${shellQuoted(`${id}-${kind}`)} ${shellQuoted(`${absoluteBase()}/tasks/${id}/${kind}`)}`;
}

export function headerOption(): string {
  return session.peek()?.key ? " -H @key.txt" : "";
}
