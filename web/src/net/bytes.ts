// Bytes: concatenation, big-endian numbers, hexadecimal, base64, text.

export type Bytes = Uint8Array<ArrayBuffer>;

const encoder = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true });
const lenient = new TextDecoder();

export function concat(...parts: Uint8Array[]): Bytes {
  const all = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** A big-endian number of `size` bytes. */
export function number(value: number, size: number): Bytes {
  const bytes = new Uint8Array(size);
  for (let at = size - 1; at >= 0; at--) {
    bytes[at] = value % 256;
    value = Math.floor(value / 256);
  }
  return bytes;
}

/** Bytes after their length, which is a number of `size` bytes. */
export function sized(bytes: Uint8Array, size: number): Bytes {
  return concat(number(bytes.length, size), bytes);
}

export const utf8 = (text: string): Bytes => encoder.encode(text);
export const text = (bytes: Uint8Array): string => lenient.decode(bytes);
export const strictText = (bytes: Uint8Array): string => strict.decode(bytes);

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function base64(bytes: Uint8Array): string {
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

export function fromBase64(encoded: string): Bytes {
  return Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
}

export function equal(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

/** Reads fields one after the other. Throws RangeError where bytes are missing. */
export class Reader {
  at = 0;
  readonly #view: DataView;

  constructor(readonly bytes: Uint8Array) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get left(): number {
    return this.bytes.length - this.at;
  }

  take(size: number): Bytes {
    if (size > this.left) throw new RangeError("bytes are missing");
    const taken = this.bytes.slice(this.at, this.at + size);
    this.at += size;
    return taken as Bytes;
  }

  number(size: number): number {
    if (size > this.left) throw new RangeError("bytes are missing");
    let value = 0;
    for (let end = this.at + size; this.at < end; this.at++) value = value * 256 + this.bytes[this.at]!;
    return value;
  }

  /** A number of 8 bytes. Throws RangeError for one that a double cannot hold. */
  long(): number {
    if (this.left < 8) throw new RangeError("bytes are missing");
    const value = Number(this.#view.getBigUint64(this.at));
    if (!Number.isSafeInteger(value)) throw new RangeError("the number is too large");
    this.at += 8;
    return value;
  }

  /** Bytes after their length, which is a number of `size` bytes. */
  sized(size: number): Bytes {
    return this.take(this.number(size));
  }
}
