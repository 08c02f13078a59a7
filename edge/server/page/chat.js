// The conversation: questions out, streams in.

import { show, showError, unmarked } from "./answer.js";
import { events, json, post } from "./api.js";
import { $, announce, el } from "./dom.js";

const DEFAULT = "edge"; // a name that always stands for the model, for where the list could not be had
const RAG = "+rag"; // at the end of a model's name: answer from the documents
const said = []; // turns that were answered: {question, understood, answer}
let running = null; // AbortController of the answer that is being written

export async function start() {
  $("composer").onsubmit = (event) => {
    event.preventDefault();
    submit();
  };
  $("question").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  $("question").oninput = grow;
  $("stop").onclick = () => running?.abort();
  $("new").onclick = renew;
  const names = (await json("/v1/models")).data.map((model) => model.id).filter((name) => !name.endsWith(RAG));
  $("model").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  $("model").hidden = names.length < 2;
  $("model-name").textContent = names[0];
  document.title = `edge · ${names[0]}`;
}

function submit() {
  const question = $("question").value.trim();
  if (!question || running) return;
  $("question").value = "";
  grow();
  ask(question);
}

function ask(question) {
  const answer = el("div", { className: "answer", "aria-busy": "true" });
  $("welcome").hidden = true;
  $("new").hidden = false;
  $("turns").append(el("li", { className: "turn" }, el("p", { className: "question" }, question), answer));
  fill(question, answer);
}

async function fill(question, answer) {
  const isRag = $("mode-rag").checked;
  const draft = el("p", { className: isRag ? "draft" : "answer-text" });
  const state = el("p", { className: "state" }, isRag ? "Looking through the documents" : "Reading the question");
  answer.replaceChildren(state, draft);
  busy(true);
  announce(state.textContent);
  scroll(true);
  const reader = new Reader(isRag, state, draft, () => scroll(false));
  try {
    const reply = await post("/v1/chat/completions", body(question, isRag), { signal: running.signal });
    for await (const event of events(reply)) reader.take(event);
    show(answer, reader.text, reader.citations, reader.told);
    said.push({ question, understood: reader.told.question ?? question, answer: unmarked(reader.text, reader.told) });
    announce(`${reader.told.abstained ? "Not answered" : "Answer"}: ${unmarked(reader.text, reader.told)}`);
  } catch (error) {
    state.remove();
    if (!draft.textContent) draft.remove();
    if (error.name === "AbortError") {
      answer.append(el("p", { className: "hint" }, isRag ? "Stopped before it was checked." : "Stopped."));
      announce("Stopped.");
    } else {
      showError(answer, error, () => !running && fill(question, answer));
    }
  } finally {
    answer.setAttribute("aria-busy", "false");
    busy(false);
    scroll(false);
  }
}

/** What a stream says, put together; a draft is shown as it comes. */
class Reader {
  constructor(isRag, state, draft, onText) {
    Object.assign(this, { isRag, state, draft, onText, text: "", citations: [], told: {} });
  }

  take(event) {
    this.told = event.edge ?? this.told;
    const delta = event.choices?.[0]?.delta;
    if (!delta) return;
    const written = delta.draft ?? (this.isRag ? "" : delta.content ?? "");
    if (written) {
      this.state.textContent = this.isRag ? "Draft, not checked yet" : "";
      this.draft.append(written);
      this.onText();
    }
    this.text += delta.content ?? "";
    this.citations.push(...(delta.annotations ?? []));
  }
}

function body(question, isRag) {
  const messages = said.flatMap((turn) => [
    { role: "user", content: isRag ? turn.understood : turn.question },
    { role: "assistant", content: turn.answer },
  ]);
  const asked = { model: ($("model").value || DEFAULT) + (isRag ? RAG : ""), stream: true };
  if (isRag) asked.rag = { draft: true };
  return { ...asked, messages: [...messages, { role: "user", content: question }] };
}

function renew() {
  running?.abort();
  said.length = 0;
  $("turns").replaceChildren();
  $("welcome").hidden = false;
  $("new").hidden = true;
  $("question").focus();
  announce("New conversation.");
}

function busy(is) {
  const hadFocus = document.activeElement === $("stop");
  running = is ? new AbortController() : null;
  $("stop").hidden = !is;
  $("send").hidden = is;
  if (!is && hadFocus) $("question").focus();
}

function grow() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 200)}px`;
}

/** Keep the end in sight, unless the reader went elsewhere. */
function scroll(always) {
  const all = $("conversation");
  if (always || all.scrollHeight - all.scrollTop - all.clientHeight < 160) all.scrollTop = all.scrollHeight;
}
