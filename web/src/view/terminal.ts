// A terminal on a node: it asks for a login, connects, and says how it ended.
//
// A page from elsewhere may link to this one, so a session begins only after a click in our own pages.

import { html, nothing } from "lit";
import { type Login, dial } from "../net/login.js";
import { NodeConnection } from "../ssh/node.js";
import { blobOf, loginsOf } from "../ssh/host_certificate.js";
import { Shell } from "../ssh/shell.js";
import { LiveScreen } from "../terminal/screen.js";
import { Page, printable } from "./page.js";

interface Authorities {
  trusted: { kind: string; ssh_public_keys: string[] }[];
}

/** Characters of a title that a session sets. */
const TITLE_LIMIT = 80;

type State = "idle" | "connecting" | "open" | "ended";

export class TerminalPage extends Page {
  static override properties = {
    login: {}, hostId: {}, as: {}, starts: {}, state: { state: true }, name: { state: true }, problem: { state: true },
    said: { state: true }, titled: { state: true }, link: { state: true }, finding: { state: true }, isRead: { state: true },
  };
  declare login: Login;
  declare hostId: string;
  /** The account to log in to, if one was chosen. */
  declare as: string;
  /** Whether to begin at once. */
  declare starts: boolean;
  declare state: State;
  declare name: string;
  declare problem: string;
  declare said: string;
  declare titled: string;
  declare link: URL | null;
  declare finding: string | null;
  declare isRead: boolean;
  #screen: LiveScreen | null = null;
  #node: NodeConnection | null = null;
  #shell: Shell | null = null;
  /** Number of the present attempt; those before it change nothing any more. */
  #attempt = 0;

  constructor() {
    super();
    this.as = this.name = this.problem = this.said = this.titled = "";
    this.starts = this.isRead = false;
    this.state = "idle";
    this.link = this.finding = null;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    window.addEventListener("beforeunload", this.#leaving);
  }

  override disconnectedCallback(): void {
    window.removeEventListener("beforeunload", this.#leaving);
    this.#attempt++;
    this.#node?.close();
    this.#screen?.dispose();
    this.#screen = null;
    super.disconnectedCallback();
  }

  readonly #leaving = (event: BeforeUnloadEvent): void => {
    if (this.state === "open") event.preventDefault();
  };

  override firstUpdated(): void {
    if (this.starts) void this.#start();
    else this.querySelector<HTMLElement>("button.primary")?.focus();
  }

  get #logins(): string[] {
    return loginsOf(blobOf(this.login.sshCertificate));
  }

