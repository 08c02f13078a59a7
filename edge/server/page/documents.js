// Documents: added, on their way into the index, removed.

import { inWords, json, request, upload } from "./api.js";
import { $, announce, el, plural, size } from "./dom.js";
import { open } from "./source.js";

const POLL_MS = 1000; // while something is pending
const WORDS = { queued: "Waiting", indexing: "Being read", ready: "Ready", failed: "Failed", deleting: "Being removed" };
const sending = new Map(); // name -> {share, problem}
const rows = new Map(); // name -> {row, key}: a row stays the same element while it changes, so it keeps the focus
let states = null; // name -> status, as last seen
let timer = null;
let isShown = false;

export function start() {
  $("add").onclick = () => $("files").click();
  $("files").onchange = () => {
    send([...$("files").files]);
    $("files").value = "";
  };
  const view = $("view-documents");
  const over = (is) => (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", is);
  };
  view.addEventListener("dragover", over(true));
  view.addEventListener("dragleave", over(false));
  view.addEventListener("drop", (event) => {
    over(false)(event);
    send([...event.dataTransfer.files]);
  });
}

export function shown(is) {
  isShown = is;
  clearTimeout(timer);
  if (is) refresh(true);
}

/** A name as the daemon takes it: letters and digits of any language, no folders. */
export function plainName(name) {
  return name.normalize("NFC").replace(/[^\p{L}\p{M}\p{N} _.,()+'&-]/gu, "_").replace(/^[^\p{L}\p{N}]+/u, "").slice(-150);
}

async function send(files) {
  for (const file of files) {
    const name = plainName(file.name);
    sending.set(name, { share: 0, problem: null });
    draw();
    try {
      await upload(`/v1/index/documents/${encodeURIComponent(name)}`, file, (share) => {
        sending.set(name, { share, problem: null });
        draw();
      });
      sending.delete(name);
    } catch (error) {
      sending.set(name, { share: 0, problem: inWords(error) });
      announce(`${name}: ${inWords(error)}`);
    }
    await refresh(false);
  }
}

let known = []; // records as last listed

async function refresh(whole) {
  clearTimeout(timer);
  try {
    known = (await json("/v1/index/documents")).data;
    told();
    draw();
    if (whole) await drawIndex();
  } catch (error) {
    $("documents-count").textContent = inWords(error);
    return;
  }
  const isPending = known.some((one) => !["ready", "failed"].includes(one.status));
  if (isPending && isShown) timer = setTimeout(() => refresh(false), POLL_MS);
  else if (!whole) await drawIndex().catch(() => {}); // counts only: the next visit brings them
}

/** Say what changed since the last look. */
function told() {
  const now = new Map(known.map((one) => [one.name, one.status]));
  const changed = [...now].filter(([name, status]) => states && states.get(name) !== status);
  const said = changed.map(([name, status]) => `${name}: ${WORDS[status]}`);
  for (const name of states?.keys() ?? []) if (!now.has(name)) said.push(`${name}: removed`);
  if (said.length) announce(said.join(". "));
  states = now;
}

function draw() {
  const wanted = new Map(known.map((one) => [one.name, one]));
  for (const [name, { share, problem }] of sending) {
    wanted.set(name, { name, status: problem ? "refused" : "sending", share, message: problem ?? "", bytes: 0 });
  }
  for (const [name, { row }] of rows) {
    if (!wanted.has(name)) {
      row.remove();
      rows.delete(name);
    }
  }
  for (const one of wanted.values()) {
    const key = JSON.stringify(one);
    if (rows.get(one.name)?.key === key) continue;
    const row = rows.get(one.name)?.row ?? $("documents").appendChild(el("li", {}));
    const focused = row.contains(document.activeElement) ? document.activeElement.textContent : null;
    row.replaceChildren(...cells(one));
    const buttons = [...row.querySelectorAll("button")];
    if (focused !== null) (buttons.find((button) => button.textContent === focused) ?? buttons.at(-1))?.focus();
    rows.set(one.name, { row, key });
  }
  if (!wanted.size) $("documents").replaceChildren(el("li", { className: "empty" }, "Nothing has been added yet."));
  else $("documents").querySelector(".empty")?.remove();
}

function cells(one) {
  const status = one.status === "sending" ? `Sending, ${Math.round(one.share * 100)} %` : WORDS[one.status] ?? "Not added";
  const kind = one.status === "refused" ? "failed" : one.status;
  const made = [
    el("span", { className: "name" }, one.name),
    el("span", { className: `status ${kind}` }, status),
    el("span", { className: "bytes" }, one.bytes ? size(one.bytes) : ""),
  ];
  if (one.status === "ready") {
    const read = el("button", { type: "button", className: "quiet", "aria-label": `Read ${one.name}` }, "Read");
    read.onclick = () => open(one, read);
    made.push(read);
  }
  const button = el("button", { type: "button", className: "quiet" }, one.status === "refused" ? "Dismiss" : "Remove");
  button.setAttribute("aria-label", `${button.textContent} ${one.name}`);
  button.disabled = ["sending", "deleting"].includes(one.status);
  button.onclick = one.status === "refused" ? () => dismiss(one.name) : () => remove(one.name);
  made.push(button);
  if (one.status === "sending") {
    made.push(el("progress", { max: 1, value: one.share, "aria-label": `Sending ${one.name}` }));
  }
  if (one.message) made.push(el("span", { className: "message" }, one.message));
  return made;
}

function dismiss(name) {
  sending.delete(name);
  draw();
  $("add").focus();
}

async function remove(name) {
  if (!(await confirmed(`Remove ${name}?`))) return;
  try {
    await request(`/v1/index/documents/${encodeURIComponent(name)}`, { method: "DELETE" });
  } catch (error) {
    $("documents-count").textContent = inWords(error);
    announce(inWords(error));
    return;
  }
  $("add").focus();
  await refresh(false);
}

function confirmed(question) {
  const box = $("confirm");
  $("confirm-title").textContent = question;
  box.showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => {
    $("confirm-yes").onclick = () => box.close("yes");
    $("confirm-no").onclick = () => box.close("");
    box.onclose = () => {
      resolve(box.returnValue === "yes");
      box.returnValue = "";
    };
  });
}

/** Counts, and what came into the index by other ways. */
async function drawIndex() {
  const found = await json("/v1/index");
  const counts = `${plural(found.documents, "document")}, ${plural(found.chunks, "passage")}`;
  $("documents-count").textContent = `${counts}, ${size(found.bytes)} on disk`;
  $("shared-section").hidden = !found.shared.length;
  $("shared").replaceChildren(...found.shared.map((source) => {
    const name = source.split("/").pop();
    const read = el("button", { type: "button", className: "quiet", "aria-label": `Read ${name}` }, "Read");
    read.onclick = () => open({ document: source, name }, read);
    return el("li", {}, el("span", { className: "name", title: source }, name), read);
  }));
}
