/** Keys for those who do not use the mouse. Each is a letter alone, and none counts while somebody types. */

import { signal } from "@preact/signals";
import { setUtc, utc } from "./clock";
import { live, refreshes } from "./poll";
import { go, href } from "./router";
import { Dialog } from "./ui";

export const isHelpShown = signal(false);

const GOALS: Record<string, string> = { q: "queues", t: "tasks", b: "batches", s: "schedules", y: "try", a: "audit" };
const WAIT_MS = 1500;

let begunAt = Number.NEGATIVE_INFINITY;

export function onKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && (target as HTMLInputElement).type !== "checkbox";
  if (isTyping) {
    if (event.key === "Escape") target.blur();
    return;
  }
  const goal = performance.now() - begunAt < WAIT_MS ? GOALS[event.key] : undefined;
  begunAt = event.key === "g" ? performance.now() : Number.NEGATIVE_INFINITY;
  const act = goal ? () => go(href(goal)) : ACTS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

const ACTS: Record<string, () => void> = {
  "/": () => document.querySelector<HTMLInputElement>("main [data-filter]")?.focus(),
  "?": () => (isHelpShown.value = true),
  j: () => move(1),
  k: () => move(-1),
  x: () => document.activeElement?.closest("[data-row]")?.querySelector<HTMLInputElement>("input[type=checkbox]")?.click(),
  r: () => (refreshes.value += 1),
  p: () => (live.value = !live.value),
  u: () => setUtc(!utc.value),
};

/** Focus the first link of the next row, or of the one before. */
function move(by: number): void {
  const rows = [...document.querySelectorAll<HTMLElement>("main [data-row]")];
  const present = rows.findIndex((row) => row.contains(document.activeElement));
  const next = rows[present < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, present + by))];
  next?.querySelector<HTMLElement>("a, button, input")?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

export function Help() {
  if (!isHelpShown.value) return null;
  const keys: [string[], string][] = [
    [["/"], "to the filter"],
    [["j"], "next row"],
    [["k"], "row before"],
    [["Enter"], "open the row"],
    [["x"], "choose the row"],
    [["g", "q"], "queues"],
    [["g", "t"], "tasks"],
    [["g", "b"], "batches"],
    [["g", "s"], "schedules"],
    [["g", "y"], "try an endpoint"],
    [["g", "a"], "audit"],
    [["r"], "refresh now"],
    [["p"], "pause updates, or go on"],
    [["u"], "UTC, or the zone of this browser"],
    [["Escape"], "out of a field, or close a window"],
    [["?"], "this list"],
  ];
  return (
    <Dialog title="Keys" onClose={() => (isHelpShown.value = false)}>
      <div class="keys">
        {keys.map(([names, what]) => [
          <span key={`${what} key`}>{names.map((name) => <kbd key={name}>{name}</kbd>)}</span>,
          <span key={what}>{what}</span>,
        ])}
      </div>
      <div class="answers"><button type="button" onClick={() => (isHelpShown.value = false)}>Close</button></div>
    </Dialog>
  );
}
