// ---------------------------------------------------------------- a table as it is shown, for a paper or a program

const TEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
  "\u2191": "$\\uparrow$", "\u2193": "$\\downarrow$", "\u2192": "$\\rightarrow$", "\u2212": "$-$", "\u00b1": "$\\pm$", "\u00d7": "$\\times$", "\u2013": "--" };
const MARKDOWN = { escape: (text) => text.replace(/[\\`*_{}[\]<>|#]/g, "\\$&"), bold: (text) => `**${text}**`, plusMinus: (text) => ` \u00b1${text}` };
const LATEX = { escape: (text) => text.replace(/[\\~^<>|\u2191\u2193\u2192\u2212\u00b1\u00d7\u2013&%$#_{}]/g, (letter) => TEX[letter] ?? `\\${letter}`),
  bold: (text) => `\\textbf{${text}}`, plusMinus: (text) => ` {\\scriptsize$\\pm$${text}}` };

const textOf = (node) => node.textContent.replace(/\s+/g, " ").trim();
const textsOf = (node, kind) => [...node.querySelectorAll(kind)].map(textOf);

// {text, half, rank, few, marks, bold} of a cell as it is shown.
function shownCell(cell) {
  const number = cell.querySelector(".num");
  if (number) {
    return { text: textOf(number), half: cell.querySelector("[data-half]")?.dataset.half, rank: cell.querySelector(".rank")?.dataset.rank,
      few: cell.querySelector(".few") !== null, marks: cell.dataset.marks ? [cell.dataset.marks] : [], bold: cell.classList.contains("lead-cell") };
  }
  const scored = cell.querySelector(".scored");
  if (scored) return { text: textOf(scored), marks: textsOf(cell, ".failed") };
  const only = cell.querySelector(".same, [aria-hidden]");
  if (only) return { text: textOf(only), marks: [] };
  const first = cell.firstChild?.textContent.trim() ?? "", change = textsOf(cell, ".line");
  return { text: [first, ...change].join(" "), marks: [...textsOf(cell, "th > small"), ...textsOf(cell, ".chip")] };
}

// Heads and rows of a table, in its order, without the columns that are hidden.
function shownTable(table) {
  const columns = [...table.querySelectorAll("thead tr:last-child th")].map((head, place) => ({ head, place })).filter(({ head }) => !head.hidden && !head.classList.contains("off"));
  const rows = [...table.tBodies].flatMap((part) => [...part.rows]);
  return { titles: columns.map(({ head }) => textOf(head)), body: rows.map((row) => columns.map(({ place }) => shownCell(row.cells[place]))) };
}

function written({ text, half, rank, few, marks, bold }, form) {
  const behind = (rank ? ` ${rank}` : "") + (few ? " *" : "") + (marks.length ? ` (${marks.join("; ")})` : "");
  return (bold ? form.bold(form.escape(text)) : form.escape(text)) + (half ? form.plusMinus(half) : "") + form.escape(behind);
}

function asMarkdown({ titles, body }, caption) {
  const row = (cells) => `| ${cells.join(" | ")} |`, escaped = titles.map(MARKDOWN.escape);
  return [`**${MARKDOWN.escape(caption)}**`, "", row(escaped), `|---${"|---:".repeat(titles.length - 1)}|`,
    ...body.map((cells) => row(cells.map((cell) => written(cell, MARKDOWN)))), ""].join("\n");
}

function asLatex({ titles, body }, caption) {
  const row = (cells) => `${cells.join(" & ")} \\\\`, escaped = titles.map(LATEX.escape);
  return ["% needs \\usepackage{booktabs,graphicx}", "\\begin{table*}", "\\centering", `\\caption{${LATEX.escape(caption)}}`, "\\resizebox{\\textwidth}{!}{%",
    `\\begin{tabular}{l${"r".repeat(titles.length - 1)}}`, "\\toprule", row(escaped), "\\midrule", ...body.map((cells) => row(cells.map((cell) => written(cell, LATEX)))),
    "\\bottomrule", "\\end{tabular}}", "\\end{table*}", ""].join("\n");
}

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
// Text that a spreadsheet would compute is kept text by an apostrophe.
const inert = (text) => (/^[=+\-@\t\r\n]/.test(text) && !/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?$/.test(text) ? `'${text}` : text);

// A number a field: what stands behind a number has fields of its own, where any row has it.
function asCsv({ titles, body }) {
  const parts = [["", ({ text }) => text.replaceAll("\u2212", "-")], [" \u00b1", ({ half }) => half ?? ""], [" rank", ({ rank }) => rank?.slice(1) ?? ""],
    [" note", ({ few, marks }) => [...(few ? ["few identities"] : []), ...marks].join("; ").replaceAll("\u2212", "-")]];
  const fields = titles.flatMap((title, place) => parts.filter(([name, of]) => name === "" || body.some((cells) => of(cells[place]) !== ""))
    .map(([name, of]) => ({ title: title + name, place, of })));
  const row = (texts) => texts.map((text) => quoted(inert(text))).join(",");
  return [row(fields.map(({ title }) => title)), ...body.map((cells) => row(fields.map(({ place, of }) => of(cells[place])))), ""].join("\n");
}

const FORMS = { markdown: asMarkdown, latex: asLatex, csv: asCsv };
for (const place of document.querySelectorAll(".export")) {
  const area = place.querySelector("textarea"), said = place.querySelector("output");
  place.addEventListener("click", (event) => {
    const form = event.target.closest("button")?.dataset.form;
    if (!form) return;
    const table = place.dataset.caption ? shownTable(place.previousElementSibling.querySelector("table")) : clipTable();
    area.value = FORMS[form](table, place.dataset.caption || clipCaption());
    area.hidden = false;
    area.rows = Math.min(16, area.value.split("\n").length);
    area.focus();
    area.select();
    said.textContent = "Selected: copy it.";
    navigator.clipboard?.writeText(area.value).then(() => { said.textContent = "Copied."; }, () => {});
  });
}
