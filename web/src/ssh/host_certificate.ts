// Is a host's SSH certificate (OpenSSH PROTOCOL.certkeys) one that the cluster's CA has issued for this host?

import { type Bytes, concat, equal, fromBase64, sized, utf8 } from "../net/bytes.js";
import { derInteger, derSequence } from "./der.js";
import { Fields, SshError, reading } from "./fields.js";

interface Algorithm {
  /** The type of the certificate's blob. */
  blob: string;
  /** The type of the signatures of its key. */
  signature: string;
}

const SUFFIX = "-cert-v01@openssh.com";
const plain = (name: string): Algorithm => ({ blob: name + SUFFIX, signature: name });
const rsa = (signature: string): Algorithm => ({ blob: `ssh-rsa${SUFFIX}`, signature });

/** What hosts may prove themselves with, by its name in a key exchange. Certificates only. */
export const HOST_ALGORITHMS: Record<string, Algorithm> = {
  [`ssh-ed25519${SUFFIX}`]: plain("ssh-ed25519"),
  [`ecdsa-sha2-nistp256${SUFFIX}`]: plain("ecdsa-sha2-nistp256"),
  [`rsa-sha2-512${SUFFIX}`]: rsa("rsa-sha2-512"),
  [`rsa-sha2-256${SUFFIX}`]: rsa("rsa-sha2-256"),
};

const HOST = 2;
const FOREVER = 0xffff_ffff_ffff_ffffn;
const SIZE_LIMIT = 32 * 1024;
/** The clock of a browser may be this wrong, in seconds. */
const LEEWAY = 60;

export interface HostTrust {
  /** Lines `type base64` of the CAs of hosts. */
  authorities: readonly string[];
  /** The principal that the certificate has to have. */
  name: string;
}

/** A host whose certificate is good: what its key has signed can be verified. */
export interface CheckedHost {
  principals: readonly string[];
  verify(signature: Bytes, data: Bytes): Promise<boolean>;
}

interface PublicKey {
  /** The types of signatures that are accepted. */
  types: readonly string[];
  verify(type: string, signature: Bytes, data: Bytes): Promise<boolean>;
}

/** Read the fields of a public key, after its type. */
function readKey(type: string, fields: Fields): () => Promise<PublicKey> {
  if (type === "ssh-ed25519") {
    const point = fields.string();
    return async () => {
      const key = await crypto.subtle.importKey("raw", point, "Ed25519", false, ["verify"]);
      return {
        types: [type],
        verify: (_, signature, data) => crypto.subtle.verify("Ed25519", key, signature, data),
      };
    };
  }
  if (type === "ecdsa-sha2-nistp256") {
    if (fields.text() !== "nistp256") throw new RangeError("the curve is another one");
    const point = fields.string();
    return async () => {
      const key = await crypto.subtle.importKey("raw", point, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]);
      return {
        types: [type],
        verify(_, signature, data) {
          const inner = new Fields(signature);
          const raw = concat(inner.mpint(32), inner.mpint(32));
          inner.end();
          return crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, raw, data);
        },
      };
    };
  }
  if (type === "ssh-rsa") {
    const [exponent, modulus] = [fields.string(), fields.string()];
    if (modulus.length < 256) throw new RangeError("an RSA key is too short");
    return async () => ({
      types: ["rsa-sha2-512", "rsa-sha2-256"],
      async verify(chosen, signature, data) {
        const algorithm = { name: "RSASSA-PKCS1-v1_5", hash: chosen === "rsa-sha2-512" ? "SHA-512" : "SHA-256" };
        const pkcs1 = derSequence(derInteger(modulus), derInteger(exponent));
        const oid = Uint8Array.of(0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0);
        const bits = concat(new Uint8Array(1), pkcs1);
        const key = await crypto.subtle.importKey(
          "spki", derSequence(oid, derBits(bits)), algorithm, false, ["verify"],
        );
        return crypto.subtle.verify(algorithm, key, signature, data);
      },
    });
  }
  throw new SshError(`this browser cannot check keys of the kind ${type.slice(0, 80)}`);
}

function derBits(content: Bytes): Bytes {
  const sequence = derSequence(content);
  sequence[0] = 3;
  return sequence;
}

async function verifier(blob: Bytes): Promise<PublicKey> {
  const make = reading(() => {
    const fields = new Fields(blob);
    const key = readKey(fields.text(), fields);
    fields.end();
    return key;
  });
  return imported(make);
}

