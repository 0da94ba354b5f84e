// ---------------------------------------------------------------- a table as it is shown, for a paper

const MARKDOWN = { escape: (text) => text.replace(/[\\`*_{}[\]<>|#]/g, "\\$&"), bold: (text) => `**${text}**`, plusMinus: (text) => ` \u00b1${text}` };
const TEX = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
  "\u2191": "$\\uparrow$", "\u2193": "$\\downarrow$", "\u2192": "$\\rightarrow$", "\u2212": "$-$", "\u00b1": "$\\pm$", "\u2013": "--" };
const LATEX = { escape: (text) => text.replace(/[\\~^<>|\u2191\u2193\u2192\u2212\u00b1\u2013&%$#_{}]/g, (letter) => TEX[letter] ?? `\\${letter}`),
  bold: (text) => `\\textbf{${text}}`, plusMinus: (text) => ` {\\scriptsize$\\pm$${text}}` };

const textOf = (node) => node.textContent.replace(/\s+/g, " ").trim();

// Rows of texts: what the table shows now, in its order, without the columns that are hidden.
function shownTable(table, form) {
  const columns = [...table.querySelectorAll("thead tr:last-child th")].map((head, place) => ({ head, place })).filter(({ head }) => !head.hidden && !head.classList.contains("off"));
  const titles = columns.map(({ head }) => form.escape(textOf(head)));
  const body = [...table.tBodies].flatMap((part) => [...part.rows]).map((row) => columns.map(({ place }) => {
    const cell = row.cells[place], number = cell.querySelector(".num");
    if (place === 0) return form.escape([cell.firstChild.textContent.trim(), ...[...cell.querySelectorAll(".chip")].map((chip) => `(${textOf(chip)})`)].join(" "));
    if (!number) return form.escape(textOf(cell.querySelector(".same, .scored, [aria-hidden]") ?? cell));
    const half = cell.querySelector("[data-half]"), rank = cell.querySelector(".rank"), text = form.escape(textOf(number));
    return (cell.classList.contains("lead-cell") ? form.bold(text) : text) + (half ? form.plusMinus(half.dataset.half) : "")
      + (rank ? ` ${form.escape(rank.dataset.rank)}` : "");
  }));
  return { titles, body };
}

function asMarkdown(table, caption) {
  const { titles, body } = shownTable(table, MARKDOWN), row = (cells) => `| ${cells.join(" | ")} |`;
  return [`**${MARKDOWN.escape(caption)}**`, "", row(titles), `|---${"|---:".repeat(titles.length - 1)}|`, ...body.map(row), ""].join("\n");
}

function asLatex(table, caption) {
  const { titles, body } = shownTable(table, LATEX), row = (cells) => `${cells.join(" & ")} \\\\`;
  return ["% needs \\usepackage{booktabs,graphicx}", "\\begin{table*}", "\\centering", `\\caption{${LATEX.escape(caption)}}`, "\\resizebox{\\textwidth}{!}{%",
    `\\begin{tabular}{l${"r".repeat(titles.length - 1)}}`, "\\toprule", row(titles), "\\midrule", ...body.map(row), "\\bottomrule", "\\end{tabular}}", "\\end{table*}", ""].join("\n");
}

for (const place of document.querySelectorAll(".export")) {
  const table = place.parentElement.querySelector("table.board"), area = place.querySelector("textarea"), said = place.querySelector("output");
  place.addEventListener("click", (event) => {
    const form = event.target.closest("button")?.dataset.form;
    if (!form) return;
    area.value = (form === "latex" ? asLatex : asMarkdown)(table, place.dataset.caption);
    area.hidden = false;
    area.rows = Math.min(16, area.value.split("\n").length);
    area.focus();
    area.select();
    said.textContent = "Selected: copy it.";
    navigator.clipboard?.writeText(area.value).then(() => { said.textContent = "Copied."; }, () => {});
  });
}

