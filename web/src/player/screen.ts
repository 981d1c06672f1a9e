// A recorded screen, drawn by xterm.js: nothing that is typed goes anywhere.

import { Unicode11Addon } from "@xterm/addon-unicode11";
import { Terminal } from "@xterm/xterm";
import type { Bytes } from "../net/bytes.js";
import type { Screen } from "./engine.js";
import { bounded } from "./transcript.js";
import "./xterm_styles.js";

/** Width and height of a character of size 1, about; what it really is decides the browser. */
const ADVANCE = 0.61;
const LEADING = 1.2;

export class TerminalScreen implements Screen {
  readonly #terminal: Terminal;
  readonly #observer: ResizeObserver;

  constructor(private readonly place: HTMLElement) {
    this.#terminal = new Terminal({
      allowProposedApi: true,
      disableStdin: true,
      scrollback: 10_000,
      cursorInactiveStyle: "block",
      fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
      screenReaderMode: false,
      theme: { background: "#14161b", foreground: "#e4e6eb", cursor: "#e4e6eb" },
      // A link that a session showed is text: where it leads is not known to be safe.
      linkHandler: { activate: () => undefined },
    });
    this.#terminal.loadAddon(new Unicode11Addon());
    this.#terminal.unicode.activeVersion = "11";
    this.#terminal.open(place);
    this.#observer = new ResizeObserver(() => this.#fit());
    this.#observer.observe(place);
  }

  reset(columns: number, rows: number, newline: boolean): void {
    this.#terminal.reset();
    this.#terminal.options.convertEol = newline;
    this.resize(columns, rows);
  }

  resize(columns: number, rows: number): void {
    this.#terminal.resize(...bounded(columns, rows));
    this.#fit();
  }

  write(data: Bytes): Promise<void> {
    return new Promise((resolve) => this.#terminal.write(data, resolve));
  }

  /** The text of the screen, for those who cannot see it. */
  get text(): string {
    const buffer = this.#terminal.buffer.active;
    const lines = Array.from(
      { length: this.#terminal.rows },
      (_, at) => buffer.getLine(buffer.baseY + at)?.translateToString(true) ?? "",
    );
    return lines.join("\n").trimEnd();
  }

  #fit(): void {
    const { cols, rows } = this.#terminal;
    const style = getComputedStyle(this.place);
    const width = this.place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = window.innerHeight * 0.7;
    const size = Math.min(width / (cols * ADVANCE), height / (rows * LEADING), 18);
    this.#terminal.options.fontSize = Math.max(4, Math.floor(size * 2) / 2);
  }

  dispose(): void {
    this.#observer.disconnect();
    this.#terminal.dispose();
  }
}
