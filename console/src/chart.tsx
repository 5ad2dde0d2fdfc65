/** Figures over time, by uPlot. The legend has the values under the mouse, or else the latest ones. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { shownMinute, shownTime, utc, zone } from "./clock";

export interface Line {
  name: string;
  colour: "busy" | "good" | "bad" | "warn" | "wait" | "dim";
  values: readonly (number | null)[];
}

interface Props {
  title: string;
  /** What the chart tells, for those who do not see it. */
  summary: string;
  times: readonly string[];
  lines: readonly Line[];
  show: (value: number | null | undefined) => string;
  /** The same in less room, at the axis. */
  showShort: (value: number) => string;
}

const HEIGHT = 170;
const dark = matchMedia("(prefers-color-scheme: dark)");

export function Chart({ title, summary, times, lines, show, showShort }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const at = useSignal<number | null>(null);
  const scheme = useSignal(dark.matches);
  const seconds = times.map((time) => Date.parse(time) / 1000);
  const data = [seconds, ...lines.map((line) => [...line.values])] as uPlot.AlignedData;
  const names = lines.map((line) => line.name).join();

  useEffect(() => {
    const changed = () => (scheme.value = dark.matches);
    dark.addEventListener("change", changed);
    return () => dark.removeEventListener("change", changed);
  }, []);

  useEffect(() => {
    const place = box.current;
    if (place === null) return;
    const made = new uPlot(options(place, lines, showShort, (index) => (at.value = index)), data, place);
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: Math.max(160, place.clientWidth), height: HEIGHT }));
    observer.observe(place);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [names, scheme.value, utc.value]);

  useEffect(() => plot.current?.setData(data), [times]);

  const index = at.value ?? latest(lines);
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
      <div ref={box} role="img" aria-label={summary} />
    </section>
  );
}

function latest(lines: readonly Line[]): number {
  let found = -1;
  for (const line of lines) {
    for (let index = line.values.length - 1; index > found; index -= 1) {
      if (line.values[index] !== null) found = index;
    }
  }
  return found;
}

function options(place: HTMLElement, lines: readonly Line[], show: Props["showShort"],
  pointed: (index: number | null) => void): uPlot.Options {
  const colour = (name: string) => getComputedStyle(place).getPropertyValue(name).trim();
  const axis: uPlot.Axis = {
    stroke: colour("--dim"),
    grid: { stroke: colour("--soft"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1, size: 4 },
    font: "11px system-ui, sans-serif",
  };
  return {
    width: Math.max(160, place.clientWidth),
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
    tzDate: (seconds) => (utc.value ? uPlot.tzDate(new Date(seconds * 1000), "UTC") : new Date(seconds * 1000)),
    scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [
      { ...axis, size: 30, values: (self, splits) => splits.map((second) => label(second, self)) },
      { ...axis, size: 52, values: (_, splits) => splits.map((value) => show(value)) },
    ],
    series: [{}, ...lines.map((line): uPlot.Series => ({
      label: line.name,
      stroke: colour(`--${line.colour}`),
      width: 1.5,
      spanGaps: false,
      // A single figure between unknown ones is a point, or nothing would be seen of it.
      points: { show: line.values.filter((value) => value !== null).length < 3, size: 5 },
    }))],
    hooks: { setCursor: [(self) => pointed(self.cursor.idx ?? null)] },
  };
}

function label(second: number, plot: uPlot): string {
  const { min, max } = plot.scales.x ?? {};
  const span = (max ?? 0) - (min ?? 0);
  const text = shownMinute(second * 1000);
  if (span <= 86_400) return text;
  return new Intl.DateTimeFormat("en-GB", {
    day: "numeric", month: "short", ...(utc.value ? { timeZone: "UTC" } : {}),
  }).format(second * 1000);
}
