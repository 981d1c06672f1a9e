// Uses the pages of a proxy as a person would, in a real Chromium. It reads one JSON object from standard
// input, does everything once, in one browser, and prints what it saw as one JSON object.

import { createHmac } from "node:crypto";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const { modules, chromium: executablePath, url, user, password, recording, program, running, hostile, file, invitation, pictures, keyUser } = JSON.parse(
  readFileSync(0, "utf8"),
);
const require = createRequire(join(modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(join(modules, "node_modules/axe-core/axe.min.js"), "utf8");

const seen = { problems: [], foreign: [], sent: 0, leaked: false, errors: {} };
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});

function watched(page) {
  page.setDefaultTimeout(20_000);
  page.on("console", (message) => {
    // A proxy has no icon, and a password that is wrong is no fault of the page.
    if (message.type() === "error" && !/favicon/.test(message.location().url)) seen.problems.push(message.text());
  });
  page.on("pageerror", (error) => seen.problems.push(String(error)));
  page.on("dialog", (dialog) => {
    seen.problems.push(`dialog: ${dialog.message()}`);
    return dialog.dismiss();
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith(url.replace("127.0.0.1", "localhost"))) seen.foreign.push(request.url());
    if (request.postData()) seen.sent += 1;
  });
  page.on("websocket", (socket) =>
    socket.on("framesent", ({ payload }) => {
      if (Buffer.from(payload).includes(password)) seen.leaked = true;
    }),
  );
  return page;
}

/** The code of an authenticator app (RFC 6238), `ahead` steps from now. */
function totp(secret, ahead = 0) {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
  const bits = Array.from(secret, (each) => letters.indexOf(each).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((each) => parseInt(each, 2)));
  const step = Buffer.alloc(8);
  step.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + ahead));
  const made = createHmac("sha1", key).update(step).digest();
  const at = made[19] & 15;
  return String((made.readUInt32BE(at) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

/** Do one part: what fails is told with its name, and does not stop the others. */
async function part(name, work) {
  try {
    seen[name] = await work();
  } catch (error) {
    seen.errors[name] = String(error.stack ?? error).slice(0, 2000);
  }
}

async function faults(page) {
  // Through the protocol of the browser, which the policy of the page does not bind.
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

const picture = (page, name) => (pictures ? page.screenshot({ path: join(pictures, `${name}.png`) }) : undefined);
const shown = (page) => page.locator(".xterm-rows").innerText();
const until = (page, text) =>
  page.waitForFunction((wanted) => document.querySelector(".xterm-rows")?.innerText.includes(wanted), text);
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);

const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 800 } });
const page = watched(await context.newPage());
await page.goto(`${url}/`);

await part("login", async () => {
  await page.waitForSelector("tele-login input");
  const found = { faults: await faults(page) };
  await picture(page, "login");
  await page.fill("input[name=user]", user);
  await page.fill("input[name=password]", "not the password");
  await page.click("button.primary");
  await page.waitForFunction(() => document.querySelector(".problem")?.textContent);
  found.refused = await page.textContent(".problem");
  await page.fill("input[name=password]", password);
  await page.keyboard.press("Enter");
  await page.waitForSelector("tele-nodes tbody tr");
  return found;
});

await part("nodes", async () => {
  const rows = await page.locator("tele-nodes tbody tr").allInnerTexts();
  await picture(page, "nodes");
  const found = { rows, faults: await faults(page) };
  await page.fill("tele-nodes input", "there-is-no-such-node");
  await page.waitForFunction(() => !document.querySelector("tele-nodes tbody tr"));
  await page.fill("tele-nodes input", "");
  return found;
});

await part("keys", () =>
  page.evaluate(async () => {
    const database = await new Promise((resolve) => {
      const request = indexedDB.open("tele", 1);
      request.onsuccess = () => resolve(request.result);
    });
    const login = await new Promise((resolve) => {
      const request = database.transaction("login").objectStore("login").get("login");
      request.onsuccess = () => resolve(request.result);
    });
    database.close();
    const taken = await crypto.subtle.exportKey("pkcs8", login.tlsKey).then(() => true, () => false);
    return { names: Object.keys(login), extractable: [login.tlsKey.extractable, login.sshKey.extractable], taken };
  }),
);

await part("policy", () =>
  page.evaluate(() => {
    const tried = {};
    try {
      document.createElement("div").innerHTML = "<b>x</b>";
      tried.markup = "allowed";
    } catch {
      tried.markup = "refused";
    }
    try {
      document.createElement("button").setAttribute("onclick", "window.script = 4");
      tried.handler = "allowed";
    } catch {
      tried.handler = "refused";
    }
    tried.cookies = document.cookie;
    return tried;
  }),
);
// What was just refused on purpose is no problem of the pages.
seen.problems.length = 0;

