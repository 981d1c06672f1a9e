// The few values of DER that an RSA key is made of.

import { type Bytes, concat, number } from "../net/bytes.js";

function der(tag: number, body: Uint8Array): Bytes {
  const { length } = body;
  const size = length < 0x80 ? Uint8Array.of(length) : length < 0x100 ? Uint8Array.of(0x81, length) : concat(Uint8Array.of(0x82), number(length, 2));
  return concat(Uint8Array.of(tag), size, body);
}

export const derSequence = (...parts: Uint8Array[]): Bytes => der(0x30, concat(...parts));

/** A positive number whose first byte is 0 if it needs one, as in SSH. */
export const derInteger = (bytes: Uint8Array): Bytes => der(2, bytes);
