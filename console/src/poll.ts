/** Data that is asked for again and again, while somebody looks at it. */

import { type Signal, signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { Problem, send } from "./api";
import { nextWaitMs, waitMs } from "./pace";

/** Whether the pages refresh by themselves. */
export const live = signal(true);
/** Counts up when the operator asks for a refresh. */
export const refreshes = signal(0);

export interface Options<T> {
  /** No further poll once this holds: a task that has ended does not change. */
  isFinal?: (data: T) => boolean;
  /** The shortest wait between two polls, in milliseconds, of what changes seldom. */
  atLeastMs?: number;
  /** Whether the answer may be asked for by its ETag. A waiting task's position changes without it. */
  conditional?: (data: T) => boolean;
}

export class Polled<T> {
  /** The latest answer; null before the first one. It stays while later ones fail. */
  readonly data: Signal<T | null> = signal(null);
  /** Why the last question was not answered; null if it was. */
  readonly problem: Signal<Problem | null> = signal(null);
  /** When the data was known to be right, by this computer's clock; 0 before. */
  readonly at = signal(0);
  private etag: string | null = null;
  private text = "";
  private waitMs = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private isStopped = true;
  private isAsking = false;
  /** Whether somebody wants to know anew what is being asked. */
  private isWanted = false;
  private dueAt = 0;

  constructor(
    private readonly path: () => string,
    private readonly options: Options<T> = {},
  ) {}

  start(): () => void {
    this.isStopped = false;
    document.addEventListener("visibilitychange", this.seen);
    if (!document.hidden) void this.ask();
    return () => {
      this.isStopped = true;
      clearTimeout(this.timer);
      document.removeEventListener("visibilitychange", this.seen);
    };
  }

  /** Ask at once. */
  refresh = (): void => {
    if (!this.isStopped) void this.ask();
  };

  private seen = (): void => {
    clearTimeout(this.timer);
    if (!document.hidden) this.after(Math.max(0, this.dueAt - performance.now()));
  };

  private after(wait: number): void {
    clearTimeout(this.timer);
    this.dueAt = performance.now() + wait;
    if (this.isStopped || document.hidden) return;
    this.timer = setTimeout(() => {
      const longer = waitMs();
      if (!live.peek()) this.after(1000);
      else if (longer > 0) this.after(longer + Math.random() * 100);
      else void this.ask();
    }, wait);
  }

  private async ask(): Promise<void> {
    this.isWanted = this.isAsking;
    if (this.isAsking) return;
    this.isAsking = true;
    clearTimeout(this.timer);
    try {
      const changed = await this.take();
      this.waitMs = nextWaitMs(this.waitMs, changed);
      this.problem.value = null;
      this.at.value = Date.now();
    } catch (error) {
      const problem = error instanceof Problem ? error : new Problem(0, String(error));
      // The first failure begins the waits anew: an outage is often over soon.
      if (this.problem.peek() === null) this.waitMs = 0;
      this.problem.value = problem;
      if (!problem.isPassing) this.waitMs = 30_000;
      else this.waitMs = Math.max(nextWaitMs(this.waitMs, false), 1000 * Math.min(problem.retryAfterS ?? 0, 60));
    } finally {
      this.isAsking = false;
    }
    if (this.isWanted) return this.ask();
    const data = this.data.peek();
    const isDone = this.problem.peek() === null && data !== null && this.options.isFinal?.(data);
    const isAbsent = this.problem.peek()?.isAbsent ?? false;
    if (!isDone && !isAbsent) this.after(Math.max(this.waitMs, this.options.atLeastMs ?? 0));
  }

  private async take(): Promise<boolean> {
    const known = this.data.peek();
    const asks = this.etag !== null && known !== null && (this.options.conditional?.(known) ?? true);
    const response = await send(this.path(), asks ? { headers: { "If-None-Match": this.etag ?? "" } } : {});
    if (response.status === 304) return false;
    const text = await response.text();
    this.etag = response.headers.get("etag");
    if (text === this.text) return false;
    this.data.value = JSON.parse(text) as T;
    this.text = text;
    return true;
  }
}

/** Poll *path* while the component is shown. Another *key* begins anew, without the data of the former one. */
export function usePolled<T>(key: string, path: () => string, options: Options<T> = {}): Polled<T> {
  const polled = useMemo(() => new Polled<T>(path, options), [key]);
  useEffect(() => polled.start(), [polled]);
  useEffect(() => {
    let first = true;
    return refreshes.subscribe(() => {
      if (!first) polled.refresh();
      first = false;
    });
  }, [polled]);
  return polled;
}
