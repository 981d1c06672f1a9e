// The player's page: a terminal, a bar to go to any time, what was done and what was shown beside it.

import { html, nothing, svg } from "lit";
import { Player, SECOND } from "../player/engine.js";
import { TerminalScreen } from "../player/screen.js";
import { COLUMNS, type Line, transcript } from "../player/transcript.js";
import { MarkKind } from "../tape/index.js";
import { Recording, type Source } from "../tape/recording.js";
import { Page, clock, date, printable, size } from "./page.js";

const SPEEDS = [0.5, 1, 2, 4, 8, 16];
/** The width that the bar is drawn in. */
const WIDTH = 1000;
/** Compressed bytes of a recording whose text is read without being asked for. */
const EAGER_TEXT = 2 * 1024 * 1024;
/** Lines that are drawn at once: more are found, not listed. */
const LISTED = 2000;
const MARKS: Record<number, string> = {
  [MarkKind.Exec]: "command",
  [MarkKind.Prompt]: "prompt",
  [MarkKind.Transfer]: "file",
  [MarkKind.Forward]: "forward",
};

export class PlayerPage extends Page {
  static override properties = {
    recordingId: {},
    source: {},
    actions: {},
    at: {},
    problem: { state: true },
    recording: { state: true },
    lines: { state: true },
    isCut: { state: true },
    isReading: { state: true },
    found: { state: true },
    chosen: { state: true },
    tab: { state: true },
    ticks: { state: true },
  };
  declare recordingId: string;
  declare at: number;
  declare problem: string;
  declare recording: Source | null;
  /** A recording that is here already: the page of a file. */
  declare source: Source | null;
  /** What a person may do with it, beside playing. */
  declare actions: unknown;
  declare lines: Line[] | null;
  declare isCut: boolean;
  declare isReading: boolean;
  declare found: number[];
  declare chosen: number;
  declare tab: "text" | "marks";
  declare ticks: number;
  #player: Player | null = null;
  #screen: TerminalScreen | null = null;
  #frame = 0;
  #last = 0;
  #activity: number[] = [];
  #keys = (event: KeyboardEvent) => this.#key(event);

  constructor() {
    super();
    this.problem = "";
    this.recording = this.lines = this.source = null;
    this.isCut = this.isReading = false;
    this.found = [];
    this.chosen = -1;
    this.tab = "text";
    this.at = NaN;
    this.ticks = 0;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    document.addEventListener("keydown", this.#keys);
  }

  override disconnectedCallback(): void {
    document.removeEventListener("keydown", this.#keys);
    cancelAnimationFrame(this.#frame);
    this.#player?.pause();
    this.recording?.close();
    this.#screen?.dispose();
    super.disconnectedCallback();
  }

  override async firstUpdated(): Promise<void> {
    try {
      this.recording = this.source ?? (await Recording.open(this.recordingId, this.auth));
    } catch (error) {
      this.problem = this.failed(error);
      return;
    }
    await this.updateComplete;
    const place = this.querySelector<HTMLElement>(".screen");
    if (!place || !this.isConnected) return;
    this.#screen = new TerminalScreen(place);
    const player = (this.#player = new Player(this.recording, this.#screen, () => this.ticks++));
    this.#activity = activity(this.recording, player.channel);
    if (player.programs.length && !player.programs[0]!.isTerminal) this.tab = "marks";
    await player.seek(Number.isNaN(this.at) ? (this.recording.isRunning ? Infinity : 0) : this.at * SECOND);
    if (Number.isNaN(this.at)) player.play();
    this.#last = performance.now();
    this.#run(this.#last);
    if (!this.recording.isRunning && this.recording.facts.size <= EAGER_TEXT) void this.#readText();
  }

  override updated(changed: Map<string, unknown>): void {
    if (changed.has("at") && changed.get("at") !== undefined && this.#player && !Number.isNaN(this.at)) {
      void this.#player.seek(this.at * SECOND);
    }
  }

  #run(now: number): void {
    const elapsed = Math.max(0, Math.min(now - this.#last, 1000));
    this.#last = now;
    void this.#player?.pass(elapsed);
    this.#frame = requestAnimationFrame((next) => this.#run(next));
  }

  async #readText(): Promise<void> {
    const player = this.#player;
    if (!player || this.isReading) return;
    this.isReading = true;
    this.tab = "text";
    try {
      const { lines, isCut, activity: output } = await transcript(this.recording!, player.channel, (some) => {
        this.lines = some.slice();
        return this.isConnected;
      });
      this.lines = lines;
      this.isCut = isCut;
      if (!isCut && this.isConnected) this.#activity = output;
    } catch (error) {
      this.problem = this.failed(error);
    } finally {
      this.isReading = false;
    }
  }

  #key(event: KeyboardEvent): void {
    const player = this.#player;
    const target = event.target as HTMLElement;
    if (!player || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.closest("input, select, textarea") && event.key !== "Escape") return;
    if (target.closest("button, a, summary") && event.key === " ") return;
    const step = event.shiftKey ? 60 : 5;
    const actions: Record<string, () => void> = {
      " ": () => this.#toggle(),
      k: () => this.#toggle(),
      ArrowLeft: () => void player.seek(player.time - step * SECOND),
      ArrowRight: () => void player.seek(player.time + step * SECOND),
      Home: () => void player.seek(0),
      End: () => void player.seek(Infinity),
      "[": () => this.#faster(-1),
      "]": () => this.#faster(1),
      n: () => this.#step(1),
      N: () => this.#step(-1),
      "/": () => this.querySelector<HTMLInputElement>("input[type=search]")?.focus(),
      Escape: () => (document.activeElement as HTMLElement | null)?.blur(),
    };
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  #toggle(): void {
    if (this.#player?.isPlaying) this.#player.pause();
    else this.#player?.play();
  }

  #faster(by: number): void {
    const player = this.#player!;
    player.speed = SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, SPEEDS.indexOf(player.speed) + by))]!;
    this.ticks++;
  }

