// ---------------------------------------------------------------- closer: pairs and breakdowns of one metric

// A picker for every list of choices, and below what `show` makes of the values that are picked.
function chooser(part, lists, show) {
  const place = el("div"), selects = lists.map(([, choices]) => el("select", {}, choices.map(([value, text]) => option(value, text))));
  const update = () => place.replaceChildren(...show(...selects.map((select) => select.value)));
  for (const select of selects) select.addEventListener("change", update);
  part.append(el("div", { class: "tools" }, lists.map(([label], number) =>
    el("div", { class: "field" }, el("label", {}, label, " ", selects[number])))), place);
  update();
}

function showPairs(source, id) {
  const metric = metricOf.get(id), rows = source.pairs[id];
  const x = clear([[0], ...rows.map((row) => row.slice(2, 5).filter((text) => text !== null).map(Number))], 6, 154);
  const body = rows.map(([a, b, effect, low, high, p, holm, n, clusters, verdict]) => el("tr", {},
    el("th", { scope: "row" }, `${data.models[a].name} \u2212 ${data.models[b].name}`),
    el("td", { class: "n" }, minus(effect)),
    el("td", { class: "n" }, low === null ? "\u2013" : `${minus(low)} to ${minus(high)}`),
    el("td", {}, picture(160, 14, null, line("real", x(0), 0, x(0), 14),
      low === null ? null : line("span", x(Number(low)), 7, x(Number(high)), 7), dot(x(Number(effect)), 7))),
    el("td", { class: "n" }, p ?? "\u2013"), el("td", { class: "n" }, holm ?? "\u2013"),
    el("td", { class: "n" }, `${n} / ${clusters}`), el("td", {}, verdict)));
  const what = typeof metric.better === "number"
    ? `Distances from ${metric.better} are compared: below 0 the first is nearer.`
    : metric.better ? `${metric.better === "higher" ? "Above" : "Below"} 0 the first is better.` : "";
  return [boxed(`Differences between models on ${source.source}: ${titleOf(metric)}`, el("table", {}, el("caption", {}, el("span", {}, `${titleOf(metric)}. ${what} p: signs flipped `
    + "by identity, or jackknife for numbers of all shots; Holm: adjusted for all pairs; \u2013: no claim, too few identities.")),
    heads("Pair", "Difference", "95 % interval", "", "p", "Holm p", "Shots / identities", "Verdict"), el("tbody", {}, body)))];
}

function showBreakdowns(source, id) {
  const found = source.breakdowns.filter((one) => id in one.columns), title = (one) => el("h4", {}, `By ${one.by}${one.unit ? `: ${one.unit}` : ""}`);
  return [el("div", { class: "thirds" }, found.filter((one) => one.by !== "identity").map((one) => el("div", {}, title(one), thirds(source, one, id)))),
    ...found.filter((one) => one.by === "identity").flatMap((one) => [title(one), strips(source, one, id)])];
}

function cellsOf(one, id) {
  const count = one.labels.length;
  return one.models.map((model, row) => ({ model: data.models[model], cells: one.labels.map((_, part) => measured(one.columns[id], row * count + part)) }))
    .filter(({ cells }) => cells.some(Boolean));
}

function thirds(source, one, id) {
  const rows = cellsOf(one, id);
  const x = clear(rows.flatMap(({ cells }) => cells.filter(Boolean).map((cell) => [cell.value])), 5, 95);
  return boxed(`By ${one.by} on ${source.source}`, el("table", {}, heads("Model", ...one.labels.map((label, part) => `${label} (${one.shots[part]} shots)`)),
    el("tbody", {}, rows.map(({ model, cells }) => el("tr", { class: model.truth ? "is-truth" : null }, el("th", { scope: "row" }, model.name),
      cells.map((cell) => el("td", {}, ...(cell === null ? ["\u2013"] : [cell.text, fill(picture(100, 12, null,
        line("axis", 0, 6, 100, 6), placed(x, cell.value, 6, 3.5)), { class: model.truth ? "is-truth" : "" }, [])]))))))));
}

