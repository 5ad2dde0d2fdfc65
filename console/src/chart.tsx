/** Figures over time, by uPlot. The legend has the values under the mouse, or else the latest ones. */

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { shownDay, shownMinute, shownTime, utc, zone } from "./clock";

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
const DAY_S = 86_400;

export function Chart({ title, summary, times, lines, show, showShort }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const at = useSignal<number | null>(null);
  const isDark = useSignal(darkScheme().matches);
  const data = [times.map((time) => Date.parse(time) / 1000), ...lines.map((line) => line.values)] as uPlot.AlignedData;

  useEffect(() => {
    const dark = darkScheme();
    const changed = () => (isDark.value = dark.matches);
    dark.addEventListener("change", changed);
    return () => dark.removeEventListener("change", changed);
  }, []);

  useEffect(() => {
    const place = box.current!;
    const made = new uPlot(options(place, lines, showShort, (index) => (at.value = index)), data, place);
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize(sizeIn(place)));
    observer.observe(place);
    return () => {
      observer.disconnect();
      made.destroy();
    };
    // A canvas has its colours and its times as they were when it was drawn.
  }, [isDark.value, utc.value]);

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

function darkScheme(): MediaQueryList {
  return matchMedia("(prefers-color-scheme: dark)");
}

function latest(lines: readonly Line[]): number {
  return Math.max(-1, ...lines.map((line) => line.values.findLastIndex((value) => value !== null)));
}

/** Where a single figure stands between unknown ones: a line would show nothing of it. */
export function alone(values: ArrayLike<number | null | undefined>): number[] {
  return [...Array(values.length).keys()]
    .filter((index) => values[index] != null && values[index - 1] == null && values[index + 1] == null);
}

function sizeIn(place: HTMLElement): { width: number; height: number } {
  return { width: Math.max(160, place.clientWidth), height: HEIGHT };
}

function options(place: HTMLElement, lines: readonly Line[], showShort: Props["showShort"],
  pointed: (index: number | null) => void): uPlot.Options {
  const colour = (name: string) => getComputedStyle(place).getPropertyValue(`--${name}`);
  const axis: uPlot.Axis = {
    stroke: colour("dim"),
    grid: { stroke: colour("soft"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  return {
    ...sizeIn(place),
    cursor: { y: false, drag: { x: false }, points: { size: 6 } },
    tzDate: (second) => (utc.value ? uPlot.tzDate(new Date(second * 1000), "UTC") : new Date(second * 1000)),
    scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [
      { ...axis, size: 24, space: 70, values: (self, splits) => {
        const { min, max } = self.scales.x!;
        const label = max! - min! > DAY_S ? shownDay : shownMinute;
        return splits.map((second) => label(second * 1000));
      } },
      { ...axis, size: 56, values: (_, splits) => splits.map(showShort) },
    ],
    series: [{}, ...lines.map((line): uPlot.Series => ({
      stroke: colour(line.colour),
      width: 1.5,
      points: { show: false, size: 3, filter: (self, series) => alone(self.data[series]!) },
    }))],
    hooks: { setCursor: [(self) => pointed(self.cursor.idx ?? null)] },
  };
}
