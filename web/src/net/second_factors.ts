// Second factors: what auth says of them, and the secret of an authenticator app, which is made here.

import { type Authority } from "./authority.js";
import { Bytes } from "./bytes.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const SECRET_BYTES = 20;

/** What is shown beside the password. */
export interface SecondFactor {
  code: string;
}

/** An authenticator app to set up, with the code that it shows now. */
export interface NewDevice {
  name: string;
  secret: string;
  code: string;
}

export interface Device {
  id: string;
  name: string;
  type: string;
  added: string;
  last_used: string | null;
}

export interface Devices {
  user: string;
  devices: Device[];
  recovery_codes: number;
  mode: string;
}

export function base32(bytes: Bytes): string {
  let written = "";
  for (let bit = 0; bit < bytes.length * 8; bit += 5) {
    const pair = (bytes[bit >>> 3]! << 8) | (bytes[(bit >>> 3) + 1] ?? 0);
    written += LETTERS[(pair >>> (11 - (bit & 7))) & 31]!;
  }
  return written;
}

export const newSecret = (): string => base32(crypto.getRandomValues(new Uint8Array(SECRET_BYTES)));

/** What authenticator apps read from a QR code. */
export function otpauth(cluster: string, user: string, secret: string): string {
  const [issuer, name] = [encodeURIComponent(cluster), encodeURIComponent(user)];
  return `otpauth://totp/${issuer}:${name}?secret=${secret}&issuer=${issuer}`;
}

export const listDevices = (auth: Authority): Promise<Devices> => auth.get<Devices>("/v1/mfa");

const proof = (password: string, factor: SecondFactor | null): object => ({
  password,
  ...(factor && { second_factor: factor }),
});

/** Set up an app; returns recovery codes with the first one. Throws ApiError. */
export async function addDevice(
  auth: Authority,
  device: NewDevice,
  password: string,
  factor: SecondFactor | null,
): Promise<string[]> {
  const made = await auth.call<{ recovery_codes: string[] }>("POST", "/v1/mfa", {}, { device, ...proof(password, factor) });
  return made.recovery_codes;
}

export async function removeDevice(
  auth: Authority,
  device: string,
  password: string,
  factor: SecondFactor | null,
): Promise<void> {
  await auth.call("POST", "/v1/mfa/remove", {}, { device, ...proof(password, factor) });
}

export async function newCodes(auth: Authority, password: string, factor: SecondFactor | null): Promise<string[]> {
  const made = await auth.call<{ recovery_codes: string[] }>("POST", "/v1/mfa/recovery", {}, proof(password, factor));
  return made.recovery_codes;
}
