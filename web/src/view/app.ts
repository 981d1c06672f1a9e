// The application: who is logged in, which page is shown.
//
// The place is in the fragment of the address, which browsers send nowhere.

import { html, nothing } from "lit";
import { keyed } from "lit/directives/keyed.js";
import { type Authority } from "../net/authority.js";
import { type Cluster, type Login, authority, fetchCluster, kept, logOut } from "../net/login.js";
import { takeOpening } from "./opening.js";
import { Page, date, printable } from "./page.js";
import "./audit.js";
import "./login.js";
import "./nodes.js";
import "./recordings.js";
import "./second_factors.js";

interface Place {
  page: string;
  id: string;
  query: URLSearchParams;
}

function place(): Place {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [page = "", id = ""] = path.split("/");
  return { page: page || "nodes", id, query: new URLSearchParams(query) };
}

export class App extends Page {
  static override properties = { cluster: { state: true }, login: { state: true }, place: { state: true }, message: { state: true } };
  declare cluster: Cluster | null;
  declare login: Login | null;
  declare place: Place;
  declare message: string;
  declare auth: Authority;
  #end = 0;
  #invitation: string | null = null;

  constructor() {
    super();
    this.cluster = this.login = null;
    this.place = place();
    this.message = "";
    this.#takeInvitation();
    window.addEventListener("hashchange", () => {
      this.place = place();
      this.#takeInvitation();
    });
    this.addEventListener("logged-in", (event) => this.#loggedIn((event as CustomEvent<Login>).detail));
    this.addEventListener("logged-out", (event) => void this.#logOut((event as CustomEvent<string>).detail));
  }

  override async connectedCallback(): Promise<void> {
    super.connectedCallback();
    try {
      this.cluster = await fetchCluster();
      const login = await kept();
      if (login?.cluster === this.cluster.cluster) this.#loggedIn(login);
    } catch (error) {
      this.message = this.failed(error);
    }
  }

  /** An invitation in the address does not stay there, nor in the history. */
  #takeInvitation(): void {
    if (this.place.page !== "invitation") return;
    this.#invitation = this.place.query.get("code") ?? "";
    history.replaceState(null, "", "#/nodes");
    this.place = place();
  }

  #loggedIn(login: Login): void {
    this.#invitation = null;
    this.auth = authority(login.cluster, login.trust, login);
    this.login = login;
    this.message = "";
    window.clearTimeout(this.#end);
    const left = Math.min(Date.parse(login.expires) - Date.now(), 2 ** 31 - 1);
    this.#end = window.setTimeout(() => void this.#logOut("Your login has ended: log in again."), left);
  }

  async #logOut(message = ""): Promise<void> {
    window.clearTimeout(this.#end);
    this.auth?.close();
    this.login = null;
    this.message = message;
    await logOut();
  }

  override updated(): void {
    // A terminal has a title of its own.
    if (this.place.page !== "terminal" || this.login === null) {
      document.title = this.cluster ? `${this.place.page} · ${this.cluster.cluster}` : "tele";
    }
    if (this.place.page === "recordings" && this.place.id) void import("./player.js");
    if (this.place.page === "terminal") void import("./terminal.js");
  }

  override render() {
    if (this.cluster === null) {
      return html`<main class="login"><p role="status">${this.message || "Connecting…"}</p></main>`;
    }
    if (this.login === null) return html`
        <tele-login .cluster=${this.cluster} .message=${this.message} .invitation=${this.#invitation}></tele-login>
      `;
    const { page } = this.place;
    const link = (name: string, title: string) =>
      html`<a href="#/${name}" aria-current=${page === name ? "page" : nothing}>${title}</a>`;
    return html`
      <header>
        <a class="skip" href="#content" @click=${this.#skip}>Skip to the content</a>
        <strong>${this.cluster.cluster}</strong>
        <nav aria-label="Pages">${link("nodes", "Nodes")} ${link("recordings", "Recordings")} ${link("audit", "Audit")}</nav>
        <a class="user" href="#/security" title=${`until ${date(this.login.expires)}`}>${printable(this.login.user)}</a>
        <button @click=${() => this.#logOut()}>Log out</button>
      </header>
      <main id="content" tabindex="-1">${this.#page()}</main>
    `;
  }

  #skip(event: Event): void {
    event.preventDefault();
    this.querySelector<HTMLElement>("#content")?.focus();
  }

  #page() {
    const { page, id, query } = this.place;
    if (page === "nodes") return html`<tele-nodes .auth=${this.auth} .login=${this.login}></tele-nodes>`;
    if (page === "terminal" && id) {
      const as = query.get("login") ?? "";
      const starts = takeOpening(id, as);
      return keyed(`${id}/${as}`, html`
        <tele-terminal .auth=${this.auth} .login=${this.login} .hostId=${id} .as=${as} .starts=${starts}></tele-terminal>
      `);
    }
    if (page === "recordings" && id) {
      const at = Number(query.get("t") ?? NaN);
      return keyed(id, html`<tele-player .auth=${this.auth} .recordingId=${id} .at=${at}></tele-player>`);
    }
    if (page === "recordings") return html`<tele-recordings .auth=${this.auth}></tele-recordings>`;
    if (page === "audit") return html`<tele-audit .auth=${this.auth}></tele-audit>`;
    if (page === "security") {
      return html`<tele-second-factors .auth=${this.auth} .cluster=${this.login!.cluster}></tele-second-factors>`;
    }
    return html`<p>There is no such page. <a href="#/nodes">Nodes</a></p>`;
  }
}

customElements.define("tele-app", App);
