// Packets (RFC 4253, section 6): in the clear until there are keys, then with AES-GCM (OpenSSH PROTOCOL, section 1.6).
//
// A nonce is never used twice: the counter goes up before a packet is encrypted.

import { type Bytes, concat, number } from "../net/bytes.js";
import type { Stream } from "../net/tls.js";
import { SshError } from "./fields.js";

/** Bytes of a packet that is accepted, as RFC 4253 (section 6.1) asks for, and more. */
const PACKET_LIMIT = 256 * 1024;
const TAG_SIZE = 16;
const BLOCK = 16;

function padded(payload: Uint8Array, before: number, block: number): Bytes {
  let padding = block - ((before + 1 + payload.length) % block);
  if (padding < 4) padding += block;
  const plain = new Uint8Array(1 + payload.length + padding);
  plain[0] = padding;
  plain.set(payload, 1);
  crypto.getRandomValues(plain.subarray(1 + payload.length));
  return plain;
}

function payloadOf(plain: Bytes): Bytes {
  const padding = plain[0]!;
  if (padding < 4 || padding > plain.length - 2) throw new SshError("the padding of a packet is wrong");
  return plain.subarray(1, plain.length - padding) as Bytes;
}

/** One direction of AES-GCM. */
export class GcmKey {
  #counter: bigint;
  readonly #fixed: Bytes;

  private constructor(
    private readonly key: CryptoKey,
    iv: Bytes,
  ) {
    this.#fixed = iv.slice(0, 4) as Bytes;
    this.#counter = new DataView(iv.buffer, iv.byteOffset).getBigUint64(4);
  }

  static async of(key: Bytes, iv: Bytes): Promise<GcmKey> {
    return new GcmKey(await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["encrypt", "decrypt"]), iv);
  }

  #parameters(head: Bytes) {
    const iv = new Uint8Array(12);
    iv.set(this.#fixed);
    new DataView(iv.buffer).setBigUint64(4, this.#counter);
    this.#counter = BigInt.asUintN(64, this.#counter + 1n);
    return { name: "AES-GCM", iv, additionalData: head };
  }

  async seal(payload: Uint8Array): Promise<Bytes> {
    const plain = padded(payload, 0, BLOCK);
    const head = number(plain.length, 4);
    return concat(head, new Uint8Array(await crypto.subtle.encrypt(this.#parameters(head), this.key, plain)));
  }

  async open(head: Bytes, sealed: Bytes): Promise<Bytes> {
    try {
      return new Uint8Array(await crypto.subtle.decrypt(this.#parameters(head), this.key, sealed));
    } catch {
      throw new SshError("a packet was changed on its way");
    }
  }
}

/** What is sent: each packet after the one before. */
export class PacketWriter {
  #key: GcmKey | null = null;
  /** Bytes since the last change of keys. */
  octets = 0;

  constructor(private readonly stream: Stream) {}

  async write(payload: Uint8Array): Promise<void> {
    const packet = this.#key ? await this.#key.seal(payload) : padded(payload, 4, 8);
    const whole = this.#key ? packet : concat(number(packet.length, 4), packet);
    this.octets += whole.length;
    this.stream.write(whole);
  }

  change(key: GcmKey): void {
    this.#key = key;
    this.octets = 0;
  }
}

/** What is received. */
export class PacketReader {
  #buffer: Uint8Array = new Uint8Array();
  #key: GcmKey | null = null;
  octets = 0;
  /** Number of the packet that was read last, since the last change of keys. */
  sequence = -1;

  constructor(private readonly stream: Stream) {}

  /** A line without its end; null at the end of the stream. */
  async line(limit: number): Promise<Bytes | null> {
    for (;;) {
      const end = this.#buffer.indexOf(10);
      if (end >= limit || (end < 0 && this.#buffer.length >= limit)) throw new SshError("a line of the server is too long");
      if (end >= 0) {
        const line = this.#buffer.slice(0, end > 0 && this.#buffer[end - 1] === 13 ? end - 1 : end);
        this.#buffer = this.#buffer.subarray(end + 1);
        return line as Bytes;
      }
      const more = await this.stream.read();
      if (more === null) return null;
      this.#buffer = concat(this.#buffer, more);
    }
  }

  /** The payload of the next packet, at least one byte; null at the end of the stream. */
  async read(): Promise<Bytes | null> {
    const head = await this.#exactly(4);
    if (head === null) return null;
    const size = new DataView(head.buffer, head.byteOffset).getUint32(0);
    const block = this.#key ? BLOCK : 8;
    if (size > PACKET_LIMIT || size < 6 || (this.#key ? size : size + 4) % block) {
      throw new SshError("the length of a packet is wrong");
    }
    const body = await this.#exactly(this.#key ? size + TAG_SIZE : size);
    if (body === null) return null;
    this.octets += 4 + body.length;
    this.sequence++;
    return payloadOf(this.#key ? await this.#key.open(head, body) : body);
  }

  change(key: GcmKey): void {
    this.#key = key;
    this.octets = 0;
    this.sequence = -1;
  }

  async #exactly(size: number): Promise<Bytes | null> {
    if (this.#buffer.length < size) {
      const parts: Uint8Array[] = [this.#buffer];
      let have = this.#buffer.length;
      while (have < size) {
        const more = await this.stream.read();
        if (more === null) return null;
        parts.push(more);
        have += more.length;
      }
      this.#buffer = concat(...parts);
    }
    const taken = this.#buffer.slice(0, size) as Bytes;
    this.#buffer = this.#buffer.subarray(size);
    return taken;
  }
}
