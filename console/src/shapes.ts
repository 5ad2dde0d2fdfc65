/** What the server answers, as docs/openapi.json has it. Members that an older server leaves out are optional. */

export type Role = "read" | "content" | "operate";
export type State = "created" | "dispatched" | "running" | "completed" | "failed" | "cancelled";

export interface Me {
  Name: string | null;
  Roles: Role[];
  By: "key" | "gateway" | "easyauth" | null;
  Version: string | null;
  Environment: string | null;
  Now: string;
  RetentionSeconds: number | null;
  /** Where a task's trace is shown. An older server does not say. */
  TraceUrl?: string | null;
}

export interface Queue {
  EndpointPath: string;
  Waiting: number;
  Delayed?: number;
  Demand: number;
  Dispatched: number;
  Running: number;
  Completed: number;
  Failed: number;
  Cancelled: number;
  OldestWaitingSeconds: number;
  OldestWaitingSince?: string | null;
  InFlight: number;
  Slots: number;
  Limit: number | null;
  Rate?: string | null;
  Burst?: boolean;
  PerOwner?: { Waiting: number | null; InFlight: number | null; Hard: boolean } | null;
  Owners?: { Owner: string | null; Waiting: number; InFlight: number }[] | null;
  Paused: boolean;
  Draining: boolean;
  /** The last change of any of them. */
  SettingsChanged?: { At: string; Operator: string | null } | null;
  Outage: { Since: string; Cause: string } | null;
  Backend?: {
    State: "up" | "down" | "full" | "unregistered" | "unknown";
    Until: string | null;
    MeanSeconds: number | null;
  };
}

export interface QueueList {
  Queues: Queue[];
  NextCursor: string | null;
}

export interface Task {
  TaskId: string;
  Timestamp: string;
  Status: string;
  BackendStatus: Exclude<State, "dispatched">;
  EndpointPath: string;
  PublishToGrid: boolean;
  Attempt: number;
  CreatedAt: string;
  ResultContentType: string | null;
  ResultSize: number | null;
  Priority: number;
  LeaseSeconds: number;
  Progress: number | null;
  QueuePosition?: number;
  EstimatedStart?: string;
  StartAt?: string;
  ExpiresAt?: string;
  MaxRunSeconds?: number;
  Callback?: string;
  Step?: number;
  Steps?: number;
  Pipeline?: string;
  Batch?: string;
  Owner?: string | null;
  MaxBodyBytes?: number;
}

/** A task that has children: only batches have `Total`. */
export interface Batch extends Task {
  Name: string | null;
  Sealed: boolean;
  Total: number;
  Completed: number;
  Failed: number;
  Cancelled: number;
  Unfinished: number;
  Then: string | null;
  ThenTaskId?: string;
}

export interface TaskList {
  Tasks: Task[];
  NextCursor: string | null;
  Looked?: number;
}

export interface BatchList {
  Batches: Batch[];
  NextCursor: string | null;
}

export interface HistoryEntry {
  Timestamp: string;
  State: State;
  Status: string;
  Attempt: number;
  Who: string;
  Operator?: string | null;
  EndpointPath: string;
  Reason: string;
  EndReason?: string;
  Progress?: number;
}

export interface History {
  TaskId: string;
  Events: HistoryEntry[];
}

type Figures = (number | null)[];

export interface Percentiles {
  P50: Figures;
  P95: Figures;
  P99: Figures;
}

export interface Series {
  Path: string | null;
  From: string;
  To: string;
  StepSeconds: number;
  Times: string[];
  Created: Figures;
  Completed: Figures;
  Failed: Figures;
  Cancelled: Figures;
  Retried: Figures;
  Waiting: Figures;
  InFlight: Figures;
  Slots: Figures;
  OldestWaitingSeconds: Figures;
  WaitSeconds: Percentiles;
  RunSeconds: Percentiles;
}

/** A page of endpoints, or the one that was asked for. */
export interface SeriesList {
  Series: Series[];
  NextCursor: string | null;
}

export interface AuditEntry {
  At: string;
  Operator: string | null;
  By?: string;
  Action: string;
  Target: string | null;
  Count: number | null;
  OperationId: string | null;
}

export interface Audit {
  Entries: AuditEntry[];
  NextCursor: string | null;
}

export interface BulkRequest {
  Action: "cancel" | "replay";
  Path?: string;
  Status?: State;
  Q?: string;
  CreatedBefore: string;
  Limit: number;
  DryRun: boolean;
  OperationId: string;
  Cursor?: string;
}

export interface BulkAnswer {
  Matched: number;
  Done: number;
  Refused: { TaskId: string; Why: string }[];
  NextCursor: string | null;
}

export interface Requests {
  Counters: { Cluster: string; Path: string; Count: number; UpdatedAt: string }[];
  NextCursor?: string | null;
}

export interface Health {
  Status: "ok" | "degraded" | "unavailable";
  Dependencies: Record<string, string>;
  MaxBodyBytes: number;
  MaxUploadBytes: number;
}

export interface Schedule {
  Name: string;
  Owner: string | null;
  Path: string;
  Query: string;
  ContentType: string;
  BodyBytes: number;
  Cron: string;
  TimeZone: string;
  Overlap: string;
  CatchUp: string;
  Until: string | null;
  Priority: number;
  StartBefore: number | null;
  MaxRun: number | null;
  Callback: string | null;
  Paused: boolean;
  UpdatedAt: string;
  NextTime: string | null;
  /** These two only of one that was asked for. */
  NextTimes?: string[];
  Runs?: {
    Due: string;
    Outcome: string;
    TaskId: string | null;
    BackendStatus: string | null;
    Reason: string | null;
    Asked: boolean;
  }[];
}

export interface ScheduleList {
  Schedules: Schedule[];
  NextCursor: string | null;
}

export interface ProblemDocument {
  type?: string;
  title?: string;
  detail?: string;
  errors?: { pointer: string; detail: string }[];
}

export const ENDS: readonly string[] = ["completed", "failed", "cancelled"];

export function isBatch(task: Task): task is Batch {
  return "Total" in task;
}

export function hasEnded(task: Task): boolean {
  return ENDS.includes(task.BackendStatus);
}
