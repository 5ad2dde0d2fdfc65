/** What all pages are made of. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren, JSX } from "preact";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { type Problem, slow } from "./api";
import { now, shownTime, zone } from "./clock";
import { type Column as ExportColumn, csv, download, stamp } from "./export";
import { visible } from "./format";
import { live, type Polled, refreshes } from "./poll";
import { href, route, setQuery } from "./router";

/** A text that others wrote: each character seen, and no effect on the direction of what follows. */
export function Said({ text, most = 2000 }: { text: string; most?: number }) {
  const shown = visible(text.length > most ? `${text.slice(0, most)}…` : text);
  return <bdi class="said" title={shown.length > 60 ? shown : undefined}>{shown}</bdi>;
}

export function Path({ path, link = true }: { path: string; link?: boolean }) {
  // Breaks where a path has its joints.
  const parts = path.split(/(?<=\/)/).flatMap((part, index) => (index ? [<wbr />, part] : [part]));
  return link ? <a class="path" href={href(`queue${path}`)}>{parts}</a> : <span class="path">{parts}</span>;
}

export function Time({ at }: { at: string | number | null | undefined }) {
  if (at == null) return <>–</>;
  const iso = typeof at === "number" ? new Date(at).toISOString() : at;
  return <time dateTime={iso} title={`${shownTime(at)} ${zone.value} (${iso})`}>{shownTime(at)}</time>;
}

const MARKS: Record<string, string> = {
  created: "◌", dispatched: "◔", running: "◑", completed: "●", failed: "✕", cancelled: "⊘",
};

export function StateMark({ state }: { state: string }) {
  return (
    <span class={`state state-${state}`}>
      <span aria-hidden="true">{MARKS[state] ?? "·"}</span> {state}
    </span>
  );
}

export function Meter({ value, label }: { value: number; label: string }) {
  return (
    <span class="meter" role="img" aria-label={label} title={label}>
      <span style={{ width: `${Math.round(Math.min(1, Math.max(0, value)) * 100)}%` }} />
    </span>
  );
}

/** The head of a page: its name, what can be done, and how old the data is. */
export function Head(props: {
  title: ComponentChildren;
  name: string;
  polled?: Polled<unknown>;
  children?: ComponentChildren;
}) {
  useEffect(() => {
    document.title = `${props.name} · Task Backbone`;
  }, [props.name]);
  return (
    <>
      <div class="head">
        <h1>{props.title}</h1>
        <div class="tools">{props.children}</div>
      </div>
      {props.polled && <Freshness polled={props.polled} />}
    </>
  );
}

function Freshness({ polled }: { polled: Polled<unknown> }) {
  const at = polled.at.value;
  const problem = polled.problem.value;
  const isPaused = !live.value;
  return (
    <p class="fresh">
      {at > 0 && <>As of <Time at={at} /> {zone.value}. </>}
      {isPaused && "Updates are paused. "}
      {problem === null && at === 0 && (slow.value ? <Starting /> : "Asking the server …")}
      <button type="button" class="link" onClick={() => (refreshes.value += 1)}>Refresh</button>
    </p>
  );
}

function Starting() {
  return <>No answer yet: after an idle time the app takes up to half a minute to start. </>;
}

/** The data, or in what way there is none. What was shown before stays, marked as old, while the server is away. */
export function Shown<T>(props: {
  polled: Polled<T>;
  absent?: ComponentChildren;
  missing?: ComponentChildren;
  children: (data: T) => ComponentChildren;
}) {
  const { polled } = props;
  const data = polled.data.value;
  const problem = polled.problem.value;
  if (problem?.isAbsent && props.absent !== undefined) return <Note>{props.absent}</Note>;
  if (problem?.status === 404 && props.missing !== undefined) return <Note>{props.missing}</Note>;
  return (
    <>
      {problem && (
        // Over the page where there is one already: it must not move what somebody points at.
        <div class={data === null ? undefined : "over-page"}>
          <Trouble problem={problem} since={polled.at.value} retry={polled.refresh} />
        </div>
      )}
      {data === null ? (
        problem === null && <Waiting />
      ) : (
        <div class={problem ? "stale" : undefined}>{props.children(data)}</div>
      )}
    </>
  );
}

function Waiting() {
  return (
    <div class="waiting" role="status">
      <span /><span /><span />
      <p class="hidden">Asking the server …</p>
      {slow.value && <p><Starting /></p>}
    </div>
  );
}

export function Trouble({ problem, since = 0, retry }: { problem: Problem; since?: number; retry?: () => void }) {
  const head =
    problem.status === 0 ? "No answer" : problem.status === 503 ? "Unavailable (503)" : `Refused (${problem.status})`;
  return (
    <div class="trouble" role="alert">
      <strong>{head}.</strong> <Said text={problem.message} />{" "}
      {since > 0 && <>What you see is from <Time at={since} /> {zone.value}. </>}
      {problem.isPassing && "The page asks again by itself. "}
      {retry && <button type="button" onClick={retry}>Ask again now</button>}
    </div>
  );
}

