// An independent terminal: commands as lines of JSON on standard input, screens on standard output.
"use strict";
const { Terminal } = require("@xterm/headless");
const readline = require("node:readline");

let terminal = null;

function style(cell) {
    const numbers = [];
    if (cell.isBold()) numbers.push(1);
    if (cell.isDim()) numbers.push(2);
    if (cell.isItalic()) numbers.push(3);
    if (cell.isUnderline()) numbers.push(4);
    if (cell.isBlink()) numbers.push(5);
    if (cell.isInverse()) numbers.push(7);
    if (cell.isInvisible()) numbers.push(8);
    if (cell.isStrikethrough()) numbers.push(9);
    if (cell.isOverline()) numbers.push(53);
    const colour = (mode, value, base, bright, extended) => {
        if (mode === 0x1000000) return value < 8 ? `${base + value}` : `${bright + value - 8}`;
        if (mode === 0x2000000) return `${extended};5;${value}`;
        if (mode === 0x3000000) {
            return `${extended};2;${value >> 16};${(value >> 8) & 255};${value & 255}`;
        }
        return "";
    };
    const parts = numbers.map(String);
    parts.push(colour(cell.getFgColorMode(), cell.getFgColor(), 30, 90, 38));
    parts.push(colour(cell.getBgColorMode(), cell.getBgColor(), 40, 100, 48));
    return parts.filter((part) => part).join(";");
}

function screen() {
    const buffer = terminal.buffer.active;
    const lines = [];
    for (let y = 0; y < terminal.rows; y++) {
        const line = buffer.getLine(buffer.baseY + y);
        const texts = [];
        const styles = [];
        for (let x = 0; x < terminal.cols; x++) {
            const cell = line.getCell(x);
            texts.push(cell.getWidth() === 0 ? "" : cell.getChars() || " ");
            styles.push(style(cell));
        }
        lines.push({ texts, styles });
    }
    return { columns: terminal.cols, rows: terminal.rows, row: buffer.cursorY, column: buffer.cursorX, lines };
}

async function run() {
    for await (const text of readline.createInterface({ input: process.stdin })) {
        const command = JSON.parse(text);
        if (command.open) {
            const [cols, rows] = command.open;
            terminal = new Terminal({ cols, rows, allowProposedApi: true, scrollback: 1000 });
        } else if (command.resize) {
            terminal.resize(...command.resize);
        } else if (command.write !== undefined) {
            const data = Buffer.from(command.write, "base64");
            await new Promise((done) => terminal.write(data, done));
        } else {
            process.stdout.write(JSON.stringify(screen()) + "\n");
        }
    }
}

run();
