// The daemon over HTTP: the key, errors in words, streams.

import { $ } from "./dom.js";

const KEY = "edge.key";

export class ApiError extends Error {
  constructor(status, message, retrySec = null) {
    super(message);
    this.status = status;
    this.retrySec = retrySec; // seconds after which it may work; null: unknown
  }
}

/** What a failed request means, for a person. */
export function inWords(error) {
  const after = error.retrySec ? ` Try again in ${error.retrySec} s.` : "";
  switch (error.status) {
    case undefined: return `Something went wrong in this page: ${error.message}`;
    case 0: return "The box cannot be reached. Is it switched on, and is the daemon running?";
    case 401: return "A key is needed for this.";
    case 403: return `This is not allowed: ${error.message}.`;
    case 413: return `Too large: ${error.message}.`;
    case 429: return `The box is busy: others are being answered and the queue is full.${after}`;
    case 503: return `The box cannot do this now: ${error.message}.${after}`;
    default: return `${error.message}.`;
  }
}

/** fetch with the key; asks for one where it is missing, unless `quiet`. Throws ApiError, or AbortError. */
export async function request(path, { quiet = false, ...options } = {}) {
  for (;;) {
    let reply;
    const key = sessionStorage.getItem(KEY);
    const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
    try {
      reply = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, error.message);
    }
    if (reply.ok) return reply;
    const problem = failure(reply.status, await reply.text(), reply.headers.get("Retry-After"));
    if (reply.status !== 401 || quiet || !(await askForKey(key))) throw problem;
  }
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

export function post(path, body, options = {}) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body), ...options });
}

/** The events of a stream, until its end. Throws ApiError where the stream holds an error. */
export async function* events(reply) {
  let rest = "";
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new ApiError(0, error.message);
      });
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const event = JSON.parse(line.slice(6));
        if (event.error) throw new ApiError(503, event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which has been told
  }
}

/** PUT a file; `onProgress` gets a share from 0 to 1. Asks for a key where it is missing. */
export async function upload(path, file, onProgress) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const sent = await put(path, file, key, onProgress);
    if (sent.status >= 200 && sent.status < 300) return JSON.parse(sent.responseText);
    const problem = failure(sent.status, sent.responseText, sent.getResponseHeader("Retry-After"));
    if (sent.status !== 401 || !(await askForKey(key))) throw problem;
  }
}

function put(path, file, key, onProgress) {
  return new Promise((resolve, reject) => {
    const sent = new XMLHttpRequest();
    sent.open("PUT", path);
    sent.setRequestHeader("Content-Type", "application/octet-stream");
    if (key) sent.setRequestHeader("Authorization", `Bearer ${key}`);
    sent.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    sent.onload = () => resolve(sent);
    sent.onerror = () => reject(new ApiError(0, "the connection broke"));
    sent.send(file);
  });
}

function failure(status, body, retryAfter) {
  let message = `the daemon answered with the status ${status}`;
  try {
    message = JSON.parse(body).error.message ?? message;
  } catch {
    message += body.startsWith("{") ? "" : ` ${body.slice(0, 200)}`; // something between here and the daemon spoke
  }
  return new ApiError(status, message.replace(/[.\s]+$/, ""), Number.parseInt(retryAfter, 10) || null);
}

// -- the key ------------------------------------------------------------------------------------------------------

let asking = null; // one question, however many requests wait for its answer

/** Whether a key is there now that differs from the one that was refused. */
async function askForKey(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return true;
  asking ??= dialog(refused).finally(() => { asking = null; });
  return asking;
}

function dialog(refused) {
  const box = $("key-dialog");
  $("key-reason").textContent = refused ? "The key was not accepted: it is unknown here, or was revoked." : "";
  $("key").value = "";
  box.showModal();
  return new Promise((resolve) => {
    const finish = (key) => {
      if (key) sessionStorage.setItem(KEY, key);
      box.onclose = null;
      box.close();
      showKey();
      resolve(Boolean(key));
    };
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      finish($("key").value.trim());
    };
    $("key-cancel").onclick = () => finish("");
    box.onclose = () => finish("");
  });
}

export function showKey() {
  $("key-forget").hidden = !sessionStorage.getItem(KEY);
  $("key-forget").onclick = () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  };
}
