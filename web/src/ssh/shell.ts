// A terminal's session on a node.

import { type Bytes, concat, number, utf8 } from "../net/bytes.js";
import type { Channel, Exit } from "./connection.js";
import { SshError, string, uint32 } from "./fields.js";
import type { NodeConnection } from "./node.js";

const TERM = "xterm-256color";
/** The one mode that is not as the node has it anyway: input is UTF-8 (RFC 8160). */
const IUTF8 = 42;
const MODES = concat(number(IUTF8, 1), uint32(1), number(0, 1));

export interface Size {
  columns: number;
  rows: number;
}

export class Shell {
  private constructor(private readonly channel: Channel) {}

  /** Start the login's shell on a terminal. Throws SshError. */
  static async open(node: NodeConnection, { columns, rows }: Size): Promise<Shell> {
    const channel = await node.session();
    const size = [columns, rows, 0, 0].map(uint32);
    // What a node says about a session that it does not start comes on its standard error.
    let said = new Uint8Array();
    channel.onError = (data) => (said = concat(said, data).slice(0, 4096));
    const hasTerminal = await channel.ask("pty-req", string(TERM), ...size, string(MODES));
    if (!hasTerminal || !(await channel.ask("shell"))) {
      channel.close();
      const why = new TextDecoder().decode(said).trim();
      throw new SshError(why || (hasTerminal ? "the node does not start a shell" : "your roles allow no terminal on this node"));
    }
    channel.onError = null;
    return new Shell(channel);
  }

  /** What the session shows next; null at its end. */
  read(): Promise<Uint8Array | null> {
    return this.channel.read();
  }

  /** Type `text`. */
  type(text: string): void {
    this.channel.write(utf8(text));
  }

  /** Send bytes, which need not be text: reports of the mouse. */
  send(data: Bytes): void {
    this.channel.write(data);
  }

  resize({ columns, rows }: Size): void {
    this.channel.tell("window-change", ...[columns, rows, 0, 0].map(uint32));
  }

  /** How the shell ended, once that is known; null if the connection ended before. */
  async exit(): Promise<Exit | null> {
    await this.channel.closed;
    return this.channel.exit;
  }
}
