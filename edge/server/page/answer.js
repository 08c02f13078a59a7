// One answer: its text with markers, what it rests on, how it came about, and thumbs.

import { inWords, post } from "./api.js";
import { $, announce, el, flowing, plural, seconds, units } from "./dom.js";
import { open } from "./source.js";

/** Whether an answer was checked against documents: only then it has markers. */
const isChecked = (told) => told.abstained !== undefined;

/** What was said, without markers: what the model is told of earlier turns. */
export function unmarked(text, told) {
  let made = "";
  let end = 0;
  for (const [from, to] of marksIn(text, told)) {
    made += text.slice(end, from).replace(/ $/, "");
    end = to;
  }
  return made + text.slice(end);
}

/** Start, end (UTF-16 units) and annotation of each marker. Other brackets are the documents' own, whatever they say. */
function marksIn(text, told) {
  const marks = told.marks ?? [];
  const at = units(text, marks.flatMap(([start, end]) => [start, end]));
  return marks.map(([, , cited], number) => [at[2 * number], at[2 * number + 1], cited]);
}

/** Fill `into` with a checked answer; `citations` are the annotations, `told` the object `edge` of the last chunk. */
export function show(into, text, citations, told) {
  const shown = isChecked(told) ? pieces(text, citations, told) : [text];
  const body = el("div", { className: "answer-text" }, ...shown);
  into.replaceChildren(...standing(told), body);
  if (citations.length) into.append(sources(citations));
  into.append(foot(told));
}

/** Above an answer: what a reader should know before reading it. */
function standing(told) {
  const said = [];
  if (told.abstained) said.push(["abstained", "Not answered", ""]);
  if (told.quoted) said.push(["quoted", "Quoted", "These are the document’s own words; the model’s were not borne out."]);
  if (!told.quoted && told.unsupported?.length) {
    const count = plural(told.unsupported.length, "sentence");
    said.push(["unsupported", "Partly unsupported", `No document supports ${count}, underlined here.`]);
  }
  return said.map(([kind, word, text]) => el("p", { className: `standing ${kind}` }, el("strong", {}, word), ` ${text}`));
}

/**
 * The text, its markers as buttons, the sentences without support underlined. Each sentence is isolated: the order in
 * which its signs are written does not reach the next one.
 */
function pieces(text, citations, told) {
  const made = [];
  let end = 0;
  for (const [from, to, cited] of marksIn(text, told)) {
    const said = text.slice(end, from).replace(/ $/, "");
    if (cited === null) {
      const sentence = told.unsupported.find((one) => said.endsWith(one)) ?? said;
      made.push(isolated(said.slice(0, said.length - sentence.length)), isolated(sentence, "doubtful"));
      made.push(el("span", { className: "unseen" }, " (no document supports this sentence)"));
    } else {
      made.push(isolated(said), marker(citations[cited]));
    }
    end = to;
  }
  return [...made, isolated(text.slice(end))];
}

const isolated = (text, className = "") => el("bdi", { className }, ...flowing(text));

const place = (cited) => (cited.page ? `${cited.name}, page ${cited.page}` : cited.name);

function marker(cited) {
  const made = el("button", { type: "button", className: "marker", "aria-label": `Source ${cited.marker}: ${place(cited)}` });
  made.textContent = cited.marker;
  made.onclick = () => open(cited, made);
  return made;
}

function sources(citations) {
  const rows = citations.map((cited) => {
    const made = el("button", { type: "button", className: "source-row" },
      el("span", { className: "number", "aria-hidden": "true" }, String(cited.marker)),
      el("span", { className: "where" }, place(cited)), el("q", {}, cited.text.replace(/\s+/g, " ")));
    made.onclick = () => open(cited, made);
    return el("li", {}, made);
  });
  return el("ul", { className: "sources", "aria-label": "Sources" }, ...rows);
}

function foot(told) {
  const said = [];
  if (told.queued_sec >= 0.1) said.push(`waited ${seconds(told.queued_sec)}`);
  if (told.ttft_sec) said.push(`first word after ${seconds(told.ttft_sec + (told.retrieve_sec ?? 0))}`);
  if (told.decode_tok_per_sec) said.push(`${Math.round(told.decode_tok_per_sec)} tokens/s`);
  const line = el("div", { className: "foot" }, el("span", {}, said.join(" · ")));
  if (told.feedback_id !== undefined) line.append(thumbs(told.feedback_id));
  return line;
}

// -- feedback -----------------------------------------------------------------------------------------------------

function thumbs(id) {
  const said = el("span", { className: "thumb-said" });
  const up = el("button", { type: "button", className: "quiet", "aria-pressed": "false" }, "Right");
  const down = el("button", { type: "button", className: "quiet", "aria-pressed": "false" }, "Wrong");
  const whole = el("div", { className: "feedback", role: "group", "aria-label": "Was this right?" }, said, up, down);
  const rate = async (thumb, correction) => {
    try {
      await post("/v1/feedback", { feedback_id: id, thumb, ...(correction === undefined ? {} : { correction }) });
      up.setAttribute("aria-pressed", String(thumb === "up"));
      down.setAttribute("aria-pressed", String(thumb === "down"));
      said.textContent = "Thank you, noted on this box. ";
    } catch (error) {
      said.textContent = `${inWords(error)} `;
    }
    announce(said.textContent);
  };
  up.onclick = () => {
    whole.querySelector("form")?.remove();
    rate("up");
  };
  down.onclick = () => {
    rate("down");
    if (!whole.querySelector("form")) whole.append(correctionForm(id, rate, down));
    whole.scrollIntoView({ block: "nearest" });
    whole.querySelector("input").focus();
  };
  return whole;
}

function correctionForm(id, rate, back) {
  const name = `correction-${id}`;
  const field = el("input", { id: name, type: "text", autocomplete: "off" });
  const form = el("form", { className: "correction" }, el("label", { htmlFor: name }, "What would have been right?"),
    field, el("button", { type: "submit", className: "primary" }, "Send"));
  form.onsubmit = (event) => {
    event.preventDefault();
    if (!field.value.trim()) return;
    rate("down", field.value.trim());
    form.remove();
    back.focus();
  };
  return form;
}

/** An error in the place of an answer, with a button that asks again. */
export function showError(into, error, again) {
  const retry = el("button", { type: "button", className: "quiet" }, "Ask again");
  retry.onclick = again;
  const text = inWords(error);
  const long = /context/.test(error.message) ? " A new conversation leaves the earlier turns out." : "";
  into.append(el("p", { className: "problem" }, text + long, " ", retry));
  announce(text);
  $("question").focus();
}
