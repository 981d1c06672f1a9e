// The nodes that the user may log in to.

import { html, nothing } from "lit";
import { type Login } from "../net/login.js";
import { blobOf, loginsOf } from "../ssh/host_certificate.js";
import { noteOpening } from "./opening.js";
import { Page, date, printable } from "./page.js";

interface Host {
  id: string;
  name: string;
  addresses: string[];
  labels: Record<string, string>;
  mode: string;
  status: string;
  last_seen: string;
  version: string;
}

const PAGE = 500;
const REFRESH_MS = 10_000;
/** Accounts that a row has a link for. */
const LOGINS = 4;

export class NodesPage extends Page {
  static override properties = { login: {}, items: { state: true }, next: { state: true }, filter: { state: true }, problem: { state: true } };
  declare login: Login;
  declare items: Host[] | null;
  declare next: string;
  declare filter: string;
  declare problem: string;
  #timer = 0;

  constructor() {
    super();
    this.items = null;
    this.next = this.filter = this.problem = "";
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

  /** Read the list again, as far as it was read before, or one page more. */
  async #load(more = false): Promise<void> {
    const wanted = (this.items?.length ?? 0) + (more ? PAGE : 0);
    const found: Host[] = [];
    let after = "";
    try {
      do {
        const page = await this.auth.get<{ items: Host[]; next: string }>("/v1/hosts", { limit: PAGE, after });
        found.push(...page.items);
        after = page.next;
      } while (after && (found.length < wanted || found.length < PAGE));
      this.items = found;
      this.next = after;
      this.problem = "";
    } catch (error) {
      this.problem = this.failed(error);
    }
  }

  get #shown(): Host[] {
    const words = this.filter.toLowerCase().split(/\s+/).filter(Boolean);
    return (this.items ?? []).filter((host) => {
      const labels = Object.entries(host.labels).map(([key, value]) => `${key}=${value}`);
      const text = [host.name, host.id, ...host.addresses, host.status, ...labels].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }

  #add(label: string): void {
    const words = this.filter.split(/\s+/).filter(Boolean);
    this.filter = (words.includes(label) ? words.filter((each) => each !== label) : [...words, label]).join(" ");
  }

  override render() {
    const shown = this.#shown;
    return html`
      <div class="head">
        <h1>Nodes</h1>
        <input
          type="search"
          aria-label="Filter nodes"
          placeholder="Filter by name, label, address"
          .value=${this.filter}
          @input=${(event: Event) => (this.filter = (event.target as HTMLInputElement).value)}
        />
      </div>
      ${this.problem ? html`<p class="problem" role="alert">${this.problem}</p>` : nothing}
      ${this.items === null
        ? html`<p class="quiet" role="status">Loading…</p>`
        : html`
            <p class="quiet" role="status">${shown.length} of ${this.items.length}${this.next ? " so far" : ""}</p>
            <div class="scroll" tabindex="0" role="region" aria-label="List of nodes">
              <table>
                <thead>
                  <tr><th scope="col">Name</th><th scope="col">State</th><th scope="col">Labels</th><th scope="col">Reached</th><th scope="col">Terminal</th></tr>
                </thead>
                <tbody>
                  ${shown.map((host) => this.#row(host))}
                </tbody>
              </table>
            </div>
            ${this.items.length === 0 ? html`<p class="quiet">There is no node that your roles let you log in to.</p>` : nothing}
            ${this.next ? html`<button @click=${() => this.#load(true)}>More</button>` : nothing}
          `}
    `;
  }

  /** The first accounts of the certificate; the page of a terminal lists all. */
  get #logins(): string[] {
    return loginsOf(blobOf(this.login.sshCertificate)).slice(0, LOGINS);
  }

  #open(host: Host, login: string) {
    return html`
      <a
        class="open"
        href=${`#/terminal/${encodeURIComponent(host.id)}?login=${encodeURIComponent(login)}`}
        aria-label=${`Terminal on ${printable(host.name)} as ${printable(login)}`}
        @click=${() => noteOpening(host.id, login)}
        >${printable(login)}</a
      >
    `;
  }

  #row(host: Host) {
    const isOnline = host.status === "online";
    return html`
      <tr>
        <th scope="row">${printable(host.name)}</th>
        <td><span class="state ${isOnline ? "good" : "bad"}">${isOnline ? "online" : `offline, last seen ${date(host.last_seen)}`}</span></td>
        <td>
          ${Object.entries(host.labels).map(
            ([key, value]) =>
              html`<button class="label" @click=${() => this.#add(`${key}=${value}`)}>${printable(`${key}=${value}`)}</button>`,
          )}
        </td>
        <td>${host.mode === "tunnel" ? "tunnel" : host.addresses.map(printable).join(", ")}</td>
        <td>${isOnline ? this.#logins.map((login) => this.#open(host, login)) : nothing}</td>
      </tr>
    `;
  }
}

customElements.define("tele-nodes", NodesPage);
