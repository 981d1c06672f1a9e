// The connection protocol (RFC 4254), as a client: channels with windows, both ways.
//
// A channel's window is opened again as its bytes are read, so what is not read stays bounded, and stops the sender.

import { type Bytes, concat, text } from "../net/bytes.js";
import type { Stream } from "../net/tls.js";
import { Fields, Message, SshError, boolean, byte, reading, string, uint32 } from "./fields.js";
import type { Transport } from "./transport.js";

/** Bytes that a channel may have received and not read. */
export const WINDOW = 1024 * 1024;
const PACKET = 32 * 1024;
/** Bytes that a channel may have queued before a writer has to wait. */
const QUEUE = 256 * 1024;
/** How often the server is asked whether it is there. */
const ALIVE_MS = 30_000;
const PROHIBITED = 1;

/** How a program ended; null if the connection ended before. */
export interface Exit {
  status: number | null;
  signal: string;
}

export class Channel implements Stream {
  readonly #received: Uint8Array[] = [];
  #waiting: ((data: Uint8Array | null) => void) | null = null;
  /** Bytes that were read since the window was opened. */
  #consumed = 0;
  #open = WINDOW;
  #ended = false;
  #closed = false;
  #sentClose = false;
  /** Whether the end of what is sent has to be said. */
  #atEnd = false;
  readonly #queue: Uint8Array[] = [];
  #queued = 0;
  #drained: (() => void)[] = [];
  #replies: ((ok: boolean) => void)[] = [];
  /** Known when the channel is closed. */
  exit: Exit | null = null;
  #whenClosed: () => void = () => undefined;
  readonly closed = new Promise<void>((resolve) => (this.#whenClosed = resolve));
  /** Takes what a program wrote to its standard error; without it that is not kept. */
  onError: ((data: Bytes) => void) | null = null;

  constructor(
    private readonly connection: Connection,
    readonly id: number,
    private readonly peer: number,
    private window: number,
    private readonly packet: number,
  ) {}

  // -- receiving ----------------------------------------------------------------------
  /** The next bytes; null at their end. */
  read(): Promise<Uint8Array | null> {
    const next = this.#received.shift();
    if (next) {
      this.#read(next.length);
      return Promise.resolve(next);
    }
    if (this.#ended) return Promise.resolve(null);
    return new Promise((resolve) => (this.#waiting = resolve));
  }

  /** Bytes that were received and not read. */
  get kept(): number {
    return this.#received.reduce((total, each) => total + each.length, 0);
  }

  #read(size: number): void {
    this.#consumed += size;
    if (this.#consumed < WINDOW / 2 || this.#ended) return;
    this.connection.send(Message.ChannelWindowAdjust, uint32(this.peer), uint32(this.#consumed));
    this.#open += this.#consumed;
    this.#consumed = 0;
  }

  #count(data: Bytes): void {
    if (data.length > this.#open) throw new SshError("the server sent more than the window of a channel");
    this.#open -= data.length;
  }

  take(data: Bytes): void {
    this.#count(data);
    if (this.#ended || !data.length) return;
    if (this.#waiting) {
      const waiting = this.#waiting;
      this.#waiting = null;
      this.#read(data.length);
      waiting(data);
    } else {
      this.#received.push(data);
    }
  }

  takeError(data: Bytes): void {
    this.#count(data);
    this.onError?.(data);
    this.#read(data.length);
  }

  end(): void {
    this.#ended = true;
    this.#waiting?.(null);
    this.#waiting = null;
  }

  /** The server closed the channel, or the connection ended. */
  lost(): void {
    this.#closed = true;
    this.#queue.length = this.#queued = 0;
    this.end();
    for (const each of this.#replies.splice(0)) each(false);
    for (const each of this.#drained.splice(0)) each();
    if (!this.#sentClose) this.#sendClose();
    this.#whenClosed();
  }

  request(name: string, fields: Fields): boolean {
    if (name === "exit-status") this.exit = { status: fields.uint32(), signal: "" };
    else if (name === "exit-signal") this.exit = { status: null, signal: fields.text() };
    else return false;
    return true;
  }

  // -- sending ------------------------------------------------------------------------
  write(data: Uint8Array): void {
    if (this.#closed || this.#sentClose || !data.length) return;
    this.#queue.push(data);
    this.#queued += data.length;
    this.#pump();
  }

  /** Wait until little is queued. */
  async ready(): Promise<void> {
    while (this.#queued > QUEUE && !this.#closed) await new Promise<void>((resolve) => this.#drained.push(resolve));
  }

  opened(size: number): void {
    this.window += size;
    if (this.window > 0xffff_ffff) throw new SshError("the server opened a window too far");
    this.#pump();
  }

  #pump(): void {
    while (this.#queue.length && this.window) {
      const data = this.#queue[0]!;
      const size = Math.min(data.length, this.window, this.packet);
      if (size === data.length) this.#queue.shift();
      else this.#queue[0] = data.subarray(size);
      this.window -= size;
      this.#queued -= size;
      this.connection.send(Message.ChannelData, uint32(this.peer), string(data.subarray(0, size)));
    }
    if (this.#atEnd && !this.#queue.length && !this.#sentClose && !this.#closed) {
      this.#atEnd = false;
      this.connection.send(Message.ChannelEof, uint32(this.peer));
    }
    if (this.#queued <= QUEUE) for (const each of this.#drained.splice(0)) each();
  }

  /** Ask for something; false if it is refused. */
  ask(name: string, ...fields: Uint8Array[]): Promise<boolean> {
    if (this.#closed) return Promise.resolve(false);
    this.connection.send(Message.ChannelRequest, uint32(this.peer), string(name), boolean(true), ...fields);
    return new Promise((resolve) => this.#replies.push(resolve));
  }

  /** Ask for something that needs no answer. */
  tell(name: string, ...fields: Uint8Array[]): void {
    if (this.#closed) return;
    this.connection.send(Message.ChannelRequest, uint32(this.peer), string(name), boolean(false), ...fields);
  }

  answered(ok: boolean): void {
    const reply = this.#replies.shift();
    if (!reply) throw new SshError("the server answered what was not asked");
    reply(ok);
  }

  answer(ok: boolean): void {
    this.connection.send(ok ? Message.ChannelSuccess : Message.ChannelFailure, uint32(this.peer));
  }

  /** Nothing more is sent, once what is queued is. */
  eof(): void {
    this.#atEnd = true;
    this.#pump();
  }

  close(): void {
    if (!this.#sentClose && !this.#closed) this.#sendClose();
  }

  #sendClose(): void {
    this.#sentClose = true;
    this.connection.send(Message.ChannelClose, uint32(this.peer));
  }
}

interface Opening {
  resolve(channel: Channel): void;
  reject(error: Error): void;
}

export class Connection {
  readonly #channels = new Map<number, Channel>();
  readonly #opening = new Map<number, Opening>();
  #next = 0;
  #isSilent = false;
  #timer: ReturnType<typeof setInterval> | undefined;
  #error: Error | null = null;
  #isOver = false;
  /** Resolves at the end of the connection: with why, if that is known. */
  readonly ended: Promise<Error | null>;

  /** `transport` is logged in. */
  constructor(private readonly transport: Transport) {
    this.ended = this.#run();
    this.#timer = setInterval(() => this.#checkAlive(), ALIVE_MS);
  }

  send(kind: Message, ...fields: Uint8Array[]): void {
    if (!this.#isOver) this.transport.send(concat(byte(kind), ...fields));
  }

  /** Open a channel. Throws SshError. */
  open(kind: string, ...fields: Uint8Array[]): Promise<Channel> {
    if (this.#isOver) return Promise.reject(this.#error ?? new SshError("the connection has ended"));
    const id = this.#next++;
    this.send(Message.ChannelOpen, string(kind), uint32(id), uint32(WINDOW), uint32(PACKET), ...fields);
    return new Promise((resolve, reject) => this.#opening.set(id, { resolve, reject }));
  }

  close(error: Error | null = null): void {
    this.#error ??= error;
    this.transport.close();
  }

  #checkAlive(): void {
    if (this.#isSilent) return this.close(new SshError("the server does not answer any more"));
    this.#isSilent = true;
    this.send(Message.GlobalRequest, string("keepalive@openssh.com"), boolean(true));
  }

  async #run(): Promise<Error | null> {
    try {
      for (;;) {
        const payload = await this.transport.next();
        if (payload === null) break;
        this.#isSilent = false;
        reading(() => this.#take(payload[0]!, new Fields(payload.subarray(1))));
      }
    } catch (error) {
      this.#error ??= error instanceof Error ? error : new SshError(String(error));
    }
    clearInterval(this.#timer);
    this.#isOver = true;
    this.transport.close();
    const why = this.#error ?? new SshError("the connection was closed");
    for (const each of this.#opening.values()) each.reject(why);
    for (const each of this.#channels.values()) each.lost();
    this.#opening.clear();
    this.#channels.clear();
    return this.#error;
  }

  #take(kind: number, fields: Fields): void {
    switch (kind) {
      case Message.GlobalRequest:
        fields.string();
        if (fields.boolean()) this.send(Message.RequestFailure);
        return;
      case Message.RequestSuccess:
      case Message.RequestFailure:
        return;
      case Message.ChannelOpen: {
        fields.string();
        const peer = fields.uint32();
        const why = string("a browser accepts no channels");
        return this.send(Message.ChannelOpenFailure, uint32(peer), uint32(PROHIBITED), why, string(""));
      }
      case Message.ChannelOpenConfirmation: {
        const id = fields.uint32();
        const opening = this.#opened(id);
        const channel = new Channel(this, id, fields.uint32(), fields.uint32(), Math.max(1, fields.uint32()));
        this.#channels.set(id, channel);
        return opening.resolve(channel);
      }
      case Message.ChannelOpenFailure: {
        const opening = this.#opened(fields.uint32());
        fields.uint32();
        return opening.reject(new SshError(text(fields.string()) || "the server refused a channel"));
      }
    }
    if (kind < Message.ChannelOpen || kind > Message.ChannelFailure) return this.transport.unimplemented();
    const channel = this.#channels.get(fields.uint32());
    if (!channel) throw new SshError("the server used a channel that is not open");
    this.#takeOfChannel(channel, kind, fields);
  }

  #takeOfChannel(channel: Channel, kind: number, fields: Fields): void {
    switch (kind) {
      case Message.ChannelWindowAdjust:
        return channel.opened(fields.uint32());
      case Message.ChannelData:
        return channel.take(fields.string());
      case Message.ChannelExtendedData:
        fields.uint32();
        return channel.takeError(fields.string());
      case Message.ChannelEof:
        return channel.end();
      case Message.ChannelClose:
        this.#channels.delete(channel.id);
        return channel.lost();
      case Message.ChannelRequest: {
        const name = fields.text();
        const wantsReply = fields.boolean();
        const known = channel.request(name, fields);
        if (wantsReply) channel.answer(known);
        return;
      }
      default:
        return channel.answered(kind === Message.ChannelSuccess);
    }
  }

  #opened(id: number): Opening {
    const opening = this.#opening.get(id);
    if (!opening) throw new SshError("the server answered what was not asked");
    this.#opening.delete(id);
    return opening;
  }
}
