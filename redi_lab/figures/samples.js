"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const STEP = 20, HEAD = 1200, TAIL = 800;  // samples shown at once; characters of a long completion shown at first
const numRight = data.problems.map(() => 0), numSamples = data.problems.map(() => 0);
for (const s of data.samples) { numSamples[s.problem] += 1; numRight[s.problem] += s.verdict === "right"; }
let found = [], shown = 0;

function add(parent, tag, text, className) {  // text is set as text, never as HTML
  const node = parent.appendChild(document.createElement(tag));
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function isKept(s) {
  const p = data.problems[s.problem], right = numRight[s.problem], all = numSamples[s.problem];
  const kind = byId("problems").value, words = byId("search").value.toLowerCase();
  return (!byId("verdict").value || s.verdict === byId("verdict").value)
    && (!byId("cut").checked || s.finish_reason === "length")
    && (kind === "" || (kind === "mixed" && right > 0 && right < all) || (kind === "never" && right === 0)
        || (kind === "always" && right === all))
    && (!words || [p.id, p.problem, s.answer || "", s.text].some((text) => text.toLowerCase().includes(words)));
}

function showCompletion(card, text) {
  const box = add(card, "pre");
  if (text.length <= HEAD + TAIL + 400) { box.textContent = text; return; }
  add(box, "span", text.slice(0, HEAD));
  const button = add(box, "button", `${(text.length - HEAD - TAIL).toLocaleString("en")} characters not shown: show all`, "gap");
  add(box, "span", text.slice(-TAIL));
  button.onclick = () => { box.textContent = text; };
}

function showSample(s) {
  const p = data.problems[s.problem], card = add(document.querySelector("main"), "article"), title = add(card, "h3");
  add(title, "span", `${p.id} · sample ${s.sample}`);
  add(title, "span", s.verdict, `badge ${s.verdict}`);
  if (s.finish_reason === "length") add(title, "span", "truncated", "badge cut");
  add(title, "span", `${s.num_tokens.toLocaleString("en")} tokens`, "badge");
  add(title, "span", `${numRight[s.problem]} of ${numSamples[s.problem]} right`, "badge");
  const answers = add(card, "p", "answer ", "answers");
  add(answers, "b", s.answer === null ? "none" : s.answer);
  add(answers, "span", " · accepted ");
  add(answers, "b", p.answers.join("  or  "));
  add(answers, "span", s.reason ? ` · ${s.reason}` : "");
  const problem = add(card, "details");
  add(problem, "summary", "problem");
  add(problem, "pre", p.problem);
  showCompletion(card, s.text);
}

function showMore() {
  for (const s of found.slice(shown, shown + STEP)) showSample(s);
  shown = Math.min(shown + STEP, found.length);
  byId("more").hidden = shown === found.length;
  const total = data.samples.length.toLocaleString("en");
  byId("count").textContent = `${found.length.toLocaleString("en")} of ${total} samples, ${shown.toLocaleString("en")} shown`;
}

function update() {
  found = data.samples.filter(isKept);
  const sign = { longest: -1, shortest: 1 }[byId("order").value];
  if (sign) found.sort((a, b) => sign * (a.num_tokens - b.num_tokens || a.text.length - b.text.length));
  document.querySelector("main").replaceChildren();
  shown = 0;
  showMore();
}

let pending;
for (const id of ["verdict", "problems", "cut", "order"]) byId(id).addEventListener("change", update);
byId("search").addEventListener("input", () => { clearTimeout(pending); pending = setTimeout(update, 250); });
byId("more").addEventListener("click", showMore);
update();
