// xterm.js writes styles as text of <style> elements and as style attributes, which these pages
// forbid, so that no text of others can become style. Both become rules and properties of the CSS
// object model here, which are not text.

const sheets = new WeakMap<HTMLStyleElement, CSSStyleSheet>();

Object.defineProperty(HTMLStyleElement.prototype, "textContent", {
  configurable: true,
  get: () => "",
  set(this: HTMLStyleElement, rules: string) {
    let sheet = sheets.get(this);
    if (!sheet) {
      sheet = new CSSStyleSheet();
      sheets.set(this, sheet);
      document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
    }
    sheet.replaceSync(rules);
  },
});

const removed = HTMLStyleElement.prototype.remove;
HTMLStyleElement.prototype.remove = function (this: HTMLStyleElement) {
  const sheet = sheets.get(this);
  if (sheet) document.adoptedStyleSheets = document.adoptedStyleSheets.filter((each) => each !== sheet);
  removed.call(this);
};

const setAttribute = HTMLSpanElement.prototype.setAttribute;
HTMLSpanElement.prototype.setAttribute = function (this: HTMLSpanElement, name: string, value: string) {
  if (name === "style") this.style.cssText = value;
  else setAttribute.call(this, name, value);
};
