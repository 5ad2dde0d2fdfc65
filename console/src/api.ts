/** The calls to the server: who the page is there, and what goes wrong on the way. */

import { computed, signal } from "@preact/signals";
import { learnServerTime } from "./clock";
import { spend } from "./pace";
import type { Me, ProblemDocument, Role } from "./shapes";

/** A refusal, or no answer. `status` is 0 if there was no answer at all. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly kind = "",
    readonly retryAfterS: number | null = null,
  ) {
    super(message);
  }

  /** Whether the server has no such function, as an older one: the host answers such a request with no words. */
  get isAbsent(): boolean {
    return this.status === 404 && this.kind === "";
  }

  /** Whether the same request may well be answered later. */
  get isPassing(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export interface Session {
  /** What the paths of calls are relative to, from the page's own URL. */
  base: string;
  key: string | null;
  /** The header that the key goes into. */
  header: string;
  me: Me;
}

export const session = signal<Session | null>(null);
/** Why there is no session: shown with the form that asks for a key. */
export const signInProblem = signal<string | null>(null);
export const signingIn = signal(true);
/** Whether an answer has been awaited for so long that the app is probably starting. */
export const slow = signal(false);

export const roles = computed<readonly Role[]>(() => session.value?.me.Roles ?? []);

export function may(role: Role): boolean {
  return roles.value.includes(role);
}

const KEY = "console-key";
const MOUNT = "console-mount";
const CHECKED = "console-key-checked";
const MOUNTS = ["operate", "content", "read"] as const;
const BY_FUNCTION = "x-functions-key";
const BY_SUBSCRIPTION = "Ocp-Apim-Subscription-Key";
const SLOW_MS = 3000;

const RETRY_MS = 5000;

let pending = 0;
let retry: ReturnType<typeof setTimeout> | undefined;

export interface Call {
  method?: string;
  headers?: Record<string, string>;
  body?: BodyInit;
  signal?: AbortSignal;
}

/** One request, relative to the session's base. Answers below 400 and 304 come back; all others are raised. */
export async function send(path: string, call: Call = {}): Promise<Response> {
  const current = session.peek();
  if (current === null) throw new Problem(401, "You are not signed in.");
  try {
    return await request(current.base + path, current.key, call, current.header);
  } catch (problem) {
    if (problem instanceof Problem && problem.status === 401) {
      signInProblem.value = current.key
        ? "The server does not take this key any more."
        : "The server does not know you any more.";
      signOut();
    }
    throw problem;
  }
}

export async function getJson<T>(path: string): Promise<T> {
  return (await send(path)).json() as Promise<T>;
}

export async function sendJson<T>(method: string, path: string, document?: unknown): Promise<T> {
  const call: Call = { method };
  if (document !== undefined) {
    call.body = JSON.stringify(document);
    call.headers = { "Content-Type": "application/json" };
  }
  return (await send(path, call)).json() as Promise<T>;
}

/** What needs no session: health is open. */
export function sendOpen(path: string): Promise<Response> {
  return request(`../v1/${path}`, null, {});
}

async function request(url: string, key: string | null, call: Call, header = BY_FUNCTION): Promise<Response> {
  spend();
  pending += 1;
  // What is sent may take its time on the way.
  const timer = setTimeout(() => (slow.value = call.method === undefined), SLOW_MS);
  try {
    const response = await fetch(url, {
      method: call.method ?? "GET",
      // The header of its own makes a forged request of another site fail.
      headers: { "X-Console": "1", ...(key ? { [header]: key } : {}), ...call.headers },
      ...(call.body === undefined ? {} : { body: call.body }),
      ...(call.signal ? { signal: call.signal } : {}),
      redirect: "manual",
      cache: "no-store",
      referrerPolicy: "no-referrer",
    });
    if (response.type === "opaqueredirect") {
      throw new Problem(
        call.method === undefined && /\/(result|body)$/.test(url) ? 303 : 401,
        "The server sends this request elsewhere: to another store, or to a page where you sign in.",
      );
    }
    if (response.status >= 400) throw await problemOf(response);
    return response;
  } catch (error) {
    if (error instanceof Problem || (error instanceof DOMException && error.name === "AbortError")) throw error;
    throw new Problem(0, "The server does not answer.");
  } finally {
    clearTimeout(timer);
    pending -= 1;
    if (pending === 0) slow.value = false;
  }
}

async function problemOf(response: Response): Promise<Problem> {
  let document: ProblemDocument = {};
  if (response.headers.get("content-type")?.includes("json")) {
    document = await response.json().catch(() => ({}));
  }
  const kind = document.type?.split(":").pop() ?? "";
  const wait = Number(response.headers.get("retry-after") ?? Number.NaN);
  const said = [document.title, document.detail].filter(Boolean).join(" ");
  return new Problem(response.status, said || UNEXPLAINED[response.status] || `The server answers ${response.status}.`,
    kind, Number.isFinite(wait) ? wait : null);
}

const UNEXPLAINED: Record<number, string> = {
  401: "The server does not take the key, or got none.",
  403: "You may not do this.",
  404: "The server has nothing there.",
  413: "This is too large for the server.",
  429: "The server has more requests than it takes at a time.",
  500: "The server has a fault, or what was sent is too large for it.",
  502: "The gateway gets no answer from the app.",
  503: "The server cannot answer now.",
  504: "The gateway gets no answer from the app in time.",
};

/** Take the key out of the page's address, so that it stays in no history and in no bookmark. */
export function takeKeyFromAddress(): boolean {
  if (!location.hash.startsWith("#key=")) return false;
  const given = new URLSearchParams(location.hash.slice(1));
  const to = given.get("to") ?? "";
  history.replaceState(null, "", `#${to.startsWith("/") ? to : "/queues"}`);
  const key = given.get("key");
  if (key) keepNew(key, given.get("role") ?? "");
  return Boolean(key);
}

/** Find out what the kept key opens, or who the gateway or the platform says that this is. */
export async function signIn(): Promise<void> {
  clearTimeout(retry);
  try {
    const key = kept(KEY);
    session.value = key ? await byKey(key) : await byGateway();
    if (session.value) signInProblem.value = null;
  } catch (error) {
    // No answer says nothing of the key: it is kept, and tried again.
    signInProblem.value = error instanceof Problem ? `${error.message} The page asks again by itself.` : String(error);
    retry = setTimeout(() => void signIn(), RETRY_MS);
  } finally {
    signingIn.value = false;
  }
}

export async function signInWith(key: string): Promise<void> {
  signingIn.value = true;
  keepNew(key, "");
  await signIn();
}

export function signOut(): void {
  for (const name of [KEY, MOUNT, CHECKED]) drop(name);
  session.value = null;
}

/** A link says which role its key has; without that, the page finds out. */
function keepNew(key: string, role: string): void {
  signOut();
  keep(KEY, key);
  if ((MOUNTS as readonly string[]).includes(role)) keep(MOUNT, `./${role}/`);
}

async function byKey(key: string): Promise<Session | null> {
  const before = kept(MOUNT);
  const bases = MOUNTS.map((mount) => `./${mount}/`);
  if (before !== null) bases.sort((a, b) => Number(b === before) - Number(a === before));
  const more = kept(CHECKED) === null ? opensMore(key) : null;
  more?.catch(() => undefined); // whoever waits for it hears of it
  for (const base of [...bases, "../v1/"]) {
    // Behind API Management, the key of a subscription opens the v1 API.
    const header = base.startsWith("../") ? BY_SUBSCRIPTION : BY_FUNCTION;
    const me = await whoAmI(base, key, header);
    if (me === null) continue;
    if (header === BY_FUNCTION && (await more)) {
      drop(KEY);
      signInProblem.value = "This key opens more than the console, as a key of the host does. Take that of one function.";
      return null;
    }
    keep(CHECKED, "1");
    keep(MOUNT, base);
    return { base, key, header, me };
  }
  drop(KEY);
  signInProblem.value = "This key opens no part of the console. It must be a key of one of the functions named below.";
  return null;
}

/** Whether a key opens the v1 API itself, where not everybody may call. A key of the console's functions does not. */
async function opensMore(key: string): Promise<boolean> {
  return (await whoAmI("../v1/", key))?.By === "key" && (await whoAmI("./read/", null)) === null;
}

/** Who a gateway, or the platform, says that this is. */
async function byGateway(): Promise<Session | null> {
  for (const base of ["../v1/", "./session/"]) {
    const me = await whoAmI(base, null);
    // "key" with no key given: a host on somebody's own machine that looks at none.
    if (me !== null && me.By !== "key") return { base, key: null, header: BY_FUNCTION, me };
  }
  return null;
}

/** Null if the key, or who comes without one, opens nothing there. */
async function whoAmI(base: string, key: string | null, header?: string): Promise<Me | null> {
  const began = Date.now();
  try {
    const me = (await (await request(`${base}me`, key, {}, header)).json()) as Me;
    learnServerTime(me.Now, Date.now() - began);
    return me;
  } catch (error) {
    if (!(error instanceof Problem) || error.isPassing) throw error;
    // Whoever signs people in knows this one, and gives it no role.
    if (error.kind === "role-missing") signInProblem.value = error.message;
    return null;
  }
}

/** The session's base as a URL that another program can call. */
export function absoluteBase(): string {
  return new URL(session.peek()?.base ?? "../v1/", location.href.split("#")[0]).href.replace(/\/$/, "");
}

function kept(name: string): string | null {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return memory.get(name) ?? null;
  }
}

function keep(name: string, value: string): void {
  memory.set(name, value);
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // A browser may forbid storage: the key then lasts as long as the page.
  }
}

function drop(name: string): void {
  memory.delete(name);
  try {
    sessionStorage.removeItem(name);
  } catch {
    // as above
  }
}

const memory = new Map<string, string>();
