// The log-in (RFC 4252) with a certificate of the user, whose key the browser keeps.

import { type Bytes, concat, text } from "../net/bytes.js";
import { Connection } from "./connection.js";
import { Fields, Message, SshError, boolean, byte, mpint, reading, string } from "./fields.js";
import type { Transport } from "./transport.js";

const KIND = "ecdsa-sha2-nistp256";
const ALGORITHM = `${KIND}-cert-v01@openssh.com`;
const ECDSA = { name: "ECDSA", hash: "SHA-256" } as const;
const ANSWER_MS = 30_000;
/** Characters of what a server shows before the log-in. */
const BANNER_LIMIT = 4096;

export interface Credentials {
  key: CryptoKey;
  /** The blob of the certificate. */
  certificate: Bytes;
}

export interface LoggedIn {
  connection: Connection;
  /** What the server showed before it. */
  banner: string;
}

/** Log in as `user`. Throws SshError. */
export async function logIn(transport: Transport, user: string, credentials: Credentials): Promise<LoggedIn> {
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    transport.close();
  }, ANSWER_MS);
  try {
    const banner = await authenticate(transport, user, credentials);
    return { connection: new Connection(transport), banner };
  } catch (error) {
    transport.close();
    throw isLate ? new SshError("the server did not answer the log-in in time") : error;
  } finally {
    clearTimeout(timer);
  }
}

async function authenticate(transport: Transport, user: string, { key, certificate }: Credentials): Promise<string> {
  transport.send(concat(byte(Message.ServiceRequest), string("ssh-userauth")));
  const accepted = await transport.next();
  if (accepted?.[0] !== Message.ServiceAccept) throw new SshError("the server refuses log-ins");
  const request = concat(
    byte(Message.UserauthRequest), string(user), string("ssh-connection"), string("publickey"), boolean(true),
    string(ALGORITHM), string(certificate),
  );
  const signed = concat(string(transport.sessionId), request);
  const raw = new Uint8Array(await crypto.subtle.sign(ECDSA, key, signed));
  const signature = concat(string(KIND), string(concat(mpint(raw.subarray(0, 32)), mpint(raw.subarray(32)))));
  transport.send(concat(request, string(signature)));
  let banner = "";
  for (;;) {
    const payload = await transport.next();
    if (payload === null) throw new SshError(banner.trim() || "the server closed the connection");
    switch (payload[0]) {
      case Message.UserauthSuccess:
        return banner;
      case Message.UserauthBanner:
        banner = (banner + reading(() => text(new Fields(payload.subarray(1)).string()))).slice(0, BANNER_LIMIT);
        break;
      case Message.UserauthFailure:
        throw new SshError(banner.trim() || `the log-in as ${user} was refused`);
      default:
        throw new SshError(`the server sent message ${payload[0]} at a wrong time`);
    }
  }
}
