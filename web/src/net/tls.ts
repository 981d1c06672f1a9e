// TLS 1.3 (RFC 8446) as a client, over any stream of bytes. It ends at auth: the proxy passes it on.
//
// One of each: P-256, ECDSA with SHA-256, AES-128-GCM. No resumption, no early data, no retry of the
// hello: auth's OpenSSL accepts these. Nothing is returned before the server's Finished was verified.

import { Bytes, Reader, concat, equal, number, sized, utf8 } from "./bytes.js";
import { BadCertificate, derSignature, rawSignature, serverKey } from "./x509.js";

const enum Type {
  ChangeCipherSpec = 20,
  Alert = 21,
  Handshake = 22,
  Data = 23,
}

const enum Message {
  ServerHello = 2,
  SessionTicket = 4,
  EncryptedExtensions = 8,
  Certificate = 11,
  CertificateRequest = 13,
  CertificateVerify = 15,
  Finished = 20,
  KeyUpdate = 24,
}

const LEGACY = number(0x0303, 2);
const AES_128_GCM_SHA256 = 0x1301;
const P256 = 0x0017;
const ECDSA_P256_SHA256 = 0x0403;
const CURVE = { name: "ECDH", namedCurve: "P-256" } as const;
const ECDSA = { name: "ECDSA", hash: "SHA-256" } as const;
const HASH_SIZE = 32;
const RECORD = 16384;
const MESSAGE_LIMIT = 256 * 1024;
/** The SHA-256 of this text is the `random` of a request to begin again. */
const RETRY = "HelloRetryRequest";

const ALERTS: Record<number, string> = {
  40: "no common parameters",
  42: "the certificate is damaged",
  44: "the certificate was revoked",
  45: "the certificate has expired",
  46: "the certificate was refused",
  48: "the certificate is of another CA",
  49: "access denied",
  116: "a certificate is required",
};

export class TlsError extends Error {
  /** With the number of an alert that the server sent. */
  constructor(message: string, readonly alert = 0) {
    super(message);
  }

  /** Whether the server refuses our certificate. */
  get refusesCertificate(): boolean {
    return this.alert >= 42 && this.alert <= 49;
  }
}

/** A stream of bytes. `read` returns null at its end. */
export interface Stream {
  read(): Promise<Uint8Array | null>;
  write(data: Uint8Array): void;
  close(): void;
}

export interface Identity {
  /** DER, leaf first. */
  chain: Bytes[];
  key: CryptoKey;
}

export interface Server {
  name: string;
  /** PEM of the CAs that may have issued its certificate. */
  trust: string[];
}

const sha256 = async (data: Bytes): Promise<Bytes> => new Uint8Array(await crypto.subtle.digest("SHA-256", data));

async function hmac(key: Bytes, data: Bytes): Promise<Bytes> {
  const imported = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, data));
}

/** HKDF-Expand-Label (section 7.1) for at most one block. */
async function expand(secret: Bytes, label: string, context: Bytes, size: number): Promise<Bytes> {
  const info = concat(number(size, 2), sized(utf8(`tls13 ${label}`), 1), sized(context, 1), number(1, 1));
  return (await hmac(secret, info)).slice(0, size);
}

/** The protection of one direction. */
class Keys {
  #sequence = 0;

  private constructor(
    readonly secret: Bytes,
    private readonly key: CryptoKey,
    private readonly iv: Bytes,
  ) {}

  static async of(secret: Bytes): Promise<Keys> {
    const none = new Uint8Array();
    const raw = await expand(secret, "key", none, 16);
    const key = await crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt", "decrypt"]);
    return new Keys(secret, key, await expand(secret, "iv", none, 12));
  }

  async next(): Promise<Keys> {
    return Keys.of(await expand(this.secret, "traffic upd", new Uint8Array(), HASH_SIZE));
  }

  #parameters(head: Bytes) {
    const iv = this.iv.slice();
    const sequence = number(this.#sequence++, 8);
    for (let at = 0; at < 8; at++) iv[4 + at]! ^= sequence[at]!;
    return { name: "AES-GCM", iv, additionalData: head };
  }

