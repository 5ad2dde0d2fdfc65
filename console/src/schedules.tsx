/** What is submitted again and again: the list of schedules, and one of them. */

import { useSignal } from "@preact/signals";
import { may, send, sendJson } from "./api";
import { zone } from "./clock";
import { bytes, duration, isTaskId, visible } from "./format";
import { type Polled, refreshes, usePolled } from "./poll";
import { go, href, route } from "./router";
import type { Schedule, ScheduleList, Task } from "./shapes";
import { Fact } from "./task";
import { Confirm, Exports, Head, Note, Path, Said, Shown, Table, Time } from "./ui";

export function SchedulesPage() {
  const name = route.value.rest.slice(1);
  const owner = route.value.query.get("owner");
  if (!name) return <Schedules />;
  // A name has the letters that a task's id has.
  if (!isTaskId(name)) return <Note>“{visible(name)}” is no schedule's name. <a href={href("schedules")}>All schedules</a></Note>;
  return <ScheduleOf key={`${owner} ${name}`} name={name} owner={owner} />;
}

function Schedules() {
  const cursor = route.value.query.get("cursor");
  const polled = usePolled<ScheduleList>(`schedules ${cursor ?? ""}`,
    () => `schedules?${new URLSearchParams({ limit: "100", ...(cursor ? { cursor } : {}) })}`);
  return (
    <>
      <Head title="Schedules" name="Schedules" polled={polled as Polled<unknown>}>
        <Exports name="schedules" rows={polled.data.value?.Schedules ?? []} columns={EXPORTED} />
      </Head>
      <Shown polled={polled} absent="This server has no schedules.">
        {({ Schedules, NextCursor }) => Schedules.length === 0 ? (
          <Note>Nothing is submitted again and again. A schedule does: <code>PUT v1/schedules/NAME</code>, or{" "}
            <code>taskbackbone schedule put</code>.</Note>
        ) : (
          <>
            <Table label="Schedules" rows={Schedules} rowKey={(one) => `${one.Owner} ${one.Name}`} columns={[
              { id: "name", head: "Schedule", cell: (one) => <a href={linkOf(one)}>{one.Name}</a> },
              { id: "owner", head: "Owner", cell: (one) => (one.Owner ? <Said text={one.Owner} /> : "–") },
              { id: "path", head: "Endpoint", cell: (one) => <Path path={one.Path} link={one.Path.startsWith("/")} /> },
              { id: "cron", head: "When", cell: (one) => <Said text={`${one.Cron} ${one.TimeZone}`} /> },
              { id: "next", head: () => `Next, ${zone.value}`, isFigure: true, cell: (one) => <Next schedule={one} /> },
            ]} />
            {NextCursor && <p><a class="button" href={href("schedules", { cursor: NextCursor })}>Further schedules</a></p>}
          </>
        )}
      </Shown>
    </>
  );
}

const EXPORTED = (["Name", "Owner", "Path", "Query", "Cron", "TimeZone", "Overlap", "CatchUp", "Until", "Priority", "Paused",
  "NextTime"] as const).map((name) => ({ name, value: (one: Schedule) => one[name] }));

function linkOf({ Name, Owner }: Schedule): string {
  return href(`schedules/${Name}`, Owner ? { owner: Owner } : {});
}

function Next({ schedule }: { schedule: Schedule }) {
  if (schedule.Paused) return <span class="warn">paused</span>;
  return schedule.NextTime ? <Time at={schedule.NextTime} /> : <>never</>;
}

