// The modules of a QR code (ISO/IEC 18004): bytes, error correction level M.

import { Bytes, utf8 } from "./bytes.js";

/** Error correction codewords of a block, and blocks, for versions 1 to 40 at level M. */
const CODEWORDS = [
  10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26,
  26, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28,
] as const;
const BLOCKS = [
  1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16,
  17, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31, 33, 35, 37, 38, 40, 43, 45, 47, 49,
] as const;
const LEVEL_M = 0;
const MASK = 2;

/** Modules for data and error correction in a symbol of `version`. */
function rawModules(version: number): number {
  let count = (16 * version + 128) * version + 64;
  if (version >= 2) {
    const aligned = Math.floor(version / 7) + 2;
    count -= (25 * aligned - 10) * aligned - 55;
    if (version >= 7) count -= 36;
  }
  return count;
}

const dataCodewords = (version: number): number =>
  Math.floor(rawModules(version) / 8) - CODEWORDS[version - 1]! * BLOCKS[version - 1]!;

/** The product in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1. */
function times(one: number, other: number): number {
  let product = 0;
  for (let bit = 7; bit >= 0; bit--) {
    product = (product << 1) ^ ((product >>> 7) * 0x11d);
    product ^= ((other >>> bit) & 1) * one;
  }
  return product;
}

/** The coefficients of the generator polynomial of `degree`, without the leading one. */
function generator(degree: number): number[] {
  const made = Array<number>(degree).fill(0);
  made[degree - 1] = 1;
  let root = 1;
  for (let turn = 0; turn < degree; turn++) {
    for (let at = 0; at < degree; at++) made[at] = times(made[at]!, root) ^ (made[at + 1] ?? 0);
    root = times(root, 2);
  }
  return made;
}

function remainder(data: readonly number[], divisor: readonly number[]): number[] {
  const left = divisor.map(() => 0);
  for (const byte of data) {
    const factor = byte ^ left.shift()!;
    left.push(0);
    divisor.forEach((each, at) => (left[at]! ^= times(each, factor)));
  }
  return left;
}

/** The codewords of `bytes`: mode, length, data, padding. */
function encoded(bytes: Bytes, version: number): number[] {
  const bits: number[] = [];
  const append = (value: number, size: number): void => {
    for (let bit = size - 1; bit >= 0; bit--) bits.push((value >>> bit) & 1);
  };
  const capacity = dataCodewords(version) * 8;
  append(4, 4);
  append(bytes.length, version < 10 ? 8 : 16);
  for (const byte of bytes) append(byte, 8);
  append(0, Math.min(4, capacity - bits.length));
  append(0, (8 - (bits.length % 8)) % 8);
  for (let pad = 0xec; bits.length < capacity; pad ^= 0xec ^ 0x11) append(pad, 8);
  const words: number[] = [];
  for (let at = 0; at < bits.length; at += 8) words.push(bits.slice(at, at + 8).reduce((all, bit) => all * 2 + bit, 0));
  return words;
}

/** Data and error correction of all blocks, interleaved. */
function interleaved(words: readonly number[], version: number): number[] {
  const [size, count] = [CODEWORDS[version - 1]!, BLOCKS[version - 1]!];
  const all = Math.floor(rawModules(version) / 8);
  const short = Math.floor(all / count) - size;
  const shorter = count - (all % count);
  const divisor = generator(size);
  const blocks: { data: number[]; correction: number[] }[] = [];
  for (let block = 0, at = 0; block < count; block++) {
    const data = words.slice(at, at + short + (block < shorter ? 0 : 1));
    at += data.length;
    blocks.push({ data, correction: remainder(data, divisor) });
  }
  const mixed: number[] = [];
  for (let at = 0; at <= short; at++) for (const { data } of blocks) if (at < data.length) mixed.push(data[at]!);
  for (let at = 0; at < size; at++) for (const { correction } of blocks) mixed.push(correction[at]!);
  return mixed;
}

/** Fifteen bits of the format, or eighteen of the version, with their error correction. */
function corrected(value: number, degree: number, polynomial: number): number {
  let left = value;
  for (let turn = 0; turn < degree; turn++) left = (left << 1) ^ ((left >>> (degree - 1)) * polynomial);
  return (value << degree) | left;
}

function alignments(version: number): number[] {
  if (version === 1) return [];
  const count = Math.floor(version / 7) + 2;
  const step = Math.floor((version * 8 + count * 3 + 5) / (count * 4 - 4)) * 2;
  const found = [6];
  for (let at = version * 4 + 10; found.length < count; at -= step) found.splice(1, 0, at);
  return found;
}

