/**
 * Cancel or replay all tasks that a filter finds: a dry run first, then piece by piece. What is under way is kept in
 * the browser, so that it goes on where it was if the tab dies; the server takes each task once.
 */

import { signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { may, Problem, sendJson } from "./api";
import { serverNow, tick, zone } from "./clock";
import { counted, randomId } from "./format";
import { refreshes } from "./poll";
import type { BulkAnswer, BulkRequest, State } from "./shapes";
import { Dialog, Said, Time, Trouble } from "./ui";

const KEY = "console-bulk";
const PIECE = 500;
/** Filters of the list that a bulk action has not. */
const FOREIGN = ["owner", "batch", "since", "attempts"];

export interface KeptBulk {
  request: Omit<BulkRequest, "DryRun" | "Limit">;
  matched: number;
  done: number;
  refused: { TaskId: string; Why: string }[];
}

let kept = read();
/** What is kept, as it was when no dialog was open: it would vanish with what it tells of. */
export const unfinishedBulk = signal(kept);

function read(): KeptBulk | null {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "null") as KeptBulk | null;
    return typeof found?.request?.OperationId === "string" ? found : null;
  } catch {
    return null;
  }
}

function keepBulk(bulk: KeptBulk | null): KeptBulk | null {
  kept = bulk;
  try {
    if (bulk) localStorage.setItem(KEY, JSON.stringify(bulk));
    else localStorage.removeItem(KEY);
  } catch {
    // A browser may forbid storage: the action then lasts as long as the page.
  }
  return bulk;
}

type Phase = "counting" | "counted" | "running" | "stopped" | "done";

export function Bulk({ asked, resumed }: { asked: URLSearchParams; resumed?: KeptBulk }) {
  const opened = useSignal<"cancel" | "replay" | null>(null);
  const status = asked.get("status");
  const foreign = FOREIGN.filter((name) => asked.get(name));
  const isAllowed = may("operate");
  if (resumed) {
    return (
      <div class="attention">
        <strong>A bulk action is not finished:</strong> {resumed.request.Action} {filterWords(resumed.request)},{" "}
        {counted(resumed.done, "task")} done.{" "}
        <button type="button" onClick={() => (opened.value = resumed.request.Action)}>Go on</button>{" "}
        <button type="button" onClick={() => (unfinishedBulk.value = keepBulk(null))}>Leave the rest</button>
        {opened.value && <Run action={opened.value} asked={asked} resumed={resumed} onClose={() => (opened.value = null)} />}
      </div>
    );
  }
  const why = !isAllowed ? "Your key or role does not operate tasks."
    : foreign.length ? `Not with the filter ${foreign.join(", ")}: choose rows, or take it out.` : undefined;
  const button = (action: "cancel" | "replay", text: string) => (
    <button type="button" disabled={why !== undefined} title={why} onClick={() => (opened.value = action)}>{text}</button>
  );
  return (
    <span class="tools">
      {(!status || status === "failed") && button("replay", "Replay all failed that fit …")}
      {(!status || ["created", "dispatched", "running"].includes(status)) &&
        button("cancel", status ? `Cancel all ${status} that fit …` : "Cancel all unfinished that fit …")}
      {opened.value && <Run action={opened.value} asked={asked} onClose={() => (opened.value = null)} />}
    </span>
  );
}

const WHY: Record<string, string> = {
  done: "replayed by this action before",
  finished: "has ended meanwhile",
  state: "is in another state now",
  bodiless: "nothing is kept to send again",
  unknown: "is gone",
};

function filterWords({ Path, Status, Q }: { Path?: string; Status?: string; Q?: string }): string {
  return `${Status ?? "unfinished"} tasks at ${Path ?? "all endpoints"}${Q ? ` with “${Q}” in their text` : ""}`;
}

