// The client's transport (RFC 4253), over any stream of bytes: keys, and messages in both directions.
//
// Strict key exchange (OpenSSH PROTOCOL, section 1.10) is required. No message is returned before the host has proved that
// it has the key of its certificate. What is sent while keys are exchanged waits for the new ones.

import { type Bytes, concat, text, utf8 } from "../net/bytes.js";
import type { Stream } from "../net/tls.js";
import { type Agreement, agree, deriveKeys, exchangeHash, methods, ourKexInit } from "./exchange.js";
import { Fields, Message, SshError, byte, reading, string, uint32 } from "./fields.js";
import { type HostTrust, checkHost } from "./host_certificate.js";
import { GcmKey, PacketReader, PacketWriter } from "./packets.js";

const VERSION = "SSH-2.0-tele_web";
const VERSION_LIMIT = 255;
/** Lines before the version of the server. */
const LINES_LIMIT = 50;
/** Keys are changed after so many bytes, or so much time (RFC 4253, section 9). */
export const REKEY_OCTETS = 2 ** 30;
const REKEY_MS = 3_600_000;
/** How long until the server has proved itself. */
const PROOF_MS = 20_000;

export class Transport {
  readonly #reader: PacketReader;
  readonly #writer: PacketWriter;
  /** H of the first exchange. */
  #session: Bytes | null = null;
  #serverVersion: Bytes = new Uint8Array();
  /** Our KEXINIT, from when it is sent until we have sent NEWKEYS. */
  #ours: Bytes | null = null;
  #held: Uint8Array[] = [];
  #sending: Promise<void> = Promise.resolve();
  #since = 0;
  #failure: Error | null = null;
  /** How often keys were exchanged. */
  exchanges = 0;
  /** The names in the host's certificate. */
  principals: readonly string[] = [];

  private constructor(
    private readonly stream: Stream,
    private readonly trust: HostTrust,
    private readonly rekeyOctets: number,
  ) {
    this.#reader = new PacketReader(stream);
    this.#writer = new PacketWriter(stream);
  }