class Matrix {
  readonly size: number;
  readonly dark: boolean[][];
  readonly #fixed: boolean[][];

  constructor(private readonly version: number) {
    this.size = version * 4 + 17;
    const rows = (): boolean[][] => Array.from({ length: this.size }, () => Array<boolean>(this.size).fill(false));
    this.dark = rows();
    this.#fixed = rows();
  }

  #fix(x: number, y: number, isDark: boolean): void {
    this.dark[y]![x] = isDark;
    this.#fixed[y]![x] = true;
  }

  #square(x: number, y: number, radius: number, isDark: (distance: number) => boolean): void {
    for (let down = -radius; down <= radius; down++) {
      for (let right = -radius; right <= radius; right++) {
        const [column, row] = [x + right, y + down];
        if (column < 0 || row < 0 || column >= this.size || row >= this.size) continue;
        this.#fix(column, row, isDark(Math.max(Math.abs(right), Math.abs(down))));
      }
    }
  }

  patterns(): void {
    const last = this.size - 1;
    for (let at = 0; at < this.size; at++) {
      this.#fix(6, at, at % 2 === 0);
      this.#fix(at, 6, at % 2 === 0);
    }
    const isFinder = (distance: number): boolean => distance !== 2 && distance !== 4;
    for (const [x, y] of [[3, 3], [last - 3, 3], [3, last - 3]] as const) this.#square(x, y, 4, isFinder);
    const places = alignments(this.version);
    const [first, end] = [6, last - 6];
    for (const x of places) {
      for (const y of places) {
        const isInFinder = (x === first && (y === first || y === end)) || (x === end && y === first);
        if (!isInFinder) this.#square(x, y, 2, (distance) => distance !== 1);
      }
    }
    this.#format();
    if (this.version >= 7) {
      const bits = corrected(this.version, 12, 0x1f25);
      for (let bit = 0; bit < 18; bit++) {
        const isDark = ((bits >>> bit) & 1) === 1;
        const [long, short] = [this.size - 11 + (bit % 3), Math.floor(bit / 3)];
        this.#fix(long, short, isDark);
        this.#fix(short, long, isDark);
      }
    }
  }

  #format(): void {
    const bits = corrected((LEVEL_M << 3) | MASK, 10, 0x537) ^ 0x5412;
    const isDark = (bit: number): boolean => ((bits >>> bit) & 1) === 1;
    for (let bit = 0; bit <= 5; bit++) this.#fix(8, bit, isDark(bit));
    this.#fix(8, 7, isDark(6));
    this.#fix(8, 8, isDark(7));
    this.#fix(7, 8, isDark(8));
    for (let bit = 9; bit < 15; bit++) this.#fix(14 - bit, 8, isDark(bit));
    for (let bit = 0; bit < 8; bit++) this.#fix(this.size - 1 - bit, 8, isDark(bit));
    for (let bit = 8; bit < 15; bit++) this.#fix(8, this.size - 15 + bit, isDark(bit));
    this.#fix(8, this.size - 8, true);
  }

  /** Place the codewords in columns of two, up and down, under the mask of columns by three. */
  place(words: readonly number[]): void {
    let at = 0;
    for (let right = this.size - 1; right >= 1; right -= 2) {
      if (right === 6) right = 5;
      for (let step = 0; step < this.size; step++) {
        for (const x of [right, right - 1]) {
          const isUp = ((right + 1) & 2) === 0;
          const y = isUp ? this.size - 1 - step : step;
          if (this.#fixed[y]![x]) continue;
          const isSet = at < words.length * 8 && ((words[at >>> 3]! >>> (7 - (at & 7))) & 1) === 1;
          at++;
          this.dark[y]![x] = isSet !== (x % 3 === 0);
        }
      }
    }
  }
}

/** The rows of a QR code of `text`: whether each module is dark. Throws RangeError if it is too long. */
export function qrCode(text: string): boolean[][] {
  const bytes = utf8(text);
  for (let version = 1; version <= 40; version++) {
    const head = version < 10 ? 12 : 20;
    if (bytes.length * 8 + head > dataCodewords(version) * 8) continue;
    const symbol = new Matrix(version);
    symbol.patterns();
    symbol.place(interleaved(encoded(bytes, version), version));
    return symbol.dark;
  }
  throw new RangeError("the text is too long for a QR code");
}
