// Runs the script of a samples page on a stub of the DOM: node samples_page_dom.js PAGE [{"verdict": "wrong"}, ...]
// Prints what would be shown under each setting of the filters. The stub knows text alone: setting HTML in any way is an error.
"use strict";
const html = require("fs").readFileSync(process.argv[2], "utf-8");
const settings = JSON.parse(process.argv[3]);
const [, embedded] = html.match(/<script type="application\/json" id="data">([^]*?)<\/script>/);
const [, script] = html.match(/<script>([^]*?)<\/script>/);

class Node {
  constructor(tag) { Object.assign(this, { tag, children: [], text: "", value: "", checked: false, listeners: {} }); }
  get textContent() { return this.text + this.children.map((child) => child.textContent).join(""); }
  set textContent(text) { this.text = text; this.children = []; }
  set innerHTML(_) { throw new Error("innerHTML"); }
  appendChild(child) { this.children.push(child); return child; }
  replaceChildren() { this.children = []; }
  addEventListener(name, listener) { this.listeners[name] = listener; }
}
const nodes = { data: new Node("script") };
nodes.data.textContent = embedded;
for (const id of ["verdict", "problems", "cut", "order", "search", "count", "more"]) nodes[id] = new Node(id);
const main = new Node("main");
global.document = { getElementById: (id) => nodes[id], createElement: (tag) => new Node(tag), querySelector: () => main };
new Function(script)();
const find = (node, tag) => node.children.flatMap((child) => (child.tag === tag ? [child] : find(child, tag)));
const shown = settings.map((filters) => {
  for (const id of ["verdict", "problems", "order", "search"]) nodes[id].value = filters[id] || "";
  nodes.cut.checked = Boolean(filters.cut);
  nodes.order.listeners.change();
  const cards = main.children.map((card) => ({
    title: find(card, "h3")[0].children.map((child) => child.textContent),
    completion: find(card, "pre").at(-1).textContent,
  }));
  return { cards, count: nodes.count.textContent, has_more: !nodes.more.hidden };
});
console.log(JSON.stringify(shown));
