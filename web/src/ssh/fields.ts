// Fields of SSH messages (RFC 4251, section 5), and the numbers of messages.

import { Bytes, Reader, concat, number, sized, strictText, utf8 } from "../net/bytes.js";

export const enum Message {
  Disconnect = 1,
  Ignore = 2,
  Unimplemented = 3,
  Debug = 4,
  ServiceRequest = 5,
  ServiceAccept = 6,
  ExtInfo = 7,
  KexInit = 20,
  NewKeys = 21,
  KexEcdhInit = 30,
  KexEcdhReply = 31,
  UserauthRequest = 50,
  UserauthFailure = 51,
  UserauthSuccess = 52,
  UserauthBanner = 53,
  GlobalRequest = 80,
  RequestSuccess = 81,
  RequestFailure = 82,
  ChannelOpen = 90,
  ChannelOpenConfirmation = 91,
  ChannelOpenFailure = 92,
  ChannelWindowAdjust = 93,
  ChannelData = 94,
  ChannelExtendedData = 95,
  ChannelEof = 96,
  ChannelClose = 97,
  ChannelRequest = 98,
  ChannelSuccess = 99,
  ChannelFailure = 100,
  Ping = 192,
  Pong = 193,
}

/** The connection cannot be made, or has ended. The message is for the user. */
export class SshError extends Error {}

export const byte = (value: number): Bytes => number(value, 1);
export const uint32 = (value: number): Bytes => number(value, 4);
export const boolean = (value: boolean): Bytes => number(value ? 1 : 0, 1);
export const string = (value: Uint8Array | string): Bytes => sized(typeof value === "string" ? utf8(value) : value, 4);
export const nameList = (names: readonly string[]): Bytes => string(names.join(","));

/** A positive number from its big-endian bytes. */
export function mpint(bytes: Uint8Array): Bytes {
  const first = bytes.findIndex((each) => each !== 0);
  if (first < 0) return string(new Uint8Array());
  const digits = bytes.subarray(first);
  return string(digits[0]! > 0x7f ? concat(new Uint8Array(1), digits) : digits);
}

/** Reads the fields of one message. Throws SshError, in `whole`. */
export class Fields extends Reader {
  string(): Bytes {
    return this.sized(4);
  }

  text(): string {
    return strictText(this.string());
  }

  uint32(): number {
    return this.number(4);
  }

  boolean(): boolean {
    return this.number(1) !== 0;
  }

  names(): string[] {
    const text = this.text();
    return text ? text.split(",") : [];
  }

  /** A positive number as `size` big-endian bytes. */
  mpint(size: number): Bytes {
    const digits = this.string();
    if (digits[0]! > 0x7f) throw new RangeError("a number is negative");
    const first = digits[0] === 0 ? digits.subarray(1) : digits;
    if (first.length > size) throw new RangeError("a number is too large");
    return concat(new Uint8Array(size - first.length), first);
  }

  end(): void {
    if (this.left) throw new RangeError("there are bytes after the last field");
  }
}

/** Do what reads a message of the other side: what is wrong with the message is an SshError. */
export function reading<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) {
      throw new SshError(`a message of the server cannot be read: ${error.message}`);
    }
    throw error;
  }
}
