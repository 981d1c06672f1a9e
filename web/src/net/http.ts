// HTTP/1.1 (RFC 9112) over one TLS connection, one request at a time.

import { Bytes, concat, text, utf8 } from "./bytes.js";
import type { Tls } from "./tls.js";

const HEAD_LIMIT = 64 * 1024;
const BODY_LIMIT = 64 * 1024 * 1024;

export class BadResponse extends Error {}

export interface Request {
  method: string;
  target: string;
  body?: Bytes;
  headers?: Record<string, string>;
}

export interface Response {
  status: number;
  headers: Map<string, string>;
  body: Bytes;
}

export class HttpConnection {
  #buffer: Uint8Array = new Uint8Array();
  /** Whether another request may be sent. */
  isOpen = true;

  constructor(private readonly tls: Tls) {}

  /** Send a request and return the response. Throws BadResponse, TlsError. */
  async send(request: Request): Promise<Response> {
    try {
      return await this.#send(request);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  async #send({ method, target, body, headers }: Request): Promise<Response> {
    const fields = { Host: "auth", "Accept-Encoding": "identity", ...headers };
    const head = [`${method} ${target} HTTP/1.1`, ...Object.entries(fields).map(([name, value]) => `${name}: ${value}`)];
    if (body) head.push("Content-Type: application/json", `Content-Length: ${body.length}`);
    await this.tls.write(concat(utf8(`${head.join("\r\n")}\r\n\r\n`), body ?? new Uint8Array()));

    const [first, ...lines] = (await this.#head()).split("\r\n");
    const status = /^HTTP\/1\.1 ([1-5]\d\d)\b/.exec(first!);
    if (!status) throw new BadResponse("it does not speak HTTP as auth does");
    const found = new Map<string, string>();
    for (const line of lines) {
      const at = line.indexOf(":");
      if (at > 0) found.set(line.slice(0, at).toLowerCase(), line.slice(at + 1).trim());
    }
    const response = { status: Number(status[1]), headers: found, body: await this.#body(found) };
    if (found.get("connection")?.toLowerCase() === "close") this.close();
    return response;
  }

  async #more(): Promise<void> {
    const data = await this.tls.read();
    if (data === null) throw new BadResponse("the connection was closed");
    this.#buffer = concat(this.#buffer, data);
  }

  async #head(): Promise<string> {
    for (;;) {
      const end = find(this.#buffer, "\r\n\r\n");
      if (end >= 0) {
        const head = text(this.#buffer.subarray(0, end));
        this.#buffer = this.#buffer.slice(end + 4);
        return head;
      }
      if (this.#buffer.length > HEAD_LIMIT) throw new BadResponse("the head of the response is too long");
      await this.#more();
    }
  }

  async #take(size: number): Promise<Bytes> {
    if (size > BODY_LIMIT) throw new BadResponse("the response is too long");
    const parts: Uint8Array[] = [this.#buffer];
    let have = this.#buffer.length;
    while (have < size) {
      const data = await this.tls.read();
      if (data === null) throw new BadResponse("the response is cut off");
      parts.push(data);
      have += data.length;
    }
    const all = concat(...parts);
    this.#buffer = all.slice(size);
    return all.slice(0, size);
  }

  async #body(headers: Map<string, string>): Promise<Bytes> {
    const length = headers.get("content-length");
    if (length !== undefined) {
      if (!/^\d{1,15}$/.test(length)) throw new BadResponse("the length of the response cannot be read");
      return this.#take(Number(length));
    }
    if (headers.get("transfer-encoding")?.toLowerCase() !== "chunked") return new Uint8Array();
    const parts: Bytes[] = [];
    let total = 0;
    for (;;) {
      const line = await this.#line();
      const size = /^([0-9a-fA-F]{1,8})$/.exec(line.trim());
      if (!size) throw new BadResponse("a part of the response cannot be read");
      const part = await this.#take(parseInt(size[1]!, 16));
      await this.#line();
      if (part.length === 0) return concat(...parts);
      total += part.length;
      if (total > BODY_LIMIT) throw new BadResponse("the response is too long");
      parts.push(part);
    }
  }

  async #line(): Promise<string> {
    for (;;) {
      const end = find(this.#buffer, "\r\n");
      if (end >= 0) {
        const line = text(this.#buffer.subarray(0, end));
        this.#buffer = this.#buffer.slice(end + 2);
        return line;
      }
      if (this.#buffer.length > HEAD_LIMIT) throw new BadResponse("a line of the response is too long");
      await this.#more();
    }
  }

  close(): void {
    this.isOpen = false;
    this.tls.close();
  }
}

function find(bytes: Uint8Array, wanted: string): number {
  const codes = Array.from(wanted, (character) => character.charCodeAt(0));
  for (let at = bytes.indexOf(codes[0]!); at >= 0; at = bytes.indexOf(codes[0]!, at + 1)) {
    if (codes.every((code, index) => bytes[at + index] === code)) return at;
  }
  return -1;
}
