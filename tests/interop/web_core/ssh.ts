// The pages' SSH client without a browser: it logs in to each server that standard input names, and checks
// certificates. Prints what came of it as JSON.

import { readFileSync } from "node:fs";
import { fromBase64, text } from "../../../web/src/net/bytes.js";
import { Connection } from "../../../web/src/ssh/connection.js";
import { string } from "../../../web/src/ssh/fields.js";
import { blobOf, checkHost, loginsOf } from "../../../web/src/ssh/host_certificate.js";
import { Transport } from "../../../web/src/ssh/transport.js";
import { logIn } from "../../../web/src/ssh/userauth.js";
import { dial } from "./sockets.js";

interface Case {
  name: string;
  port: number;
  key: string;
  certificate: string;
  trust: { name: string; authorities: string[] };
  login: string;
  rekey: number;
  command: string;
  /** Bytes that are sent to the command. */
  sent: number;
  /** Whether what it writes is read only when all was sent, and the window stayed shut for a while. */
  slow: boolean;
}

const asked = JSON.parse(readFileSync(0, "utf8"));
const P256 = { name: "ECDSA", namedCurve: "P-256" };

async function run(connection: Connection, { command, sent, slow }: Case) {
  const channel = await connection.open("session");
  let errors = "";
  channel.onError = (data) => (errors += text(data));
  if (!(await channel.ask("exec", string(command)))) return { refused: "the command" };
  const part = new Uint8Array(60_000);
  for (let left = sent; left; left -= Math.min(left, part.length)) {
    channel.write(part.subarray(0, Math.min(left, part.length)));
    await channel.ready();
  }
  if (sent) channel.eof();
  let received = 0;
  let first = "";
  let kept = 0;
  if (slow) {
    // Until nothing more arrives.
    for (let before = -1; !kept || kept !== before; kept = channel.kept) {
      before = kept;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
  for (let data = await channel.read(); data; data = await channel.read()) {
    if (received < 1000) first += text(data.slice(0, 1000));
    received += data.length;
  }
  await channel.closed;
  return { received, first: first.slice(0, 200), errors, exit: channel.exit, kept };
}

const found: Record<string, unknown> = {};

async function tried(each: Case): Promise<void> {
  try {
    const transport = await Transport.connect(await dial(each.port), each.trust, each.rekey);
    const key = await crypto.subtle.importKey("pkcs8", fromBase64(each.key), P256, false, ["sign"]);
    const { connection } = await logIn(transport, each.login, { key, certificate: blobOf(each.certificate) });
    found[each.name] = await run(connection, each);
    connection.close();
    await connection.ended;
    found[`${each.name}: exchanges`] = transport.exchanges;
  } catch (error) {
    found[each.name] = { refused: (error as Error).message };
  }
}

for (const each of asked.cases as Case[]) await tried(each);
await Promise.all((asked.changed as Case[]).map(tried));

const checked = [];
for (const { algorithm, blob, trust, now } of asked.certificates) {
  checked.push(await checkHost(algorithm, fromBase64(blob), trust, now).then((host) => host.principals.join(), (error) => error.message));
}
process.stdout.write(`${JSON.stringify({ ...found, checked, logins: loginsOf(blobOf(asked.cases[0].certificate)) })}\n`, () => process.exit(0));
