// The index of a recording: docs/protocols/recording-index.

import { BadRecording, openSealed, unpack, type Secrets } from "./chunk.js";
import { Bytes, Reader, concat, equal, number, text, utf8 } from "../net/bytes.js";

const HEAD = 104;
const SEALED_HEAD = 52;
const TABLES_LIMIT = 64 * 1024 * 1024;
const STATE_LIMIT = 4 * 1024 * 1024;

export const enum MarkKind {
  Exec = 1,
  Prompt = 2,
  Transfer = 3,
  Forward = 4,
}

export interface ChunkPlace {
  number: number;
  firstTime: number;
  lastTime: number;
  output: number;
}

export interface Channel {
  number: number;
  opened: number;
  isTerminal: boolean;
  isForward: boolean;
  columns: number;
  rows: number;
}

export interface Keyframe {
  time: number;
  channel: number;
  chunk: number;
  at: number;
  columns: number;
  rows: number;
  newline: boolean;
  output: number;
  offset: number;
  packed: number;
  size: number;
}

export interface Mark {
  time: number;
  channel: number;
  kind: number;
  text: string;
}

export interface Index {
  length: number;
  raw: number;
  chunks: ChunkPlace[];
  channels: Channel[];
  keyframes: Keyframe[];
  marks: Mark[];
  digest: Bytes;
  /** Where states begin in the blob. */
  states: number;
  /** The state of a keyframe, from its bytes of the blob. */
  readState(keyframe: Keyframe, data: Bytes): Promise<Bytes>;
}

/** Up to which byte of the blob the tables are, by its first bytes. Throws BadRecording. */
export function tablesEnd(head: Bytes): number {
  const reader = new Reader(head);
  const magic = text(head.subarray(0, 4));
  const isSealed = magic === "TLXS";
  if (magic !== "TLX1" && !isSealed) throw new BadRecording("this is no index");
  reader.at = isSealed ? 40 : 36;
  const end = (isSealed ? SEALED_HEAD : HEAD) + reader.number(4);
  if (end > TABLES_LIMIT) throw new BadRecording("the tables of the index are too long");
  return end;
}

/** Read an index whose tables are in `data`. Throws BadRecording. */
export async function readIndex(data: Bytes, secrets: Secrets, id: string): Promise<Index> {
  try {
    return text(data.subarray(0, 4)) === "TLXS" ? await readSealed(data, secrets, id) : readClear(data);
  } catch (error) {
    throw error instanceof RangeError ? new BadRecording("the index is cut off") : error;
  }
}

function readClear(data: Bytes): Index {
  const reader = new Reader(data);
  if (!equal(reader.take(4), utf8("TLX1")) || reader.number(2) !== 1) throw new BadRecording("the index is of a newer version");
  reader.take(2);
  const counts = Array.from({ length: 5 }, () => reader.number(4));
  const texts = reader.number(4);
  const size = reader.number(4);
  const packed = reader.number(4);
  const length = reader.long();
  const raw = reader.long();
  reader.take(16);
  const digest = reader.take(32);
  const sizes = [56, 17, 49, 16, 21];
  if (size !== texts + counts.reduce((sum, count, at) => sum + count * sizes[at]!, 0)) {
    throw new BadRecording("the tables of the index are not as long as its head states");
  }
  const tables = new Reader(unpack(data.slice(HEAD, HEAD + packed), size, TABLES_LIMIT));
  const rows = <T>(table: number, read: () => T): T[] => Array.from({ length: counts[table]! }, read);
  const chunks = rows(0, () => {
    const place = tables.number(4);
    tables.take(12);
    const found = { number: place, firstTime: tables.long(), lastTime: tables.long(), output: 0 };
    tables.take(16);
    found.output = tables.long();
    return found;
  });
  const channels = rows(1, () => {
    const [name, opened, flags] = [tables.number(4), tables.long(), tables.number(1)];
    return {
      number: name,
      opened,
      isTerminal: (flags & 1) !== 0,
      isForward: (flags & 2) !== 0,
      columns: tables.number(2),
      rows: tables.number(2),
    };
  });
  const keyframes = rows(2, () => {
    const [time, channel, chunk, at] = [tables.long(), tables.number(4), tables.number(4), tables.number(4)];
    const [columns, lines, flags] = [tables.number(2), tables.number(2), tables.number(1)];
    const newline = (flags & 1) !== 0;
    const [output, offset] = [tables.long(), tables.long()];
    return { time, channel, chunk, at, columns, rows: lines, newline, output, offset, packed: tables.number(4), size: tables.number(4) };
  });
  tables.take(counts[3]! * sizes[3]!);
  const places = rows(4, () => {
    const mark = { time: tables.long(), channel: tables.number(4), kind: tables.number(1) };
    return { ...mark, at: tables.number(4), size: tables.number(4) };
  });
  const all = tables.take(texts);
  const marks = places.map(({ at, size: long, ...mark }) => ({ ...mark, text: text(all.subarray(at, at + long)) }));
  return {
    length,
    raw,
    chunks,
    channels,
    keyframes,
    marks,
    digest,
    states: HEAD + packed,
    readState: async (keyframe, state) => unpack(state, keyframe.size, STATE_LIMIT),
  };
}

async function readSealed(data: Bytes, secrets: Secrets, id: string): Promise<Index> {
  const end = tablesEnd(data);
  const reader = new Reader(data);
  reader.at = 6;
  const secret = secrets.get(reader.number(2));
  if (!secret) throw new BadRecording("auth did not give the key of the index");
  const salt = reader.take(32);
  const imported = await crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
  const info = utf8(`tele-recording-index@tele\n${id}`);
  const derived = await crypto.subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt, info }, imported, 256);
  const key = new Uint8Array(derived);
  const head = data.slice(0, SEALED_HEAD);
  const tables = await openSealed(key, new Uint8Array(12).fill(255), data.slice(SEALED_HEAD, end), head);
  const index = readClear(tables);
  return {
    ...index,
    states: end,
    readState: async (keyframe, state) => {
      const nonce = concat(new Uint8Array(4), number(keyframe.offset, 8));
      return unpack(await openSealed(key, nonce, state, new Uint8Array()), keyframe.size, STATE_LIMIT);
    },
  };
}
