// A page's terminal without a browser: through the proxy whose port standard input names, to a node. Prints what was
// shown as JSON.

import { readFileSync } from "node:fs";
import { fromBase64, text } from "../../../web/src/net/bytes.js";
import { blobOf } from "../../../web/src/ssh/host_certificate.js";
import { NodeConnection } from "../../../web/src/ssh/node.js";
import { Shell } from "../../../web/src/ssh/shell.js";
import { dial } from "./sockets.js";

const { port, target, key: encoded, certificate, typed } = JSON.parse(readFileSync(0, "utf8"));
const P256 = { name: "ECDSA", namedCurve: "P-256" };
const key = await crypto.subtle.importKey("pkcs8", fromBase64(encoded), P256, false, ["sign"]);
let found: unknown;
try {
  const node = await NodeConnection.open(await dial(port), target, { key, certificate: blobOf(certificate) });
  const shell = await Shell.open(node, { columns: 91, rows: 17 });
  shell.type(typed);
  let shown = "";
  for (let data = await shell.read(); data; data = await shell.read()) shown += text(data);
  found = { shown, exit: await shell.exit(), name: node.name };
  node.close();
} catch (error) {
  found = { refused: (error as Error).message };
}
process.stdout.write(`${JSON.stringify(found)}\n`, () => process.exit(0));
