/** What an operator does to a queue: pause, drain, limit. Each names the endpoint and what will happen. */

import { useSignal } from "@preact/signals";
import { may, sendJson } from "./api";
import { counted } from "./format";
import { refreshes } from "./poll";
import type { Queue } from "./shapes";
import { Confirm, Path } from "./ui";

type Action = "pause" | "resume" | "drain" | "accept" | "limit" | "rate";

export function QueueActions({ queue }: { queue: Queue }) {
  const asked = useSignal<Action | null>(null);
  const isAllowed = may("operate");
  const title = isAllowed ? undefined : "Your key or role does not operate queues.";
  const button = (action: Action, text: string) => (
    <button type="button" disabled={!isAllowed} title={title} onClick={() => (asked.value = action)}
      aria-label={`${text} ${queue.EndpointPath}`}>
      {text}
    </button>
  );
  return (
    <>
      <span class="group">
        {queue.Paused ? button("resume", "Resume") : button("pause", "Pause")}
        {queue.Draining ? button("accept", "Accept") : button("drain", "Drain")}
        {button("limit", "Limit")}
        {queue.Rate !== undefined && button("rate", "Rate")}
      </span>
      {asked.value === "limit" ? (
        <Limit queue={queue} onClose={() => (asked.value = null)} />
      ) : asked.value === "rate" ? (
        <Rate queue={queue} onClose={() => (asked.value = null)} />
      ) : (
        asked.value && <Switch queue={queue} action={asked.value} onClose={() => (asked.value = null)} />
      )}
    </>
  );
}

async function configure(queue: Queue, settings: Record<string, unknown>): Promise<void> {
  await sendJson("PATCH", `queues${queue.EndpointPath}`, settings);
  refreshes.value += 1;
}

const SWITCHES = {
  pause: { title: "Pause", settings: { Paused: true }, says: (queue: Queue) =>
    `The queue goes on taking tasks and dispatches none. ${counted(queue.Waiting, "task")} will go on waiting; the ` +
    `service finishes the ${counted(queue.InFlight, "task")} that it has.` },
  resume: { title: "Resume", settings: { Paused: false }, says: (queue: Queue) =>
    `The queue dispatches again, at once: ${counted(queue.Waiting, "task waits", "tasks wait")}.` },
  drain: { title: "Drain", settings: { Draining: true }, says: (queue: Queue) =>
    `New tasks are refused with 503. What waits is still dispatched: ${counted(queue.Waiting, "task")}.` },
  accept: { title: "Accept tasks at", settings: { Draining: false }, says: () => "The queue takes new tasks again." },
};

function Switch({ queue, action, onClose }: {
  queue: Queue; action: Exclude<Action, "limit" | "rate">; onClose: () => void;
}) {
  const { title, settings, says } = SWITCHES[action];
  return (
    <Confirm title={`${title} ${queue.EndpointPath}?`} action={title === "Accept tasks at" ? "Accept tasks" : title}
      act={() => configure(queue, settings)} onClose={onClose}>
      <p>{says(queue)}</p>
    </Confirm>
  );
}

function Limit({ queue, onClose }: { queue: Queue; onClose: () => void }) {
  const text = useSignal(queue.Limit === null ? "" : String(queue.Limit));
  const value = Number(text.value);
  const isRight = text.value === "" || (Number.isInteger(value) && value >= 1 && value <= 1_000_000);
  const act = async () => {
    if (isRight) await configure(queue, { Limit: text.value === "" ? null : value });
  };
  return (
    <Confirm title={`Limit ${queue.EndpointPath}`} action={text.value === "" ? "Take the limit away" : "Set the limit"}
      act={act} onClose={onClose}>
      <p>
        How many tasks the service behind <Path path={queue.EndpointPath} link={false} /> gets at a time, at most. It
        has {counted(queue.InFlight, "task")} now, and was found to hold {queue.Slots}.
      </p>
      <label>
        Limit (empty: as the app's settings say, or as the service takes)
        <input type="text" inputMode="numeric" value={text.value} aria-invalid={!isRight}
          onInput={(event) => (text.value = event.currentTarget.value.trim())} />
      </label>
      {!isRight && <p class="bad">A whole number from 1 to 1,000,000, or nothing.</p>}
    </Confirm>
  );
}

function Rate({ queue, onClose }: { queue: Queue; onClose: () => void }) {
  const text = useSignal(queue.Rate ?? "");
  const isBurst = useSignal(queue.Burst ?? false);
  const isRight = /^([1-9]\d{0,4}\/[1-9]\d{0,4}s)?$/.test(text.value);
  const act = async () => {
    if (isRight) await configure(queue, text.value ? { Rate: text.value, Burst: isBurst.value } : { Rate: null, Burst: null });
  };
  return (
    <Confirm title={`Rate of ${queue.EndpointPath}`} action={text.value === "" ? "Take the rate away" : "Set the rate"}
      act={act} onClose={onClose}>
      <p>How many tasks the service behind <Path path={queue.EndpointPath} link={false} /> gets in how many seconds, at most.</p>
      <label>
        Rate, such as 100/60s (empty: as the app's settings say)
        <input type="text" value={text.value} aria-invalid={!isRight}
          onInput={(event) => (text.value = event.currentTarget.value.trim())} />
      </label>
      <p>
        <input type="checkbox" id="burst" checked={isBurst.value}
          onChange={(event) => (isBurst.value = event.currentTarget.checked)} />{" "}
        <label for="burst">all at once, if so many wait</label>
      </p>
      {!isRight && <p class="bad">Such as 100/60s: up to 10,000 tasks in up to 86,400 seconds.</p>}
    </Confirm>
  );
}
