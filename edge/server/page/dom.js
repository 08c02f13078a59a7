// Elements. Whatever documents and models say goes in as text: nothing here takes markup.

export const $ = (id) => document.getElementById(id);

/** An element with properties, data-… and aria-… attributes, and children (nodes or text). */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Tell a screen reader, which is not interrupted. */
export function announce(text) {
  $("live").textContent = text;
}

const FULL_LINE = 60; // characters: a line of so many was broken because it was full
const OWN_LINE = /^\s*([-*+#|>•]|\d+[.)]|$)/; // list items, headings, rows, blank lines

/**
 * The nodes of a piece of text in which lines that were merely full run on into the next: the line end stays in the
 * text, but is shown as a space. Offsets are UTF-16 units.
 */
export function flowing(text, start = 0, end = text.length) {
  const nodes = [];
  let from = start;
  for (let at = text.indexOf("\n", start); at >= 0 && at < end; at = text.indexOf("\n", at + 1)) {
    const isFull = at - text.lastIndexOf("\n", at - 1) > FULL_LINE;
    if (!isFull || OWN_LINE.test(text.slice(at + 1, at + 80).split("\n")[0])) continue;
    nodes.push(text.slice(from, at), el("span", { className: "flow" }, "\n"));
    from = at + 1;
  }
  return [...nodes, text.slice(from, end)];
}

/** Offsets in UTF-16 units for ascending offsets in code points, as Python counts. */
export function units(text, offsets) {
  const found = [];
  let unit = 0;
  let seen = 0;
  for (const point of text) {
    while (offsets[found.length] === seen) found.push(unit);
    if (found.length === offsets.length) return found;
    unit += point.length;
    seen += 1;
  }
  return offsets.map((_, number) => found[number] ?? text.length);
}

const UNITS = ["B", "KiB", "MiB", "GiB"];

export function size(bytes) {
  let unit = 0;
  for (; bytes >= 1024 && unit < UNITS.length - 1; unit += 1) bytes /= 1024;
  return `${bytes < 10 && unit ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
}

export function seconds(value) {
  return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
