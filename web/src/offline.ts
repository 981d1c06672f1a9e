// The page of one recording in one file, which `tele recordings export --format html` writes.

import { LitElement, html } from "lit";
import { type Bytes, fromBase64 } from "./net/bytes.js";
import { TapeFile } from "./tape/file.js";
import "./view/player.js";

const content = (id: string): string => document.getElementById(id)!.textContent!.trim();

function save(file: Bytes, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([file], { type: "application/octet-stream" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

class Offline extends LitElement {
  static override properties = { tape: { state: true }, problem: { state: true } };
  declare tape: TapeFile | null;
  declare problem: string;
  #file: Bytes = new Uint8Array();

  constructor() {
    super();
    this.tape = null;
    this.problem = "";
  }

  protected override createRenderRoot(): HTMLElement {
    return this;
  }

  override async firstUpdated(): Promise<void> {
    try {
      this.#file = fromBase64(content("recording"));
      this.tape = await TapeFile.open(this.#file, JSON.parse(content("secrets")) as Record<string, string>);
      document.title = `recording ${this.tape.id}`;
    } catch (error) {
      this.problem = error instanceof Error ? error.message : String(error);
    }
  }

  override render() {
    if (this.problem) return html`<main><p class="problem" role="alert">${this.problem}</p></main>`;
    const { tape } = this;
    if (!tape) return html`<main><p class="quiet" role="status">Reading the recording…</p></main>`;
    const button = html`
      <button
        title="The recording with its signed manifest, for tele recordings verify"
        @click=${() => save(this.#file, `${tape.id}.tape`)}
      >
        Save as .tape
      </button>
    `;
    return html`<main><tele-player .source=${tape} .actions=${button}></tele-player></main>`;
  }
}

customElements.define("tele-offline", Offline);
