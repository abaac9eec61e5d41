"use strict";
(() => {
  const table = document.getElementById("runs");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const box = document.getElementById("filter");
  const count = document.getElementById("count");
  const keys = [...document.querySelectorAll("button.key")];
  const marks = [...document.querySelectorAll("[data-runs]")];
  const ways = [...document.querySelectorAll("[data-path]")];

  // What is missing stands last, whichever way the rest is sorted.
  function sortBy(head) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const place = head.cellIndex;
    const last = place === heads.length - 1; // a failed run has one cell for all its figures
    const value = (row) => (last ? row.lastElementChild : row.cells[place])?.dataset.value ?? "";
    const order = (one, other) => {
      const a = value(one), b = value(other);
      if (a === "" || b === "") return (a === "") - (b === "");
      const numbers = Number.isFinite(+a) && Number.isFinite(+b);
      const found = numbers ? a - b : a.localeCompare(b, undefined, { numeric: true });
      return up ? found : -found;
    };
    body.append(...[...body.rows].sort(order));
  }

  function matches(row, words) {
    const known = row.dataset.search.split("\n");
    const text = `${row.textContent.toLowerCase()}\n${row.dataset.search}`;
    return words.every((word) => (word.includes("=") ? known.includes(word) : text.includes(word)));
  }

  function filter() {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = keys.filter((key) => key.getAttribute("aria-pressed") === "true");
    const lines = chosen.map((key) => key.dataset.way);
    const shown = new Set();
    for (const row of body.rows) {
      const here = matches(row, words) && (!lines.length || lines.some((line) => row.dataset.way.split(" ").includes(line)));
      row.hidden = !here;
      if (here) shown.add(row.dataset.run);
    }
    const lit = new Set();
    for (const mark of marks) {
      const here = mark.dataset.runs.split(" ").some((run) => shown.has(run))
        && (!lines.length || lines.includes(mark.dataset.way));
      mark.classList.toggle("off", !here);
      if (here) lit.add(mark.dataset.way);
    }
    for (const way of ways) way.classList.toggle("off", !lit.has(way.dataset.path));
    count.textContent = `${shown.size} of ${body.rows.length} shown`;
  }

  for (const head of heads) {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sortBy(head));
  }
  for (const key of keys) {
    key.addEventListener("click", () => {
      key.setAttribute("aria-pressed", key.getAttribute("aria-pressed") !== "true");
      filter();
    });
  }
  box.addEventListener("input", filter);
  filter(); // a browser that goes back keeps what was typed
})();