await part("recordings", async () => {
  await page.click("text=Recordings");
  await page.waitForSelector("tele-recordings tbody tr");
  await picture(page, "recordings");
  return { rows: await page.locator("tele-recordings tbody tr").allInnerTexts(), faults: await faults(page) };
});

await part("replay", async () => {
  await page.goto(`${url}/#/recordings/${recording.id}`);
  await page.waitForSelector(".xterm-rows");
  await until(page, recording.first);
  const found = { playing: await page.locator(".controls .primary").innerText() };
  await page.keyboard.press("End");
  await until(page, recording.last);
  found.end = await shown(page);
  await page.keyboard.press("Home");
  await page.waitForFunction((text) => !document.querySelector(".xterm-rows").innerText.includes(text), recording.last);
  found.begin = await shown(page);
  // A click in the middle of the bar.
  const bar = await page.locator(".bar").boundingBox();
  await page.mouse.click(bar.x + bar.width - 2, bar.y + bar.height / 2);
  await until(page, recording.last);
  await page.waitForSelector(".find input");
  await page.fill(".find input", recording.find);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".line.chosen");
  found.hits = await page.locator(".find .quiet").innerText();
  found.chosen = await page.locator(".line.chosen").innerText();
  found.onBar = await page.locator(".bar .hit").count();
  found.faults = await faults(page);
  await picture(page, "player");
  return found;
});

await part("link", async () => {
  const again = watched(await context.newPage());
  await again.goto(`${url}/#/recordings/${recording.id}?t=${recording.late}`);
  await again.waitForSelector(".xterm-rows");
  await until(again, recording.last);
  const found = { state: await again.locator(".controls .primary").innerText() };
  await again.close();
  return found;
});

await part("program", async () => {
  await page.goto(`${url}/#/recordings/${program.id}`);
  await until(page, program.output);
  await page.click("text=Commands and files");
  await page.waitForSelector(".line em");
  return { text: await shown(page), marks: await page.locator(".lines .line").allInnerTexts() };
});

await part("hostile", async () => {
  await page.goto(`${url}/#/recordings/${hostile.id}`);
  await until(page, hostile.end);
  await page.keyboard.press("End");
  await page.waitForSelector(".lines .line");
  await page.goto(`${url}/#/recordings`);
  await page.waitForSelector("input[name=text]");
  await page.fill("input[name=text]", hostile.find);
  await page.keyboard.press("Enter");
  await page.waitForSelector(".hits li");
  return { hits: await page.locator(".hits a").allInnerTexts(), script: await page.evaluate(() => window.script ?? "none"), title: await page.title() };
});

await part("follow", async () => {
  await page.goto(`${url}/#/recordings/${running.id}`);
  await until(page, running.first);
  console.error("following");
  await until(page, running.next);
  return { live: await page.locator("button.live").innerText() };
});

await part("file", async () => {
  const away = await browser.newContext({ offline: true });
  const alone = await away.newPage();
  const asked = [];
  alone.on("request", (request) => asked.push(request.url()));
  alone.on("pageerror", (error) => seen.problems.push(String(error)));
  alone.on("console", (message) => message.type() === "error" && seen.problems.push(message.text()));
  await alone.goto(`file://${file}`);
  await alone.waitForSelector(".xterm-rows");
  await alone.keyboard.press("End");
  await until(alone, recording.last);
  const found = { end: await shown(alone), lines: await alone.locator(".lines .line").count() };
  const saving = alone.waitForEvent("download");
  await alone.click("text=Save as .tape");
  found.saved = await (await saving).path().then((path) => readFileSync(path).toString("base64"));
  found.faults = await faults(alone);
  await picture(alone, "file");
  await away.close();
  found.asked = asked.filter((each) => !each.startsWith("blob:"));
  return found;
});

