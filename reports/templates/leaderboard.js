"use strict";
(() => {
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
  const minus = (text) => text.replace("-", "\u2212");
  const option = (value, text) => el("option", { value }, text);
  const heads = (...titles) => el("thead", {}, el("tr", {}, titles.map((title) => el("th", { scope: "col" }, title))));

  function boxed(label, table) {
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
  }

  function scale(values, start, end) {
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) { low -= 1; high += 1; }
    return (value) => Math.round((start + (value - low) / (high - low) * (end - start)) * 10) / 10;
  }

  // A packed number as {value, text}, or null.
  function unpack(column, place) {
    const digits = column.data.substr(place * column.width, column.width);
    if (digits[0] === data.missing) return null;
    let units = 0;
    for (const letter of digits) units = units * 64 + digitOf.get(letter);
    const value = (units + column.low) / 10 ** column.digits;
    return { value, text: minus(value.toFixed(column.digits)) };
  }

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
  function showTip(event) {
    const note = noteOf(event.target);
    if (!note) { tip.hidden = true; return; }
    tip.textContent = note.text;
    tip.hidden = false;
    const at = note.holder.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const below = at.bottom + 8 + own.height <= window.innerHeight || at.top < own.height + 8;
    tip.style.left = `${Math.max(12, Math.min(at.left, window.innerWidth - own.width - 12))}px`;
    tip.style.top = `${below ? at.bottom + 8 : at.top - own.height - 8}px`;
  }
  document.addEventListener("mouseover", showTip);
  document.addEventListener("focusin", showTip);
  document.addEventListener("focusout", () => { tip.hidden = true; });
  document.addEventListener("scroll", () => { tip.hidden = true; }, true);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

  // ---------------------------------------------------------------- the main tables: sorting, groups of columns

  for (const table of document.querySelectorAll("table.board")) {
    const body = table.querySelector("tbody.ranked");
    const columns = [...table.querySelectorAll("thead tr:last-child th")];
    table.addEventListener("click", (event) => {
      const button = event.target.closest(".sort");
      if (!button) return;
      const head = button.closest("th"), column = columns.indexOf(head);
      const worst = head.dataset.first === "best";
      const sign = Number(button.dataset.sign) * (worst ? -1 : 1);
      for (const other of columns) {
        other.removeAttribute("aria-sort");
        delete other.dataset.first;
      }
      head.dataset.first = worst ? "worst" : "best";
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset;
      body.append(...[...body.rows].sort((a, b) => {
        const x = key(a), y = key(b);
        return x.tier - y.tier || (x.tier === "2" ? 0 : sign * (Number(x.value) - Number(y.value)));
      }));
    });
  }
  for (const pick of document.querySelectorAll(".pick")) {
    const table = pick.parentElement.querySelector("table.board");
    pick.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const group = button.dataset.group;
      for (const other of pick.children) other.setAttribute("aria-pressed", String(other === button));
      for (const cell of table.querySelectorAll("[class*='g-']")) cell.hidden = group !== "" && !cell.classList.contains(`g-${group}`);
    });
  }

  // ---------------------------------------------------------------- closer: pairs and breakdowns of one metric

  function chooser(part, label, ids, show) {
    const select = el("select", {}, ids.map((id) => option(id, titleOf(metricOf.get(id)))));
    const place = el("div");
    const update = () => place.replaceChildren(...show(select.value));
    select.addEventListener("input", update);
    part.append(el("div", { class: "tools" }, el("div", { class: "field" }, el("label", {}, label, " ", select))), place);
    update();
  }

  function showPairs(source, id) {
    const metric = metricOf.get(id), rows = source.pairs[id];
    const numbers = rows.flatMap((row) => row.slice(2, 5)).filter((text) => text !== null).map(Number);
    const x = scale([...numbers, 0], 6, 154);
    const body = rows.map(([a, b, effect, low, high, p, holm, n, clusters, verdict]) => el("tr", {},
      el("th", { scope: "row" }, `${data.models[a].name} less ${data.models[b].name}`),
      el("td", { class: "n" }, minus(effect)),
      el("td", { class: "n" }, low === null ? "\u2013" : `${minus(low)} to ${minus(high)}`),
      el("td", {}, picture(160, 14, null, line("real", x(0), 0, x(0), 14),
        low === null ? null : line("span", x(Number(low)), 7, x(Number(high)), 7), dot(x(Number(effect)), 7))),
      el("td", { class: "n" }, p ?? "\u2013"), el("td", { class: "n" }, holm ?? "\u2013"),
      el("td", { class: "n" }, `${n} / ${clusters}`), el("td", {}, verdict)));
    const what = typeof metric.better === "number"
      ? `Distances from ${metric.better} are compared: below 0 the first is nearer.`
      : metric.better ? `${metric.better === "higher" ? "Above" : "Below"} 0 the first is better.` : "";
    return [boxed("Differences between models", el("table", {}, el("caption", {}, el("span", {}, `${titleOf(metric)}. ${what} p: signs flipped `
      + "by identity, or jackknife for numbers of all shots; Holm: adjusted for all pairs; \u2013: no claim, too few identities.")),
      heads("Pair", "Difference", "95 % interval", "", "p", "Holm p", "Shots / identities", "Verdict"), el("tbody", {}, body)))];
  }

  function showBreakdowns(source, id) {
    const found = source.breakdowns.filter((one) => id in one.columns), title = (one) => el("h4", {}, `By ${one.by}${one.unit ? `: ${one.unit}` : ""}`);
    return [el("div", { class: "thirds" }, found.filter((one) => one.by !== "identity").map((one) => el("div", {}, title(one), thirds(one, id)))),
      ...found.filter((one) => one.by === "identity").flatMap((one) => [title(one), strips(one, id)])];
  }

  function cellsOf(one, id) {
    const count = one.labels.length;
    return one.models.map((model, row) => ({ model: data.models[model], cells: one.labels.map((_, part) => unpack(one.columns[id], row * count + part)) }))
      .filter(({ cells }) => cells.some(Boolean));
  }

  function thirds(one, id) {
    const rows = cellsOf(one, id);
    const x = scale(rows.flatMap(({ cells }) => cells.filter(Boolean).map((cell) => cell.value)), 5, 95);
    return boxed(`By ${one.by}`, el("table", {}, heads("Model", ...one.labels.map((label, part) => `${label} (${one.shots[part]} shots)`)),
      el("tbody", {}, rows.map(({ model, cells }) => el("tr", { class: model.truth ? "is-truth" : null }, el("th", { scope: "row" }, model.name),
        cells.map((cell) => el("td", {}, ...(cell === null ? ["\u2013"] : [cell.text, fill(picture(100, 12, null,
          line("axis", 0, 6, 100, 6), dot(x(cell.value), 6, 3.5)), { class: model.truth ? "is-truth" : "" }, [])]))))))));
  }

  function strips(one, id) {
    const metric = metricOf.get(id), rows = cellsOf(one, id), width = 420;
    const x = scale(rows.flatMap(({ cells }) => cells.filter(Boolean).map((cell) => cell.value)), 6, width - 6);
    return boxed("By identity", el("table", {}, el("caption", {}, el("span", {}, `A dot an identity (${one.labels.length}), one scale.`)),
      heads("Model", "", "Worst", "Best"), el("tbody", {}, rows.map(({ model, cells }) => {
        const known = cells.map((cell, part) => ({ cell, part })).filter(({ cell }) => cell)
          .sort((a, b) => badness(metric, b.cell.value) - badness(metric, a.cell.value));
        const named = ({ cell, part }) => `${one.labels[part]}: ${cell.text}`;
        return el("tr", {}, el("th", { scope: "row" }, model.name),
          el("td", {}, fill(picture(width, 16, null, line("axis", 0, 8, width, 8), ...known.map((each) =>
            fill(dot(x(each.cell.value), 8, 3.5), { "fill-opacity": "0.55" }, [draw("title", {}, named(each))]))), { class: model.truth ? "is-truth" : "" }, [])),
          el("td", { class: "long" }, named(known[0])), el("td", { class: "long" }, named(known[known.length - 1])));
      }))));
  }

  for (const part of document.querySelectorAll("details.fold")) {
    part.addEventListener("toggle", () => {
      if (!part.open || part.children.length > 1) return;
      const source = data.sources[Number(part.dataset.source)];
      const pairs = part.dataset.part === "pairs";
      const ids = data.metrics.map((metric) => metric.id)
        .filter((id) => (pairs ? source.pairs[id]?.length : source.breakdowns.some((one) => id in one.columns)));
      if (!ids.length) part.append(el("p", { class: "muted" }, pairs ? "There is one model only, or nothing that two were scored on."
        : "Too few shots to divide."));
      else chooser(part, "Metric", ids, (id) => (pairs ? showPairs : showBreakdowns)(source, id));
    });
  }

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
  const nameOf = (shot) => shots.clip[shot] + (shots.shot[shot] ? ` #${shots.shot[shot]}` : "");
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
      const keys = new Map(rows.map((row) => [row, unpack(columns[id], row)]));
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
  const defs = new Map([...document.querySelectorAll(".defs > [id]")].map((node) => [node.querySelector("code").textContent, node.id]));
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
    const button = el("button", { type: "button", "aria-expanded": "false" }, nameOf(shot));
    const node = el("tr", {}, el("th", { scope: "row", class: "name" }, button,
      flags.has(row) ? el("span", { class: "chip" }, flags.get(row)) : null),
      severalSources ? el("td", {}, shots.source[shot]) : null, el("td", { class: "who id" }, shots.identity[shot]),
      el("td", { class: "who" }, data.models[model].name), el("td", { class: "n" }, String(shots.frames[shot])),
      why ? el("td", { class: "error", colspan: Math.max(1, shown.length) }, el("div", {}, `failed: ${why.join(": ")}`))
        : shown.map((metric) => el("td", { class: "n" }, unpack(columns[metric.id], row)?.text ?? "\u2013")));
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) node.nextElementSibling.remove();
      else node.after(el("tr", { class: "more" }, el("td", { colspan: 5 + shown.length }, details(shot))));
    });
    return node;
  }

  function details(shot) {
    const facts = [["largest yaw", shots.yaw_max_abs, "\u00b0"], ["face", shots.face_px, " px"], ["brightness", shots.brightness, ""], ["duration", shots.duration, " s"]]
      .filter(([, column]) => column[shot] !== null)
      .map(([name, column, unit]) => el("div", {}, el("dt", {}, name), el("dd", {}, minus(`${column[shot]}`) + unit)));
    const failures = data.models.map((model, place) => [model.name, errors.get(place * count + shot)]).filter(([, why]) => why);
    const drawn = Object.keys(curves).flatMap((kind) => curvesOf(kind, shot));
    return el("div", { class: "inside" }, el("dl", { class: "facts" }, facts),
      failures.map(([name, why]) => el("p", { class: "failed" }, `${name} failed: ${why.join(": ")}`)),
      drawn.length ? drawn : el("p", { class: "muted" }, "No sync curve was measured for this shot."));
  }

  function curvesOf(kind, shot) {
    const read = data.models.map((model, place) => {
      const packed = curves[kind][place * count + shot];
      if (!packed) return null;
      const [low, high, digits] = packed;
      return { model, values: [...digits].map((letter) => (letter === data.missing ? null : low + digitOf.get(letter) / 63 * (high - low))) };
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

  for (const [name, field] of Object.entries(choice)) field.addEventListener(name === "text" ? "input" : "change", find);
  byId("before").addEventListener("click", () => { page -= 1; show(); });
  byId("next").addEventListener("click", () => { page += 1; show(); });
  find();
})();