function strips(source, one, id) {
  const metric = metricOf.get(id), rows = cellsOf(one, id), width = 420;
  const x = clear(rows.flatMap(({ cells }) => cells.filter(Boolean).map((cell) => [cell.value])), 6, width - 6);
  return boxed(`By identity on ${source.source}`, el("table", {}, el("caption", {}, el("span", {}, `A dot an identity (${one.labels.length}), one scale.`)),
    heads("Model", "", "Worst", "Best"), el("tbody", {}, rows.map(({ model, cells }) => {
      const known = cells.map((cell, part) => ({ cell, part })).filter(({ cell }) => cell)
        .sort((a, b) => badness(metric, b.cell.value) - badness(metric, a.cell.value));
      const named = ({ cell, part }) => `${one.labels[part]}: ${cell.text}`;
      return el("tr", {}, el("th", { scope: "row" }, model.name),
        el("td", {}, fill(picture(width, 16, null, line("axis", 0, 8, width, 8), ...known.map((each) =>
          fill(placed(x, each.cell.value, 8, 3.5), { "fill-opacity": "0.55" }, [draw("title", {}, named(each))]))), { class: model.truth ? "is-truth" : "" }, [])),
        el("td", { class: "long" }, named(known[0])), el("td", { class: "long" }, named(known[known.length - 1])));
    }))));
}

// ---------------------------------------------------------------- intervals: all models, a drawing a metric

function showIntervals(source) {
  const width = 300, left = 8, height = 14;
  return [el("p", { class: "muted small" }, "Mean and 95 % interval over identities; each drawing has its own scale. Overlap is no test: see the differences."),
    el("div", { class: "plots" }, data.metrics.filter((metric) => source.cells[metric.id]?.length).map((metric) => {
      const cells = source.cells[metric.id], numbers = cells.flatMap((cell) => cell.slice(1)).filter((text) => text !== null).map(Number);
      const x = clear(cells.map((cell) => cell.slice(1).filter((text) => text !== null).map(Number)), left, width - left);
      const target = typeof metric.better === "number" && numbers.length ? x(metric.better) : null;
      const lines = cells.map(([model, mean, low, high]) => {
        const { name, truth } = data.models[model], y = height / 2;
        const drawing = picture(width, height, null, target === null ? null : line("target", target, 0, target, height), line("axis", 0, y, width, y),
          low === null ? null : line("span", x(Number(low)), y, x(Number(high)), y), placed(x, Number(mean), y));
        return el("li", { class: truth ? "is-truth" : null }, el("span", {}, name, " "),
          el("span", { class: "n" }, minus(mean) + (low === null ? "" : ` (${minus(low)} to ${minus(high)})`)), drawing);
      });
      return el("figure", {}, el("figcaption", {}, el("b", {}, titleOf(metric))), el("ul", { class: "intervals" }, lines));
    }))];
}
// A dot, or an arrow at the border that the value lies beyond.
function placed(x, value, y, radius) {
  const at = x(value), far = x.far(value);
  if (at === far) return dot(at, y, radius);
  return draw("path", { class: "beyond", d: far > at ? `M${at - 5} ${y - 4}l6 4l-6 4z` : `M${at + 5} ${y - 4}l-6 4l6 4z` });
}

// ---------------------------------------------------------------- a score against a fact of the shot

const FACTS = { yaw_max_abs: "largest yaw, degrees", face_px: "face box in the footage, px", duration: "duration, s", brightness: "mean luma of the face" };

function shotsOf(source) {
  const { shots } = data.clips;
  return shots.clip.map((_, shot) => shot).filter((shot) => source.pooled || shots.source[shot] === source.source);
}

