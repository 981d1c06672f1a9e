// Second factors: what auth says of them, and the secret of an authenticator app, which is made here.

import { type Authority } from "./authority.js";
import { Bytes } from "./bytes.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const SECRET_BYTES = 20;

/** What is shown beside the password: a code, or the answer of a security key. */
export type SecondFactor = { code: string } | { webauthn: string };

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

async function answered(asked: Promise<Credential | null>): Promise<string> {
  let made: Credential | null;
  try {
    made = await asked;
  } catch (error) {
    // What browsers say of a key that was not touched is long, and the same for other reasons.
    if (!(error instanceof DOMException)) throw error;
    if (error.name === "InvalidStateError") throw new Error("this security key is set up already");
    throw new Error(`the security key was not used (${error.name}): try again`);
  }
  if (made === null) throw new Error("the browser used no security key");
  return JSON.stringify((made as PublicKeyCredential).toJSON());
}

function checkKeys(): void {
  if (!("PublicKeyCredential" in window) || !("parseCreationOptionsFromJSON" in PublicKeyCredential)) {
    throw new Error("this browser cannot use security keys here");
  }
}

/** The answer of a security key to what auth asked. */
export function askKey(options: string): Promise<string> {
  checkKeys();
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(JSON.parse(options));
  return answered(navigator.credentials.get({ publicKey }));
}

/** Set up a security key; returns recovery codes with the first device. Throws ApiError. */
export async function addKey(
  auth: Authority,
  name: string,
  password: string,
  factor: SecondFactor | null,
): Promise<string[]> {
  checkKeys();
  const begun = await auth.call<{ options: string }>("POST", "/v1/mfa/webauthn", {}, proof(password, factor));
  const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(JSON.parse(begun.options));
  const answer = await answered(navigator.credentials.create({ publicKey }));
  const made = await auth.call<{ recovery_codes: string[] }>("POST", "/v1/mfa/webauthn/answer", {}, { name, answer });
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
