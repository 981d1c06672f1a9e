// Calls of auth's API: connections are kept, errors are those of the API.

import { Bytes, text, utf8 } from "./bytes.js";
import { BadResponse, HttpConnection, type Response } from "./http.js";
import { Identity, Server, Stream, Tls, TlsError } from "./tls.js";
import { Unreachable } from "./socket.js";

/** Connections that are open at once. */
const CONNECTIONS = 3;

/** An error that auth answered, or why there was no answer. `kind` is one of the API's, or `unreachable`. */
export class ApiError extends Error {
  constructor(
    readonly kind: string,
    message: string,
    /** With `second_factor`: what a security key is asked, as JSON; empty if there is none. */
    readonly webauthn = "",
  ) {
    super(message);
  }
}

export type Query = Record<string, string | number | boolean | readonly string[] | undefined>;

export interface Part {
  data: Bytes;
  /** Where it begins, and how long all of it is; -1 if that is not known. */
  start: number;
  total: number;
}

export class Authority {
  #idle: HttpConnection[] = [];
  #open = 0;
  #waiting: (() => void)[] = [];

  constructor(
    private readonly dial: () => Promise<Stream>,
    private readonly server: Server,
    private readonly identity: Identity | null,
  ) {}

  async #connect(): Promise<HttpConnection> {
    return new HttpConnection(await Tls.connect(await this.dial(), this.server, this.identity));
  }

  async #send(method: string, target: string, body?: Bytes, headers?: Record<string, string>): Promise<Response> {
    while (this.#open >= CONNECTIONS) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#open++;
    try {
      const kept = this.#idle.pop();
      const request = { method, target, ...(body && { body }), ...(headers && { headers }) };
      let connection = kept?.isOpen ? kept : await this.#connect();
      let response: Response;
      try {
        response = await connection.send(request);
      } catch (error) {
        // Auth may have closed an idle connection; nothing else is repeated.
        if (connection !== kept || method !== "GET") throw error;
        connection = await this.#connect();
        response = await connection.send(request);
      }
      if (connection.isOpen) this.#idle.push(connection);
      return response;
    } catch (error) {
      throw explained(error);
    } finally {
      this.#open--;
      this.#waiting.shift()?.();
    }
  }

  /** Call an operation that answers JSON. Throws ApiError. */
  async call<T>(method: string, path: string, query: Query = {}, body?: unknown): Promise<T> {
    const sent = body === undefined ? undefined : utf8(JSON.stringify(body));
    const response = await this.#send(method, path + encoded(query), sent);
    checkStatus(response);
    return (response.body.length ? JSON.parse(text(response.body), exact) : {}) as T;
  }

  get<T>(path: string, query: Query = {}): Promise<T> {
    return this.call<T>("GET", path, query);
  }

  /** Bytes `start` up to `end` (0: all) of a blob. Throws ApiError. */
  async part(path: string, start = 0, end = 0): Promise<Part> {
    const range = start < 0 ? `bytes=${start}` : end ? `bytes=${start}-${end - 1}` : start ? `bytes=${start}-` : "";
    const response = await this.#send("GET", path, undefined, range ? { Range: range } : {});
    checkStatus(response);
    const span = /^bytes (\d+)-\d+\/(\d+)$/.exec(response.headers.get("content-range") ?? "");
    if (!span) return { data: response.body, start: 0, total: response.body.length };
    return { data: response.body, start: Number(span[1]), total: Number(span[2]) };
  }

  close(): void {
    for (const each of this.#idle.splice(0)) each.close();
  }
}

/** Integers that a number cannot hold, such as serials of certificates, stay as they are written. */
function exact(_key: string, value: unknown, context?: { source?: string }): unknown {
  const isRounded = typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value);
  return isRounded ? (context?.source ?? value) : value;
}

function encoded(query: Query): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === "") continue;
    for (const each of Array.isArray(value) ? value : [value]) parameters.append(name, String(each));
  }
  const written = parameters.toString();
  return written ? `?${written}` : "";
}

function checkStatus(response: Response): void {
  if (response.status < 300) return;
  let found: { error?: { kind?: unknown; message?: unknown; webauthn?: unknown } } = {};
  try {
    found = JSON.parse(text(response.body));
  } catch {
    // The message below is for all that is not an error of the API.
  }
  const { kind, message, webauthn } = found.error ?? {};
  if (typeof kind === "string" && typeof message === "string") {
    throw new ApiError(kind, message, typeof webauthn === "string" ? webauthn : "");
  }
  throw new ApiError("error", `auth answered with status ${response.status}`);
}

function explained(error: unknown): unknown {
  if (error instanceof ApiError) return error;
  if (error instanceof TlsError && error.refusesCertificate) {
    return new ApiError("not_logged_in", "auth does not accept this certificate any more: log in again");
  }
  if (error instanceof Unreachable) return new ApiError("unreachable", error.message);
  if (error instanceof TlsError || error instanceof BadResponse) {
    return new ApiError("unreachable", `auth did not answer: ${error.message}`);
  }
  return error;
}