await part("invitation", async () => {
  const other = await browser.newContext({ ignoreHTTPSErrors: true });
  const guest = watched(await other.newPage());
  await guest.goto(`${url}/#/invitation?code=${encodeURIComponent(invitation)}`);
  await guest.waitForSelector("input[name=again]");
  const found = { address: guest.url() };
  await guest.fill("input[name=password]", password);
  await guest.fill("input[name=again]", password);
  await guest.click("button.primary");
  found.user = await guest.locator("header .user").innerText();
  await guest.click("header .user");
  await guest.click("text=Add an authenticator app");
  found.faults = await faults(guest);
  await picture(guest, "second_factor");
  await guest.click("summary");
  const secret = (await guest.locator("details code").innerText()).replace(/ /g, "");
  found.modules = (await guest.getAttribute(".qr path", "d")).split("M").length - 1;
  await guest.fill("input[name=new-code]", totp(secret));
  await guest.fill("input[name=password]", password);
  await guest.click("form button.primary");
  await guest.waitForSelector(".codes li");
  const codes = await guest.locator(".codes li").allInnerTexts();
  found.codes = codes.length;
  const again = async (code) => {
    await guest.click("text=Log out");
    await guest.fill("input[name=user]", found.user);
    await guest.fill("input[name=password]", password);
    await guest.click("button.primary");
    await guest.fill("input[name=code]", "000000");
    await guest.click("button.primary");
    await guest.waitForFunction(() => document.querySelector(".problem")?.textContent);
    found.refused = await guest.textContent(".problem");
    await guest.fill("input[name=code]", code);
    await guest.click("button.primary");
    await guest.waitForSelector("header .user");
  };
  await again(totp(secret, 1));
  await again(codes[0]);
  await guest.waitForSelector("tele-second-factors tbody tr");
  found.devices = await guest.locator("tele-second-factors tbody tr").allInnerTexts();
  found.left = await guest.locator("tele-second-factors p").allInnerTexts();
  await other.close();
  return found;
});

await part("security_key", async () => {
  const other = await browser.newContext({ ignoreHTTPSErrors: true });
  const owner = watched(await other.newPage());
  const session = await other.newCDPSession(owner);
  await session.send("WebAuthn.enable");
  await session.send("WebAuthn.addVirtualAuthenticator", {
    options: { protocol: "ctap2", transport: "usb", hasResidentKey: false, hasUserVerification: false, automaticPresenceSimulation: true },
  });
  const logIn = async () => {
    await owner.waitForSelector("input[name=user]");
    await owner.fill("input[name=user]", keyUser);
    await owner.fill("input[name=password]", password);
    await owner.click("form button.primary");
  };
  await owner.goto(`${url.replace("127.0.0.1", "localhost")}/`);
  await logIn();
  await owner.click("header .user");
  await owner.click("text=Add a security key");
  await owner.fill("input[name=password]", password);
  await owner.click("form button.primary");
  await owner.waitForSelector(".codes li");
  const found = { devices: await owner.locator("tele-second-factors tbody tr").allInnerTexts() };
  await picture(owner, "security_key");
  await owner.click("text=Log out");
  await logIn();
  await owner.waitForSelector("button.key");
  await picture(owner, "security_key_login");
  await owner.click("button.key");
  await owner.waitForFunction(
    () => document.querySelector("tele-second-factors tbody tr") || document.querySelector(".problem")?.textContent,
  );
  found.problem = await owner.locator(".problem").allInnerTexts();
  await owner.waitForSelector("tele-second-factors tbody tr");
  await owner.click("text=Remove");
  await owner.fill("input[name=password]", password);
  await owner.click("form button.primary");
  await owner.click("button.key");
  await owner.waitForFunction(() => document.querySelector("tele-second-factors")?.innerText.includes("your password alone"));
  found.faults = await faults(owner);
  await other.close();
  return found;
});

await part("audit", async () => {
  await page.goto(`${url}/#/audit`);
  await page.waitForSelector("tele-audit tbody tr");
  await picture(page, "audit");
  return { rows: await page.locator("tele-audit tbody tr").allInnerTexts(), faults: await faults(page) };
});

await part("narrow", async () => {
  const phone = await browser.newContext({
    ignoreHTTPSErrors: true, viewport: { width: 360, height: 640 }, colorScheme: "dark", storageState: await context.storageState({ indexedDB: false }),
  });
  const small = watched(await phone.newPage());
  await small.goto(`${url}/`);
  await small.waitForSelector("tele-login input");
  const found = { login: await overflow(small) };
  await small.fill("input[name=user]", user);
  await small.fill("input[name=password]", password);
  await small.keyboard.press("Enter");
  await small.waitForSelector("tele-nodes tbody tr");
  await picture(small, "narrow_nodes");
  found.nodes = await overflow(small);
  await small.goto(`${url}/#/recordings/${recording.id}`);
  await small.waitForSelector(".xterm-rows");
  await small.keyboard.press("End");
  await until(small, recording.last);
  found.player = await overflow(small);
  found.faults = await faults(small);
  await picture(small, "narrow_player");
  await phone.close();
  return found;
});

await part("again", async () => {
  await page.goto(`${url}/#/nodes`);
  await page.reload();
  await page.waitForSelector("tele-nodes tbody tr");
  await page.click("text=Log out");
  await page.waitForSelector("tele-login input");
  await page.reload();
  await page.waitForSelector("tele-login input");
  return page.evaluate(
    () =>
      new Promise((resolve) => {
        const request = indexedDB.open("tele", 1);
        request.onsuccess = () => {
          const count = request.result.transaction("login").objectStore("login").count();
          count.onsuccess = () => resolve(count.result);
        };
      }),
  );
});

await browser.close();
console.log(JSON.stringify(seen));
