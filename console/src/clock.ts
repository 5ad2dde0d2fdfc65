/** Time: the server's clock, and times as people read them, in the zone that the operator chose. */

import { computed, signal } from "@preact/signals";

const kept = safely(() => localStorage.getItem("zone"));

/** Whether times are shown in UTC rather than in the browser's zone. */
export const utc = signal(kept === "utc");
/** The time of this moment, in milliseconds, once a second: what grows with the clock reads it. */
export const now = signal(Date.now());
const ahead = signal(0);

export function setUtc(value: boolean): void {
  utc.value = value;
  safely(() => localStorage.setItem("zone", value ? "utc" : "local"));
}

/** Learn how far the server's clock is ahead of this one. The answer came *tookMs* after the question. */
export function learnServerTime(text: string, tookMs: number): void {
  const told = Date.parse(text);
  // Half of the way is the best guess; an offset below that is none.
  const found = told + tookMs / 2 - Date.now();
  if (Number.isFinite(found)) ahead.value = Math.abs(found) > Math.max(1500, tookMs) ? found : 0;
}

/** The server's time, in milliseconds. */
export function serverNow(): number {
  return now.value + ahead.value;
}

/** The same, each ten seconds: for what may be told a little late. */
export const lately = computed(() => Math.floor(serverNow() / 10_000) * 10_000);

export function tick(): void {
  now.value = Date.now();
}

export const zone = computed(() => (utc.value ? "UTC" : localZone()));

function localZone(): string {
  const parts = new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(new Date(now.peek()));
  return parts.find((part) => part.type === "timeZoneName")?.value ?? "local time";
}

function formatter(options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  return new Intl.DateTimeFormat("en-GB", { ...options, ...(utc.value ? { timeZone: "UTC" } : {}) });
}

const formats = computed(() => ({
  day: formatter({ year: "numeric", month: "short", day: "numeric" }),
  short: formatter({ day: "numeric", month: "short" }),
  time: formatter({ hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }),
  minute: formatter({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }),
  parts: formatter({
    year: "numeric", month: "2-digit", day: "2-digit",
    hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23",
  }),
}));

/** What day it is. Whoever reads it is rendered anew when it changes, and not each second. */
const today = computed(() => formats.value.day.format(serverNow()));

/** "14:03:22" if today, "29 Nov 2026, 14:03:22" if not. The zone stands beside it, or at the head of the column. */
export function shownTime(moment: number | string | null | undefined): string {
  const ms = typeof moment === "string" ? Date.parse(moment) : (moment ?? Number.NaN);
  if (!Number.isFinite(ms)) return "–";
  const { day, time } = formats.value;
  return day.format(ms) === today.value ? time.format(ms) : `${day.format(ms)}, ${time.format(ms)}`;
}

export function shownMinute(ms: number): string {
  return formats.value.minute.format(ms);
}

export function shownDay(ms: number): string {
  return formats.value.short.format(ms);
}

/** As an input of the type datetime-local has it, in the zone that is shown. */
export function asLocalInput(ms: number): string {
  const parts = Object.fromEntries(formats.value.parts.formatToParts(ms).map((part) => [part.type, part.value]));
  return `${parts.year}-${parts.month}-${parts.day}T${parts.hour}:${parts.minute}`;
}

/** The moment that such an input means, as RFC 3339; null if it means none. */
export function ofLocalInput(text: string): string | null {
  const ms = Date.parse(utc.value ? `${text}Z` : text);
  return Number.isFinite(ms) ? new Date(ms).toISOString() : null;
}

function safely<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch {
    return undefined; // a browser may forbid storage
  }
}
