// The text that a terminal showed, line by line, with the time of each line.

import { Terminal } from "@xterm/xterm";
import { Kind, details } from "../tape/chunk.js";
import type { Source } from "../tape/recording.js";
import { Cursor } from "./engine.js";

/** Output that is read, and lines that are kept. */
const OUTPUT_LIMIT = 64 * 1024 * 1024;
const LINES_LIMIT = 100_000;

/** Columns of a drawing of how much output there was. */
export const COLUMNS = 200;

export interface Text {
  lines: Line[];
  /** Whether there is more than was read. */
  isCut: boolean;
  /** Bytes of output in each of `COLUMNS` parts of the time. */
  activity: number[];
}

export interface Line {
  /** Nanoseconds since the start. */
  time: number;
  text: string;
}

/** Reads all of one channel; `progress` is called now and then, and returns whether to go on. */
export async function transcript(
  recording: Source,
  channel: number,
  progress: (lines: Line[]) => boolean,
): Promise<Text> {
  const program = recording.index?.channels.find((each) => each.number === channel);
  const terminal = new Terminal({
    allowProposedApi: true,
    cols: program?.columns || 80,
    rows: program?.rows || 24,
    scrollback: LINES_LIMIT,
    convertEol: program ? !program.isTerminal : false,
  });
  const lines: Line[] = [];
  const activity: number[] = new Array(COLUMNS).fill(0);
  const times: number[] = [];
  let emitted = 0;
  let time = 0;

  const emit = (end: number) => {
    const buffer = terminal.buffer.normal;
    for (; emitted < end; emitted++) {
      const line = buffer.getLine(emitted);
      if (!line) break;
      const text = line.translateToString(true);
      const last = lines.at(-1);
      if (line.isWrapped && last) last.text += text;
      else if (text || (last && last.text)) lines.push({ time: times[emitted] ?? time, text });
    }
  };
  // What is cleared from the screen was shown.
  terminal.parser.registerCsiHandler({ final: "J" }, (parameters) => {
    const buffer = terminal.buffer.normal;
    if (terminal.buffer.active.type === "normal" && (parameters[0] === 2 || parameters[0] === 3)) {
      emit(buffer.baseY + terminal.rows);
      emitted = buffer.baseY;
      times.length = emitted;
    }
    return false;
  });

  const cursor = new Cursor(recording, 0);
  let read = 0;
  let isCut = false;
  let reported = 0;
  try {
    for (let frame = await cursor.peek(); frame !== null; frame = await cursor.peek()) {
      cursor.take();
      if (frame.channel !== channel) continue;
      time = frame.time;
      if (frame.kind === Kind.Resize || frame.kind === Kind.Open) {
        const found = details(frame);
        const size = frame.kind === Kind.Open ? (found["pty"] as Record<string, unknown> | null) : found;
        if (frame.kind === Kind.Open) terminal.options.convertEol = !size;
        const [columns, rows] = [size?.["columns"], size?.["rows"]];
        if (typeof columns === "number" && typeof rows === "number") terminal.resize(...bounded(columns, rows));
        continue;
      }
      if (frame.kind !== Kind.Output && frame.kind !== Kind.Error) continue;
      read += frame.data.length;
      activity[Math.min(COLUMNS - 1, Math.floor((time / (recording.length || 1)) * COLUMNS))]! += frame.data.length;
      isCut = read > OUTPUT_LIMIT || lines.length > LINES_LIMIT;
      if (isCut) break;
      const buffer = terminal.buffer.normal;
      const before = buffer.baseY + buffer.cursorY;
      await new Promise<void>((resolve) => terminal.write(frame!.data, resolve));
      for (let at = before; at <= buffer.baseY + buffer.cursorY; at++) times[at] ??= time;
      if (read - reported > 1024 * 1024) {
        reported = read;
        emit(buffer.baseY);
        if (!progress(lines)) return { lines, isCut, activity };
      }
    }
    emit(terminal.buffer.normal.length);
    while (lines.length && !lines.at(-1)!.text) lines.pop();
    return { lines, isCut, activity };
  } finally {
    terminal.dispose();
  }
}

/** The size of a window, as large as a page can draw; 0 is that of a client which has no window. */
export function bounded(columns: number, rows: number): [number, number] {
  const within = (value: number, usual: number, most: number) => Math.min(most, Math.max(1, Math.floor(value) || usual));
  return [within(columns, 80, 1000), within(rows, 24, 500)];
}