  async seal(type: Type, data: Uint8Array): Promise<Bytes> {
    const inner = concat(data, number(type, 1));
    const head = concat(number(Type.Data, 1), LEGACY, number(inner.length + 16, 2));
    return concat(head, new Uint8Array(await crypto.subtle.encrypt(this.#parameters(head), this.key, inner)));
  }

  async open(head: Bytes, sealed: Bytes): Promise<{ type: number; data: Bytes }> {
    let inner: Bytes;
    try {
      inner = new Uint8Array(await crypto.subtle.decrypt(this.#parameters(head), this.key, sealed));
    } catch {
      throw new TlsError("what was received was changed on its way");
    }
    let end = inner.length - 1;
    while (end >= 0 && inner[end] === 0) end--;
    if (end < 0) throw new TlsError("a record has no type");
    return { type: inner[end]!, data: inner.slice(0, end) };
  }
}

/** One connection. Make it with `connect`. */
export class Tls {
  #buffer: Uint8Array = new Uint8Array();
  #reading: Keys | null = null;
  #writing: Keys | null = null;
  #messages: Uint8Array = new Uint8Array();
  #transcript: Bytes = new Uint8Array();
  #sending: Promise<void> = Promise.resolve();

  private constructor(
    private readonly stream: Stream,
    private readonly server: Server,
    private readonly identity: Identity | null,
  ) {}

  /** Shake hands. Throws TlsError or BadCertificate. */
  static async connect(stream: Stream, server: Server, identity: Identity | null): Promise<Tls> {
    const made = new Tls(stream, server, identity);
    try {
      await made.#handshake();
    } catch (error) {
      stream.close();
      throw error instanceof RangeError ? new TlsError("the server sent a message that is cut off") : error;
    }
    return made;
  }

  async #handshake(): Promise<void> {
    const pair = (await crypto.subtle.generateKey(CURVE, false, ["deriveBits"])) as CryptoKeyPair;
    const share = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
    this.#send(Type.Handshake, this.#said(this.#hello(share)));

    const theirs = await this.#serverShare(await this.#message(Message.ServerHello));
    const peer = await crypto.subtle.importKey("raw", theirs, CURVE, false, []).catch(() => {
      throw new TlsError("the server's key is not a point of P-256");
    });
    const shared = new Uint8Array(await crypto.subtle.deriveBits({ name: "ECDH", public: peer }, pair.privateKey, 256));

    const zeros = new Uint8Array(HASH_SIZE);
    const empty = await sha256(new Uint8Array());
    const early = await hmac(zeros, zeros);
    const secret = await hmac(await expand(early, "derived", empty, HASH_SIZE), shared);
    const hello = await sha256(this.#transcript);
    const client = await expand(secret, "c hs traffic", hello, HASH_SIZE);
    const server = await expand(secret, "s hs traffic", hello, HASH_SIZE);
    this.#mustBeEmpty();
    this.#reading = await Keys.of(server);

    await this.#message(Message.EncryptedExtensions);
    let context: Bytes | null = null;
    let [kind, body] = await this.#anyMessage();
    if (kind === Message.CertificateRequest) {
      context = new Reader(body).sized(1);
      [kind, body] = await this.#anyMessage();
    }
    if (kind !== Message.Certificate) throw new TlsError("the server shows no certificate");
    const key = await serverKey(readChain(body), this.server.trust, this.server.name, Date.now());
    await this.#verifyServer(key);
    const finished = await hmac(await expand(server, "finished", new Uint8Array(), HASH_SIZE), await sha256(this.#transcript));
    if (!equal(await this.#message(Message.Finished), finished)) throw new TlsError("the handshake was changed on its way");
    this.#mustBeEmpty();

    const master = await hmac(await expand(secret, "derived", empty, HASH_SIZE), zeros);
    const all = await sha256(this.#transcript);
    this.#reading = await Keys.of(await expand(master, "s ap traffic", all, HASH_SIZE));
    const handshakeKeys = await Keys.of(client);
    const messages: Bytes[] = [];
    if (context !== null) messages.push(...(await this.#ownCertificate(context)));
    const end = await hmac(await expand(client, "finished", new Uint8Array(), HASH_SIZE), await sha256(this.#transcript));
    messages.push(this.#said(message(Message.Finished, end)));
    const flight = concat(...messages);
    for (let at = 0; at < flight.length; at += RECORD) {
      this.stream.write(await handshakeKeys.seal(Type.Handshake, flight.slice(at, at + RECORD)));
    }
    this.#writing = await Keys.of(await expand(master, "c ap traffic", all, HASH_SIZE));
  }

  #hello(share: Bytes): Bytes {
    const extension = (kind: number, body: Uint8Array) => concat(number(kind, 2), sized(body, 2));
    const protocols = concat(sized(utf8("tele-auth"), 1), sized(utf8("http/1.1"), 1));
    const extensions = concat(
      extension(0, sized(concat(number(0, 1), sized(utf8(this.server.name), 2)), 2)),
      extension(10, sized(number(P256, 2), 2)),
      extension(13, sized(number(ECDSA_P256_SHA256, 2), 2)),
      extension(16, sized(protocols, 2)),
      extension(43, sized(number(0x0304, 2), 1)),
      extension(51, sized(concat(number(P256, 2), sized(share, 2)), 2)),
    );
    const random = crypto.getRandomValues(new Uint8Array(32));
    const body = concat(
      LEGACY,
      random,
      sized(new Uint8Array(), 1),
      sized(number(AES_128_GCM_SHA256, 2), 2),
      sized(new Uint8Array(1), 1),
      sized(extensions, 2),
    );
    return message(1, body);
  }

  /** The server's share of the key, from its hello. */
  async #serverShare(body: Bytes): Promise<Bytes> {
    const reader = new Reader(body);
    reader.number(2);
    if (equal(reader.take(32), await sha256(utf8(RETRY)))) throw new TlsError("the server does not accept P-256");
    reader.sized(1);
    if (reader.number(2) !== AES_128_GCM_SHA256) throw new TlsError("the server chose another cipher");
    reader.number(1);
    const extensions = new Reader(reader.sized(2));
    let share: Bytes | null = null;
    let version = 0;
    while (extensions.left) {
      const kind = extensions.number(2);
      const content = new Reader(extensions.sized(2));
      if (kind === 43) version = content.number(2);
      if (kind === 51 && content.number(2) === P256) share = content.sized(2);
    }
    if (version !== 0x0304 || share === null) throw new TlsError("the server does not speak TLS 1.3");
    return share;
  }

  async #verifyServer(key: CryptoKey): Promise<void> {
    const signed = concat(
      new Uint8Array(64).fill(0x20),
      utf8("TLS 1.3, server CertificateVerify\0"),
      await sha256(this.#transcript),
    );
    const reader = new Reader(await this.#message(Message.CertificateVerify));
    if (reader.number(2) !== ECDSA_P256_SHA256) throw new BadCertificate("the server signed in another way");
    const signature = rawSignature(reader.sized(2));
    if (!(await crypto.subtle.verify(ECDSA, key, signature, signed))) {
      throw new BadCertificate("the server does not have the key of its certificate");
    }
  }

  async #ownCertificate(context: Bytes): Promise<Bytes[]> {
    const chain = this.identity?.chain ?? [];
    const entries = chain.map((der) => concat(sized(der, 3), number(0, 2)));
    const shown = this.#said(message(Message.Certificate, concat(sized(context, 1), sized(concat(...entries), 3))));
    if (this.identity === null) return [shown];
    const signed = concat(
      new Uint8Array(64).fill(0x20),
      utf8("TLS 1.3, client CertificateVerify\0"),
      await sha256(this.#transcript),
    );
    const signature = derSignature(new Uint8Array(await crypto.subtle.sign(ECDSA, this.identity.key, signed)));
    const proof = concat(number(ECDSA_P256_SHA256, 2), sized(signature, 2));
    return [shown, this.#said(message(Message.CertificateVerify, proof))];
  }

  #said(bytes: Bytes): Bytes {
    this.#transcript = concat(this.#transcript, bytes);
    return bytes;
  }

  #mustBeEmpty(): void {
    if (this.#messages.length) throw new TlsError("a message goes on after a change of keys");
  }

  async #message(wanted: Message): Promise<Bytes> {
    const [kind, body] = await this.#anyMessage();
    if (kind !== wanted) throw new TlsError(`the server sent message ${kind} instead of ${wanted}`);
    return body;
  }

  /** The next message of the handshake. */
  async #anyMessage(): Promise<[number, Bytes]> {
    for (;;) {
      const found = this.#takeMessage();
      if (found) {
        this.#said(found.all);
        return [found.kind, found.body];
      }
      const record = await this.#record();
      if (record === null) throw new TlsError("the connection was closed");
      if (record.type !== Type.Handshake) throw new TlsError("the server does not speak TLS");
      this.#messages = concat(this.#messages, record.data);
    }
  }

  #takeMessage(): { kind: number; body: Bytes; all: Bytes } | null {
    if (this.#messages.length < 4) return null;
    const reader = new Reader(this.#messages);
    const kind = reader.number(1);
    const size = reader.number(3);
    if (size > MESSAGE_LIMIT) throw new TlsError("a message of the handshake is too long");
    if (reader.left < size) return null;
    const body = reader.take(size);
    const all = this.#messages.slice(0, reader.at) as Bytes;
    this.#messages = this.#messages.slice(reader.at);
    return { kind, body, all };
  }

  /** The next record, decrypted; null at the end of the stream. */
  async #record(): Promise<{ type: number; data: Bytes } | null> {
    for (;;) {
      const head = await this.#exactly(5);
      if (head === null) return null;
      const size = head[3]! * 256 + head[4]!;
      if (size > RECORD + 256) throw new TlsError("a record is too long");
      const body = await this.#exactly(size);
      if (body === null) throw new TlsError("the connection was cut off");
      if (head[0] === Type.ChangeCipherSpec) continue;
      if (this.#reading !== null && head[0] !== Type.Data && head[0] !== Type.Alert) {
        throw new TlsError("a record is not encrypted");
      }
      const isSealed = this.#reading !== null && head[0] === Type.Data;
      const record = isSealed ? await this.#reading!.open(head, body) : { type: head[0]!, data: body };
      if (record.type === Type.Alert) {
        const alert = record.data[1] ?? 0;
        if (alert === 0 && isSealed) return null;
        throw new TlsError(`the server refused: ${ALERTS[alert] ?? `alert ${alert}`}`, alert);
      }
      return record;
    }
  }

  async #exactly(size: number): Promise<Bytes | null> {
    const parts: Uint8Array[] = [this.#buffer];
    let have = this.#buffer.length;
    while (have < size) {
      const more = await this.stream.read();
      if (more === null) {
        if (have) throw new TlsError("the connection was cut off");
        return null;
      }
      parts.push(more);
      have += more.length;
    }
    const all = parts.length === 1 ? this.#buffer : concat(...parts);
    this.#buffer = all.subarray(size);
    return all.slice(0, size) as Bytes;
  }

  #send(type: Type, data: Uint8Array): void {
    this.stream.write(concat(number(type, 1), number(0x0301, 2), sized(data, 2)));
  }

  /** Data that the server sent; null at their end. */
  async read(): Promise<Bytes | null> {
    for (;;) {
      const record = await this.#record();
      if (record === null) return null;
      if (record.type === Type.Data) {
        if (record.data.length) return record.data;
        continue;
      }
      this.#messages = concat(this.#messages, record.data);
      for (let found = this.#takeMessage(); found; found = this.#takeMessage()) await this.#afterwards(found.kind, found.body);
    }
  }

  /** A message after the handshake (section 4.6). */
  async #afterwards(kind: number, body: Bytes): Promise<void> {
    if (kind === Message.SessionTicket) return;
    if (kind !== Message.KeyUpdate || body.length !== 1 || this.#messages.length) {
      throw new TlsError(`the server sent message ${kind} after the handshake`);
    }
    this.#reading = await this.#reading!.next();
    if (body[0] !== 1) return;
    await this.#queued(async () => {
      this.stream.write(await this.#writing!.seal(Type.Handshake, message(Message.KeyUpdate, number(0, 1))));
      this.#writing = await this.#writing!.next();
    });
  }

  #queued(work: () => Promise<void>): Promise<void> {
    this.#sending = this.#sending.then(work);
    return this.#sending;
  }

  write(data: Uint8Array): Promise<void> {
    return this.#queued(async () => {
      for (let at = 0; at < data.length; at += RECORD) {
        this.stream.write(await this.#writing!.seal(Type.Data, data.subarray(at, at + RECORD)));
      }
    });
  }

  close(): void {
    this.stream.close();
  }
}

function message(kind: number, body: Uint8Array): Bytes {
  return concat(number(kind, 1), sized(body, 3));
}

function readChain(body: Bytes): Bytes[] {
  const reader = new Reader(body);
  reader.sized(1);
  const entries = new Reader(reader.sized(3));
  const chain: Bytes[] = [];
  while (entries.left) {
    chain.push(entries.sized(3));
    entries.sized(2);
  }
  return chain;
}