  #find(event: Event): void {
    const wanted = (event.target as HTMLInputElement).value.toLowerCase();
    this.found = [];
    this.chosen = -1;
    if (!wanted || !this.lines) return;
    this.lines.forEach((line, at) => {
      if (line.text.toLowerCase().includes(wanted)) this.found.push(at);
    });
    this.found = [...this.found];
  }

  #step(by: number): void {
    if (!this.found.length) return;
    this.chosen = (this.chosen + by + this.found.length) % this.found.length;
    void this.#player?.seek(this.lines![this.found[this.chosen]!]!.time);
    void this.updateComplete.then(() => this.querySelector(".line.chosen")?.scrollIntoView({ block: "center" }));
  }

  #pointed(event: PointerEvent): void {
    if (event.type === "pointermove" && !(event.buttons & 1)) return;
    const bar = event.currentTarget as HTMLElement;
    if (event.type === "pointerdown") bar.setPointerCapture(event.pointerId);
    const box = bar.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    void this.#player?.seek(share * this.#player.length);
  }

  override render() {
    if (!this.recording) {
      return this.problem
        ? html`<p class="problem" role="alert">${this.problem}</p><p><a href="#/recordings">All recordings</a></p>`
        : html`<p class="quiet" role="status">Opening the recording…</p>`;
    }
    const { facts, state } = this.recording;
    const problem = this.problem || this.#player?.problem;
    return html`
      <div class="head">
        <h1>${printable(`${facts.user}, ${facts.login}@${facts.node}`)}</h1>
        <span class="quiet">${date(facts.started)}, ${size(facts.size)}</span>
        <span class="state ${state === "complete" ? "good" : state === "running" ? "live" : "bad"}">${state}</span>
      </div>
      ${facts.incomplete ? html`<p class="problem">${printable(facts.incomplete)}</p>` : nothing}
      ${problem ? html`<p class="problem" role="alert">${problem}</p>` : nothing}
      ${this.recording.notice ? html`<p class="quiet">${this.recording.notice}</p>` : nothing}
      <div class="player">
        <section class="stage" aria-label="Replay">
          <div class="screen"></div>
          ${this.#bar()} ${this.#controls()}
        </section>
        <section class="beside" aria-label="What happened">${this.#beside()}</section>
      </div>
    `;
  }

  #bar() {
    const player = this.#player;
    if (!player) return nothing;
    const length = player.length || 1;
    const x = (time: number) => Math.round((time / length) * WIDTH * 10) / 10;
    const most = Math.max(1, ...this.#activity);
    const step = WIDTH / COLUMNS;
    const marks = (this.recording!.index?.marks ?? []).slice(0, LISTED);
    const hits = this.found.slice(0, LISTED).map((at) => this.lines![at]!.time);
    return html`
      <div
        class="bar"
        role="slider"
        tabindex="0"
        aria-label="Time"
        aria-valuemin="0"
        aria-valuemax=${Math.round(length / SECOND)}
        aria-valuenow=${Math.round(player.time / SECOND)}
        aria-valuetext=${`${clock(player.time)} of ${clock(player.length)}`}
        @pointerdown=${this.#pointed}
        @pointermove=${this.#pointed}
      >
        <svg viewBox="0 0 ${WIDTH} 40" preserveAspectRatio="none" aria-hidden="true">
          ${this.#activity.map((value, at) => {
            const tall = value ? 4 + (24 * Math.log1p(value)) / Math.log1p(most) : 0;
            return svg`<rect class="activity" x=${at * step} y=${34 - tall} width=${step} height=${tall}></rect>`;
          })}
          <rect class="track" x="0" y="34" width=${WIDTH} height="6"></rect>
          <rect class="done" x="0" y="34" width=${x(Math.min(player.time, length))} height="6"></rect>
          ${marks.map((mark) => svg`<rect class="mark kind${mark.kind}" x=${x(mark.time)} y="28" width="2" height="12"></rect>`)}
          ${hits.map((time) => svg`<rect class="hit" x=${x(time)} y="0" width="2" height="40"></rect>`)}
          <rect class="now" x=${Math.min(x(player.time), WIDTH - 2)} y="0" width="2" height="40"></rect>
        </svg>
      </div>
    `;
  }

  #controls() {
    const player = this.#player;
    if (!player) return nothing;
    const isRunning = this.recording!.isRunning;
    return html`
      <div class="controls">
        <button class="primary" @click=${this.#toggle}>${player.isPlaying ? "Pause" : "Play"}</button>
        <span class="time" aria-live="off">${clock(player.time)} / ${clock(player.length)}</span>
        ${player.isLoading ? html`<span class="quiet" role="status">loading…</span>` : nothing}
        ${isRunning
          ? html`<button class="live ${player.isLive ? "on" : ""}" @click=${() => this.#follow()}>${player.isLive ? "● live" : "Go to live"}</button>`
          : nothing}
        <label>
          Speed
          <select @change=${(event: Event) => (player.speed = Number((event.target as HTMLSelectElement).value))}>
            ${SPEEDS.map((speed) => html`<option value=${speed} ?selected=${speed === player.speed}>${speed}×</option>`)}
          </select>
        </label>
        <label class="check">
          <input
            type="checkbox"
            .checked=${player.skipsIdle}
            @change=${(event: Event) => (player.skipsIdle = (event.target as HTMLInputElement).checked)}
          />
          Skip idle time
        </label>
        ${player.programs.length > 1
          ? html`
              <label>
                Program
                <select @change=${(event: Event) => this.#choose(Number((event.target as HTMLSelectElement).value))}>
                  ${player.programs.map(
                    (each) => html`
                      <option value=${each.channel} ?selected=${each.channel === player.channel}>
                        ${each.channel}: ${printable(each.name).slice(0, 60) || (each.isTerminal ? "terminal" : "program")}
                      </option>
                    `,
                  )}
                </select>
              </label>
            `
          : nothing}
        ${this.source
          ? this.actions
          : html`<button @click=${this.#link} title="An address of this moment, for someone who may see the recording">Copy link</button>`}
      </div>
    `;
  }

  async #follow(): Promise<void> {
    await this.#player?.seek(Infinity);
    this.#player?.play();
  }

  #choose(channel: number): void {
    this.#player?.choose(channel);
    this.#activity = activity(this.recording!, channel);
    this.lines = null;
    this.found = [];
  }

  #link(): void {
    const seconds = Math.floor((this.#player?.time ?? 0) / SECOND);
    const address = `${location.origin}/#/recordings/${this.recordingId}?t=${seconds}`;
    history.replaceState(null, "", `#/recordings/${this.recordingId}?t=${seconds}`);
    void navigator.clipboard?.writeText(address).catch(() => undefined);
  }

  #beside() {
    const marks = this.recording!.index?.marks ?? [];
    const tab = (name: "text" | "marks", title: string) => html`
      <button role="tab" aria-selected=${this.tab === name} @click=${() => (this.tab = name)}>${title}</button>
    `;
    return html`
      <div class="tabs" role="tablist" aria-label="What is listed">
        ${tab("text", "Text")} ${tab("marks", `Commands and files (${marks.length})`)}
      </div>
      ${this.tab === "text"
        ? this.#text()
        : html`
            <ol class="lines" tabindex="0" aria-label="Commands and files">
              ${marks.slice(0, LISTED).map((mark) => this.#entry(mark.time, mark.text, MARKS[mark.kind] ?? "", false))}
              ${marks.length ? nothing : html`<li class="quiet">None, or not known yet.</li>`}
            </ol>
          `}
    `;
  }

  #text() {
    if (!this.lines) {
      return this.isReading
        ? html`<p class="quiet" role="status">Reading…</p>`
        : html`<p><button @click=${this.#readText}>Read all text</button></p>`;
    }
    const chosen = this.found[this.chosen] ?? -1;
    // Around what was found, or from the beginning.
    const first = Math.max(0, Math.min(chosen - LISTED / 2, this.lines.length - LISTED));
    return html`
      <div class="find">
        <input type="search" aria-label="Find in the text" placeholder="Find in the text" @input=${this.#find}
          @keydown=${(event: KeyboardEvent) => event.key === "Enter" && this.#step(event.shiftKey ? -1 : 1)} />
        <span class="quiet" role="status">${this.found.length ? `${this.chosen + 1} of ${this.found.length}` : ""}</span>
        <button aria-label="Previous" ?disabled=${!this.found.length} @click=${() => this.#step(-1)}>↑</button>
        <button aria-label="Next" ?disabled=${!this.found.length} @click=${() => this.#step(1)}>↓</button>
      </div>
      <ol class="lines" tabindex="0" aria-label="Text">
        ${this.lines.slice(first, first + LISTED).map((line, at) => this.#entry(line.time, line.text, "", first + at === chosen))}
      </ol>
      ${this.isCut ? html`<p class="quiet">The text is longer: the rest is not read here.</p>` : nothing}
      ${this.lines.length > LISTED ? html`<p class="quiet">${this.lines.length} lines; ${LISTED} are listed.</p>` : nothing}
    `;
  }

  #entry(time: number, text: string, kind: string, isChosen: boolean) {
    return html`
      <li class="line ${isChosen ? "chosen" : ""}">
        <button @click=${() => this.#player?.seek(time)}>${clock(time)}</button>
        <span>${kind ? html`<em>${kind}</em> ` : nothing}${printable(text)}</span>
      </li>
    `;
  }
}

/** How much output there was in each of the columns, from the index. */
function activity(recording: Source, channel: number): number[] {
  const { index } = recording;
  const columns: number[] = new Array(COLUMNS).fill(0);
  if (!index || !index.length) return columns;
  const keyframes = index.keyframes.filter((each) => each.channel === channel);
  let [time, output] = [0, 0];
  for (const each of keyframes) {
    const first = Math.floor((time / index.length) * COLUMNS);
    const last = Math.min(COLUMNS - 1, Math.floor((each.time / index.length) * COLUMNS));
    for (let at = first; at <= last; at++) columns[at]! += (each.output - output) / (last - first + 1);
    [time, output] = [each.time, each.output];
  }
  return columns;
}

customElements.define("tele-player", PlayerPage);
