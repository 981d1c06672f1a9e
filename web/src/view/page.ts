// What all pages have in common: they are drawn into the document, with its one style.

import { LitElement } from "lit";
import type { Authority } from "../net/authority.js";
import { ApiError } from "../net/authority.js";

export abstract class Page extends LitElement {
  auth!: Authority;

  protected override createRenderRoot(): HTMLElement {
    return this;
  }

  /** Say what went wrong; a login that has ended is for the application. */
  protected failed(error: unknown): string {
    if (error instanceof ApiError && error.kind === "not_logged_in") {
      this.dispatchEvent(new CustomEvent("logged-out", { bubbles: true, detail: error.message }));
    }
    return error instanceof Error ? error.message : String(error);
  }
}

const two = (value: number): string => String(value).padStart(2, "0");

/** Nanoseconds as 1:02:03. */
export function clock(time: number): string {
  const seconds = Math.floor(time / 1e9);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

export function date(written: string | null | undefined): string {
  if (!written) return "";
  const formatter = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  return formatter.format(new Date(written));
}

export function size(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < units.length - 1) {
    bytes /= 1024;
    at++;
  }
  return `${at ? bytes.toFixed(1) : bytes} ${units[at]}`;
}

const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** Text of others on one line: what cannot be seen, or turns the direction of text, is shown as its number. */
export function printable(text: string): string {
  return text.replace(INVISIBLE, (each) => `\\u{${each.codePointAt(0)!.toString(16)}}`);
}
