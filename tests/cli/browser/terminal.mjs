// Opens terminals in a real Chromium. It reads one JSON object from the file that it is given, does everything once, and
// prints what it saw as one JSON object.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const { modules, chromium: executablePath, url, user, password, account, hostile, pictures } = JSON.parse(
  readFileSync(process.argv[2], "utf8"),
);
const require = createRequire(join(modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(join(modules, "node_modules/axe-core/axe.min.js"), "utf8");

const seen = { problems: [], foreign: [], errors: {}, secret: 0, opened: 0 };
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});

async function part(name, work) {
  try {
    const began = Date.now();
    seen[name] = await work();
    if (process.env.TRACE) console.error(name, Date.now() - began);
  } catch (error) {
    seen.errors[name] = String(error.stack ?? error).slice(0, 2000);
    if (process.env.TRACE) console.error(name, seen.errors[name]);
  }
}

async function faults(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Runtime.evaluate", { expression: axe });
  const { result } = await session.send("Runtime.evaluate", {
    expression: `axe.run({ resultTypes: ["violations"] }).then((found) => JSON.stringify(found.violations
      .filter((each) => ["serious", "critical"].includes(each.impact))
      .map((each) => [each.id, each.nodes.map((node) => node.html.slice(0, 200))])))`,
    awaitPromise: true,
  });
  await session.detach();
  return JSON.parse(result.value);
}

const context = await browser.newContext({
  ignoreHTTPSErrors: true, viewport: { width: 1280, height: 800 }, permissions: ["clipboard-read", "clipboard-write"],
});

function watched(page) {
  page.setDefaultTimeout(60_000);
  page.on("console", (message) => {
    const isExpected = /favicon/.test(message.location().url) || /WebSocket|ERR_CONNECTION/.test(message.text());
    if (message.type() === "error" && !isExpected) seen.problems.push(message.text());
  });
  page.on("pageerror", (error) => seen.problems.push(String(error)));
  page.on("dialog", (dialog) => (seen.problems.push(`dialog: ${dialog.message()}`), dialog.dismiss()));
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) seen.foreign.push(request.url());
  });
  page.on("websocket", (socket) => {
    if (!socket.url().endsWith("/web/ssh")) return;
    seen.opened += 1;
    for (const name of ["framesent", "framereceived"]) {
      socket.on(name, ({ payload }) => {
        if (Buffer.from(payload).includes("seen-by-nobody")) seen.secret += 1;
      });
    }
  });
  return page;
}

const picture = (page, name) => (pictures ? page.screenshot({ path: join(pictures, `${name}.png`) }) : undefined);
const shown = (page) => page.locator(".xterm-rows").innerText();
const until = (page, text) =>
  page.waitForFunction((wanted) => document.querySelector(".xterm-rows")?.innerText.includes(wanted), text);
/** Type a command whose own text is not what is waited for. */
async function run(page, command, wanted) {
  await page.keyboard.type(`${command}\n`);
  await until(page, wanted);
}

const page = watched(await context.newPage());
await page.goto(`${url}/`);

await part("open", async () => {
  await page.fill("input[name=user]", user);
  await page.fill("input[name=password]", password);
  await page.keyboard.press("Enter");
  await page.waitForSelector("tele-nodes a.open");
  const links = await page.locator("tele-nodes a.open").allInnerTexts();
  await page.click("tele-nodes a.open");
  await page.waitForSelector(".xterm-rows");
  await page.waitForSelector("text=Find");
  await run(page, "echo seen-by-$((1))nobody; echo answer $((40+2)); id -un", "answer 42");
  await run(page, "tty | tr a-z A-Z; echo who-$(id -un)-", `who-${account}-`);
  await picture(page, "terminal");
  return { links, text: await shown(page), title: await page.title(), heading: await page.innerText("h1"), faults: await faults(page) };
});
const address = page.url();

await part("secret", async () => {
  await run(page, "echo seen-by-nobody | rev", "ydobon-yb-nees");
  return seen.secret;
});

await part("resize", async () => {
  const size = async (name) => {
    await run(page, `echo ${name}-$(stty size | tr ' ' x)-`, `${name}-`);
    await page.waitForFunction((word) => new RegExp(`${word}-\\d+x\\d+-`).test(document.querySelector(".xterm-rows").innerText), name);
    return new RegExp(`${name}-(\\d+)x(\\d+)-`).exec(await shown(page)).slice(1).map(Number);
  };
  const before = await size("before");
  await page.setViewportSize({ width: 900, height: 600 });
  await page.waitForTimeout(300);
  const after = await size("after");
  await page.setViewportSize({ width: 1280, height: 800 });
  return { before, after };
});

