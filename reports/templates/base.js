const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const svgNames = byId("blank").namespaceURI;
const digitOf = new Map([...data.alphabet].map((letter, digit) => [letter, digit]));
const metricOf = new Map(data.metrics.map((metric) => [metric.id, metric]));

// ---------------------------------------------------------------- building blocks; text is always set as text

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(svgNames, tag), attributes, children);
const picture = (width, height, label, ...parts) => draw("svg", {
  viewBox: `0 0 ${width} ${height}`, width, height, ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }),
}, ...parts);
const line = (kind, x1, y1, x2, y2) => draw("line", { class: kind, x1, y1, x2, y2 });
const dot = (x, y, radius = 3) => draw("circle", { class: "dot", cx: x, cy: y, r: radius });
const words = (x, y, text, anchor) => draw("text", { x, y, "text-anchor": anchor }, text);
const minus = (text) => text.replaceAll("-", "\u2212");
const option = (value, text) => el("option", { value }, text);
const heads = (...titles) => el("thead", {}, el("tr", {}, titles.map((title) => (title === "" ? el("td") : el("th", { scope: "col" }, title)))));

function boxed(label, table) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}

function scale(values, start, end) {
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) { low -= 1; high += 1; }
  return (value) => Math.round((start + (value - low) / (high - low) * (end - start)) * 10) / 10;
}

// As scale, over groups of values (a model's mean and ends); a group so far off that all others would be one dot is left
// out of the range, and drawn at its border.
function clear(groups, start, end) {
  const spans = groups.filter((group) => group.length).map((group) => [Math.min(...group), Math.max(...group)]);
  const range = (some) => [Math.min(...some.map(([low]) => low)), Math.max(...some.map(([, high]) => high))];
  const width = ([low, high]) => high - low;
  let kept = spans;
  for (let left = Math.floor(spans.length / 3); left > 0; left--) {
    const ends = range(kept);
    const less = kept.filter(([low]) => low !== ends[0]), more = kept.filter(([, high]) => high !== ends[1]);
    const fewer = [less, more].filter((some) => some.length > 1 && some.length < kept.length)
      .sort((a, b) => width(range(a)) - width(range(b)))[0];
    if (!fewer || width(range(fewer)) === 0 || width(range(fewer)) * FAR_OFF >= width(ends)) break;
    kept = fewer;
  }
  const ends = range(kept), at = scale(ends, start, end);
  const inside = (value) => at(Math.max(ends[0], Math.min(ends[1], value)));
  return Object.assign(inside, { ends, far: at });
}
const FAR_OFF = 30;

// A packed number as {value, text}, or null.
function unpack(column, place) {
  const digits = column.data.substr(place * column.width, column.width);
  if (digits[0] === data.missing) {
    const far = column.far?.[place];
    return far === undefined ? null : { value: Number(far), text: minus(far) };
  }
  let units = 0;
  for (const letter of digits) units = units * 64 + digitOf.get(letter);
  const value = (units + column.low) / 10 ** column.digits;
  return { value, text: minus(value.toFixed(column.digits)) };
}

// As unpack, without what is no number to draw or to sort by: NaN and infinity.
function measured(column, place) {
  const found = unpack(column, place);
  return found !== null && Number.isFinite(found.value) ? found : null;
}

const unpackCurve = ([low, high, digits]) =>
  [...digits].map((letter) => (letter === data.missing ? null : low + digitOf.get(letter) / 63 * (high - low)));

const badness = (metric, value) =>
  (metric.better === "higher" ? -value : typeof metric.better === "number" ? Math.abs(value - metric.better) : value);
const titleOf = (metric) => [metric.name, metric.unit, metric.arrow].filter(Boolean).join(" ");

// ---------------------------------------------------------------- theme

const root = document.documentElement, themeButton = byId("theme");
const system = window.matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
const nameTheme = () => { themeButton.textContent = isDark() ? "Light theme" : "Dark theme"; };
themeButton.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
system.addEventListener("change", nameTheme);
nameTheme();

// ---------------------------------------------------------------- notes on hover and focus

const tip = byId("tip");
function noteOf(node) {
  const holder = node.closest?.("[data-tip], [data-def]");
  if (!holder) return null;
  return { holder, text: holder.dataset.tip ?? byId(holder.dataset.def).querySelector("dd").textContent.replace(/\s+/g, " ").trim() };
}
// The note under the pointer, else that of what the keyboard has reached: moving the focus may scroll something else
// under a pointer at rest.
function showTip(event) {
  const focused = document.activeElement;
  const note = noteOf(event.target) ?? (focused.matches(":focus-visible") ? noteOf(focused) : null);
  for (const former of document.querySelectorAll("[aria-describedby=tip]")) former.removeAttribute("aria-describedby");
  if (!note) { tip.hidden = true; return; }
  if (!note.holder.hasAttribute("aria-describedby")) note.holder.setAttribute("aria-describedby", "tip");
  tip.textContent = note.text;
  tip.hidden = false;
  const at = note.holder.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const below = at.bottom + 8 + own.height <= window.innerHeight || at.top < own.height + 8;
  tip.style.left = `${Math.max(12, Math.min(at.left, window.innerWidth - own.width - 12))}px`;
  tip.style.top = `${below ? at.bottom + 8 : at.top - own.height - 8}px`;
}
document.addEventListener("mouseover", showTip);
document.addEventListener("focusin", showTip);
document.addEventListener("click", showTip);
document.addEventListener("focusout", () => { tip.hidden = true; });
document.addEventListener("scroll", () => { if (!tip.hidden) showTip({ target: document.activeElement }); }, true);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
