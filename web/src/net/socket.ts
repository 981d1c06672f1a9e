// A WebSocket as a stream of bytes.

import type { Stream } from "./tls.js";
import type { Bytes } from "./bytes.js";

const CONNECT_MS = 10_000;

export class Unreachable extends Error {}

export class SocketStream implements Stream {
  #received: Uint8Array[] = [];
  #waiting: ((data: Uint8Array | null) => void) | null = null;
  #ended = false;

  private constructor(private readonly socket: WebSocket) {
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => {
      if (!(event.data instanceof ArrayBuffer)) return this.close();
      const data = new Uint8Array(event.data);
      if (this.#waiting) this.#give(data);
      else this.#received.push(data);
    };
    socket.onclose = () => {
      this.#ended = true;
      if (this.#waiting) this.#give(null);
    };
  }

  /** Connect. Throws Unreachable. */
  static open(url: string): Promise<SocketStream> {
    const socket = new WebSocket(url);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        socket.close();
        reject(new Unreachable("the proxy did not answer in time"));
      }, CONNECT_MS);
      const stream = new SocketStream(socket);
      const closed = socket.onclose!;
      socket.onopen = () => {
        clearTimeout(timer);
        resolve(stream);
      };
      socket.onclose = (event) => {
        clearTimeout(timer);
        closed.call(socket, event);
        reject(new Unreachable("the proxy cannot be reached"));
      };
    });
  }

  #give(data: Uint8Array | null): void {
    const waiting = this.#waiting!;
    this.#waiting = null;
    waiting(data);
  }

  read(): Promise<Uint8Array | null> {
    const next = this.#received.shift();
    if (next) return Promise.resolve(next);
    if (this.#ended) return Promise.resolve(null);
    return new Promise((resolve) => (this.#waiting = resolve));
  }

  write(data: Uint8Array): void {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(data as Bytes);
  }

  close(): void {
    this.socket.close();
  }
}