function Run({ action, asked, resumed, onClose }: {
  action: "cancel" | "replay"; asked: URLSearchParams; resumed?: KeptBulk; onClose: () => void;
}) {
  const bulk = useRef<KeptBulk>(resumed ?? begun(action, asked));
  const phase = useSignal<Phase>(resumed ? "counted" : "counting");
  const matched = useSignal(resumed?.matched ?? 0);
  const done = useSignal(resumed?.done ?? 0);
  const refused = useSignal(resumed?.refused ?? []);
  const problem = useSignal<Problem | null>(null);
  const isStopped = useRef(false);
  useEffect(() => {
    if (!resumed) void count();
    return () => {
      isStopped.current = true;
      unfinishedBulk.value = kept;
    };
  }, []);

  const piece = (cursor: string | null, isDry: boolean) => sendJson<BulkAnswer>("POST", "bulk", {
    ...bulk.current.request, ...(cursor ? { Cursor: cursor } : {}), Limit: PIECE, DryRun: isDry,
  });

  const count = async () => {
    problem.value = null;
    phase.value = "counting";
    matched.value = 0;
    try {
      let cursor: string | null = null;
      do {
        const answer: BulkAnswer = await piece(cursor, true);
        matched.value += answer.Matched;
        cursor = answer.NextCursor;
      } while (cursor !== null && !isStopped.current);
      phase.value = "counted";
    } catch (error) {
      problem.value = error as Problem;
    }
  };

  const run = async () => {
    problem.value = null;
    phase.value = "running";
    isStopped.current = false;
    bulk.current.matched = matched.value;
    try {
      let cursor = bulk.current.request.Cursor ?? null;
      do {
        keepBulk({ ...bulk.current });
        const answer: BulkAnswer = await piece(cursor, false);
        bulk.current.done = done.value += answer.Done;
        bulk.current.refused = refused.value = [...refused.value, ...answer.Refused].slice(0, 200);
        cursor = answer.NextCursor;
        if (cursor) bulk.current.request.Cursor = cursor;
      } while (cursor !== null && !isStopped.current);
      if (cursor === null) keepBulk(null);
      else keepBulk({ ...bulk.current });
      phase.value = cursor === null ? "done" : "stopped";
    } catch (error) {
      problem.value = error as Problem;
      phase.value = "stopped";
    }
    refreshes.value += 1;
  };

  const verb = action === "replay" ? "Replay" : "Cancel";
  const isAbsent = problem.value?.isAbsent;
  return (
    <Dialog title={`${verb} ${filterWords(bulk.current.request)}`} onClose={onClose}>
      {isAbsent ? <p>This server has no bulk actions. Choose rows of the list instead.</p> : (
        <div class="stack" aria-live="polite">
          <p>Submitted before <Time at={bulk.current.request.CreatedBefore} /> {zone.value}: what comes later is left alone.</p>
          {phase.value === "counting" && <p>A dry run counts them: {counted(matched.value, "task")} so far …</p>}
          {phase.value === "counted" && matched.value === 0 && <p>No task fits.</p>}
          {phase.value === "counted" && matched.value > 0 && (
            <p>
              <strong>{counted(matched.value - done.value, "task")}</strong> at{" "}
              <strong>{bulk.current.request.Path ?? "all endpoints"}</strong>{" "}
              {action === "replay" ? "begin again with their bodies, at the end of their queues."
                : "end at once, and cannot be replayed."}
            </p>
          )}
          {["running", "stopped", "done"].includes(phase.value) && (
            <p>
              {counted(done.value, "task")} of {matched.value.toLocaleString("en")} done
              {phase.value === "running" ? " …" : phase.value === "stopped" ? ", then stopped. You can go on later, from this browser." : "."}
              {phase.value === "done" && done.value + refused.value.length < matched.value &&
                " The others were done before, or have changed meanwhile."}
            </p>
          )}
          {refused.value.length > 0 && (
            <details>
              <summary>{counted(refused.value.length, "task")} refused</summary>
              <ul class="small">
                {refused.value.map((each) => (
                  <li key={each.TaskId}><a class="id" href={`#/tasks/${each.TaskId}`}>{each.TaskId}</a>: {WHY[each.Why] ?? <Said text={each.Why} />}</li>
                ))}
              </ul>
            </details>
          )}
          {problem.value && <Trouble problem={problem.value} />}
        </div>
      )}
      <div class="answers">
        {phase.value === "running" ? (
          <button type="button" onClick={() => (isStopped.current = true)}>Stop</button>
        ) : (
          <button type="button" onClick={onClose}>{phase.value === "counted" && matched.value > 0 ? "Leave them" : "Close"}</button>
        )}
        {phase.value === "counting" && problem.value && !isAbsent && (
          <button type="button" onClick={() => void count()}>Count again</button>
        )}
        {(phase.value === "counted" || phase.value === "stopped") && matched.value > 0 && (
          <button type="button" class={action === "cancel" ? "danger" : "primary"} onClick={() => void run()}>
            {phase.value === "stopped" ? "Go on" : `${verb} ${counted(matched.value - done.value, "task")}`}
          </button>
        )}
      </div>
    </Dialog>
  );
}

function begun(action: "cancel" | "replay", asked: URLSearchParams): KeptBulk {
  const path = asked.get("path");
  const status = (asked.get("status") || (action === "replay" ? "failed" : "")) as State | "";
  const q = asked.get("q");
  const until = Date.parse(asked.get("until") ?? "");
  tick(); // what came within this second is there too
  return {
    request: {
      Action: action,
      ...(path ? { Path: path } : {}),
      ...(status ? { Status: status } : {}),
      ...(q ? { Q: q } : {}),
      CreatedBefore: new Date(Math.min(serverNow(), until || Number.POSITIVE_INFINITY)).toISOString(),
      OperationId: randomId(),
    },
    matched: 0,
    done: 0,
    refused: [],
  };
}
