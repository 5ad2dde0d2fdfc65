/** A task's attempts and steps over time. What is still under way grows with the clock. */

import { serverNow, zone } from "./clock";
import { duration } from "./format";
import { ENDS, type History, type HistoryEntry, type State } from "./shapes";
import { Path, Said, StateMark, Table, Time, useClock } from "./ui";

interface Piece {
  state: State;
  from: number;
  to: number;
  isOpen: boolean;
}

interface Attempt {
  key: string;
  attempt: number;
  path: string;
  pieces: Piece[];
  /** How it ended, if it has. */
  end: HistoryEntry | null;
}

/** One line for each attempt: how long it waited, was on its way, and ran. */
export function attempts(events: readonly HistoryEntry[], until: number): Attempt[] {
  const found: Attempt[] = [];
  events.forEach((event, index) => {
    const next = events[index + 1];
    let line = found.at(-1);
    if (!line || line.attempt !== event.Attempt || line.path !== event.EndpointPath) {
      const key = `${event.Attempt} ${event.EndpointPath} ${index}`;
      line = { key, attempt: event.Attempt, path: event.EndpointPath, pieces: [], end: null };
      found.push(line);
    }
    if (ENDS.includes(event.State)) {
      line.end = event;
      return;
    }
    const from = Date.parse(event.Timestamp);
    const to = next ? Date.parse(next.Timestamp) : Math.max(from, until);
    line.pieces.push({ state: event.State, from, to, isOpen: !next });
    if (next && (next.Attempt !== event.Attempt || next.EndpointPath !== event.EndpointPath)) line.end = next;
  });
  return found;
}

export function Timeline({ history, start }: { history: History; start: string }) {
  useClock();
  const until = serverNow();
  const lines = attempts(history.Events, until);
  const from = Math.min(Date.parse(start), ...lines.flatMap((line) => line.pieces.map((piece) => piece.from)));
  const to = Math.max(from + 1, ...lines.flatMap((line) => line.pieces.map((piece) => piece.to)));
  const place = (moment: number) => `${(100 * (moment - from)) / (to - from)}%`;
  const paths = new Set(lines.map((line) => line.path));
  return (
    <div class="card">
      <p class="small dim">
        <Time at={from} /> to <Time at={to} /> {zone.value}, {duration((to - from) / 1000)} in all.
        <i class="key b-created" />waits<i class="key b-dispatched" />dispatched<i class="key b-running" />runs
      </p>
      {lines.map((line) => (
        <div class="line" key={line.key}>
          <span>
            Attempt {line.attempt}
            {paths.size > 1 && <div class="small"><Path path={line.path} link={line.path.startsWith("/")} /></div>}
          </span>
          <span class="track" role="img" aria-label={pieceWords(line)}>
            {line.pieces.map((piece) => (
              <span key={piece.from} class={`b-${piece.state}`}
                style={{ left: place(piece.from), width: `${(100 * (piece.to - piece.from)) / (to - from)}%` }} />
            ))}
          </span>
          <small>{pieceWords(line)}{line.end && <>; {endWords(line.end)}</>}</small>
        </div>
      ))}
    </div>
  );
}

const DOES: Record<string, string> = { created: "waited", dispatched: "dispatched for", running: "ran" };
const DOES_NOW: Record<string, string> = { created: "waits for", dispatched: "dispatched for", running: "runs for" };

function pieceWords(line: Attempt): string {
  return line.pieces.map((piece) =>
    `${(piece.isOpen ? DOES_NOW : DOES)[piece.state]} ${duration((piece.to - piece.from) / 1000)}`).join(", ");
}

const ENDED_BY: Record<string, string> = {
  "next-step": "went to the next step",
  requeue: "the dispatch came to nothing",
  release: "the service gave it back",
  silence: "nothing was heard of it",
  overrun: "it ran for too long",
  replay: "replayed",
  cancel: "cancelled",
  "give-up": "given up",
  answer: "ended with the answer to the dispatch",
  children: "its children have ended",
};

function endWords(entry: HistoryEntry): string {
  return ENDED_BY[entry.Reason] ?? (ENDS.includes(entry.State) ? entry.State : entry.Reason);
}

export function Events({ history }: { history: History }) {
  return (
    <Table label="History" rows={history.Events.map((entry, index) => ({ entry, index }))}
      rowKey={(row) => String(row.index)} columns={[
        { id: "at", head: `Time, ${zone.value}`, isFigure: true, cell: ({ entry }) => <Time at={entry.Timestamp} /> },
        { id: "state", head: "State", cell: ({ entry }) => <StateMark state={entry.State} /> },
        { id: "attempt", head: "Attempt", isFigure: true, cell: ({ entry }) => entry.Attempt },
        { id: "who", head: "Who", cell: ({ entry }) => (
          <>{entry.Who}{entry.Operator && <>: <Said text={entry.Operator} /></>}</>
        ) },
        { id: "reason", head: "Reason", cell: ({ entry }) => [entry.Reason, entry.EndReason].filter(Boolean).join(", ") },
        { id: "path", head: "Endpoint", cell: ({ entry }) => (
          <Path path={entry.EndpointPath} link={entry.EndpointPath.startsWith("/")} />
        ) },
        { id: "said", head: "Status", cell: ({ entry }) => <Said text={entry.Status} most={300} /> },
      ]} />
  );
}
