// What the pages show of second factors: the QR code of a new app, recovery codes, and the page of one's own.

import { html, nothing, svg } from "lit";
import { ApiError } from "../net/authority.js";
import { qrCode } from "../net/qr.js";
import {
  type Devices,
  type SecondFactor,
  addDevice,
  addKey,
  askKey,
  listDevices,
  newCodes,
  newSecret,
  otpauth,
  removeDevice,
} from "../net/second_factors.js";
import { Page, date, printable } from "./page.js";

const BORDER = 4;
const TYPES: Record<string, string> = { totp: "authenticator app", webauthn: "security key" };

/** The field for a code of an app that is set up, or a recovery code; with `useKey` a button for a key. */
export const codeField = (useKey: (() => void) | null) => html`
  ${useKey ? html`<button type="button" class="primary key" @click=${useKey}>Use your security key</button>` : nothing}
  <label>${useKey ? "Or the code" : "Code"} of your authenticator app, or a recovery code
    <input name="code" autocomplete="one-time-code" autocapitalize="none" spellcheck="false" />
  </label>
`;

/** A new app: its QR code, the same as text, and the field for the code that it shows. */
export function setup(cluster: string, user: string, secret: string) {
  const rows = qrCode(otpauth(cluster, user, secret));
  const size = rows.length + 2 * BORDER;
  const path = rows
    .flatMap((row, y) => row.map((isDark, x) => (isDark ? `M${x + BORDER} ${y + BORDER}h1v1h-1z` : "")))
    .join("");
  return html`
    <p>Scan this with an authenticator app, then enter the code that it shows.</p>
    <svg class="qr" viewBox="0 0 ${size} ${size}" role="img" aria-label="QR code for an authenticator app">
      ${svg`<path d=${path} />`}
    </svg>
    <details><summary>I cannot scan it</summary><code class="pin">${secret.match(/.{1,4}/g)!.join(" ")}</code></details>
    <label>Code that the app shows now
      <input name="new-code" autocomplete="off" inputmode="numeric" pattern="[0-9 ]{6,7}" required />
    </label>
  `;
}

/** Recovery codes, which are shown once. */
export const recovery = (codes: readonly string[]) => html`
  <p role="status">Your recovery codes. Each is good once in place of the app. They are not shown again: keep them safe.</p>
  <ul class="codes">${codes.map((each) => html`<li><code>${each}</code></li>`)}</ul>
`;

type Doing = "" | "add" | "key" | "codes" | `remove ${string}`;

export class SecondFactorsPage extends Page {
  static override properties = {
    cluster: {},
    found: { state: true },
    doing: { state: true },
    isAsking: { state: true },
    isBusy: { state: true },
    codes: { state: true },
    problem: { state: true },
    asked: { state: true },
  };
  declare cluster: string;
  declare found: Devices | null;
  declare doing: Doing;
  declare isAsking: boolean;
  declare isBusy: boolean;
  declare codes: string[];
  declare problem: string;
  /** What a security key is asked. */
  declare asked: string;
  #secret = "";
  #signed = "";

  constructor() {
    super();
    this.found = null;
    this.doing = this.problem = this.asked = "";
    this.isAsking = this.isBusy = false;
    this.codes = [];
  }

  override connectedCallback(): void {
    super.connectedCallback();
    void this.#load();
  }

