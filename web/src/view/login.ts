// The log-in page.

import { html, nothing } from "lit";
import { type Cluster, type Login, accept, logIn, pins } from "../net/login.js";
import { Page } from "./page.js";

export class LoginPage extends Page {
  static override properties = {
    cluster: {},
    message: {},
    invitation: {},
    problem: { state: true },
    isBusy: { state: true },
    pins: { state: true },
  };
  declare cluster: Cluster;
  declare message: string;
  /** An invitation from the address; null to log in. */
  declare invitation: string | null;
  declare problem: string;
  declare isBusy: boolean;
  declare pins: string[];

  constructor() {
    super();
    this.message = this.problem = "";
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
      const login = await this.#answer(given);
      form.reset();
      this.dispatchEvent(new CustomEvent<Login>("logged-in", { bubbles: true, detail: login }));
    } catch (error) {
      this.problem = this.failed(error);
      await this.updateComplete;
      (form.elements.namedItem("password") as HTMLInputElement).select();
    } finally {
      this.isBusy = false;
    }
  }

  #answer(given: FormData): Promise<Login> {
    const field = (name: string): string => String(given.get(name));
    if (this.invitation === null) return logIn(this.cluster, field("user").trim(), field("password"));
    if (field("password") !== field("again")) throw new Error("the two passwords are not the same");
    return accept(this.cluster, field("code").trim(), field("password"));
  }

  #fields() {
    if (this.invitation === null) {
      return html`
        <label>User<input name="user" autocomplete="username" autocapitalize="none" spellcheck="false" required /></label>
        <label>Password<input name="password" type="password" autocomplete="current-password" required /></label>
      `;
    }
    return html`
      <label>Invitation<input name="code" autocomplete="off" autocapitalize="none" spellcheck="false" required .value=${this.invitation} /></label>
      <label>New password<input name="password" type="password" autocomplete="new-password" required /></label>
      <label>Again<input name="again" type="password" autocomplete="new-password" required /></label>
    `;
  }

  override render() {
    const isInvited = this.invitation !== null;
    const problem = this.problem || this.message;
    return html`
      <main class="login">
        <form @submit=${this.#submit}>
          <h1>${isInvited ? "Set your password for" : "Log in to"} ${this.cluster.cluster}</h1>
          ${this.#fields()}
          <p class="problem" role="alert">${problem || nothing}</p>
          <button class="primary" ?disabled=${this.isBusy}>${this.isBusy ? "Logging in…" : "Log in"}</button>
          <button type="button" class="link" @click=${() => (this.invitation = isInvited ? null : "")}>
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
