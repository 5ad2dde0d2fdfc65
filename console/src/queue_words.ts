/** What state an endpoint's queue and its service are in, in words. */

import { lately, shownTime } from "./clock";
import { visible } from "./format";
import type { Queue, Series } from "./shapes";

export interface Words {
  text: string;
  /** `bad`: tasks do not get through. `warn`: an operator may want to know. */
  level: "bad" | "warn" | "good" | "dim";
}

export function serviceWords(queue: Queue): Words {
  const backend = queue.Backend;
  const isDown = backend ? backend.State === "down" : queue.Outage !== null;
  if (backend?.State === "unregistered") return { text: "not registered", level: "bad" };
  if (isDown) {
    const until = backend?.Until && Date.parse(backend.Until) > lately.value ? ` until ${shownTime(backend.Until)}` : "";
    const since = !until && queue.Outage ? ` since ${shownTime(queue.Outage.Since)}` : "";
    return { text: `down${until}${since}`, level: "bad" };
  }
  if (backend?.State === "full" || (!backend && queue.Waiting > 0 && queue.InFlight >= queue.Slots && queue.Slots > 0)) {
    return { text: "full", level: oldestSeconds(queue) > 900 ? "warn" : "dim" };
  }
  if (queue.Waiting > 0 && queue.Limit !== null && queue.InFlight >= queue.Limit) {
    return { text: "up, at its limit", level: oldestSeconds(queue) > 900 ? "warn" : "good" };
  }
  if (backend?.State === "up" || queue.InFlight > 0) return { text: "up", level: "good" };
  return { text: "not heard of lately", level: "dim" };
}

/** An answer that is the same may be old: ages grow without it. */
export function oldestSeconds(queue: Queue, now = lately.value): number {
  const since = Date.parse(queue.OldestWaitingSince ?? "");
  return Number.isNaN(since) ? queue.OldestWaitingSeconds : Math.max(0, (now - since) / 1000);
}

export function settingWords(queue: Queue): Words[] {
  const words: Words[] = [];
  const by = queue.SettingsChanged?.Operator;
  if (queue.Paused) words.push({ text: by ? `paused, set by ${visible(by)}` : "paused", level: "warn" });
  if (queue.Draining) words.push({ text: "draining: takes no new tasks", level: "warn" });
  return words;
}

export function needsAttention(queue: Queue): string | null {
  const service = serviceWords(queue);
  if (service.level === "bad") {
    const waits = queue.Waiting ? `, ${queue.Waiting.toLocaleString("en")} waiting` : "";
    return `its service is ${service.text}${queue.Outage ? `: ${queue.Outage.Cause}` : ""}${waits}`;
  }
  if (queue.Paused && queue.Waiting > 0) return `paused with ${queue.Waiting.toLocaleString("en")} waiting`;
  if (oldestSeconds(queue) > 900 && !queue.Paused) return "its oldest task has waited for over 15 minutes";
  return null;
}

/** The part that failed of what ended: in the series if there is one, else of what the app still keeps. */
export function failures(queue: Queue, series: Series | null): { failed: number; ended: number; of: string } {
  if (series) {
    const sum = (values: readonly (number | null)[]) => values.reduce<number>((all, value) => all + (value ?? 0), 0);
    const failed = sum(series.Failed);
    return { failed, ended: failed + sum(series.Completed), of: "in the last hour" };
  }
  return { failed: queue.Failed, ended: queue.Failed + queue.Completed, of: "of the tasks that are kept" };
}

/** "100 in 60 s" for `100/60s`. */
export function rateWords(rate: string): string {
  return rate.replace(/^(\d+)\/(\d+)s$/, "$1 in $2 s");
}

/** What one owner may have of a queue. */
export function ownerWords({ Waiting, InFlight, Hard }: NonNullable<Queue["PerOwner"]>): string {
  const words = [
    Waiting !== null && `${Waiting.toLocaleString("en")} waiting`,
    InFlight !== null && `${InFlight.toLocaleString("en")} in flight${Hard ? "" : " while others wait"}`,
  ];
  return `at most ${words.filter(Boolean).join(", ")}`;
}
