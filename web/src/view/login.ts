// The log-in page.

import { html, nothing } from "lit";
import { type Cluster, type Login, logIn, pins } from "../net/login.js";
import { Page } from "./page.js";

export class LoginPage extends Page {
  static override properties = { cluster: {}, message: {}, problem: { state: true }, isBusy: { state: true }, pins: { state: true } };
  declare cluster: Cluster;
  declare message: string;
  declare problem: string;
  declare isBusy: boolean;
  declare pins: string[];

  constructor() {
    super();
    this.message = this.problem = "";
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
      const login = await logIn(this.cluster, String(given.get("user")).trim(), String(given.get("password")));
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

  override render() {
    const problem = this.problem || this.message;
    return html`
      <main class="login">
        <form @submit=${this.#submit}>
          <h1>Log in to ${this.cluster.cluster}</h1>
          <label>User<input name="user" autocomplete="username" autocapitalize="none" spellcheck="false" required /></label>
          <label>Password<input name="password" type="password" autocomplete="current-password" required /></label>
          <p class="problem" role="alert">${problem || nothing}</p>
          <button class="primary" ?disabled=${this.isBusy}>${this.isBusy ? "Logging in…" : "Log in"}</button>
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
