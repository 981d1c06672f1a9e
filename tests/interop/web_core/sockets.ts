// A connection to a port of this machine, as the pages see a stream.

import { connect } from "node:net";
import type { Stream } from "../../../web/src/net/tls.js";

export function dial(port: number): Promise<Stream> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    const parts: Uint8Array[] = [];
    let waiting: ((data: Uint8Array | null) => void) | null = null;
    let ended = false;
    const give = (data: Uint8Array | null) => {
      const known = waiting;
      waiting = null;
      if (known) known(data);
      else if (data) parts.push(data);
    };
    socket.on("data", (data) => give(new Uint8Array(data)));
    socket.on("close", () => {
      ended = true;
      give(null);
    });
    socket.on("error", reject);
    socket.on("connect", () =>
      resolve({
        read: () =>
          parts.length || ended ? Promise.resolve(parts.shift() ?? null) : new Promise((next) => (waiting = next)),
        write: (data) => void socket.write(data),
        close: () => void socket.destroy(),
      }),
    );
  });
}
