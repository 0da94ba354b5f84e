// ---------------------------------------------------------------- one clip: a dialog that a link opens

const dialog = byId("clip"), clipBody = byId("clip-body");
const places = new Map(shots.clip.map((_, shot) => [keyOf(shot), shot]));
let opened = null, player = null;

// the clip that the address names, as it stands where it is no encoded text
function linked() {
  if (!location.hash.startsWith("#clip=")) return null;
  const name = location.hash.slice(6);
  try {
    return decodeURIComponent(name);
  } catch {
    return name;
  }
}
// the clips of the table as it is filtered and sorted, each once
const listed = () => [...new Set(rows.map((row) => row % count))];

function neighbour(step) {
  const order = listed(), at = order.indexOf(opened);
  return at < 0 ? order[0] : order[(at + step + order.length) % order.length];
}

// What is the same in the body of every clip: its play button, its table of numbers.
const alike = (node) => `${node.tagName} ${node.className} ${node.getAttribute("aria-label")}`;

// Another clip takes the place of the body, and the focus stays on what it was on, or goes to the head of the dialog.
function refill(...parts) {
  const held = clipBody.contains(document.activeElement) ? alike(document.activeElement) : null;
  clipBody.replaceChildren(...parts);
  if (held === null) return;
  const next = [...clipBody.querySelectorAll("button, select, input, [tabindex='0']")].find((node) => alike(node) === held);
  (next ?? byId("clip-close")).focus({ preventScroll: true });
}

function showClip(key) {
  player?.stop();
  player = null;
  opened = places.get(key) ?? null;
  byId("clip-title").textContent = opened === null ? "No such clip" : nameOf(opened);
  if (opened === null) refill(el("p", {}, `This run has no clip ${key}.`));
  else {
    const record = data.media[key];
    player = record ? makePlayer(record, opened) : null;
    refill(factsOf(opened), ...(player ? [player.node] : [el("p", { class: "muted" }, noMedia())]),
      numbersOf(opened), ...Object.keys(curves).flatMap((kind) => curvesOf(kind, opened)));
  }
  for (const id of ["clip-before", "clip-next"]) byId(id).disabled = listed().length < 2;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function noMedia() {
  return Object.keys(data.media).length ? "This page holds no video of this clip." : `This page holds no videos: ${byId("media-why").textContent}`;
}

function follow() {
  const key = linked();
  if (key !== null) showClip(key);
  else if (dialog.open) dialog.close();
}

function go(shot) { if (shot !== undefined) location.hash = `clip=${encodeURIComponent(keyOf(shot))}`; }

dialog.addEventListener("close", () => {
  player?.stop();
  player = null;
  clipBody.replaceChildren();
  if (linked() !== null) history.replaceState(null, "", location.pathname + location.search);
});
byId("clip-close").addEventListener("click", () => dialog.close());
byId("clip-before").addEventListener("click", () => go(neighbour(-1)));
byId("clip-next").addEventListener("click", () => go(neighbour(1)));
dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, textarea")) return;
  const own = event.target.matches("input[type=range], .scroll"), presses = event.target.matches("button, a, summary");
  const does = { n: () => go(neighbour(1)), p: () => go(neighbour(-1)) };
  if (player) Object.assign(does, { ",": () => player.step(-1), ".": () => player.step(1), k: () => player.toggle() },
    own ? {} : { ArrowLeft: () => player.step(-1), ArrowRight: () => player.step(1), Home: () => player.seek(0), End: () => player.seek(Infinity) },
    presses ? {} : { " ": () => player.toggle() });
  if (!does[event.key]) return;
  event.preventDefault();
  does[event.key]();
});

function factsOf(shot) {
  const facts = [["source", shots.source, ""], ["identity", shots.identity, ""], ["frames", shots.frames, ""], ["duration", shots.duration, " s"],
    ["largest yaw", shots.yaw_max_abs, "\u00b0"], ["face", shots.face_px, " px"], ["brightness", shots.brightness, ""]]
    .filter(([, column]) => column[shot] !== null)
    .map(([name, column, unit]) => el("div", {}, el("dt", {}, name), el("dd", {}, minus(`${column[shot]}`) + unit)));
  const failures = data.models.map((model, place) => [model.name, errors.get(place * count + shot)]).filter(([, why]) => why);
  return el("div", {}, el("dl", { class: "facts" }, facts),
    failures.map(([name, why]) => el("p", { class: "failed" }, `${name} failed: ${why.join(": ")}`)));
}

// Every number of a clip: a row a metric, a column a model.
function numbersOf(shot) {
  const here = data.models.map((model, place) => ({ model, row: place * count + shot }))
    .filter(({ row }) => shown.some((metric) => unpack(columns[metric.id], row) !== null));
  if (!here.length) return el("p", { class: "muted" }, "Nothing was measured on this clip.");
  return boxed("Numbers of this clip", el("table", { class: "numbers" }, heads("Metric", ...here.map(({ model }) => model.name)),
    el("tbody", {}, shown.map((metric) => el("tr", {}, el("th", { scope: "row" }, titleOf(metric)),
      here.map(({ row }) => el("td", { class: "n" }, unpack(columns[metric.id], row)?.text ?? "\u2013")))))));
}

function curvesOf(kind, shot) {
  const read = data.models.map((model, place) => {
    const packed = curves[kind][place * count + shot];
    if (!packed) return null;
    return { model, values: unpackCurve(packed) };
  }).filter(Boolean);
  if (!read.length) return [];
  const y = scale(read.flatMap(({ values }) => values.filter((value) => value !== null)), 74, 6), x = (offset) => 8 + (offset + 15) * 7;
  const path = (values) => values.map((value, place) => (value === null ? "" : `${place && values[place - 1] !== null ? "L" : "M"}${x(place - 15)} ${y(value)}`)).join("");
  const real = read.find(({ model }) => model.truth);
  const charts = read.map(({ model, values }) => {
    const least = Math.min(...values.filter((value) => value !== null)), at = values.indexOf(least) - 15;
    const text = `least ${least.toFixed(2)} at ${minus((at > 0 ? "+" : "") + at)}`;
    return el("figure", { class: model.truth ? "is-truth" : null }, el("figcaption", {}, el("b", {}, model.name), el("span", {}, text)),
      fill(picture(226, 92, `${model.name}: ${text}`, line("axis", 8, 76, 218, 76), line("target", x(0), 4, x(0), 76),
        real && !model.truth ? draw("path", { class: "curve real", d: path(real.values) }) : null, draw("path", { class: "curve", d: path(values) }),
        dot(x(at), y(least), 3.5), words(8, 89, "\u221215", "start"), words(x(0), 89, "0", "middle"), words(218, 89, "+15", "end")),
      { class: model.truth ? "is-truth" : "" }, []));
  });
  return [el("h4", {}, `Sync curve, ${curveNames[kind]}: distance of picture and sound by AV offset in frames`),
    real && read.length > 1 ? el("p", { class: "muted small" }, "Dashed: the ground truth. A clear dip at 0 is good sync.") : null,
    el("div", { class: "plots" }, charts)].filter(Boolean);
}