await part("clipboard", async () => {
  await page.evaluate(() => navigator.clipboard.writeText("echo pasted-$((6*7))\n"));
  await page.keyboard.press("Control+Shift+V");
  await page.keyboard.press("Enter");
  await until(page, "pasted-42");
  await run(page, "clear; printf 'copyme%s\\n' 77", "copyme77");
  const row = await page.locator(".xterm-rows > div", { hasText: /^copyme77/ }).first().boundingBox();
  await page.mouse.dblclick(row.x + 20, row.y + row.height / 2);
  await page.keyboard.press("Control+Shift+C");
  await page.waitForTimeout(200);
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  return { copied };
});

await part("scrollback", async () => {
  await run(page, "clear; seq 1 3000; echo all-$((1+1))-done", "all-2-done");
  await page.keyboard.press("Control+Shift+F");
  await page.fill(".find input", "1234");
  await page.keyboard.press("Enter");
  await until(page, "1234");
  const found = await shown(page);
  await page.fill(".find input", "no such text at all");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".find .quiet:has-text('not found')");
  await page.keyboard.press("Escape");
  return { found };
});

await part("hostile", async () => {
  await page.evaluate(() => navigator.clipboard.writeText("untouched"));
  await run(page, `clear; printf '${hostile.escapes}'; printf '%s\\n' '${hostile.markup}'; echo shown-$((3+4))`, "shown-7");
  await page.waitForTimeout(300);
  const found = {
    script: await page.evaluate(() => window.script ?? "none"),
    title: await page.title(),
    shownTitle: await page.innerText(".live-terminal .title"),
    clipboard: await page.evaluate(() => navigator.clipboard.readText()),
    pages: context.pages().length,
  };
  // A link that the session shows leads nowhere before a second click, and never to a script.
  await page.keyboard.press("Control+C"); // what the terminal answered was typed into the shell
  await run(page, "clear; printf '\\033]8;;javascript:script=9\\007evil\\033]8;;\\007 \\n'; echo https://other.example/path; echo links-$((2+2))", "links-4");
  const click = async (text) => {
    const row = await page.locator(".xterm-rows > div", { hasText: text }).first().boundingBox();
    await page.mouse.move(row.x + 12, row.y + row.height / 2);
    await page.waitForTimeout(200);
    await page.mouse.click(row.x + 12, row.y + row.height / 2);
    await page.waitForTimeout(200);
  };
  await click(/^evil/);
  found.evil = await page.locator(".offer").count();
  await click(/^https:..other/);
  found.link = await page.locator(".offer a").getAttribute("href");
  found.relation = await page.locator(".offer a").getAttribute("rel");
  await page.click(".offer button");
  found.after = await page.evaluate(() => window.script ?? "none");
  found.opened = context.pages().length;
  return found;
});

await part("flood", async () => {
  // A page that is busy reads nothing: what it has not read is bounded, and the rest arrives later.
  const heap = async () => {
    const session = await context.newCDPSession(page);
    await session.send("HeapProfiler.collectGarbage");
    const { usedSize } = await session.send("Runtime.getHeapUsage");
    await session.detach();
    return usedSize;
  };
  const before = await heap();
  await run(page, "clear; head -c 4000000 /dev/zero | tr '\\0' x | fold -w 100; echo flood-$((5+5))-over", "flood-10-over");
  return { grown: (await heap()) - before };
});

await part("tabs", async () => {
  const other = watched(await context.newPage());
  const before = seen.opened;
  await other.goto(address);
  await other.waitForSelector("button.primary");
  await other.waitForTimeout(500);
  // A link from elsewhere opens nothing by itself.
  const waited = seen.opened === before;
  await other.click("button.primary");
  await other.waitForSelector("text=Find");
  await run(other, "echo second-$((8+1))", "second-9");
  await run(other, "exit 3", "exit 3");
  await other.waitForSelector("text=The session ended with status 3.");
  await picture(other, "terminal_ended");
  const found = { waited, faults: await faults(other) };
  await other.close();
  await run(page, "echo first-$((8+2))", "first-10");
  return found;
});

await part("killed", async () => {
  console.error("kill");
  await page.waitForSelector(".live-terminal .problem");
  const found = { problem: await page.innerText(".live-terminal .problem"), kept: await shown(page) };
  await picture(page, "terminal_killed");
  for (let tries = 0; ; tries++) {
    await page.click("button.again");
    await page.waitForSelector("text=Connecting", { state: "detached" });
    if (await page.locator("text=Find").count()) break;
    if (tries > 60) throw new Error(await page.innerText(".live-terminal"));
    await page.waitForTimeout(500);
  }
  await run(page, "echo back-$((9+9))", "back-18");
  return found;
});

await browser.close();
console.log(JSON.stringify(seen));
