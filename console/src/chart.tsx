/** Figures over time, as lines. The legend has the values under the mouse, or else the latest ones. */

import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { shownDay, shownMinute, shownTime, utc, zone } from "./clock";
import { linePath } from "./ui";

export interface Line {
  name: string;
  colour: "busy" | "good" | "bad" | "warn" | "wait" | "dim";
  values: readonly (number | null)[];
}

interface Props {
  title: string;
  /** What the chart tells, for those who do not see it. */
  summary: string;
  /** At equal distances. */
  times: readonly string[];
  lines: readonly Line[];
  show: (value: number | null | undefined) => string;
  /** The same in less room, at the axis. */
  showShort: (value: number) => string;
}

const [HEIGHT, LEFT, TOP, BOTTOM] = [170, 56, 8, 22];
const DAY_S = 86_400;
/** Between the marks of the axis, in seconds. */
const STEPS_S = [60, 300, 600, 1800, 3600, 7200, 14_400, 21_600, 43_200, ...[1, 2, 7, 14, 30].map((days) => days * DAY_S)];

export function Chart({ title, summary, times, lines, show, showShort }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const width = useSignal(0);
  const at = useSignal<number | null>(null);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => (width.value = Math.max(160, Math.floor(entry!.contentRect.width))));
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);

  const last = Math.max(1, times.length - 1);
  const begin = Date.parse(times[0] ?? "");
  const span = Math.max(1, Date.parse(times.at(-1) ?? "") - begin);
  const most = lines.reduce((top, line) => line.values.reduce<number>((more, value) => Math.max(more, value ?? 0), top), 0);
  const top = most > 0 ? most * 1.1 : 1;
  const room = width.value - LEFT;
  const x = (index: number) => LEFT + (index / last) * room;
  const y = (value: number) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const paths = useMemo(() => lines.map((line) => linePath(line.values, x, y)), [times, lines.length, width.value]);

  const index = at.value ?? latest(lines);
  const point = (event: PointerEvent) => {
    const place = (event.clientX - box.current!.getBoundingClientRect().left - LEFT) / room;
    at.value = Math.round(Math.min(1, Math.max(0, place)) * (times.length - 1));
  };
  return (
    <section class="card chart" aria-label={title}>
      <h3>{title}</h3>
      <p class="legend">
        <span>{index >= 0 && times[index] ? `${shownTime(times[index])} ${zone.value}` : "No figures yet"}</span>
        {lines.map((line) => (
          <span key={line.name} class={`k-${line.colour}`}>
            <i />
            <span>{line.name} {show(line.values[index])}</span>
          </span>
        ))}
      </p>
      <div ref={box} role="img" aria-label={summary} onPointerMove={point} onPointerLeave={() => (at.value = null)}>
        {width.value > 0 && <svg width={width.value} height={HEIGHT}>
          {valueMarks(top).map((value) => (
            <g key={value}>
              <path d={`M${LEFT} ${y(value)}h${room}`} />
              <text x={LEFT - 6} y={y(value) + 4} text-anchor="end">{showShort(value)}</text>
            </g>
          ))}
          {timeMarks(begin, begin + span, room / 70).map((moment) => {
            const place = LEFT + ((moment - begin) / span) * room;
            return (
              <g key={moment}>
                <path d={`M${place} ${TOP}V${HEIGHT - BOTTOM}`} />
                <text x={place} y={HEIGHT - 6} text-anchor="middle">
                  {span > DAY_S * 1000 ? shownDay(moment) : shownMinute(moment)}
                </text>
              </g>
            );
          })}
          {paths.map((path, number) => <path key={number} class={`k-${lines[number]?.colour}`} d={path} />)}
          {at.value !== null && <path class="at" d={`M${x(at.value)} ${TOP}V${HEIGHT - BOTTOM}`} />}
        </svg>}
      </div>
    </section>
  );
}

function latest(lines: readonly Line[]): number {
  return Math.max(-1, ...lines.map((line) => line.values.findLastIndex((value) => value !== null)));
}

/** Two to five round values up to *top*. */
function valueMarks(top: number): number[] {
  const power = 10 ** Math.floor(Math.log10(top));
  const step = [0.2, 0.5, 1].map((part) => part * power).find((one) => top / one < 5) ?? 2 * power;
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, number) => number * step);
}

/** Full hours or days by the clock that is shown, *most* of them. */
export function timeMarks(begin: number, end: number, most: number): number[] {
  const step = 1000 * (STEPS_S.find((seconds) => (end - begin) / 1000 / seconds <= most) ?? 90 * DAY_S);
  const ahead = (moment: number) => (utc.value ? 0 : new Date(moment).getTimezoneOffset() * -60_000);
  const marks: number[] = [];
  for (let shown = Math.ceil((begin + ahead(begin)) / step) * step; ; shown += step) {
    const moment = shown - ahead(shown - ahead(begin));
    if (!(moment <= end)) return marks;
    marks.push(moment);
  }
}
