// What the box does just now: asked for every two seconds, while somebody looks.

import { inWords, json } from "./api.js";
import { $, el, plural, size } from "./dom.js";

const POLL_MS = 2000;
const KINDS = { private: "private", mapped: "file, can be dropped" };
let timer = null;
let isShown = false;

export function start() {
  document.addEventListener("visibilitychange", look);
}

export function shown(is) {
  isShown = is;
  look();
}

async function look() {
  clearTimeout(timer);
  if (!isShown || document.hidden) return;
  try {
    draw(await json("/v1/status", { quiet: $("box-state").dataset.asked === "yes" }));
  } catch (error) {
    $("box-state").textContent = inWords(error);
  }
  $("box-state").dataset.asked = "yes"; // a key is asked for once, not every two seconds
  clearTimeout(timer);
  if (isShown && !document.hidden) timer = setTimeout(look, POLL_MS);
}

function draw(now) {
  const { ledger, budget_bytes: budget, processes } = now.memory;
  $("box-state").textContent = now.loaded ? "The model is in memory." : "The model is not in memory: the next question brings it there.";
  const rate = now.decode_tok_per_sec ? `${Math.round(now.decode_tok_per_sec)}` : "–";
  figures([
    ["Tokens per second, last answer", rate],
    ["Being answered", `${now.running} of ${now.slots}`],
    ["Waiting", String(now.waiting)],
    ["Documents on their way", String(now.pending_documents)],
  ]);
  const total = ledger.reduce((sum, line) => sum + line.bytes, 0);
  $("ledger-note").textContent = ledger.length
    ? `${plural(ledger.length, "line")}, ${size(total)}${budget ? ` of ${size(budget)} that may be used` : ""}`
    : "Planned when the model is loaded.";
  const most = Math.max(1, ...ledger.map((line) => line.bytes));
  bars($("ledger"), ledger.map((line) => ({
    name: line.line, of: KINDS[line.kind] ?? line.kind, text: size(line.bytes),
    dark: line.kind === "private" ? line.bytes / most : 0, light: line.kind === "private" ? 0 : line.bytes / most,
  })));
  const all = Object.entries(processes);
  const top = Math.max(1, ...all.map(([, one]) => one.rss_bytes));
  bars($("processes"), all.map(([name, one]) => ({
    name, of: `${size(one.private_bytes)} private`, text: size(one.rss_bytes),
    dark: one.private_bytes / top, light: (one.rss_bytes - one.private_bytes) / top,
  })));
  $("notes").replaceChildren(...now.notes.map((note) => el("li", {}, note)));
}

function figures(pairs) {
  $("figures").replaceChildren(...pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function bars(list, lines) {
  list.replaceChildren(...lines.map(({ name, of, text, dark, light }) => {
    const parts = [["dark", dark], ["light", light]].map(([kind, share]) => {
      const part = el("span", { className: kind });
      part.style.width = `${(100 * share).toFixed(2)}%`;
      return part;
    });
    return el("li", {}, el("span", { className: "name" }, name, el("span", { className: "of" }, ` ${of}`)),
      el("span", { className: "value" }, text), el("span", { className: "bar", "aria-hidden": "true" }, ...parts));
  }));
}
