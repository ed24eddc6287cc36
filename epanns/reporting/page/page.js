"use strict";
// Tables are sorted by their headings and filtered by words and choices; marks of charts have a tooltip and lead to rows.
// Everything is shown without this script, except tooltips, which are then those of the browser.
(() => {
  const tooltip = document.getElementById("tooltip");
  const pointsOf = new Map(); // number of a row -> its marks

  // Tooltips

  const titles = new Map();
  for (const point of document.querySelectorAll(".point")) {
    const title = point.querySelector("title");
    titles.set(point, title.textContent);
    title.remove(); // else the browser shows a second tooltip
    const row = point.dataset.row;
    if (row !== undefined) {
      if (!pointsOf.has(row)) pointsOf.set(row, []);
      pointsOf.get(row).push(point);
    }
  }
  let chosen = [];
  const choose = (point) => {
    for (const element of chosen) element.classList.remove("chosen");
    chosen = [];
    if (!point) return;
    const row = document.getElementById(`row-${point.dataset.row}`);
    chosen = [point, ...(pointsOf.get(point.dataset.row) || []), ...(row ? [row] : [])];
    for (const element of chosen) element.classList.add("chosen");
  };
  const show = (point, x, y) => {
    choose(point);
    tooltip.textContent = titles.get(point);
    tooltip.hidden = false;
    const box = tooltip.getBoundingClientRect();
    const left = Math.min(Math.max(x + 14, 8), innerWidth - box.width - 8);
    tooltip.style.left = `${Math.max(left, 8)}px`;
    tooltip.style.top = `${y + 16 + box.height > innerHeight ? Math.max(y - box.height - 12, 8) : y + 16}px`;
  };
  const hide = () => {
    choose(null);
    tooltip.hidden = true;
  };
  const toRow = (point) => {
    const row = document.getElementById(`row-${point.dataset.row}`);
    if (row && !row.hidden) row.scrollIntoView({ block: "center", behavior: "smooth" });
  };
  for (const svg of document.querySelectorAll(".chart svg")) {
    svg.addEventListener("pointermove", (event) => {
      const point = event.target.closest(".point");
      if (point) show(point, event.clientX, event.clientY);
      else hide();
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("click", (event) => {
      const point = event.target.closest(".point");
      if (point) toRow(point);
    });
    // Arrow keys lead from mark to mark, from left to right; Enter leads to the row.
    svg.addEventListener("keydown", (event) => {
      const shown = [...svg.querySelectorAll(".point:not(.filtered)")];
      const placed = shown.map((point) => [point, point.getBoundingClientRect()]);
      placed.sort((one, other) => one[1].left - other[1].left || one[1].top - other[1].top);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const current = placed.findIndex(([point]) => point === chosen[0]);
      if (step && placed.length) {
        const next = current < 0 ? (step > 0 ? 0 : placed.length - 1) : (current + step + placed.length) % placed.length;
        const [point, box] = placed[next];
        show(point, box.left + box.width / 2, box.top + box.height / 2);
      } else if (event.key === "Enter" && current >= 0) toRow(placed[current][0]);
      else if (event.key === "Escape") hide();
      else return;
      event.preventDefault();
    });
  }

  // Sorting

  const numberIn = (cell) => (cell.dataset.number === undefined ? NaN : Number(cell.dataset.number));
  const collator = new Intl.Collator("en", { numeric: true });
  const sort = (table, column, isRising) => {
    const rows = [...table.tBodies[0].rows];
    const keyed = rows.map((row) => [row, numberIn(row.cells[column]), row.cells[column].textContent.trim()]);
    const sign = isRising ? 1 : -1;
    keyed.sort(([, a, text], [, b, other]) => {
      if (!Number.isNaN(a) && !Number.isNaN(b)) return sign * (a - b);
      if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1; // unknown numbers come last
      return sign * collator.compare(text, other);
    });
    table.tBodies[0].append(...keyed.map(([row]) => row));
  };
  for (const table of document.querySelectorAll("table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const falls = head.classList.contains("number"); // the highest score first
        const before = head.getAttribute("aria-sort");
        const isRising = before ? before === "descending" : !falls;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", isRising ? "ascending" : "descending");
        sort(table, column, isRising);
      });
    });
  }

  // Filters

  const add = (parent, name, text) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  for (const tools of document.querySelectorAll(".tools")) {
    const table = tools.nextElementSibling.querySelector("table");
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 4) continue;
    const words = add(add(tools, "label", "Filter"), "input");
    words.type = "search";
    words.placeholder = "all of these words";
    const selects = [];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const values = [...new Set(rows.map((row) => row.cells[column].textContent))].sort(collator.compare);
      if (!("choice" in head.dataset) || values.length < 2 || values.length > 40) return;
      const select = add(add(tools, "label", head.textContent), "select");
      add(select, "option", "all").value = "";
      for (const value of values) add(select, "option", value).value = `=${value}`;
      selects.push([column, select]);
    });
    let front = null;
    if (rows.some((row) => (pointsOf.get(row.id.slice(4)) || []).some((point) => point.matches(".on-front")))) {
      const label = add(tools, "label");
      front = add(label, "input");
      front.type = "checkbox";
      label.append("Pareto front only");
    }
    const count = add(tools, "output");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const filter = () => {
      const needed = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, place) => {
        const points = pointsOf.get(row.id.slice(4)) || [];
        const isShown =
          needed.every((word) => texts[place].includes(word)) &&
          selects.every(([column, select]) => !select.value || select.value.slice(1) === row.cells[column].textContent) &&
          (!front || !front.checked || points.some((point) => point.matches(".on-front")));
        row.hidden = !isShown;
        for (const point of points) point.classList.toggle("filtered", !isShown);
        shown += isShown;
      });
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    tools.addEventListener("input", filter);
    filter();
    tools.hidden = false;
  }
})();
