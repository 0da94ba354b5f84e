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
// ---------------------------------------------------------------- what stands behind a number: one stop of the tab key a table, arrows from there

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// The cell that the tab key reaches: the one that was reached last, or the first that is shown.
function reach(table, wanted = null) {
  const cells = [...table.querySelectorAll("td[data-tip]")].filter((cell) => !cell.hidden);
  const kept = wanted ?? cells.find((cell) => cell.tabIndex === 0) ?? cells[0];
  for (const cell of table.querySelectorAll("td[data-tip]")) cell.tabIndex = cell === kept ? 0 : -1;
}

for (const table of document.querySelectorAll("table.board")) {
  reach(table);
  table.addEventListener("focusin", (event) => { if (event.target.matches("td[data-tip]")) reach(table, event.target); });
  table.addEventListener("keydown", (event) => {
    const cell = event.target, way = STEPS[event.key];
    if (!way || !cell.matches("td[data-tip]") || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const lines = [...table.tBodies].flatMap((part) => [...part.rows]);
    let row = lines.indexOf(cell.parentElement), column = cell.cellIndex;
    for (;;) {
      column += way[0];
      row += way[1];
      const next = lines[row]?.cells[column];
      if (!next) return;
      if (next.matches("td[data-tip]") && !next.hidden) {
        next.focus();
        return;
      }
    }
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
    reach(table);
  });
}

// ---------------------------------------------------------------- paper does not scroll: a wide table is printed as several that fit

const COLUMNS_ON_PAPER = 4;

// Places in a row of the metrics that are shown and measured, a list a printed table.
function printedColumns(table) {
  const places = [...table.querySelectorAll("thead tr:last-child th[class*='g-']")]
    .filter((head) => !head.hidden && !head.classList.contains("off")).map((head) => head.cellIndex);
  const tables = Math.ceil(places.length / COLUMNS_ON_PAPER), each = Math.ceil(places.length / tables);
  return Array.from({ length: tables }, (_, number) => places.slice(number * each, (number + 1) * each));
}

function printedTable(table, places) {
  const copy = table.cloneNode(true), [groups, heads] = copy.tHead.rows;
  for (const row of [heads, ...[...copy.tBodies].flatMap((part) => [...part.rows])]) {
    [...row.cells].forEach((cell, place) => { if (place > 1 && !places.includes(place)) cell.remove(); });
  }
  for (const group of [...groups.cells].slice(2)) {
    const name = [...group.classList].find((each) => each.startsWith("g-"));
    const columns = [...heads.cells].filter((head) => head.classList.contains(name)).length;
    if (columns) group.colSpan = columns;
    else group.remove();
  }
  for (const node of copy.querySelectorAll("[id]")) node.removeAttribute("id");
  return el("div", { class: "scroll paper" }, copy);
}

addEventListener("beforeprint", () => {
  for (const table of document.querySelectorAll("table.board")) {
    const box = table.parentElement, found = printedColumns(table);
    if (found.length < 2) continue;
    box.after(...found.map((columns) => printedTable(table, columns)));
    box.hidden = true;
  }
});
addEventListener("afterprint", () => {
  for (const copy of document.querySelectorAll(".paper")) copy.remove();
  for (const table of document.querySelectorAll("table.board")) table.parentElement.hidden = false;
});
