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
