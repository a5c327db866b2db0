// The result of the SQL box, as a table.

import { count, element } from "/inspector/draw.js";

const find = (selector) => document.querySelector(selector);

export function drawResult(result, error) {
  const output = find("#sql output");
  output.classList.toggle("bad", error !== "");
  const { columns = [], rows = [], more = false, command = "", seconds = 0 } = result ?? {};
  const counted = more ? `the first ${rows.length} rows` : count(rows.length, "row", "rows");
  const done = columns.length ? counted : command || "done";
  output.textContent = error || `${done}, ${(seconds * 1000).toFixed(0)} ms`;
  const scroll = find("#database .scroll");
  scroll.hidden = columns.length === 0;
  scroll.querySelector("thead").replaceChildren(element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name))));
  scroll.querySelector("tbody").replaceChildren(...rows.map((row) => element("tr", {}, ...row.map(cell))));
}

function cell(value) {
  if (value === null) return element("td", { className: "null" }, "null");
  return element("td", { className: "code", title: value }, value);
}