// Ranks from 0; equal values share their mean rank.
function ranked(values) {
  const order = values.map((_, place) => place).sort((a, b) => values[a] - values[b]), ranks = new Array(values.length);
  for (let start = 0, end; start < order.length; start = end) {
    for (end = start + 1; end < order.length && values[order[end]] === values[order[start]];) end++;
    for (let place = start; place < end; place++) ranks[order[place]] = (start + end - 1) / 2;
  }
  return ranks;
}

function correlation(x, y) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length, mx = mean(x), my = mean(y);
  let xy = 0, xx = 0, yy = 0;
  for (let place = 0; place < x.length; place++) {
    xy += (x[place] - mx) * (y[place] - my);
    xx += (x[place] - mx) ** 2;
    yy += (y[place] - my) ** 2;
  }
  return xx && yy ? xy / Math.sqrt(xx * yy) : null;
}
const spearman = (x, y) => (x.length < 5 ? null : correlation(ranked(x), ranked(y)));
const signed = (value) => minus(value.toFixed(2));

function showAgainst(source, id, fact) {
  const { shots, columns } = data.clips, total = shots.clip.length, mine = shotsOf(source).filter((shot) => shots[fact][shot] !== null);
  const read = data.models.map((model, place) => ({ model, points: mine
    .map((shot) => ({ shot, x: shots[fact][shot], y: measured(columns[id], place * total + shot) })).filter(({ y }) => y) }))
    .filter(({ points }) => points.length);
  const width = 300, height = 170, all = read.flatMap(({ points }) => points);
  const x = scale(all.map((point) => point.x), 44, width - 8), y = clear(all.map((point) => [point.y.value]), height - 24, 10);
  const label = (value) => minus(String(Number(value.toPrecision(3))));
  const [least, most] = [Math.min, Math.max].map((end) => end(...all.map((point) => point.x)));
  return [el("p", { class: "muted small" }, "A dot a shot; the line joins the means of thirds of the shots. ρ: rank correlation (Spearman), from 5 shots on."),
    el("div", { class: "plots" }, read.map(({ model, points }) => {
      const rho = spearman(points.map((point) => point.x), points.map((point) => point.y.value));
      const sorted = [...points].sort((a, b) => a.x - b.x), third = Math.ceil(sorted.length / 3);
      const means = sorted.length < 6 ? [] : [0, 1, 2].map((part) => sorted.slice(part * third, (part + 1) * third)).filter((part) => part.length)
        .map((part) => [0, 1].map((of) => part.reduce((sum, point) => sum + (of ? point.y.value : point.x), 0) / part.length));
      const text = `${points.length} shots${rho === null ? "" : `, ρ ${signed(rho)}`}`;
      return el("figure", { class: model.truth ? "is-truth" : null }, el("figcaption", {}, el("b", {}, model.name), el("span", {}, text)),
        fill(picture(width, height, `${model.name}: ${metricOf.get(id).name} against ${FACTS[fact]}: ${text}`, line("axis", 44, height - 20, width, height - 20),
          line("axis", 44, 6, 44, height - 20), words(40, 16, label(y.ends[1]), "end"), words(40, height - 24, label(y.ends[0]), "end"),
          words(46, height - 6, label(least), "start"), words(width - 6, height - 6, label(most), "end"),
          ...points.map((point) => fill(dot(x(point.x), y(point.y.value), 3), { "fill-opacity": "0.45" },
            [draw("title", {}, `${nameOf(point.shot)}: ${point.y.text}`)])),
          means.length > 1 ? draw("path", { class: "curve", d: means.map(([a, b], place) => `${place ? "L" : "M"}${x(a)} ${y(b)}`).join("") }) : null),
        { class: model.truth ? "is-truth" : "" }, []));
    }))];
}

// ---------------------------------------------------------------- which metrics say the same

const goodness = (metric, cell) => (cell === null ? null : metric.better === null ? cell.value : -badness(metric, cell.value));