  /** The account that is chosen: only one of the certificate can be. */
  get #account(): string {
    return this.#logins.includes(this.as) ? this.as : (this.#logins[0] ?? "");
  }

  async #start(): Promise<void> {
    const attempt = ++this.#attempt;
    const account = this.#account;
    this.#node?.close();
    this.#node = this.#shell = this.link = null;
    this.problem = this.said = this.titled = "";
    this.as = account;
    this.state = "connecting";
    await this.updateComplete;
    const screen = this.#opened();
    try {
      const node = await this.#connect(account);
      if (attempt !== this.#attempt) return node.close();
      this.#node = node;
      this.name = node.name;
      if (node.banner) await screen.write(new TextEncoder().encode(printableLines(node.banner)));
      const shell = (this.#shell = await Shell.open(node, screen.size));
      if (attempt !== this.#attempt) return;
      this.state = "open";
      // The size may have changed while the session began.
      shell.resize(screen.size);
      screen.focus();
      for (let data = await shell.read(); data !== null; data = await shell.read()) {
        if (attempt !== this.#attempt) return;
        await screen.write(data);
      }
      const exit = await shell.exit();
      if (attempt !== this.#attempt) return;
      if (exit) {
        node.close();
        this.said = exit.signal ? `The session was ended by signal ${exit.signal}.` : `The session ended with status ${exit.status}.`;
      } else {
        node.close();
        throw (await node.ended()) ?? new Error("the connection was lost");
      }
    } catch (error) {
      if (attempt !== this.#attempt) return;
      this.#node?.close();
      this.problem = this.failed(error);
    }
    this.state = "ended";
    await this.updateComplete;
    this.querySelector<HTMLElement>("button.again")?.focus();
  }

  async #connect(account: string): Promise<NodeConnection> {
    if (!account) throw new Error("your roles allow no login on any node");
    const { trusted } = await this.auth.get<Authorities>("/v1/authorities");
    const authorities = trusted.find((each) => each.kind === "host")?.ssh_public_keys ?? [];
    const { cluster, user, sshKey: key } = this.login;
    const stream = await dial("ssh");
    return NodeConnection.open(
      stream, { authorities, cluster, user, login: account, hostId: this.hostId },
      { key, certificate: blobOf(this.login.sshCertificate) },
    );
  }

  #opened(): LiveScreen {
    if (this.#screen) {
      this.#screen.reset();
      return this.#screen;
    }
    this.#screen = new LiveScreen(this.querySelector<HTMLElement>(".screen")!, {
      typed: (text) => this.#shell?.type(text),
      sent: (data) => this.#shell?.send(data),
      resized: (size) => this.#shell?.resize(size),
      titled: (title) => (this.titled = title.slice(0, TITLE_LIMIT)),
      chosen: (link) => (this.link = link),
      find: () => void this.#find(),
    });
    this.#screen.isRead = this.isRead;
    return this.#screen;
  }

  async #find(): Promise<void> {
    this.finding = "";
    await this.updateComplete;
    this.querySelector<HTMLInputElement>(".find input")?.focus();
  }

  #findKey(event: KeyboardEvent): void {
    const { value } = event.target as HTMLInputElement;
    if (event.key === "Enter") this.finding = this.#screen?.find(value, event.shiftKey) ? "" : "not found";
    else if (event.key === "Escape") this.#close(() => (this.finding = null));
    else return;
    event.preventDefault();
  }

  #close(work: () => void): void {
    work();
    this.#screen?.focus();
  }

  override updated(): void {
    document.title = `${this.as}@${printable(this.name || this.hostId)} · ${this.login.cluster}`;
  }

  override render() {
    const where = printable(this.name || this.hostId);
    return html`
      <div class="live-terminal">
        <div class="head">
          <h1>${this.state === "idle" ? `Terminal on ${where}` : `${printable(this.as)}@${where}`}</h1>
          <span class="quiet title">${printable(this.titled)}</span>
          ${this.#controls()}
        </div>
        ${this.problem ? html`<p class="problem" role="alert">${printable(this.problem)}</p>` : nothing}
        ${this.said ? html`<p class="quiet" role="status">${printable(this.said)}</p>` : nothing}
        ${this.state === "connecting" ? html`<p class="quiet" role="status">Connecting…</p>` : nothing}
        ${this.#link()}
        ${this.state === "idle" ? nothing : html`<div class="screen live"></div>`}
      </div>
    `;
  }

  #controls() {
    const { state } = this;
    if (state === "connecting") return nothing;
    if (state === "open") {
      return html`
        <span class="controls">
          ${this.finding === null
            ? html`<button @click=${() => this.#find()} title="Ctrl+Shift+F">Find</button>`
            : html`
                <span class="find">
                  <input type="search" aria-label="Find in the terminal" @keydown=${this.#findKey} />
                  <span class="quiet" role="status">${this.finding}</span>
                  <button @click=${() => this.#close(() => (this.finding = null))}>Close</button>
                </span>
              `}
          <label><input type="checkbox" .checked=${this.isRead} @change=${this.#read} />Screen reader</label>
        </span>
      `;
    }
    return html`
      <form class="controls" @submit=${(event: Event) => (event.preventDefault(), void this.#start())}>
        <label>
          Login
          <select @change=${(event: Event) => (this.as = (event.target as HTMLSelectElement).value)}>
            ${this.#logins.map((each) => html`<option value=${each} ?selected=${each === this.#account}>${printable(each)}</option>`)}
          </select>
        </label>
        <button class="primary again">${state === "idle" ? "Open" : "Connect again"}</button>
      </form>
    `;
  }

  #read(event: Event): void {
    this.isRead = (event.target as HTMLInputElement).checked;
    if (this.#screen) this.#screen.isRead = this.isRead;
  }

  /** A link that the session showed: where it leads is shown before it is opened. */
  #link() {
    const { link } = this;
    if (link === null) return nothing;
    const close = () => this.#close(() => (this.link = null));
    return html`
      <p class="offer" role="alertdialog" aria-label="Open a link">
        The session shows a link to
        <a href=${link.href} target="_blank" rel="noopener noreferrer external" @click=${close}>${printable(link.href)}</a>
        <button @click=${close}>Close</button>
      </p>
    `;
  }
}

function printableLines(text: string): string {
  return text.split(/\r?\n/).map(printable).join("\r\n");
}

customElements.define("tele-terminal", TerminalPage);
