// The page: which view is shown, and what each of them needs.

import { inWords, showKey } from "./api.js";
import * as box from "./box.js";
import * as chat from "./chat.js";
import * as documents from "./documents.js";
import { $, announce, el } from "./dom.js";
import * as source from "./source.js";

const VIEWS = ["ask", "documents", "box"];

/** Go by the address: #ask, #documents, #box, and #document=… as citations give it to other clients. */
function route() {
  const hash = location.hash.slice(1);
  if (hash.startsWith("document=")) {
    source.open({ document: decoded(hash.slice("document=".length)) });
  }
  const view = VIEWS.includes(hash) ? hash : "ask";
  for (const name of VIEWS) $(`view-${name}`).hidden = name !== view;
  for (const button of document.querySelectorAll("nav button")) {
    if (button.dataset.view === view) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  documents.shown(view === "documents");
  box.shown(view === "box");
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a path with a bare percent sign
  }
}

async function start() {
  showKey();
  source.start();
  documents.start();
  box.start();
  for (const button of document.querySelectorAll("nav button")) {
    button.onclick = () => {
      source.close();
      location.hash = button.dataset.view;
    };
  }
  addEventListener("hashchange", route);
  route();
  try {
    await chat.start();
  } catch (error) {
    $("welcome").append(el("p", { className: "problem" }, inWords(error)));
    announce(inWords(error));
  }
}

start();