  async #load(): Promise<void> {
    try {
      this.found = await listDevices(this.auth);
    } catch (error) {
      this.problem = this.failed(error);
    }
  }

  async #begin(doing: Doing): Promise<void> {
    this.doing = doing;
    this.problem = this.asked = this.#signed = "";
    this.codes = [];
    this.isAsking = this.found?.mode !== "off" && this.found!.devices.some((each) => each.type === "totp");
    if (doing === "add") this.#secret = newSecret();
    await this.updateComplete;
    this.querySelector<HTMLInputElement>("form input")?.focus();
  }

  async #submit(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    const given = new FormData(event.currentTarget as HTMLFormElement);
    const field = (name: string): string => String(given.get(name) ?? "").trim();
    const factor: SecondFactor | null = this.#signed ? { webauthn: this.#signed } : field("code") ? { code: field("code") } : null;
    this.#signed = "";
    const password = String(given.get("password"));
    this.isBusy = true;
    this.problem = "";
    try {
      if (this.doing === "add") {
        const device = { name: field("name"), secret: this.#secret, code: field("new-code").replace(/ /g, "") };
        this.codes = await addDevice(this.auth, device, password, factor);
      } else if (this.doing === "key") {
        this.codes = await addKey(this.auth, field("name"), password, factor);
      } else if (this.doing === "codes") {
        this.codes = await newCodes(this.auth, password, factor);
      } else {
        await removeDevice(this.auth, this.doing.replace("remove ", ""), password, factor);
      }
      this.doing = this.#secret = "";
      await this.#load();
    } catch (error) {
      if (error instanceof ApiError && error.kind === "second_factor") {
        this.isAsking = true;
        this.asked = error.webauthn;
        if (!this.asked || factor) this.problem = error.message;
      } else this.problem = this.failed(error);
    } finally {
      this.isBusy = false;
    }
  }

  async #useKey(): Promise<void> {
    this.problem = "";
    try {
      this.#signed = await askKey(this.asked);
      this.querySelector<HTMLFormElement>("form")?.requestSubmit();
    } catch (error) {
      this.problem = this.failed(error);
    }
  }

  #form() {
    const isAdding = this.doing === "add";
    const titles: Record<string, string> = {
      add: "Add an authenticator app", key: "Add a security key", codes: "New recovery codes",
    };
    const title = titles[this.doing] ?? "Remove a device";
    const name = isAdding ? "phone" : "security key";
    const isNamed = isAdding || this.doing === "key";
    return html`
      <form class="narrow" @submit=${this.#submit}>
        <h2>${title}</h2>
        ${isNamed ? html`<label>Name<input name="name" value=${name} maxlength="64" required /></label>` : nothing}
        ${isAdding ? setup(this.cluster, this.found!.user, this.#secret) : nothing}
        <label>Your password<input name="password" type="password" autocomplete="current-password" required /></label>
        ${this.isAsking ? codeField(this.asked ? () => void this.#useKey() : null) : nothing}
        <button class="primary" ?disabled=${this.isBusy}>${title}</button>
        <button type="button" @click=${() => (this.doing = "")}>Cancel</button>
      </form>
    `;
  }

  override render() {
    const found = this.found;
    return html`
      <div class="head"><h1>Second factors</h1></div>
      <p class="problem" role="alert">${this.problem || nothing}</p>
      ${this.codes.length ? recovery(this.codes) : nothing}
      ${found === null ? html`<p role="status">Loading…</p>` : this.#devices(found)}
      ${this.doing && found ? this.#form() : nothing}
    `;
  }

  #devices(found: Devices) {
    const rows = found.devices.map(
      (each) => html`
        <tr>
          <th scope="row">${printable(each.name)}</th>
          <td>${TYPES[each.type] ?? printable(each.type)}</td>
          <td class="when">${date(each.added)}</td>
          <td class="when">${date(each.last_used)}</td>
          <td><button @click=${() => this.#begin(`remove ${each.id}`)}>Remove</button></td>
        </tr>
      `,
    );
    const table = html`
      <div class="scroll"><table>
        <thead><tr><th scope="col">Name</th><th scope="col">Type</th><th scope="col">Added</th><th scope="col">Last used</th><td></td></tr></thead>
        <tbody>${rows}</tbody>
      </table></div>
      <p>Recovery codes that are left: ${found.recovery_codes}. <button @click=${() => this.#begin("codes")}>New recovery codes</button></p>
    `;
    return html`
      ${rows.length ? table : html`<p>There is none: your password alone logs you in.</p>`}
      ${found.mode === "off"
        ? html`<p class="quiet">Second factors are off in this cluster.</p>`
        : html`<p>
            <button class="primary" @click=${() => this.#begin("add")}>Add an authenticator app</button>
            <button @click=${() => this.#begin("key")}>Add a security key</button>
          </p>`}
    `;
  }
}

customElements.define("tele-second-factors", SecondFactorsPage);
