// The panel with a document's text, and the cited passage marked in it.

import { inWords, json } from "./api.js";
import { $, announce, el, flowing, plural, units } from "./dom.js";

const NARROW = matchMedia("(max-width: 859px)"); // as in page.css: there the panel covers all
let opener = null; // gets the focus back
let turn = 0; // of the newest document asked for: what comes later for an older one is dropped

/**
 * Open a document.
 *
 * cited: {document, name, title, page, start, end, text}; without start, the document from its beginning. Offsets count
 * code points, as Python does, where this language counts UTF-16 units: see `units`.
 */
export async function open(cited, from = null) {
  const mine = ++turn;
  opener = from;
  $("source-title").textContent = cited.title || cited.name || "";
  $("source-where").textContent = "Opening…";
  $("source-note").hidden = true;
  $("source-text").replaceChildren();
  $("source").hidden = false;
  document.body.classList.add("with-source");
  $("app").inert = NARROW.matches;
  $("source-title").focus({ preventScroll: true });
  try {
    const found = await json(`/v1/source?document=${encodeURIComponent(cited.document)}`);
    if (mine === turn) (found.parts.length ? list : show)(cited, found);
  } catch (error) {
    if (mine !== turn) return;
    $("source-where").textContent = "";
    note(error.status === 404 ? "This document is no longer in the index." : inWords(error));
  }
}

/** What a database holds: its tables, each a text of its own. */
function list(_, found) {
  $("source-where").textContent = plural(found.parts.length, "table");
  const rows = found.parts.map((part) => {
    const name = part.split("#").pop();
    const read = el("button", { type: "button", className: "quiet", "aria-label": `Read ${name}` }, "Read");
    read.onclick = () => open({ document: part, name }, opener);
    return el("li", {}, el("span", { className: "name" }, name), read);
  });
  $("source-text").replaceChildren(el("ul", { className: "rows", "aria-label": "Tables" }, ...rows));
}

function show(cited, found) {
  $("source-title").textContent = found.title || found.name;
  const page = cited.page ? `, page ${cited.page}` : "";
  const span = cited.start === undefined ? "" : `, characters ${cited.start}–${cited.end}`;
  $("source-where").textContent = `${found.name}${page}${span}`;
  if (cited.start === undefined) {
    $("source-text").replaceChildren(...flowing(found.text));
    return;
  }
  let [start, end] = units(found.text, [cited.start, cited.end]);
  if (found.text.slice(start, end) !== cited.text) {
    note("The document has changed since this answer was written.");
    start = Math.max(0, found.text.indexOf(cited.text));
    end = found.text.startsWith(cited.text, start) ? start + cited.text.length : start;
  }
  const mark = el("mark", {}, ...flowing(found.text, start, end));
  $("source-text").replaceChildren(...flowing(found.text, 0, start), mark, ...flowing(found.text, end));
  mark.scrollIntoView({ block: "center" });
  if (end > start) announce(`${found.name}${page}. Cited passage: ${cited.text}`);
}

function note(text) {
  $("source-note").textContent = text;
  $("source-note").hidden = false;
}

export function close() {
  if ($("source").hidden) return;
  turn += 1;
  $("source").hidden = true;
  document.body.classList.remove("with-source");
  $("app").inert = false;
  opener?.focus();
  opener = null;
}

export function start() {
  $("source-close").onclick = close;
  NARROW.onchange = () => { $("app").inert = NARROW.matches && !$("source").hidden; };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) close();
  });
}
