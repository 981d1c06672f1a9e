// The terminal of a session that runs: xterm.js, with what is typed.
//
// What a session shows may be hostile: it sets no title but ours, writes to no clipboard, and opens no link by itself.

import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { Terminal } from "@xterm/xterm";
import type { Bytes } from "../net/bytes.js";
import "../player/xterm_styles.js";
import type { Size } from "../ssh/shell.js";

/** Lines that were scrolled out and are kept. */
export const SCROLLBACK = 10_000;
/** Bytes that are given to xterm.js before it has drawn what it has. */
const PENDING = 256 * 1024;

export interface Listener {
  typed(text: string): void;
  sent(data: Bytes): void;
  resized(size: Size): void;
  titled(title: string): void;
  /** A link was chosen; it is one of http or https. */
  chosen(link: URL): void;
  find(): void;
}

export class LiveScreen {
  readonly #terminal: Terminal;
  readonly #fit = new FitAddon();
  readonly #search = new SearchAddon();
  readonly #observer: ResizeObserver;
  #pending = 0;
  #wake: (() => void) | null = null;

  constructor(place: HTMLElement, listener: Listener) {
    const terminal = (this.#terminal = new Terminal({
      allowProposedApi: true,
      scrollback: SCROLLBACK,
      cursorBlink: false,
      fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
      fontSize: 15,
      theme: { background: "#14161b", foreground: "#e4e6eb", cursor: "#e4e6eb" },
      linkHandler: { activate: (_, link) => choose(link, listener) },
    }));
    terminal.loadAddon(new Unicode11Addon());
    terminal.unicode.activeVersion = "11";
    terminal.loadAddon(this.#fit);
    terminal.loadAddon(this.#search);
    terminal.loadAddon(new WebLinksAddon((_, link) => choose(link, listener)));
    terminal.attachCustomKeyEventHandler((event) => !this.#ownKey(event, listener));
    terminal.onData((text) => listener.typed(text));
    terminal.onBinary((text) => listener.sent(Uint8Array.from(text, (each) => each.charCodeAt(0))));
    terminal.onResize(({ cols, rows }) => listener.resized({ columns: cols, rows }));
    terminal.onTitleChange((title) => listener.titled(title));
    terminal.open(place);
    this.#fit.fit();
    this.#observer = new ResizeObserver(() => this.#fit.fit());
    this.#observer.observe(place);
  }

  /** Keys that are for the page. */
  #ownKey(event: KeyboardEvent, listener: Listener): boolean {
    if (!event.ctrlKey || !event.shiftKey || event.altKey || event.metaKey) return false;
    const { code } = event;
    if (code !== "KeyC" && code !== "KeyV" && code !== "KeyF") return false;
    // The browser itself pastes.
    if (code === "KeyV") return true;
    event.preventDefault();
    if (event.type !== "keydown") return true;
    if (code === "KeyF") listener.find();
    else if (this.#terminal.hasSelection()) void navigator.clipboard.writeText(this.#terminal.getSelection());
    return true;
  }

  get size(): Size {
    return { columns: this.#terminal.cols, rows: this.#terminal.rows };
  }

  /** Show `data`; resolves when more may be given. */
  async write(data: Uint8Array): Promise<void> {
    this.#pending += data.length;
    this.#terminal.write(data, () => {
      this.#pending -= data.length;
      this.#wake?.();
    });
    while (this.#pending > PENDING) await new Promise<void>((resolve) => (this.#wake = resolve));
    this.#wake = null;
  }

  /** Forget everything, for another session. */
  reset(): void {
    this.#terminal.reset();
  }

  focus(): void {
    this.#terminal.focus();
  }

  find(text: string, isBackward: boolean): boolean {
    return isBackward ? this.#search.findPrevious(text) : this.#search.findNext(text);
  }

  set isRead(isRead: boolean) {
    this.#terminal.options.screenReaderMode = isRead;
  }

  dispose(): void {
    this.#observer.disconnect();
    this.#terminal.dispose();
    this.#wake?.();
  }
}

function choose(link: string, listener: Listener): void {
  const url = URL.canParse(link) ? new URL(link) : null;
  if (url && (url.protocol === "http:" || url.protocol === "https:")) listener.chosen(url);
}
