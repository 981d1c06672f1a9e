// Is a certificate of the API's server one that the cluster's CA has issued for this name?
//
// Reads only what tele issues: P-256 keys, ECDSA with SHA-256, one CA without intermediates.

import { Bytes, concat, equal, fromBase64, hex, text } from "./bytes.js";

const P256 = { name: "ECDSA", namedCurve: "P-256" } as const;
const ECDSA = { name: "ECDSA", hash: "SHA-256" } as const;

const ECDSA_SHA256 = "2a8648ce3d040302";
const SUBJECT_ALT_NAME = "551d11";
const BASIC_CONSTRAINTS = "551d13";
const EXTENDED_KEY_USAGE = "551d25";
const SERVER_AUTH = "2b06010505070301";
const KNOWN_CRITICAL = new Set([BASIC_CONSTRAINTS, "551d0f", SUBJECT_ALT_NAME, EXTENDED_KEY_USAGE]);

const SEQUENCE = 0x30;

export class BadCertificate extends Error {}

interface Value {
  tag: number;
  body: Bytes;
  /** With tag and length. */
  all: Bytes;
}

function* values(bytes: Bytes): Generator<Value> {
  let at = 0;
  while (at < bytes.length) {
    const start = at;
    const tag = bytes[at++]!;
    let length = bytes[at++] ?? 0x100;
    if (length > 0x7f) {
      const size = length & 0x7f;
      if (length > 0x84 || size === 0 || at + size > bytes.length) throw new BadCertificate("it is not DER");
      length = 0;
      for (const end = at + size; at < end; at++) length = length * 256 + bytes[at]!;
    }
    if (at + length > bytes.length) throw new BadCertificate("it is cut off");
    yield { tag, body: bytes.slice(at, at + length), all: bytes.slice(start, at + length) };
    at += length;
  }
}

function only(bytes: Bytes, tag: number): Value {
  const [first, ...more] = values(bytes);
  if (first === undefined || more.length || first.tag !== tag) throw new BadCertificate("it is not DER");
  return first;
}

/** The integers of an ECDSA signature as WebCrypto wants them: two of 32 bytes. */
export function rawSignature(der: Bytes): Bytes {
  const parts = [...values(only(der, SEQUENCE).body)];
  if (parts.length !== 2) throw new BadCertificate("its signature is not one of ECDSA");
  return concat(
    ...parts.map(({ tag, body }) => {
      const digits = body[0] === 0 ? body.slice(1) : body;
      if (tag !== 2 || digits.length > 32) throw new BadCertificate("its signature is not one of P-256");
      return concat(new Uint8Array(32 - digits.length), digits);
    }),
  );
}

/** The signature that WebCrypto made, as TLS wants it. */
export function derSignature(raw: Bytes): Bytes {
  const integer = (digits: Bytes) => {
    let first = digits.findIndex((byte) => byte !== 0);
    if (first < 0) first = digits.length - 1;
    const rest = digits.slice(first);
    const body = rest[0]! > 0x7f ? concat(new Uint8Array(1), rest) : rest;
    return concat(new Uint8Array([2, body.length]), body);
  };
  const body = concat(integer(raw.slice(0, 32)), integer(raw.slice(32)));
  return concat(new Uint8Array([SEQUENCE, body.length]), body);
}

function time({ tag, body }: Value): number {
  const written = text(body);
  const short = /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(written);
  const long = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(written);
  const found = tag === 0x17 ? short : tag === 0x18 ? long : null;
  if (found === null) throw new BadCertificate("its dates cannot be read");
  const [year, month, day, hour, minute, second] = found.slice(1).map(Number) as [
    number, number, number, number, number, number,
  ];
  const century = tag === 0x17 ? (year < 50 ? 2000 : 1900) : 0;
  return Date.UTC(century + year, month - 1, day, hour, minute, second);
}

export interface Certificate {
  signed: Bytes;
  signature: Bytes;
  issuer: Bytes;
  subject: Bytes;
  notBefore: number;
  notAfter: number;
  publicKey: Bytes;
  names: string[];
  isAuthority: boolean;
  isServer: boolean;
}

