// A recording in a .tape file (docs/protocols/tape) that is here as a whole.

import { Bytes, Reader, fromBase64, hex, text, utf8, equal } from "../net/bytes.js";
import { BadRecording, type Chunk, Kind, type Secrets, details, readChunk } from "./chunk.js";
import { type Channel, type Index, type Mark, MarkKind } from "./index.js";
import type { Facts, Source } from "./recording.js";

const MAGIC = utf8("TELETAPE1\n");

interface Manifest {
  id: string;
  ended: string;
  chunks: { number: number; size: number; sha256: string }[];
}

/** The parts of a file by name. Throws BadRecording. */
function parts(file: Bytes): Map<string, Bytes> {
  const reader = new Reader(file);
  const found = new Map<string, Bytes>();
  try {
    if (!equal(reader.take(MAGIC.length), MAGIC)) throw new BadRecording("this is no .tape file");
    while (reader.left) {
      const name = text(reader.sized(2));
      found.set(name, reader.take(reader.long()));
    }
  } catch (error) {
    throw error instanceof RangeError ? new BadRecording("the file is cut off") : error;
  }
  return found;
}

export class TapeFile implements Source {
  notice = "";
  index: Index | null = null;
  readonly facts: Facts;
  readonly isRunning = false;
  readonly isClosed = true;
  readonly numbers: number[];
  readonly #parts: Map<string, Bytes>;
  readonly #manifest: Manifest | null;
  #length = 0;

  private constructor(
    file: Bytes,
    private readonly secrets: Secrets,
  ) {
    this.#parts = parts(file);
    const read = <T>(name: string): T | null => {
      const part = this.#parts.get(name);
      return part ? (JSON.parse(text(part)) as T) : null;
    };
    const start = read<Facts>("start");
    if (!start) throw new BadRecording("the file does not say what it is of");
    this.#manifest = read<Manifest>("manifest");
    const missing = read<number[]>("missing") ?? [];
    this.numbers = [...this.#parts.keys()]
      .filter((name) => name.endsWith(".chunk"))
      .map((name) => parseInt(name, 10))
      .sort((one, other) => one - other);
    this.facts = {
      ...start,
      ended: this.#manifest?.ended ?? null,
      size: file.length,
      chunks: this.numbers.length,
      complete: this.#manifest !== null && !missing.length,
      incomplete: missing.length ? `chunks are lost: ${missing.join(", ")}` : this.#manifest ? "" : "it has no manifest",
      interactive: true,
    };
  }

  /** Read a file; `secrets` are the data keys of a sealed recording (base64). Throws BadRecording. */
  static async open(file: Bytes, secrets: Record<string, string>): Promise<TapeFile> {
    const keys = Object.entries(secrets).map(([number, secret]) => [Number(number), fromBase64(secret)] as const);
    const made = new TapeFile(file, new Map(keys));
    await made.#scan();
    return made;
  }

  get id(): string {
    return this.facts.id;
  }

  get state(): string {
    return this.facts.complete ? "complete" : "incomplete";
  }

  get length(): number {
    return this.#length;
  }

  /** Read all once: programs, commands and files, as an index would tell. */
  async #scan(): Promise<void> {
    const channels: Channel[] = [];
    const marks: Mark[] = [];
    const chunks: Index["chunks"] = [];
    for (const number of this.numbers) {
      const { frames } = (await this.chunk(number))!;
      chunks.push({ number, firstTime: frames[0]?.time ?? 0, lastTime: frames.at(-1)?.time ?? 0, output: 0 });
      for (const frame of frames) {
        this.#length = Math.max(this.#length, frame.time);
        if (frame.kind !== Kind.Open && frame.kind !== Kind.Transfer) continue;
        const found = details(frame);
        const said = (name: string) => (typeof found[name] === "string" ? found[name] : "");
        const { time, channel } = frame;
        if (frame.kind === Kind.Transfer) {
          marks.push({ time, channel, kind: MarkKind.Transfer, text: `${said("direction") || said("op")} ${said("path")}` });
          continue;
        }
        const isForward = found["kind"] === "forward";
        const pty = found["pty"] as { columns?: number; rows?: number } | null | undefined;
        channels.push({
          number: channel,
          opened: time,
          isTerminal: Boolean(pty),
          isForward,
          columns: Number(pty?.columns) || 0,
          rows: Number(pty?.rows) || 0,
        });
        if (!isForward && said("command")) marks.push({ time, channel, kind: MarkKind.Exec, text: said("command") });
      }
    }
    this.index = {
      length: this.#length,
      raw: 0,
      chunks,
      channels,
      keyframes: [],
      marks,
      digest: new Uint8Array(),
      states: 0,
      readState: () => Promise.reject(new BadRecording("a file has no keyframes")),
    };
  }

  async refresh(): Promise<void> {
    // A file stays as it is.
  }

  close(): void {
    // Nothing is asked for.
  }

  keyframe(): Promise<Bytes> {
    return Promise.reject(new BadRecording("a file has no keyframes"));
  }

  async chunk(number: number): Promise<Chunk | null> {
    const data = this.#parts.get(`${String(number).padStart(8, "0")}.chunk`);
    if (!data) return null;
    const named = this.#manifest?.chunks.find((each) => each.number === number);
    // Pages that came over plain HTTP cannot compute digests; what the file holds is shown anyway.
    if (named && crypto.subtle) {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
      if (named.sha256 !== hex(digest)) throw new BadRecording(`chunk ${number} is not the one that the manifest names`);
    }
    return readChunk(data, number, this.secrets);
  }
}