  /** Connect to the host that `trust` names. Throws SshError. */
  static async connect(stream: Stream, trust: HostTrust, rekeyOctets = REKEY_OCTETS): Promise<Transport> {
    const transport = new Transport(stream, trust, rekeyOctets);
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      stream.close();
    }, PROOF_MS);
    try {
      await transport.#begin();
    } catch (error) {
      stream.close();
      throw isLate ? new SshError("the server did not answer in time") : error;
    } finally {
      clearTimeout(timer);
    }
    return transport;
  }

  get sessionId(): Bytes {
    return this.#session!;
  }

  async #begin(): Promise<void> {
    this.stream.write(utf8(`${VERSION}\r\n`));
    let said = "";
    for (let count = 0; ; count++) {
      const line = await this.#reader.line(VERSION_LIMIT);
      if (line === null) throw new SshError(said || "the server closed the connection");
      if (text(line).startsWith("SSH-2.0-")) {
        this.#serverVersion = line;
        break;
      }
      // A line before the version may say why a connection is refused.
      if (count >= LINES_LIMIT || text(line).startsWith("SSH-")) throw new SshError("the server does not speak SSH 2");
      said = text(line);
    }
    await this.#startExchange();
    const first = await this.#read();
    if (first[0] !== Message.KexInit) throw refused(first);
    await this.#exchange(first);
  }

  // -- receiving ----------------------------------------------------------------------
  /** The next message for a service; null at the end of the stream. Throws SshError. */
  async next(): Promise<Bytes | null> {
    for (;;) {
      if (this.#failure) throw this.#failure;
      const payload = await this.#reader.read();
      if (payload === null) {
        if (this.#failure) throw this.#failure;
        return null;
      }
      if (this.#isDue()) await this.#startExchange();
      switch (payload[0]) {
        case Message.KexInit:
          await this.#exchange(payload);
          break;
        case Message.Ping:
          this.send(concat(byte(Message.Pong), reading(() => string(new Fields(payload.subarray(1)).string()))));
          break;
        case Message.Ignore:
        case Message.Debug:
        case Message.Unimplemented:
        case Message.ExtInfo:
        case Message.Pong:
          break;
        case Message.Disconnect:
          throw refused(payload);
        default:
          if (payload[0]! < Message.UserauthRequest && payload[0] !== Message.ServiceAccept) {
            throw new SshError(`the server sent message ${payload[0]} at a wrong time`);
          }
          return payload;
      }
    }
  }

  /** The next packet, which there has to be. */
  async #read(): Promise<Bytes> {
    const payload = await this.#reader.read();
    if (payload === null) throw new SshError("the server closed the connection");
    return payload;
  }

  /** A message of a key exchange; in the first one nothing else may come. */
  async #expect(wanted: Message): Promise<Bytes> {
    for (;;) {
      const payload = await this.#read();
      if (payload[0] === wanted) return payload;
      const isHarmless = payload[0] === Message.Ignore || payload[0] === Message.Debug;
      if (this.#session === null || !isHarmless) throw refused(payload);
    }
  }

  /** Say that a message is not known. */
  unimplemented(): void {
    this.send(concat(byte(Message.Unimplemented), uint32(this.#reader.sequence)));
  }

  // -- sending ------------------------------------------------------------------------
  send(payload: Uint8Array): void {
    if (this.#ours) this.#held.push(payload);
    else this.#queue(() => this.#writer.write(payload));
  }

  #queue(work: () => Promise<void>): void {
    this.#sending = this.#sending.then(work).catch((error: unknown) => {
      this.#failure ??= error instanceof Error ? error : new SshError(String(error));
      this.stream.close();
    });
  }

  // -- keys ---------------------------------------------------------------------------
  #isDue(): boolean {
    if (this.#ours) return false;
    const octets = Math.max(this.#reader.octets, this.#writer.octets);
    return octets > this.rekeyOctets || Date.now() - this.#since > REKEY_MS;
  }

  async #startExchange(): Promise<void> {
    const ours = ourKexInit(await methods(), this.#session === null);
    this.#ours = ours;
    this.#queue(() => this.#writer.write(ours));
  }

  async #exchange(theirs: Bytes): Promise<void> {
    if (!this.#ours) await this.#startExchange();
    const ours = this.#ours!;
    const agreement = agree(ours, theirs);
    const isFirst = this.#session === null;
    if (isFirst && !agreement.isStrict) throw new SshError("the server does not have strict key exchange");
    const share = await agreement.method();
    this.#queue(() => this.#writer.write(concat(byte(Message.KexEcdhInit), string(share.own))));
    if (agreement.skips) await this.#read();
    const reply = await this.#expect(Message.KexEcdhReply);
    const [hostKey, serverShare, signature] = reading(() => {
      const fields = new Fields(reply.subarray(1));
      const found = [fields.string(), fields.string(), fields.string()] as const;
      fields.end();
      return found;
    });
    const secret = await share.finish(serverShare);
    const hash = await exchangeHash(
      [utf8(VERSION), this.#serverVersion], [ours, theirs], hostKey, [share.own, serverShare], secret,
    );
    const host = await checkHost(agreement.hostKey, hostKey, this.trust, Math.floor(Date.now() / 1000));
    if (!(await host.verify(signature, hash))) {
      throw new SshError(`the server does not have the key of the certificate of ${this.trust.name}`);
    }
    this.principals = host.principals;
    this.#session ??= hash;
    this.exchanges++;
    await this.#changeKeys(agreement, secret, hash, isFirst);
  }

  async #changeKeys(agreement: Agreement, secret: Bytes, hash: Bytes, isFirst: boolean): Promise<void> {
    const keys = await deriveKeys(secret, hash, this.#session!, agreement);
    const sending = await GcmKey.of(keys.toServer.key, keys.toServer.iv);
    const receiving = await GcmKey.of(keys.toClient.key, keys.toClient.iv);
    this.#queue(async () => {
      await this.#writer.write(byte(Message.NewKeys));
      this.#writer.change(sending);
    });
    this.#ours = null;
    for (const payload of this.#held.splice(0)) this.send(payload);
    const payload = isFirst ? await this.#read() : await this.#expect(Message.NewKeys);
    if (payload[0] !== Message.NewKeys || payload.length !== 1) throw refused(payload);
    this.#reader.change(receiving);
    this.#since = Date.now();
  }

  close(): void {
    this.stream.close();
  }
}

/** Why the server sent another message than it had to. */
function refused(payload: Bytes): SshError {
  if (payload[0] !== Message.Disconnect) return new SshError(`the server sent message ${payload[0]} at a wrong time`);
  return reading(() => {
    const fields = new Fields(payload.subarray(1));
    fields.uint32();
    return new SshError(text(fields.string()) || "the server closed the connection");
  });
}
