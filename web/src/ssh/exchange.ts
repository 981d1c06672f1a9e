// Key exchange (RFC 4253, section 7; RFC 5656; RFC 8731): which algorithms, which secret, which keys.

import { type Bytes, concat } from "../net/bytes.js";
import { Fields, Message, SshError, boolean, byte, mpint, nameList, reading, string, uint32 } from "./fields.js";
import { HOST_ALGORITHMS } from "./host_certificate.js";

const STRICT_CLIENT = "kex-strict-c-v00@openssh.com";
const STRICT_SERVER = "kex-strict-s-v00@openssh.com";
const CIPHERS: Record<string, number> = { "aes256-gcm@openssh.com": 32, "aes128-gcm@openssh.com": 16 };
/** These ciphers need none: it is never used. */
const MACS = ["hmac-sha2-256-etm@openssh.com"];
const IV_SIZE = 12;

interface Share {
  own: Bytes;
  /** The secret, encoded as it is hashed. Throws SshError. */
  finish(theirs: Bytes): Promise<Bytes>;
}

async function share(algorithm: { name: string; namedCurve?: string }): Promise<Share> {
  const pair = (await crypto.subtle.generateKey(algorithm, false, ["deriveBits"])) as CryptoKeyPair;
  return {
    own: new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)),
    async finish(theirs) {
      try {
        const other = await crypto.subtle.importKey("raw", theirs, algorithm, false, []);
        const secret = await crypto.subtle.deriveBits({ name: algorithm.name, public: other }, pair.privateKey, 256);
        return mpint(new Uint8Array(secret));
      } catch {
        throw new SshError("the server's share of the key is not valid");
      }
    },
  };
}

const x25519 = () => share({ name: "X25519" });
const METHODS: Record<string, () => Promise<Share>> = {
  "curve25519-sha256": x25519,
  "curve25519-sha256@libssh.org": x25519,
  "ecdh-sha2-nistp256": () => share({ name: "ECDH", namedCurve: "P-256" }),
};

let known: Promise<string[]> | null = null;

/** The methods that this browser has: not all know X25519. */
export function methods(): Promise<string[]> {
  known ??= x25519().then(
    () => Object.keys(METHODS),
    () => ["ecdh-sha2-nistp256"],
  );
  return known;
}

export const sha256 = async (data: Bytes): Promise<Bytes> => new Uint8Array(await crypto.subtle.digest("SHA-256", data));

/** Our KEXINIT; the first one has the markers. */
export function ourKexInit(methods: string[], isFirst: boolean): Bytes {
  const ciphers = Object.keys(CIPHERS);
  const lists = [
    isFirst ? [...methods, "ext-info-c", STRICT_CLIENT] : methods,
    Object.keys(HOST_ALGORITHMS), ciphers, ciphers, MACS, MACS, ["none"], ["none"], [], [],
  ];
  const cookie = crypto.getRandomValues(new Uint8Array(16));
  return concat(byte(Message.KexInit), cookie, ...lists.map(nameList), boolean(false), uint32(0));
}

export interface Agreement {
  method: () => Promise<Share>;
  hostKey: string;
  sizeToServer: number;
  sizeToClient: number;
  isStrict: boolean;
  /** Whether the server's next message is to be ignored: it guessed wrong. */
  skips: boolean;
}

function lists(kexInit: Bytes): { names: string[][]; follows: boolean } {
  const fields = new Fields(kexInit);
  fields.take(17);
  const names = Array.from({ length: 10 }, () => fields.names());
  const follows = fields.boolean();
  fields.uint32();
  fields.end();
  return { names, follows };
}

/** What both sides have, in our order. Throws SshError. */
export function agree(ours: Bytes, theirs: Bytes): Agreement {
  return reading(() => {
    const [client, server] = [lists(ours), lists(theirs)];
    const chosen = (at: number, what: string): string => {
      const found = client.names[at]!.find((name) => server.names[at]!.includes(name));
      if (found === undefined) throw new SshError(refusal(what, server.names[at]!));
      return found;
    };
    const method = METHODS[chosen(0, "way to exchange keys")];
    if (method === undefined) throw new SshError(refusal("way to exchange keys", server.names[0]!));
    const agreement = {
      method,
      hostKey: chosen(1, "kind of host certificate"),
      sizeToServer: CIPHERS[chosen(2, "cipher")]!,
      sizeToClient: CIPHERS[chosen(3, "cipher")]!,
      isStrict: server.names[0]!.includes(STRICT_SERVER),
      skips: server.follows && [0, 1].some((at) => client.names[at]![0] !== server.names[at]![0]),
    };
    chosen(6, "compression");
    chosen(7, "compression");
    return agreement;
  });
}

function refusal(what: string, theirs: string[]): string {
  return `this browser has no ${what} in common with the server, which offers ${theirs.join(", ").slice(0, 200)}`;
}

/** H, which the host signs. */
export function exchangeHash(
  versions: [Bytes, Bytes], kexInits: [Bytes, Bytes], hostKey: Bytes, shares: [Bytes, Bytes], secret: Bytes,
): Promise<Bytes> {
  return sha256(concat(...[...versions, ...kexInits, hostKey, ...shares].map(string), secret));
}

export interface DerivedKeys {
  toServer: { key: Bytes; iv: Bytes };
  toClient: { key: Bytes; iv: Bytes };
}

/** The keys of both directions (section 7.2). */
export async function deriveKeys(
  secret: Bytes, hash: Bytes, sessionId: Bytes, { sizeToServer, sizeToClient }: Agreement,
): Promise<DerivedKeys> {
  const derive = async (letter: string, size: number): Promise<Bytes> =>
    (await sha256(concat(secret, hash, byte(letter.charCodeAt(0)), sessionId))).slice(0, size) as Bytes;
  return {
    toServer: { iv: await derive("A", IV_SIZE), key: await derive("C", sizeToServer) },
    toClient: { iv: await derive("B", IV_SIZE), key: await derive("D", sizeToClient) },
  };
}
