// The log-in page.

import { html, nothing } from "lit";
import { ApiError } from "../net/authority.js";
import { type Cluster, type LoggedIn, type Login, accept, invitedUser, logIn, pins } from "../net/login.js";
import { askKey, newSecret } from "../net/second_factors.js";
import { codeField, recovery, setup } from "./second_factors.js";
import { Page } from "./page.js";

export class LoginPage extends Page {
  static override properties = {
    cluster: {},
    message: {},
    invitation: {},
    problem: { state: true },
    isBusy: { state: true },
    pins: { state: true },
    needs: { state: true },
    done: { state: true },
  };
  declare cluster: Cluster;
  declare message: string;
  /** An invitation from the address; null to log in. */
  declare invitation: string | null;
  declare problem: string;
  declare isBusy: boolean;
  declare pins: string[];
  /** What auth asked for beside the password. */
  declare needs: "" | "code" | "setup";
  /** A login whose recovery codes are still shown. */
  declare done: LoggedIn | null;
  #secret = "";
  /** What a security key is asked, and its answer. */
  #asked = "";
  #signed = "";
  #user = "";

  constructor() {
    super();
    this.message = this.problem = this.needs = "";
    this.done = null;
    this.invitation = null;
    this.isBusy = false;
    this.pins = [];
  }

  override async firstUpdated(): Promise<void> {
    this.querySelector("input")?.focus();
    this.pins = await pins(this.cluster.trust);
  }

  async #submit(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const given = new FormData(form);
    this.isBusy = true;
    this.problem = "";
    try {
      const done = await this.#answer(given);
      form.reset();
      this.needs = this.#secret = this.#asked = "";
      if (done.codes.length) this.done = done;
      else this.#enter(done.login);
    } catch (error) {
      const kind = error instanceof ApiError ? error.kind : "";
      if (kind === "second_factor" && error instanceof ApiError) {
        this.#asked = error.webauthn;
        if (this.needs === "code" && !this.#asked) this.problem = error.message;
        this.needs = "code";
        this.requestUpdate();
      } else if (kind === "second_factor_unset" && this.invitation !== null && this.needs !== "setup") {
        this.needs = "setup";
        this.#secret = newSecret();
        this.#user = invitedUser(String(given.get("code-of-invitation")).trim());
      } else this.problem = this.failed(error);
      await this.updateComplete;
      const [field] = ["code", "new-code", "password"].map((name) => form.elements.namedItem(name)).filter(Boolean);
      (field as HTMLInputElement).select();
    } finally {
      this.isBusy = false;
    }
  }

  #enter(login: Login): void {
    this.dispatchEvent(new CustomEvent<Login>("logged-in", { bubbles: true, detail: login }));
  }

  #answer(given: FormData): Promise<LoggedIn> {
    const field = (name: string): string => String(given.get(name));
    const code = this.needs === "code" ? field("code").trim() : "";
    const factor = this.#signed ? { webauthn: this.#signed } : code ? { code } : null;
    this.#signed = "";
    if (this.invitation === null) return logIn(this.cluster, field("user").trim(), field("password"), factor);
    if (field("password") !== field("again")) throw new Error("the two passwords are not the same");
    const shown = field("new-code").replace(/ /g, "");
    const device = this.needs === "setup" ? { name: "phone", secret: this.#secret, code: shown } : null;
    return accept(this.cluster, field("code-of-invitation").trim(), field("password"), factor, device);
  }

  async #useKey(): Promise<void> {
    this.problem = "";
    try {
      this.#signed = await askKey(this.#asked);
      this.querySelector<HTMLFormElement>("form")?.requestSubmit();
    } catch (error) {
      this.problem = this.failed(error);
    }
  }

  #toggle(): void {
    this.invitation = this.invitation === null ? "" : null;
    this.needs = this.problem = "";
  }

  #fields() {
    if (this.invitation === null) {
      return html`
        <label>User<input name="user" autocomplete="username" autocapitalize="none" spellcheck="false" required /></label>
        <label>Password<input name="password" type="password" autocomplete="current-password" required /></label>
      `;
    }
    return html`
      <label>Invitation<input name="code-of-invitation" autocomplete="off" autocapitalize="none" spellcheck="false" required .value=${this.invitation} /></label>
      <label>New password<input name="password" type="password" autocomplete="new-password" required /></label>
      <label>Again<input name="again" type="password" autocomplete="new-password" required /></label>
    `;
  }

  override render() {
    if (this.done !== null) {
      const { login, codes } = this.done;
      return html`
        <main class="login">
          <h1>Second factor set up</h1>
          ${recovery(codes)}
          <button class="primary" @click=${() => this.#enter(login)}>I have kept them</button>
        </main>
      `;
    }
    const isInvited = this.invitation !== null;
    const problem = this.problem || this.message;
    return html`
      <main class="login">
        <form @submit=${this.#submit}>
          <h1>${isInvited ? "Set your password for" : "Log in to"} ${this.cluster.cluster}</h1>
          ${this.#fields()}
          ${this.needs === "code" ? codeField(this.#asked ? () => void this.#useKey() : null) : nothing}
          ${this.needs === "setup" ? setup(this.cluster.cluster, this.#user, this.#secret) : nothing}
          <p class="problem" role="alert">${problem || nothing}</p>
          <button class="primary" ?disabled=${this.isBusy}>${this.isBusy ? "Logging in…" : "Log in"}</button>
          <button type="button" class="link" @click=${this.#toggle}>
            ${isInvited ? "I have a password" : "I have an invitation"}
          </button>
        </form>
        <details>
          <summary>What is this?</summary>
          <p>
            Your password goes to auth, encrypted here for it; the proxy that serves this page passes it on and cannot
            read it. Your keys are made in this browser and cannot leave it.
          </p>
          <p>The pin of the cluster’s CA, as <code>tele ca status</code> prints it:</p>
          ${this.pins.map((each) => html`<code class="pin">${each}</code>`)}
        </details>
      </main>
    `;
  }
}

customElements.define("tele-login", LoginPage);
