/** Who did what: every action of an operator. */

import { useSignal } from "@preact/signals";
import { getJson, type Problem } from "./api";
import { zone } from "./clock";
import { count, isPath, isTaskId } from "./format";
import { type Polled, usePolled } from "./poll";
import { href, route, setQuery } from "./router";
import type { Audit, AuditEntry } from "./shapes";
import { Exports, Head, Note, Path, Said, Shown, Table, Time, Trouble } from "./ui";

export function AuditPage() {
  const polled = usePolled<Audit>("audit", () => "audit");
  const later = useSignal<Audit[]>([]);
  const problem = useSignal<Problem | null>(null);
  const filter = (route.value.query.get("filter") ?? "").toLowerCase();
  const pages = polled.data.value ? [polled.data.value, ...later.value] : [];
  const entries = pages.flatMap((page) => page.Entries);
  const shown = entries.filter((entry) => `${entry.Operator} ${entry.Action} ${entry.Target}`.toLowerCase().includes(filter));
  const cursor = pages.at(-1)?.NextCursor;
  const further = async () => {
    problem.value = null;
    try {
      later.value = [...later.value, await getJson<Audit>(`audit?${new URLSearchParams({ cursor: cursor ?? "" })}`)];
    } catch (error) {
      problem.value = error as Problem;
    }
  };
  return (
    <>
      <Head title="Audit" name="Audit" polled={polled as Polled<unknown>}>
        <Exports name="audit" rows={shown} columns={EXPORTED} />
      </Head>
      <Shown polled={polled} absent="This server keeps no audit.">
        {() => entries.length === 0 ? <Note>No operator has done anything yet: no cancel, no replay, no setting.</Note> : (
          <>
            <div class="filters">
              <label class="grow">
                Operator, action or target has
                <input type="search" data-filter value={route.value.query.get("filter") ?? ""}
                  onInput={(event) => setQuery({ filter: event.currentTarget.value }, true)} />
              </label>
            </div>
            <Table label="Audit" rows={shown} rowKey={keyOf} columns={[
              { id: "at", head: `Time, ${zone.value}`, isFigure: true, cell: (entry) => <Time at={entry.At} /> },
              { id: "who", head: "Operator", cell: (entry) => (
                entry.Operator ? <Said text={entry.Operator} most={128} />
                  : <span class="dim">not known{entry.By === "key" && ": by a key"}</span>
              ) },
              { id: "action", head: "Action", cell: (entry) => <Said text={entry.Action} most={200} /> },
              { id: "target", head: "Target", cell: (entry) => <Target target={entry.Target} /> },
              { id: "count", head: "Changed", isFigure: true, cell: (entry) => count(entry.Count) },
            ]} />
            {shown.length === 0 && <Note>No entry of those that were read has “{filter}”.</Note>}
            {problem.value && <Trouble problem={problem.value} />}
            {cursor && <p><button type="button" onClick={() => void further()}>Older entries</button></p>}
          </>
        )}
      </Shown>
    </>
  );
}

function keyOf(entry: AuditEntry): string {
  return `${entry.At} ${entry.OperationId} ${entry.Action} ${entry.Target}`;
}

function Target({ target }: { target: string | null }) {
  if (target === null) return <>–</>;
  if (isPath(target)) return <Path path={target} />;
  if (isTaskId(target)) return <a class="id" href={href(`tasks/${target}`)}>{target}</a>;
  return <Said text={target} most={300} />;
}

const EXPORTED = (["At", "Operator", "Action", "Target", "Count", "OperationId"] as const).map((name) => ({
  name, value: (entry: AuditEntry) => entry[name],
}));
