// Recordings, newest first, and the search in what they showed.

import { html, nothing } from "lit";
import type { Facts } from "../tape/recording.js";
import { Page, clock, date, printable, size } from "./page.js";

interface Hit {
  recording: string;
  user: string;
  login: string;
  node: string;
  started: string;
  at: number;
  kind: string;
  line: string;
}

interface Listed<T> {
  items: T[];
  next: string;
}

const PAGE = 100;

export class RecordingsPage extends Page {
  static override properties = {
    items: { state: true },
    hits: { state: true },
    next: { state: true },
    problem: { state: true },
    isBusy: { state: true },
  };
  declare items: Facts[];
  declare hits: Hit[] | null;
  declare next: string;
  declare problem: string;
  declare isBusy: boolean;
  #query: Record<string, string> = {};
  #turn = 0;

  constructor() {
    super();
    this.items = [];
    this.hits = null;
    this.next = this.problem = "";
    this.isBusy = false;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    void this.#load(false);
  }

  async #load(more: boolean): Promise<void> {
    const turn = ++this.#turn;
    const after = more ? this.next : "";
    const { text = "", ...filter } = this.#query;
    this.isBusy = true;
    try {
      if (text.length >= 3) {
        const found = await this.#pages<Hit>("/v1/search/recordings", { text, user: filter["who"] ?? "", after });
        if (turn !== this.#turn) return;
        this.hits = more ? [...(this.hits ?? []), ...found.items] : found.items;
        this.next = found.next;
      } else {
        const query = { user: filter["who"] ?? "", node: filter["node"] ?? "", command: filter["command"] ?? "", after };
        const found = await this.#pages<Facts>("/v1/recordings", query);
        if (turn !== this.#turn) return;
        this.items = more ? [...this.items, ...found.items] : found.items;
        this.hits = null;
        this.next = found.next;
      }
      this.problem = "";
    } catch (error) {
      if (turn === this.#turn) this.problem = this.failed(error);
    } finally {
      if (turn === this.#turn) this.isBusy = false;
    }
  }

  /** A page may have no items, and still say how to go on. */
  async #pages<T>(path: string, query: Record<string, string>): Promise<Listed<T>> {
    let found: Listed<T> = { items: [], next: query["after"] ?? "" };
    for (let tries = 0; tries < 20; tries++) {
      found = await this.auth.get<Listed<T>>(path, { ...query, after: found.next, limit: PAGE });
      if (found.items.length || !found.next) break;
    }
    return found;
  }

  #changed(event: Event): void {
    event.preventDefault();
    const form = this.querySelector("form")!;
    this.#query = Object.fromEntries(Array.from(new FormData(form), ([name, value]) => [name, String(value).trim()]));
    void this.#load(false);
  }

  override render() {
    return html`
      <div class="head"><h1>Recordings</h1></div>
      <form class="filters" role="search" @submit=${this.#changed} @change=${this.#changed}>
        <label>Find in text<input type="search" name="text" placeholder="3 characters or more" minlength="3" maxlength="200" /></label>
        <label>User<input type="search" name="who" autocapitalize="none" autocomplete="off" /></label>
        <label>Node<input type="search" name="node" placeholder="web*" autocapitalize="none" autocomplete="off" /></label>
        <label>Command<input type="search" name="command" autocapitalize="none" autocomplete="off" /></label>
        <button>Find</button>
      </form>
      ${this.problem ? html`<p class="problem" role="alert">${this.problem}</p>` : nothing}
      <p class="quiet" role="status">
        ${this.isBusy ? "Loading…" : `${(this.hits ?? this.items).length} found${this.next ? " so far" : ""}`}
      </p>
      ${this.hits === null ? this.#list() : this.#found(this.hits)}
      ${this.next ? html`<button @click=${() => this.#load(true)}>More</button>` : nothing}
    `;
  }

  #list() {
    return html`
      <div class="scroll" tabindex="0" role="region" aria-label="List of recordings">
        <table>
          <thead>
            <tr>
              <th scope="col">Started</th><th scope="col">User</th><th scope="col">Session</th><th scope="col">Length</th>
              <th scope="col">Size</th><th scope="col">State</th>
            </tr>
          </thead>
          <tbody>
            ${this.items.map(
              (each) => html`
                <tr>
                  <th scope="row" class="when"><a href="#/recordings/${each.id}">${date(each.started)}</a></th>
                  <td>${printable(each.user)}</td>
                  <td>${printable(`${each.login}@${each.node}`)}${each.interactive ? "" : html` <span class="quiet">no terminal</span>`}</td>
                  <td>${each.ended ? clock((Date.parse(each.ended) - Date.parse(each.started)) * 1e6) : ""}</td>
                  <td>${size(each.size)}</td>
                  <td>${this.#state(each)}</td>
                </tr>
              `,
            )}
          </tbody>
        </table>
      </div>
    `;
  }

  #state(each: Facts) {
    if (each.complete) return html`<span class="state good">complete</span>`;
    if (each.incomplete) return html`<span class="state bad">incomplete</span>`;
    return each.ended ? html`<span class="state">arriving</span>` : html`<span class="state live">not ended</span>`;
  }

  #found(hits: Hit[]) {
    return html`
      <ol class="hits">
        ${hits.map(
          (hit) => html`
            <li>
              <a href="#/recordings/${hit.recording}?t=${hit.at}">${printable(hit.line) || "(blank)"}</a>
              <span class="quiet">
                ${hit.kind}, ${printable(`${hit.user}, ${hit.login}@${hit.node}`)}, ${date(hit.started)}, at ${clock(hit.at * 1e9)}
              </span>
            </li>
          `,
        )}
      </ol>
    `;
  }
}

customElements.define("tele-recordings", RecordingsPage);