function ScheduleOf({ name, owner }: { name: string; owner: string | null }) {
  const path = (rest = "") =>
    `schedules/${name}${rest}${owner ? `?${new URLSearchParams({ owner })}` : ""}`;
  const polled = usePolled<Schedule>(`schedule ${owner ?? ""} ${name}`, () => path());
  const schedule = polled.data.value;
  return (
    <>
      <Head title={<>Schedule <Said text={name} /></>} name={name} polled={polled as Polled<unknown>}>
        {schedule && <Actions schedule={schedule} path={path} />}
      </Head>
      <Shown polled={polled} absent="This server has no schedules." missing={<>
        There is no schedule “{visible(name)}”. <a href={href("schedules")}>All schedules</a>
      </>}>
        {(one) => (
          <>
            <dl class="facts">
              <Fact name="Endpoint"><Path path={one.Path} link={one.Path.startsWith("/")} /></Fact>
              {one.Query && <Fact name="Query"><Said text={one.Query} /></Fact>}
              <Fact name="When"><Said text={`${one.Cron} ${one.TimeZone}`} /></Fact>
              <Fact name={`Next, ${zone.value}`}>
                <Next schedule={one} />
                {one.NextTimes?.slice(1).map((time) => <div key={time} class="dim"><Time at={time} /></div>)}
              </Fact>
              {one.Until && <Fact name={`Until, ${zone.value}`}><Time at={one.Until} /></Fact>}
              <Fact name="If the last one has not ended">{one.Overlap}</Fact>
              <Fact name="Made up for after an outage">{one.CatchUp}</Fact>
              <Fact name="Body">{bytes(one.BodyBytes)}, <Said text={one.ContentType} /></Fact>
              <Fact name="Priority">{one.Priority}</Fact>
              {one.StartBefore != null && <Fact name="May wait for">{duration(one.StartBefore)}</Fact>}
              {one.MaxRun != null && <Fact name="May run for">{duration(one.MaxRun)}</Fact>}
              {one.Callback && <Fact name="Calls when it ends"><Said text={one.Callback} /></Fact>}
              {one.Owner && <Fact name="Owner"><Said text={one.Owner} /></Fact>}
              <Fact name={`Changed, ${zone.value}`}><Time at={one.UpdatedAt} /></Fact>
            </dl>
            <h2>Last runs</h2>
            {one.Runs?.length ? (
              <Table label="Last runs" rows={one.Runs} rowKey={(run) => `${run.Due} ${run.TaskId}`} columns={[
                { id: "due", head: () => `Due, ${zone.value}`, isFigure: true, cell: (run) => <Time at={run.Due} /> },
                { id: "outcome", head: "Run", cell: (run) => `${run.Outcome}${run.Asked ? ", asked for" : ""}` },
                { id: "task", head: "Task", cell: (run) => run.TaskId ? (
                  <><a class="id" href={href(`tasks/${run.TaskId}`)}>{run.TaskId.slice(0, 8)}…</a> {run.BackendStatus ?? ""}</>
                ) : "–" },
                { id: "why", head: "Why", cell: (run) => (run.Reason ? <Said text={run.Reason} /> : "–") },
              ]} />
            ) : <Note>It has not been due yet.</Note>}
          </>
        )}
      </Shown>
    </>
  );
}

const DOES = {
  run: "Its task is submitted now, beside the times at which it is due.",
  pause: "No time makes it due until somebody resumes it.",
  resume: "It goes on with the next time.",
  delete: "It is gone for good. Its tasks stay.",
};

function Actions({ schedule, path }: { schedule: Schedule; path: (rest?: string) => string }) {
  const asked = useSignal<keyof typeof DOES | null>(null);
  const isAllowed = may("operate");
  const act = async (action: keyof typeof DOES) => {
    if (action === "delete") {
      await send(path(), { method: "DELETE" });
      go(href("schedules"));
    } else if (action === "run") go(href(`tasks/${(await sendJson<Task>("POST", path("/run"))).TaskId}`));
    else await sendJson("POST", path(`/${action}`));
    refreshes.value += 1;
  };
  const button = (action: keyof typeof DOES, text: string) => (
    <button type="button" disabled={!isAllowed} title={isAllowed ? undefined : "Your key or role does not operate schedules."}
      onClick={() => (asked.value = action)}>
      {text}
    </button>
  );
  const present = asked.value;
  return (
    <>
      {button("run", "Run now")}
      {schedule.Paused ? button("resume", "Resume") : button("pause", "Pause")}
      {button("delete", "Delete")}
      {present && (
        <Confirm title={`${present[0]!.toUpperCase()}${present.slice(1)} ${schedule.Name}?`} action={`Yes, ${present} it`}
          isDangerous={present === "delete"} act={() => act(present)} onClose={() => (asked.value = null)}>
          <p>{DOES[present]}</p>
        </Confirm>
      )}
    </>
  );
}
