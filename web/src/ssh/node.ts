// How does a page get to a node? As `ssh -J` does: SSH to the proxy, and SSH to the node in a channel of that.
//
// Both hosts prove themselves with certificates of the cluster's CA. The proxy sees that of the node only as bytes.

import type { Stream } from "../net/tls.js";
import { type Channel, type Connection } from "./connection.js";
import { string, uint32 } from "./fields.js";
import { Transport } from "./transport.js";
import { type Credentials, logIn } from "./userauth.js";

/** A port that means the SSH server of any node. */
const SSH_PORT = 3022;

export interface Target {
  cluster: string;
  /** Lines `type base64` of the CAs of hosts. */
  authorities: readonly string[];
  /** Who logs in to the proxy, and as what on the node. */
  user: string;
  login: string;
  /** The node's id. */
  hostId: string;
}

export class NodeConnection {
  private constructor(
    private readonly proxy: Connection,
    readonly node: Connection,
    /** What the node showed before the log-in. */
    readonly banner: string,
    /** The node's name, as its certificate says. */
    readonly name: string,
  ) {}

  /** Connect over `stream`, which ends at the proxy. Throws SshError. */
  static async open(stream: Stream, target: Target, credentials: Credentials): Promise<NodeConnection> {
    const { authorities, cluster } = target;
    const first = await Transport.connect(stream, { authorities, name: `proxy.${cluster}` });
    const proxy = (await logIn(first, target.user, credentials)).connection;
    try {
      const channel = await proxy.open(
        "direct-tcpip", string(target.hostId), uint32(SSH_PORT), string("127.0.0.1"), uint32(0),
      );
      const second = await Transport.connect(channel, { authorities, name: `${target.hostId}.${cluster}` });
      const { connection, banner } = await logIn(second, target.login, credentials);
      const end = `.${cluster}`;
      const names = second.principals.filter((each) => each.endsWith(end) && each !== `${target.hostId}${end}`);
      return new NodeConnection(proxy, connection, banner, names[0]?.slice(0, -end.length) ?? target.hostId);
    } catch (error) {
      proxy.close();
      // The proxy may have said why it ended the connection.
      throw (await proxy.ended) ?? error;
    }
  }

  /** Resolves at the end: with why, if that is known. */
  async ended(): Promise<Error | null> {
    const why = await this.node.ended;
    this.proxy.close();
    return (await this.proxy.ended) ?? why;
  }

  session(): Promise<Channel> {
    return this.node.open("session");
  }

  close(): void {
    this.node.close();
    this.proxy.close();
  }
}
