// The chunks of a recording and their frames: docs/protocols/tape.

import { decompress } from "fzstd";
import { Bytes, Reader, text } from "../net/bytes.js";

export const enum Kind {
  Start = 1,
  End = 2,
  Open = 3,
  Close = 4,
  Output = 5,
  Error = 6,
  Input = 7,
  Resize = 8,
  Exit = 9,
  Transfer = 12,
  Forward = 13,
  Gap = 17,
  Pause = 19,
}

export interface Frame {
  /** Nanoseconds since the start of the recording. */
  time: number;
  channel: number;
  kind: number;
  data: Bytes;
  /** Where it begins among the frames of its chunk. */
  at: number;
}

export interface Chunk {
  number: number;
  isLast: boolean;
  frames: Frame[];
}

/** Data keys of a sealed recording, by number. */
export type Secrets = Map<number, Bytes>;

export class BadRecording extends Error {}

/** Bytes of the frames of one chunk, at most. */
const RAW_LIMIT = 5 * 1024 * 1024;

/** `zstd`, of which it has to be known how long it becomes. Throws BadRecording. */
export function unpack(packed: Uint8Array, size: number, limit: number): Bytes {
  if (size > limit) throw new BadRecording("a part of the recording says that it is too long");
  let found: Uint8Array;
  try {
    found = decompress(packed, new Uint8Array(size));
  } catch {
    throw new BadRecording("a part of the recording cannot be unpacked");
  }
  if (found.length !== size) throw new BadRecording("a part of the recording is not as long as it says");
  return found as Bytes;
}

export async function openSealed(secret: Bytes, nonce: Bytes, sealed: Bytes, head: Bytes): Promise<Bytes> {
  const key = await crypto.subtle.importKey("raw", secret, "AES-GCM", false, ["decrypt"]);
  const parameters = { name: "AES-GCM", iv: nonce, ...(head.length && { additionalData: head }) };
  try {
    return new Uint8Array(await crypto.subtle.decrypt(parameters, key, sealed));
  } catch {
    throw new BadRecording("a sealed part was changed, or is another recording's");
  }
}

/** Read chunk `number`. Throws BadRecording. */
export async function readChunk(data: Bytes, number: number, secrets: Secrets): Promise<Chunk> {
  try {
    return await readKnown(data, number, secrets);
  } catch (error) {
    throw error instanceof RangeError ? new BadRecording(`chunk ${number} is cut off`) : error;
  }
}

async function readKnown(data: Bytes, number: number, secrets: Secrets): Promise<Chunk> {
  const reader = new Reader(data);
  const magic = text(reader.take(4));
  if (magic !== "TLT1" && magic !== "TLT2") throw new BadRecording(`chunk ${number} is of another version`);
  const flags = reader.number(1);
  if (reader.number(4) !== number) throw new BadRecording(`chunk ${number} has another number`);
  reader.take(32);
  const size = reader.number(4);
  let packed: Bytes;
  if (magic === "TLT1") {
    packed = data.slice(reader.at);
  } else {
    reader.take(36);
    const key = reader.number(2);
    const nonce = reader.take(12);
    packed = data.slice(reader.at);
    if (key) {
      const secret = secrets.get(key);
      if (!secret) throw new BadRecording(`chunk ${number} is sealed with data key ${key}, which auth did not give`);
      packed = await openSealed(secret, nonce, packed, data.slice(0, reader.at));
    }
  }
  const raw = unpack(packed, size, RAW_LIMIT);
  return { number, isLast: (flags & 1) === 1, frames: [...readFrames(raw, magic === "TLT2")] };
}

function* readFrames(raw: Bytes, isNumbered: boolean): Generator<Frame> {
  const reader = new Reader(raw);
  while (reader.left) {
    const at = reader.at;
    if (isNumbered) reader.take(8);
    const time = reader.long();
    const channel = reader.number(4);
    const kind = reader.number(1);
    const size = reader.number(4);
    if (size > reader.left) throw new RangeError("a frame is cut off");
    const data = raw.subarray(reader.at, reader.at + size);
    reader.at += size;
    yield { time, channel, kind, data, at };
  }
}

/** The JSON object of a frame; empty if it has none. */
export function details(frame: Frame): Record<string, unknown> {
  try {
    const found: unknown = JSON.parse(text(frame.data) || "{}");
    return typeof found === "object" && found !== null && !Array.isArray(found) ? (found as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
