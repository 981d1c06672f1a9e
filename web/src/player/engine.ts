// What is shown at which time of a recording, and how does time pass?
//
// A jump begins at the last keyframe before the time, if the recording has an index, and goes on
// from there. Nothing here draws: a screen is told what to show.

import { ApiError } from "../net/authority.js";
import { type Frame, Kind, details } from "../tape/chunk.js";
import type { Keyframe } from "../tape/index.js";
import type { Source } from "../tape/recording.js";
import type { Bytes } from "../net/bytes.js";

export const SECOND = 1e9;
/** A pause without output that is longer is shortened to this, if pauses are skipped. */
const IDLE = 1 * SECOND;
/** How often a running session is asked for more, and each how often for its state. */
const POLL_MS = 700;
const POLLS_OF_STATE = 4;
/** Output that is given to the screen at once. */
const BATCH = 256 * 1024;
const KEYFRAMES_TRIED = 3;

export interface Screen {
  /** Begin with a blank screen. `newline`: a line feed is a carriage return, too. */
  reset(columns: number, rows: number, newline: boolean): void;
  resize(columns: number, rows: number): void;
  /** Resolves when it was taken. */
  write(data: Bytes): Promise<void>;
}

/** Reads frames one after the other, from chunk to chunk. */
export class Cursor {
  #frames: Frame[] = [];
  #at = 0;
  #next: number;
  #ended = false;

  constructor(
    private readonly recording: Source,
    chunk: number,
    private skip = 0,
  ) {
    this.#next = chunk;
  }