function showCorrelation(source) {
  const { columns } = data.clips, total = data.clips.shots.clip.length, mine = shotsOf(source);
  const metrics = Object.keys(columns).map((id) => metricOf.get(id));
  const models = data.models.map((model, place) => ({ model, place })).filter(({ model }) => !model.truth);
  const values = metrics.map((metric) => models.map(({ place }) => mine.map((shot) => goodness(metric, measured(columns[metric.id], place * total + shot)))));
  const of = (a, b) => {
    const found = models.map((_, model) => {
      const both = mine.map((_, at) => at).filter((at) => values[a][model][at] !== null && values[b][model][at] !== null);
      return spearman(both.map((at) => values[a][model][at]), both.map((at) => values[b][model][at]));
    }).filter((rho) => rho !== null);
    return found.length ? found.reduce((sum, rho) => sum + rho, 0) / found.length : null;
  };
  const grid = metrics.map(() => []);
  metrics.forEach((_, a) => { for (let b = 0; b <= a; b++) grid[a][b] = grid[b][a] = a === b ? 1 : of(a, b); });
  const kept = metrics.map((_, a) => a).filter((a) => grid[a].some((rho, b) => a !== b && rho !== null));
  if (!kept.length) return [el("p", { class: "muted" }, "It takes five shots and two metrics.")];
  return [boxed(`Correlation of metrics on ${source.source}`, el("table", { class: "grid" }, el("caption", {}, el("span", {}, "Rank correlation (Spearman) over the shots of a model, "
    + "mean over models, of values turned so that up is better: above 0 two metrics agree. Those near 1 are one proof, not two.")),
  el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Metric"), kept.map((a, number) =>
    el("th", { scope: "col", "data-tip": metrics[a].name, "aria-label": metrics[a].name }, String(number + 1))))),
  el("tbody", {}, kept.map((a, number) => el("tr", {}, el("th", { scope: "row" }, `${number + 1} ${metrics[a].name} ${metrics[a].arrow}`), kept.map((b) => {
    const rho = grid[a][b], cell = el("td", { class: "n" }, rho === null ? "–" : a === b ? "" : signed(rho));
    if (rho !== null) cell.style.setProperty("--strength", `${Math.round(Math.abs(rho) * 45)}%`);
    if (rho !== null) cell.className += rho < 0 ? " minus" : " plus";
    return cell;
  }))))))];
}

// ---------------------------------------------------------------- folds are filled when they are opened first

const named = (ids) => ids.map((id) => [id, titleOf(metricOf.get(id))]);
const PARTS = {
  intervals: { show: showIntervals },
  pairs: { show: showPairs, lists: (source) => [["Metric", named(idsWith((id) => source.pairs[id]?.length))]],
    none: "There is one model only, or nothing that two were scored on." },
  breakdowns: { show: showBreakdowns, lists: (source) => [["Metric", named(idsWith((id) => source.breakdowns.some((one) => id in one.columns)))]],
    none: "Too few shots to divide." },
  against: { show: showAgainst, lists: (source) => [["Score", named(idsWith((id) => id in data.clips.columns))],
    ["Against", Object.entries(FACTS).filter(([fact]) => shotsOf(source).some((shot) => data.clips.shots[fact][shot] !== null))]], none: "Nothing was measured shot by shot." },
  correlation: { show: showCorrelation },
};
const idsWith = (test) => data.metrics.map((metric) => metric.id).filter(test);

for (const part of document.querySelectorAll("details[data-part]")) {
  part.addEventListener("toggle", () => {
    if (!part.open || part.children.length > 1) return;
    const source = data.sources[Number(part.dataset.source)], { show, lists, none } = PARTS[part.dataset.part];
    const found = lists?.(source) ?? [];
    if (found.some(([, choices]) => !choices.length)) part.append(el("p", { class: "muted" }, none));
    else if (found.length) chooser(part, found, (...picked) => show(source, ...picked));
    else part.append(...show(source));
  });
}
