// ---------------------------------------------------------------- clips

const { shots, columns, curves, curveNames } = data.clips;
const count = shots.clip.length, pageSize = 50;
const errors = new Map(data.clips.errors.map(([row, ...why]) => [row, why]));
const flags = new Map(data.clips.flags);
const shown = Object.keys(columns).map((id) => metricOf.get(id));
const severalSources = new Set(shots.source).size > 1;
const all = [];
for (let row = 0; row < count * data.models.length; row++) {
  if (errors.has(row) || shown.some((metric) => unpack(columns[metric.id], row) !== null)) all.push(row);
}
const keyOf = (shot) => shots.keys[shot] ?? `${shots.source[shot]}-${shots.clip[shot]}-${String(shots.shot[shot]).padStart(3, "0")}`;
const pairOf = (shot) => shots.pairs[shot] ?? null;
const nameOf = (shot) => (pairOf(shot) === null ? "" : `pair ${pairOf(shot)}: `) + shots.clip[shot] + (shots.shot[shot] ? ` #${shots.shot[shot]}` : "");
const haystack = all.length ? shots.clip.map((_, shot) => `${shots.source[shot]} ${nameOf(shot)} ${shots.identity[shot]}`.toLowerCase()) : [];
const choice = Object.fromEntries(["text", "source", "model", "identity", "order"].map((name) => [name, byId(`f-${name}`)]));
let page = 0, rows = [];

choice.source.append(option("", "all"), ...[...new Set(shots.source)].sort().map((name) => option(name, name)));
choice.model.append(option("", "all but the ground truth"), ...data.models.map((model, place) => option(place, model.name)));
choice.identity.append(option("", "all"), ...[...new Set(shots.identity)].sort().map((name) => option(name, name)));
choice.order.append(option("", "as in the data"), option("failed", "failed first"),
  ...shown.filter((metric) => metric.better !== null).flatMap((metric) =>
    [option(`worst ${metric.id}`, `worst ${metric.name} first`), option(`best ${metric.id}`, `best ${metric.name} first`)]));

function find() {
  const wanted = choice.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  rows = all.filter((row) => {
    const model = Math.floor(row / count), shot = row % count;
    if (choice.model.value === "" ? data.models[model].truth && data.models.length > 1 : String(model) !== choice.model.value) return false;
    if (choice.source.value && shots.source[shot] !== choice.source.value) return false;
    if (choice.identity.value && shots.identity[shot] !== choice.identity.value) return false;
    const text = wanted.length ? `${haystack[shot]} ${(errors.get(row) ?? []).join(" ").toLowerCase()}` : "";
    return wanted.every((word) => text.includes(word));
  });
  const [order, id] = choice.order.value.split(" ");
  if (order === "failed") rows.sort((a, b) => errors.has(b) - errors.has(a) || a % count - b % count || a - b);
  else if (id) {
    const sign = order === "worst" ? -1 : 1;
    const keys = new Map(rows.map((row) => [row, measured(columns[id], row)]));
    const bad = (row) => badness(metricOf.get(id), keys.get(row).value);
    rows.sort((a, b) => {
      const x = keys.get(a), y = keys.get(b);
      return (x === null) - (y === null) || (x && y ? sign * (bad(a) - bad(b)) : 0) || a - b;
    });
  } else rows.sort((a, b) => a % count - b % count || a - b);
  page = 0;
  show();
}

function clipHead() {
  const [order, id] = choice.order.value.split(" ");
  const titles = ["Clip", ...(severalSources ? ["Source"] : []), "Identity", "Model", "Frames"];
  byId("clip-head").replaceChildren(el("tr", {}, titles.map((title) => el("th", { scope: "col" }, title)), shown.map((metric) => {
    const rising = (order === "worst") === (metric.better === "higher");
    const sorted = id === metric.id ? (rising ? "ascending" : "descending") : null;
    if (metric.better === null) return el("th", { scope: "col", class: "n" }, titleOf(metric));
    const button = el("button", { type: "button", class: "sort", "data-def": defOf(metric.id) }, titleOf(metric));
    button.addEventListener("click", () => {
      choice.order.value = `${sorted && order === "worst" ? "best" : "worst"} ${metric.id}`;
      find();
      byId("clip-head").querySelector("[aria-sort] button").focus();
    });
    return el("th", { scope: "col", class: "n", "aria-sort": sorted }, button);
  })));
}
const defs = new Map([...document.querySelectorAll(".defs > [id^=def-]")].map((node) => [node.querySelector("code").textContent, node.id]));
const defOf = (id) => defs.get(id);

function show() {
  const pages = Math.max(1, Math.ceil(rows.length / pageSize));
  const failed = rows.filter((row) => errors.has(row)).length;
  clipHead();
  byId("clip-rows").replaceChildren(...rows.slice(page * pageSize, (page + 1) * pageSize).map(clipRow));
  byId("count").textContent = `${rows.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} rows${failed ? `, ${failed} failed` : ""}`;
  byId("pages").textContent = rows.length ? `page ${page + 1} of ${pages}` : "";
  byId("before").disabled = page === 0;
  byId("next").disabled = page + 1 >= pages;
}

function clipRow(row) {
  const model = Math.floor(row / count), shot = row % count, why = errors.get(row);
  return el("tr", {}, el("th", { scope: "row", class: "name" }, el("a", { href: `#clip=${encodeURIComponent(keyOf(shot))}` }, nameOf(shot)),
    flags.has(row) ? el("span", { class: "chip" }, flags.get(row).replaceAll("_", " ")) : null),
    severalSources ? el("td", {}, shots.source[shot]) : null, el("td", { class: "who id" }, shots.identity[shot]),
    el("td", { class: "who" }, data.models[model].name), el("td", { class: "n" }, String(shots.frames[shot])),
    why ? el("td", { class: "error", colspan: Math.max(1, shown.length) }, el("div", {}, `failed: ${why.join(": ")}`))
      : shown.map((metric) => el("td", { class: "n" }, unpack(columns[metric.id], row)?.text ?? "\u2013")));
}

// The rows as they are filtered and ordered, of all pages, for export.
function clipTable() {
  const plain = (text) => ({ text: String(text), marks: [] }), paired = Object.keys(shots.pairs).length > 0;
  return { titles: [...(paired ? ["Pair"] : []), "Clip", "Shot", "Source", "Identity", "Model", "Frames", ...shown.map(titleOf), "Flags", "Error"], body: rows.map((row) => {
    const model = Math.floor(row / count), shot = row % count;
    return [...(paired ? [pairOf(shot) ?? ""] : []), shots.clip[shot], shots.shot[shot], shots.source[shot], shots.identity[shot], data.models[model].name, shots.frames[shot],
      ...shown.map((metric) => unpack(columns[metric.id], row)?.text ?? ""), flags.get(row) ?? "", (errors.get(row) ?? []).join(": ")].map(plain);
  }) };
}

function clipCaption() {
  const chosen = Object.values(choice).filter((field) => field.value !== "")
    .map((field) => `${textOf(document.querySelector(`label[for="${field.id}"]`)).toLowerCase()}: ${field.selectedOptions?.[0].textContent ?? field.value}`);
  return ["Clips", byId("count").textContent, ...chosen].join("; ");
}

for (const [name, field] of Object.entries(choice)) field.addEventListener(name === "text" ? "input" : "change", find);
byId("before").addEventListener("click", () => { page -= 1; show(); });
byId("next").addEventListener("click", () => { page += 1; show(); });
find();
