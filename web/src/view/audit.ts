// Events of the audit, newest first.

import { html, nothing } from "lit";
import { Page, date, printable } from "./page.js";

interface Event {
  id: string;
  time: string;
  event: string;
  user: string;
  login: string;
  server_name: string;
  remote_addr: string;
  session_id: string;
  ok?: boolean;
  error?: string;
  [field: string]: unknown;
}

/** Fields that have a column, or say nothing to a reader. */
const SHOWN = new Set([
  "id", "time", "event", "code", "cluster", "user", "login", "server_name", "server_id", "remote_addr", "previous", "hash",
  "claimed", "session_id", "login_session", "ok", "error",
]);
const PAGE = 200;
const REFRESH_MS = 10_000;

export class AuditPage extends Page {
  static override properties = { items: { state: true }, limit: { state: true }, problem: { state: true } };
  declare items: Event[] | null;
  declare limit: number;
  declare problem: string;
  #query: Record<string, string> = {};
  #timer = 0;

  constructor() {
    super();
    this.items = null;
    this.limit = PAGE;
    this.problem = "";
  }

  override connectedCallback(): void {
    super.connectedCallback();
    void this.#load();
    this.#timer = window.setInterval(() => void (document.hidden || this.#load()), REFRESH_MS);
  }

  override disconnectedCallback(): void {
    window.clearInterval(this.#timer);
    super.disconnectedCallback();
  }

  async #load(): Promise<void> {
    try {
      const query = { event: this.#query["event"], user: this.#query["who"], newest: true, limit: this.limit };
      const { items } = await this.auth.get<{ items: Event[] }>("/v1/events", query);
      this.items = items.reverse();
      this.problem = "";
    } catch (error) {
      this.problem = this.failed(error);
    }
  }

  #changed(event: globalThis.Event): void {
    event.preventDefault();
    const form = this.querySelector("form")!;
    this.#query = Object.fromEntries(Array.from(new FormData(form), ([name, value]) => [name, String(value).trim()]));
    void this.#load();
  }

  override render() {
    return html`
      <div class="head"><h1>Audit</h1></div>
      <form class="filters" role="search" @submit=${this.#changed} @change=${this.#changed}>
        <label>Event<input type="search" name="event" placeholder="session.start" autocapitalize="none" autocomplete="off" /></label>
        <label>User<input type="search" name="who" autocapitalize="none" autocomplete="off" /></label>
        <button>Find</button>
      </form>
      ${this.problem ? html`<p class="problem" role="alert">${this.problem}</p>` : nothing}
      ${this.items === null
        ? html`<p class="quiet" role="status">${this.problem ? "" : "Loading…"}</p>`
        : html`
            <p class="quiet" role="status">the last ${this.items.length}</p>
            <div class="scroll" tabindex="0" role="region" aria-label="List of events">
              <table>
                <thead>
                  <tr>
                    <th scope="col">Time</th><th scope="col">Event</th><th scope="col">User</th><th scope="col">From</th>
                    <th scope="col">What</th>
                  </tr>
                </thead>
                <tbody>
                  ${this.items.map((each) => this.#row(each))}
                </tbody>
              </table>
            </div>
            ${this.items.length === this.limit ? html`<button @click=${this.#more}>More</button>` : nothing}
          `}
    `;
  }

  #more(): void {
    this.limit = Math.min(this.limit + PAGE, 10_000);
    void this.#load();
  }

  #row(event: Event) {
    const said = Object.entries(event)
      .filter(([name, value]) => !SHOWN.has(name) && value !== "" && value !== null && !(Array.isArray(value) && !value.length))
      .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
    const where = event.login || event.server_name ? `${event.login}${event.server_name ? `@${event.server_name}` : ""}` : "";
    return html`
      <tr>
        <td class="when">${date(event.time)}</td>
        <th scope="row">${printable(event.event)}</th>
        <td>${printable(event.user)}</td>
        <td>${printable(event.remote_addr)}</td>
        <td>
          ${event.ok === false ? html`<span class="state bad">${printable(event.error || "refused")}</span> ` : nothing}
          ${printable([where, ...said].filter(Boolean).join(", ")).slice(0, 500)}
          ${event.session_id ? html` <a href="#/recordings/${event.session_id}">recording</a>` : nothing}
        </td>
      </tr>
    `;
  }
}

customElements.define("tele-audit", AuditPage);