async function imported(make: () => Promise<PublicKey>): Promise<PublicKey> {
  try {
    return await make();
  } catch {
    throw new SshError("this browser cannot use the key of the host, or of its CA: a newer browser may");
  }
}

async function isSigned(key: PublicKey, wanted: readonly string[], signature: Bytes, data: Bytes): Promise<boolean> {
  try {
    const fields = new Fields(signature);
    const type = fields.text();
    const inner = fields.string();
    fields.end();
    if (!wanted.includes(type) || !key.types.includes(type)) return false;
    return await key.verify(type, inner, data);
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) return false;
    throw error;
  }
}

interface HostCertificate {
  key: () => Promise<PublicKey>;
  kind: number;
  principals: string[];
  validAfter: bigint;
  validBefore: bigint;
  critical: Bytes;
  authority: Bytes;
  signature: Bytes;
  signed: Bytes;
}

function read(blob: Bytes, wanted: string): HostCertificate {
  return reading(() => {
    if (blob.length > SIZE_LIMIT) throw new RangeError("a certificate is too long");
    const fields = new Fields(blob);
    const type = fields.text();
    if (type !== wanted) throw new SshError("the server shows a key of another kind, or no certificate");
    fields.string();
    const key = readKey(type.slice(0, -SUFFIX.length), fields);
    fields.take(8);
    const kind = fields.uint32();
    fields.text();
    const names = new Fields(fields.string());
    const principals: string[] = [];
    while (names.left) principals.push(names.text());
    const big = () => new DataView(fields.take(8).buffer).getBigUint64(0);
    const [validAfter, validBefore] = [big(), big()];
    const critical = fields.string();
    fields.string();
    fields.string();
    const authority = fields.string();
    const signed = blob.slice(0, fields.at) as Bytes;
    const signature = fields.string();
    fields.end();
    return { key, kind, principals, validAfter, validBefore, critical, authority, signature, signed };
  });
}

/**
 * The host whose certificate is `blob`, offered as `algorithm`. Throws SshError if no trusted CA has issued it for
 * this host, or not for now (in seconds).
 */
export async function checkHost(algorithm: string, blob: Bytes, trust: HostTrust, now: number): Promise<CheckedHost> {
  const { blob: type, signature } = HOST_ALGORITHMS[algorithm]!;
  const found = read(blob, type);
  const line = trust.authorities.find((each) => {
    const [, key] = each.split(" ");
    return key !== undefined && equal(fromBase64(key), found.authority);
  });
  const refuse = (why: string) => new SshError(`the certificate of ${trust.name} is refused: ${why}`);
  if (line === undefined) throw refuse("its authority is not of this cluster");
  if (found.kind !== HOST) throw refuse("it is not that of a host");
  if (!found.principals.some((each) => each.toLowerCase() === trust.name.toLowerCase())) {
    throw refuse(`it is for ${found.principals.slice(0, 4).join(", ") || "no name"}`);
  }
  if (BigInt(now + LEEWAY) < found.validAfter) throw refuse("it is not valid yet: which clock is wrong?");
  if (found.validBefore !== FOREVER && BigInt(now - LEEWAY) >= found.validBefore) throw refuse("it has expired");
  if (found.critical.length) throw refuse("it has options that only certificates of users have");
  const authority = await verifier(found.authority);
  if (!(await isSigned(authority, authority.types, found.signature, found.signed))) {
    throw refuse("its authority did not sign it");
  }
  const key = await imported(found.key);
  return { principals: found.principals, verify: (signed, data) => isSigned(key, [signature], signed, data) };
}

/** The logins that a user's certificate is for. */
export function loginsOf(blob: Bytes): string[] {
  return reading(() => {
    const fields = new Fields(blob);
    const type = fields.text();
    fields.string();
    if (type !== `ecdsa-sha2-nistp256${SUFFIX}`) throw new SshError("the certificate is of another kind");
    fields.string();
    fields.string();
    fields.take(12);
    fields.string();
    const names = new Fields(fields.string());
    const logins: string[] = [];
    while (names.left) logins.push(names.text());
    // A principal that is no login stands for none.
    return logins.filter((each) => !each.startsWith("-"));
  });
}

/** The blob of a line `type base64`. */
export function blobOf(line: string): Bytes {
  const [type = "", key = ""] = line.trim().split(" ");
  const blob = fromBase64(key);
  const start = sized(utf8(type), 4);
  if (!equal(blob.slice(0, start.length), start)) throw new SshError("a key of the cluster is damaged");
  return blob;
}