export function readCertificate(der: Bytes): Certificate {
  const [signed, algorithm, signature, ...more] = values(only(der, SEQUENCE).body);
  if (!signed || !algorithm || !signature || more.length) throw new BadCertificate("it is not DER");
  const fields = [...values(signed.body)];
  if (fields[0]?.tag === 0xa0) fields.shift();
  const [, inner, issuer, validity, subject, publicKey, ...rest] = fields;
  if (!inner || !issuer || !validity || !subject || !publicKey) throw new BadCertificate("fields are missing");
  for (const each of [algorithm, inner]) {
    const [oid] = values(each.body);
    if (!oid || hex(oid.body) !== ECDSA_SHA256) throw new BadCertificate("its signature is of another kind");
  }
  const [notBefore, notAfter] = values(validity.body);
  if (!notBefore || !notAfter || signature.tag !== 3 || signature.body[0] !== 0) {
    throw new BadCertificate("fields are missing");
  }
  const found: Certificate = {
    signed: signed.all,
    signature: rawSignature(signature.body.slice(1)),
    issuer: issuer.all,
    subject: subject.all,
    notBefore: time(notBefore),
    notAfter: time(notAfter),
    publicKey: publicKey.all,
    names: [],
    isAuthority: false,
    isServer: false,
  };
  const extensions = rest.find((each) => each.tag === 0xa3);
  if (extensions) for (const each of values(only(extensions.body, SEQUENCE).body)) readExtension(each, found);
  return found;
}

function readExtension(extension: Value, found: Certificate): void {
  const parts = [...values(extension.body)];
  const name = hex(parts[0]?.body ?? new Uint8Array());
  const isCritical = parts[1]?.tag === 1 && parts[1].body[0] !== 0;
  const content = parts.at(-1);
  if (content?.tag !== 4) throw new BadCertificate("an extension cannot be read");
  if (isCritical && !KNOWN_CRITICAL.has(name)) throw new BadCertificate(`extension ${name} is not known`);
  if (name === BASIC_CONSTRAINTS) {
    const [first] = values(only(content.body, SEQUENCE).body);
    found.isAuthority = first?.tag === 1 && first.body[0] !== 0;
  } else if (name === SUBJECT_ALT_NAME) {
    for (const each of values(only(content.body, SEQUENCE).body)) if (each.tag === 0x82) found.names.push(text(each.body));
  } else if (name === EXTENDED_KEY_USAGE) {
    for (const each of values(only(content.body, SEQUENCE).body)) if (hex(each.body) === SERVER_AUTH) found.isServer = true;
  }
}

/** The DER of each block of a PEM text. */
export function fromPem(pem: string): Bytes[] {
  const blocks = pem.matchAll(/-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/g);
  return Array.from(blocks, ([, body]) => fromBase64(body!.replace(/\s+/g, "")));
}

export const importKey = (spki: Bytes): Promise<CryptoKey> =>
  crypto.subtle.importKey("spki", spki, P256, false, ["verify"]);

/** `sha256:` and the SHA-256 of the certificate's key: what `tele ca status` prints. */
export async function pin(pem: string): Promise<string> {
  const [der] = fromPem(pem);
  if (der === undefined) throw new BadCertificate("it is not PEM");
  return `sha256:${hex(new Uint8Array(await crypto.subtle.digest("SHA-256", readCertificate(der).publicKey)))}`;
}

/** The key of a server's certificate. Throws BadCertificate if no trusted CA has issued it for `name`. */
export async function serverKey(chain: Bytes[], trust: string[], name: string, now: number): Promise<CryptoKey> {
  if (chain[0] === undefined) throw new BadCertificate("the server shows no certificate");
  const leaf = readCertificate(chain[0]);
  if (!leaf.names.includes(name)) throw new BadCertificate(`the server's certificate is not for ${name}`);
  if (!leaf.isServer || leaf.isAuthority) throw new BadCertificate("the certificate is not one of a server");
  checkDates(leaf, now);
  for (const der of trust.flatMap(fromPem)) {
    const authority = readCertificate(der);
    if (!authority.isAuthority || !equal(authority.subject, leaf.issuer)) continue;
    const key = await importKey(authority.publicKey);
    if (await crypto.subtle.verify(ECDSA, key, leaf.signature, leaf.signed)) {
      checkDates(authority, now);
      return importKey(leaf.publicKey);
    }
  }
  throw new BadCertificate("the server's certificate is of another CA than this cluster's");
}

function checkDates(certificate: Certificate, now: number): void {
  if (now < certificate.notBefore) {
    throw new BadCertificate("by this device's clock the server's certificate is not valid yet: is the clock right?");
  }
  if (now > certificate.notAfter) {
    throw new BadCertificate("by this device's clock the server's certificate has expired: is the clock right?");
  }
}