  /** The next frame, which stays; null if there is none, or none yet. */
  async peek(): Promise<Frame | null> {
    while (this.#at >= this.#frames.length) {
      if (this.#ended) return null;
      const number = this.recording.isClosed ? this.recording.numbers.find((each) => each >= this.#next) : this.#next;
      if (number === undefined) return null;
      const chunk = await this.recording.chunk(number);
      if (chunk === null) return null;
      this.#frames = chunk.frames.filter((frame) => frame.at >= this.skip);
      this.skip = 0;
      this.#at = 0;
      this.#next = number + 1;
      this.#ended = chunk.isLast;
    }
    return this.#frames[this.#at]!;
  }

  /** Whether `peek` returns at once. */
  get isReady(): boolean {
    return this.#at < this.#frames.length;
  }

  /** Whether the last chunk was read. */
  get isAtEnd(): boolean {
    return this.#ended && !this.isReady;
  }

  take(): void {
    this.#at++;
  }
}

export interface Program {
  channel: number;
  name: string;
  isTerminal: boolean;
}

export class Player {
  /** Nanoseconds since the start. */
  time = 0;
  length: number;
  speed = 1;
  skipsIdle = true;
  isPlaying = false;
  isLoading = false;
  channel = 0;
  problem = "";
  programs: Program[] = [];

  #cursor: Cursor;
  #shown = 0;
  #turn = 0;
  #polls = 0;
  #polled = 0;
  #isBusy = false;
  /** Whether all of a session that runs was shown. */
  #isAtEdge = false;

  constructor(
    readonly recording: Source,
    private readonly screen: Screen,
    private readonly changed: () => void,
  ) {
    this.length = recording.length;
    this.#cursor = new Cursor(recording, 0);
    const marks = recording.index?.marks ?? [];
    this.programs = (recording.index?.channels ?? [])
      .filter((each) => !each.isForward)
      .map(({ number, isTerminal }) => ({
        channel: number,
        isTerminal,
        name: marks.find((mark) => mark.channel === number && mark.kind === 1)?.text ?? "",
      }));
    this.channel = this.programs[0]?.channel ?? 0;
  }

  /** Whether it shows all there is of a session that runs. */
  get isLive(): boolean {
    return this.recording.isRunning && this.isPlaying && this.time >= this.length;
  }

  play(): void {
    this.problem = "";
    if (!this.recording.isRunning && this.time >= this.length) void this.seek(0);
    this.isPlaying = true;
    this.changed();
  }

  pause(): void {
    this.isPlaying = false;
    this.changed();
  }

  choose(channel: number): void {
    this.channel = channel;
    this.#shown = Infinity;
    void this.seek(this.time);
  }

  /** Show the screen at `time`, in nanoseconds; Infinity is the end, as far as it is there. */
  async seek(time: number): Promise<void> {
    const turn = ++this.#turn;
    this.#isAtEdge = false;
    this.problem = "";
    const target = Math.max(0, time);
    this.isLoading = true;
    this.time = Math.min(target, this.length);
    this.changed();
    try {
      if (await this.#position(target, turn)) await this.#show(target, turn);
    } catch (error) {
      this.#fail(error);
    }
    if (turn !== this.#turn) return;
    this.isLoading = false;
    this.time = target === Infinity ? this.length : Math.min(target, Math.max(this.length, this.#shown));
    this.changed();
  }

  /** Begin before `time`; false if another jump has begun meanwhile. */
  async #position(time: number, turn: number): Promise<boolean> {
    const index = this.recording.index;
    let candidates: Keyframe[] = [];
    if (index) {
      candidates = index.keyframes.filter((each) => each.channel === this.channel && each.time <= time).slice(-KEYFRAMES_TRIED);
    }
    if (this.channel === 0) await this.#findChannel();
    const isAhead = this.#shown <= time && this.#shown > 0;
    if (isAhead && (candidates.at(-1)?.time ?? 0) <= this.#shown) return true;
    while (candidates.length) {
      const keyframe = candidates.pop()!;
      let state: Bytes;
      try {
        state = await this.recording.keyframe(keyframe);
      } catch {
        continue; // The index may be made again just now: an earlier keyframe, or the beginning, is as good.
      }
      if (turn !== this.#turn) return false;
      this.screen.reset(keyframe.columns, keyframe.rows, keyframe.newline);
      this.#cursor = new Cursor(this.recording, keyframe.chunk, keyframe.at);
      this.#shown = keyframe.time;
      await this.screen.write(state);
      return turn === this.#turn;
    }
    const opened = index?.channels.find((each) => each.number === this.channel);
    this.screen.reset(opened?.columns || 80, opened?.rows || 24, opened ? !opened.isTerminal : false);
    const first = index?.chunks.find((each) => each.lastTime >= (opened?.opened ?? 0));
    this.#cursor = new Cursor(this.recording, first?.number ?? 0);
    this.#shown = 0;
    return true;
  }

  /** Show what there is up to `time`. Returns whether there may be more now. */
  async #show(time: number, turn: number): Promise<boolean> {
    let batch: Bytes[] = [];
    let size = 0;
    const flush = async () => {
      if (!batch.length) return;
      const all = new Uint8Array(size);
      let at = 0;
      for (const part of batch) {
        all.set(part, at);
        at += part.length;
      }
      batch = [];
      size = 0;
      await this.screen.write(all);
    };
    for (;;) {
      const frame = await this.#cursor.peek();
      if (turn !== this.#turn) return false;
      if (frame === null || frame.time > time) {
        await flush();
        return frame !== null;
      }
      this.#cursor.take();
      this.#shown = Math.max(this.#shown, frame.time);
      this.length = Math.max(this.length, frame.time);
      if (frame.kind === Kind.Open) this.#opened(frame);
      if (frame.channel !== this.channel) continue;
      if (frame.kind === Kind.Output || frame.kind === Kind.Error) {
        batch.push(frame.data);
        size += frame.data.length;
        if (size >= BATCH) await flush();
      } else if (frame.kind === Kind.Resize) {
        await flush();
        const { columns, rows } = details(frame);
        if (typeof columns === "number" && typeof rows === "number") this.screen.resize(columns, rows);
      }
      if (turn !== this.#turn) return false;
    }
  }

  /** Find the first program, where no index tells. */
  async #findChannel(): Promise<void> {
    const cursor = new Cursor(this.recording, 0);
    for (let frame = await cursor.peek(); frame !== null && this.channel === 0; frame = await cursor.peek()) {
      cursor.take();
      if (frame.kind === Kind.Open && details(frame)["kind"] !== "forward") this.channel = frame.channel;
    }
  }

  /** Learn of a channel, where no index tells. */
  #opened(frame: Frame): void {
    const found = details(frame);
    if (found["kind"] === "forward") return;
    const pty = found["pty"] as { columns?: unknown; rows?: unknown } | null | undefined;
    if (!this.programs.some((each) => each.channel === frame.channel)) {
      const name = typeof found["command"] === "string" ? found["command"] : "";
      this.programs = [...this.programs, { channel: frame.channel, name, isTerminal: Boolean(pty) }];
    }
    if (this.channel === 0) this.channel = frame.channel;
    if (frame.channel !== this.channel) return;
    const [columns, rows] = [pty?.columns, pty?.rows];
    this.screen.reset(typeof columns === "number" ? columns : 80, typeof rows === "number" ? rows : 24, !pty);
  }

  /** Let `elapsed` milliseconds pass. */
  async pass(elapsed: number): Promise<void> {
    if (!this.isPlaying || this.isLoading || this.#isBusy) return;
    this.#isBusy = true;
    const turn = this.#turn;
    try {
      await this.#pass(elapsed, turn);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#isBusy = false;
    }
    if (turn === this.#turn) this.changed();
  }

  async #pass(elapsed: number, turn: number): Promise<void> {
    if (this.#isAtEdge) {
      if (Date.now() - this.#polled < POLL_MS) return;
      this.#polled = Date.now();
    }
    const next = await this.#peek();
    if (turn !== this.#turn) return;
    this.problem = "";
    if (next === null) {
      this.time = Math.min(this.time + elapsed * 1e6 * this.speed, this.length);
      if (this.time < this.length) return;
      this.#isAtEdge = this.recording.isRunning;
      if (!this.#isAtEdge) this.isPlaying = false;
      else if (++this.#polls % POLLS_OF_STATE === 0 || this.#cursor.isAtEnd) await this.recording.refresh();
      return;
    }
    if (this.#isAtEdge) {
      // What a session shows now is shown now.
      await this.#show(Infinity, turn);
      if (turn === this.#turn) this.time = this.#shown;
      return;
    }
    let time = this.time + elapsed * 1e6 * this.speed;
    const pause = next.time - Math.max(this.#shown, 0);
    if (this.skipsIdle && pause > IDLE && time - this.#shown >= IDLE && next.time > time) time = next.time;
    await this.#show(time, turn);
    if (turn === this.#turn) this.time = Math.min(time, Math.max(this.length, next.time));
  }

  /** The next frame that shows something; others are taken. */
  async #peek(): Promise<Frame | null> {
    for (;;) {
      const frame = await this.#cursor.peek();
      const isShown = frame?.channel === this.channel && frame.kind >= Kind.Output && frame.kind <= Kind.Resize;
      if (frame === null || isShown || frame.kind === Kind.Open) return frame;
      this.#cursor.take();
      this.length = Math.max(this.length, frame.time);
    }
  }

  #fail(error: unknown): void {
    this.problem = error instanceof Error ? error.message : String(error);
    // A session that runs is asked for again, at the pace of the polls; anything else waits for the person.
    const isAway = error instanceof ApiError && error.kind === "unreachable";
    if (!(isAway && this.#isAtEdge)) this.isPlaying = false;
    this.isLoading = false;
  }
}