export function Note({ children }: { children: ComponentChildren }) {
  return <div class="note">{children}</div>;
}

/** Whether somebody points at a row, or has the focus in one: nothing may move then. */
export function isPointedAt(): boolean {
  return document.querySelector("tbody:hover, tbody:focus-within") !== null;
}

/** *value* as it was when nobody pointed at a row: for what stands above the rows, and would move them. */
export function useSteady<T>(value: T): T {
  const kept = useRef(value);
  if (!isPointedAt()) kept.current = value;
  return kept.current;
}

export interface TableColumn<T> {
  id: string;
  /** Its name; a function of one that names the zone of times. */
  head: string | (() => string);
  cell: (row: T) => ComponentChildren;
  sort?: (row: T) => number | string;
  /** A number or a time: set to the right, in digits of one width. */
  isFigure?: boolean;
}

export interface Selection {
  chosen: ReadonlySet<string>;
  toggle: (key: string) => void;
  toggleAll: (keys: string[]) => void;
}

/**
 * A table. While the mouse is over it, or the keyboard in it, its rows keep their order, so that nothing moves away
 * from under a click. The sort is in the address.
 */
export function Table<T>(props: {
  label: string;
  columns: TableColumn<T>[];
  rows: T[];
  rowKey: (row: T) => string;
  selection?: Selection | undefined;
  rowClass?: (row: T) => string | undefined;
  sortable?: boolean;
}) {
  const isHeld = useSignal(false);
  const order = useRef<string[]>([]);
  const sort = props.sortable ? (route.value.query.get("sort") ?? "") : "";
  const rows = arranged(sorted(props.rows, props.columns, sort), props.rowKey, isHeld.value ? order.current : null);
  order.current = rows.map(props.rowKey);
  // The first rows are drawn before the others: a slow computer takes seconds for hundreds.
  const most = useSignal(15);
  useEffect(() => void (most.value = Number.POSITIVE_INFINITY), []);
  const { selection } = props;
  const keys = order.current;
  const hold = () => (isHeld.value = true);
  const release = (event: JSX.TargetedEvent<HTMLElement>) => {
    const table = event.currentTarget;
    // Focus may be on its way to another cell of the table.
    setTimeout(() => (isHeld.value = table.matches(":hover") || table.matches(":focus-within")));
  };
  return (
    <div class="scroll">
      <table role="table" aria-label={props.label} onMouseEnter={hold} onMouseLeave={release} onFocusIn={hold}
        onFocusOut={release}>
        <thead role="rowgroup">
          <tr role="row">
            {selection && (
              <th role="columnheader" class="pick">
                <input type="checkbox" aria-label="Select all rows that are shown"
                  checked={keys.length > 0 && keys.every((key) => selection.chosen.has(key))}
                  onChange={() => selection.toggleAll(keys)} />
              </th>
            )}
            {props.columns.map((column) => (
              <Heading key={column.id} column={column} sort={sort} sortable={Boolean(props.sortable)} />
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.slice(0, most.value).map((row) => {
            const key = props.rowKey(row);
            return (
              <tr role="row" key={key} class={props.rowClass?.(row)} data-row>
                {selection && (
                  <td role="cell" class="pick">
                    <input type="checkbox" aria-label={`Select ${key}`} checked={selection.chosen.has(key)}
                      onChange={() => selection.toggle(key)} />
                  </td>
                )}
                {props.columns.map((column) => (
                  <td role="cell" key={column.id} class={`c-${column.id} ${column.isFigure ? "figure" : ""}`}
                    data-label={headOf(column)}>
                    <div>{column.cell(row)}</div>
                  </td>
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function headOf<T>({ head }: TableColumn<T>): string {
  return typeof head === "string" ? head : head();
}

function Heading<T>({ column, sort, sortable }: { column: TableColumn<T>; sort: string; sortable: boolean }) {
  const name = sort.replace(/^-/, "");
  const isSorted = sortable && name === column.id;
  const isDown = sort.startsWith("-");
  const next = isSorted && isDown ? column.id : isSorted ? null : `-${column.id}`;
  return (
    <th role="columnheader" class={`c-${column.id} ${column.isFigure ? "figure" : ""}`}
      aria-sort={isSorted ? (isDown ? "descending" : "ascending") : undefined}>
      {sortable && column.sort ? (
        <button type="button" class="sort" onClick={() => setQuery({ sort: next })}>
          {headOf(column)}
          <span aria-hidden="true">{isSorted ? (isDown ? " ▾" : " ▴") : ""}</span>
        </button>
      ) : (
        headOf(column)
      )}
    </th>
  );
}

function sorted<T>(rows: T[], columns: TableColumn<T>[], sort: string): T[] {
  const by = columns.find((column) => column.id === sort.replace(/^-/, ""))?.sort;
  if (!by) return rows;
  const direction = sort.startsWith("-") ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [by(a), by(b)];
    return x === y ? 0 : direction * (x < y ? -1 : 1);
  });
}

/** *rows* in the order in which they were: what is new comes last. */
function arranged<T>(rows: T[], rowKey: (row: T) => string, before: string[] | null): T[] {
  if (before === null || before.length === 0) return rows;
  const places = new Map(before.map((key, index) => [key, index]));
  const place = (row: T) => places.get(rowKey(row)) ?? Number.MAX_SAFE_INTEGER;
  return [...rows].sort((a, b) => place(a) - place(b));
}

export function Exports<T>(props: { name: string; columns: ExportColumn<T>[]; rows: readonly T[] }) {
  const file = (ending: string) => `${props.name}-${stamp()}.${ending}`;
  const isEmpty = props.rows.length === 0;
  return (
    <span class="group" role="group" aria-label="Export what is shown">
      <button type="button" disabled={isEmpty} onClick={() => download(file("csv"), csv(props.columns, props.rows))}>
        CSV
      </button>
      <button type="button" disabled={isEmpty}
        onClick={() => download(file("json"), `${JSON.stringify(props.rows, null, 2)}\n`)}>
        JSON
      </button>
    </span>
  );
}

/** A window that has to be answered first. Escape closes it. */
export function Dialog(props: { title: string; onClose: () => void; children: ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    const before = document.activeElement;
    if (dialog && !dialog.open) dialog.showModal();
    return () => {
      dialog?.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  const id = useMemo(() => `dialog-${Math.random().toString(36).slice(2)}`, []);
  return (
    <dialog ref={ref} aria-labelledby={id} onCancel={(event) => {
      event.preventDefault();
      props.onClose();
    }}>
      <h2 id={id}>{props.title}</h2>
      {props.children}
    </dialog>
  );
}

/** Asks, names what will happen, and does it. The dialog stays, with the reason, if it cannot be done. */
export function Confirm(props: {
  title: string;
  children: ComponentChildren;
  action: string;
  isDangerous?: boolean;
  act: () => Promise<void>;
  onClose: () => void;
}) {
  const problem = useSignal<Problem | null>(null);
  const isBusy = useSignal(false);
  const act = async () => {
    isBusy.value = true;
    try {
      await props.act();
      props.onClose();
    } catch (error) {
      problem.value = error as Problem;
    } finally {
      isBusy.value = false;
    }
  };
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      {props.children}
      {problem.value && <Trouble problem={problem.value} />}
      <div class="answers">
        <button type="button" onClick={props.onClose}>Leave it</button>
        <button type="button" class={props.isDangerous ? "danger" : "primary"} disabled={isBusy.value}
          onClick={() => void act()}>
          {isBusy.value ? "Asking the server …" : props.action}
        </button>
      </div>
    </Dialog>
  );
}

export function Copy({ text, label }: { text: string; label: string }) {
  const isDone = useSignal(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without TLS a browser has no clipboard for pages; this older way works there.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    isDone.value = true;
    setTimeout(() => (isDone.value = false), 2000);
  };
  return (
    <button type="button" onClick={() => void copy()} title={text}>
      <span aria-live="polite">{isDone.value ? "Copied" : label}</span>
    </button>
  );
}

/** A line with a gap where nothing is known. A single figure between gaps is a point, by the round ends of lines. */
export function linePath(values: readonly (number | null)[], x: (index: number) => number, y: (value: number) => number): string {
  let isOpen = false;
  return values.map((value, index) => {
    const begins = !isOpen;
    isOpen = value !== null;
    if (value === null) return "";
    const place = `${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    return begins ? `M${place}h0` : `L${place}`;
  }).join("");
}

/** A small line of the last figures; null where nothing is known. */
export function Sparkline({ values, label }: { values: readonly (number | null)[]; label: string }) {
  const known = values.filter((value): value is number => value !== null);
  if (known.length < 2) return <span class="spark" title={label}>–</span>;
  const top = Math.max(...known, 1e-9);
  const [width, height] = [88, 22];
  const x = (index: number) => (index / (values.length - 1)) * width;
  const y = (value: number) => height - 2 - (value / top) * (height - 4);
  return (
    <svg class="spark" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={label}>
      <title>{label}</title>
      <path d={linePath(values, x, y)} />
    </svg>
  );
}

/** Rendered anew each second, for what grows with the clock. */
export function useClock(): number {
  return now.value;
}
