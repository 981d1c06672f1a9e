// What the pages do without a browser: it connects to each server that standard input names, and reads a
// recording. Prints what came of it as JSON.

import { readFileSync } from "node:fs";
import { fromBase64, hex, text, utf8 } from "../../../web/src/net/bytes.js";
import { HttpConnection } from "../../../web/src/net/http.js";
import { qrCode } from "../../../web/src/net/qr.js";
import { Tls } from "../../../web/src/net/tls.js";
import { fromPem } from "../../../web/src/net/x509.js";
import { readChunk } from "../../../web/src/tape/chunk.js";
import { readIndex } from "../../../web/src/tape/index.js";
import { dial } from "./sockets.js";

const asked = JSON.parse(readFileSync(0, "utf8"));
const key = asked.key && (await crypto.subtle.importKey("pkcs8", fromBase64(asked.key), { name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]));
const found: Record<string, unknown> = {};
for (const { name, port, serverName, trust, certificate } of asked.servers) {
  try {
    const identity = certificate ? { chain: fromPem(certificate), key } : null;
    const tls = await Tls.connect(await dial(port), { name: serverName, trust }, identity);
    const http = new HttpConnection(tls);
    const first = await http.send({ method: "GET", target: "/first" });
    const second = await http.send({ method: "POST", target: "/second", body: utf8("x".repeat(100_000)) });
    found[name] = { first: text(first.body), second: second.body.length, status: second.status };
    http.close();
  } catch (error) {
    found[name] = { refused: (error as Error).message };
  }
}

const { chunks, index, id, wrong } = asked.recording;
const opened = (keys: Record<string, string>) =>
  new Map(Object.entries(keys).map(([number, secret]) => [Number(number), fromBase64(secret)] as const));
const read = [];
for (const [at, { data, keys }] of chunks.entries()) {
  const { frames, isLast } = await readChunk(fromBase64(data), at, opened(keys));
  read.push({ isLast, frames: frames.map((frame) => [frame.time, frame.channel, frame.kind, text(frame.data), frame.at]) });
}
found["chunks"] = read;
found["indexes"] = await Promise.all(
  index.map(async ({ data, keys }: { data: string; keys: Record<string, string> }) => {
    const blob = fromBase64(data);
    const { chunks: places, channels, keyframes, marks, states, readState, ...rest } = await readIndex(blob, opened(keys), id);
    const shown = await Promise.all(
      keyframes.map(async (each) => text(await readState(each, blob.slice(states + each.offset, states + each.offset + each.packed)))),
    );
    const frames = keyframes.map(({ time, channel, chunk, at, columns, rows, newline, output }) => [
      time, channel, chunk, at, columns, rows, newline, output,
    ]);
    return {
      places: places.map((each) => [each.number, each.firstTime, each.lastTime, each.output]),
      channels: channels.map((each) => [each.number, each.opened, each.isTerminal, each.isForward, each.columns, each.rows]),
      frames,
      marks: marks.map((each) => [each.time, each.channel, each.kind, each.text]),
      shown,
      length: rest.length,
      digest: hex(rest.digest),
    };
  }),
);
found["wrong"] = await Promise.all(
  wrong.map(async ({ data, number, keys, kind }: Record<string, never>) => {
    try {
      if (kind === "index") await readIndex(fromBase64(data), opened(keys), id);
      else await readChunk(fromBase64(data), number, opened(keys));
      return "read";
    } catch (error) {
      return (error as Error).constructor.name === "BadRecording" ? "refused" : String(error);
    }
  }),
);
found["codes"] = asked.codes.map((each: string) => qrCode(each).map((row) => row.map(Number)));
// All of it has to be written before the end: a pipe takes 64 KiB at once.
process.stdout.write(`${JSON.stringify(found)}\n`, () => process.exit(0));
