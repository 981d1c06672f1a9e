// A recording at auth, read in parts: its facts, its index, its chunks as they are needed.
//
// Each chunk is the one that the manifest names. What the index says is used to find things only.

import { ApiError, type Authority } from "../net/authority.js";
import { Bytes, fromBase64, hex } from "../net/bytes.js";
import { BadRecording, type Chunk, type Secrets, readChunk } from "./chunk.js";
import { type Index, type Keyframe, readIndex, tablesEnd } from "./index.js";

/** Bytes that are read to open an index. */
const FIRST_PART = 256 * 1024;
/** How long an index that is being made is waited for before it plays, and how often auth is asked then. */
const INDEX_WAITS_MS = [150, 300, 300];
const INDEX_MS = 3000;
const INDEX_TRIES = 200;
/** Chunks that stay unpacked: one may have 5 MiB. */
const CACHED = 6;

export interface Facts {
  id: string;
  user: string;
  login: string;
  node: string;
  started: string;
  ended: string | null;
  interactive: boolean;
  size: number;
  chunks: number;
  complete: boolean;
  incomplete: string;
  kind: string;
}

interface Details {
  recording: Facts;
  available: number;
  manifest: { chunks: { number: number; size: number; sha256: string }[]; ended: string; start: { started: string } } | null;
  state: string;
  missing: number[];
  index?: string;
}

/** A recording that can be played. */
export interface Source {
  readonly id: string;
  readonly index: Index | null;
  /** Why there is no index, if there should be one. */
  readonly notice: string;
  readonly facts: Facts;
  readonly state: string;
  readonly isClosed: boolean;
  readonly isRunning: boolean;
  /** How long it is, in nanoseconds, as far as that is known before it is read. */
  readonly length: number;
  /** The numbers of the chunks that are there. */
  readonly numbers: number[];
  /** Ask for its state again. */
  refresh(): Promise<void>;
  /** It is played no more. */
  close(): void;
  /** The screen of a keyframe of its index. */
  keyframe(keyframe: Keyframe): Promise<Bytes>;
  /** Chunk `number`, or null if it is not there yet. Throws BadRecording. */
  chunk(number: number): Promise<Chunk | null>;
}

export class Recording implements Source {
  index: Index | null = null;
  notice = "";
  #details!: Details;
  #secrets: Secrets = new Map();
  #cache = new Map<number, Promise<Chunk>>();
  #isClosedHere = false;

  private constructor(
    readonly id: string,
    private readonly auth: Authority,
  ) {}

  /** Open it. Throws ApiError, BadRecording. */
  static async open(id: string, auth: Authority): Promise<Recording> {
    const made = new Recording(id, auth);
    const [, keys] = await Promise.all([
      made.refresh(),
      auth.get<{ keys: { number: number; secret: string }[] }>(`${made.#path}/keys`),
    ]);
    for (const { number, secret } of keys.keys) made.#secrets.set(number, fromBase64(secret));
    if (made.#details.index === "ready") await made.#readIndex();
    else if (made.isClosed && made.#details.index !== "failed") await made.#askForIndex();
    return made;
  }

  get #path(): string {
    return `/v1/recordings/${encodeURIComponent(this.id)}`;
  }

  get facts(): Facts {
    return this.#details.recording;
  }

  get state(): string {
    return this.#details.state;
  }

  get isClosed(): boolean {
    return this.#details.manifest !== null || this.state === "incomplete";
  }

  get isRunning(): boolean {
    return this.state === "running" || this.state === "ended";
  }

  get length(): number {
    if (this.index) return this.index.length;
    const ended = this.#details.manifest?.ended ?? this.facts.ended;
    return ended ? Math.max(0, Date.parse(ended) - Date.parse(this.facts.started)) * 1e6 : 0;
  }

  async refresh(): Promise<void> {
    this.#details = await this.auth.get<Details>(this.#path);
  }

  async #readIndex(): Promise<void> {
    try {
      let { data } = await this.auth.part(`${this.#path}/index`, 0, FIRST_PART);
      const end = tablesEnd(data);
      if (end > data.length) ({ data } = await this.auth.part(`${this.#path}/index`, 0, end));
      const index = await readIndex(data, this.#secrets, this.id);
      if (this.#isOurs(index)) this.index = index;
      else this.notice = "its index is of other chunks: it is read from the beginning";
    } catch (error) {
      if (!(error instanceof BadRecording) && !(error instanceof ApiError && error.kind === "not_found")) throw error;
      this.notice = `${error.message}: it is read from the beginning`;
    }
  }

  /** Whether an index was made of the chunks that the manifest names. */
  #isOurs(index: Index): boolean {
    const last = index.chunks.at(-1);
    if (!last) return false;
    const named = this.#details.manifest?.chunks;
    return named === undefined || named.find((each) => each.number === last.number)?.sha256 === hex(index.digest);
  }

  /** Have the index made, which auth does when it is asked for; a long one is read when it is there. */
  async #askForIndex(): Promise<void> {
    for (const wait of INDEX_WAITS_MS) {
      if (await this.#findIndex(wait)) return;
    }
    this.notice = "its index is being made: until then it is read from the beginning";
    void this.#awaitIndex();
  }

  async #awaitIndex(): Promise<void> {
    for (let tries = 0; tries < INDEX_TRIES && !this.#isClosedHere; tries++) {
      try {
        if (await this.#findIndex(INDEX_MS)) return;
      } catch {
        // Auth may be away for a while: it is asked again.
      }
    }
  }

  /** Whether there is an index now, or will be none; if there will be, after `wait` milliseconds. */
  async #findIndex(wait: number): Promise<boolean> {
    try {
      await this.auth.part(`${this.#path}/index`, 0, 1);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
    }
    await this.refresh();
    if (this.#details.index === "ready") {
      this.notice = "";
      await this.#readIndex();
      return true;
    }
    if (this.#details.index === "failed") return true;
    await new Promise((resolve) => setTimeout(resolve, wait));
    return false;
  }

  /** It is played no more. */
  close(): void {
    this.#isClosedHere = true;
  }

  async keyframe(keyframe: Keyframe): Promise<Bytes> {
    const first = this.index!.states + keyframe.offset;
    const { data } = await this.auth.part(`${this.#path}/index`, first, first + keyframe.packed);
    return this.index!.readState(keyframe, data);
  }

  get numbers(): number[] {
    const missing = new Set(this.#details.missing);
    const named = this.#details.manifest?.chunks.map((each) => each.number);
    const all = named ?? Array.from({ length: this.#details.available + missing.size }, (_, at) => at);
    return all.filter((number) => !missing.has(number));
  }

  async chunk(number: number): Promise<Chunk | null> {
    let found = this.#cache.get(number);
    if (!found) {
      found = this.#read(number);
      this.#cache.set(number, found);
      found.catch(() => this.#cache.delete(number));
      if (this.#cache.size > CACHED) this.#cache.delete(this.#cache.keys().next().value!);
    } else {
      this.#cache.delete(number);
      this.#cache.set(number, found);
    }
    try {
      return await found;
    } catch (error) {
      if (error instanceof ApiError && error.kind === "not_found") return null;
      throw error;
    }
  }

  async #read(number: number): Promise<Chunk> {
    const { data } = await this.auth.part(`${this.#path}/chunks/${number}`);
    const named = this.#details.manifest?.chunks.find((each) => each.number === number);
    if (named) {
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
      if (named.sha256 !== hex(digest)) throw new BadRecording(`chunk ${number} is not the one that the manifest names`);
    }
    return readChunk(data, number, this.#secrets);
  }
}
