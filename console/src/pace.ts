/** How often this tab asks: one request every two seconds on the average, and none that nobody looks at. */

const INTERVAL_MS = 2000;
/** However much an operator has asked for, polls go on after this. */
const MOST_MS = 8000;

let free = 0;

/** Note that a request goes out. What an operator does goes at once, and what polls waits for it afterwards. */
export function spend(): void {
  const now = performance.now();
  free = Math.min(now + MOST_MS, Math.max(free, now - INTERVAL_MS) + INTERVAL_MS);
}

/** For how long a poll has to wait until it may go out, in milliseconds. */
export function waitMs(): number {
  return Math.max(0, free - performance.now());
}

/** The wait before the next poll: two seconds after a change, then longer and longer, up to half a minute. */
export function nextWaitMs(lastMs: number, changed: boolean): number {
  return changed ? 2000 : Math.min(30_000, Math.max(2000, lastMs) * 1.5);
}
