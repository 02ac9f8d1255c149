"""A model's first page: markup, style and script, with marks for what it holds."""

PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Results: @MODEL@</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#ccc, #444b54); --soft: light-dark(#5a5a5a, #a9b0b8); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem;
 background: light-dark(#fff, #16181c); color: light-dark(#1a1a1a, #eceef1); }
a { color: light-dark(#0b57d0, #8ab4f8); } h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.short { font-size: 1.05rem; } .short li { margin: .4rem 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
img { max-width: 100%; height: auto; background: #fff; } figcaption { color: var(--soft); font-size: .9rem; }
details { border-top: 1px solid var(--line); padding: .4rem 0; } summary { cursor: pointer; }
.rows { overflow: auto; max-height: 32rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { position: sticky; top: 0; background: light-dark(#f4f4f4, #24272d); } th button { font: inherit; font-weight: 600;
 color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
@media print { .rows { max-height: none; } input { display: none; } figure { break-inside: avoid; } }
</style>
</head>
<body>
<h1>@MODEL@: what can be pruned, and what is needed</h1>
@VERDICTS@
<h2>At a glance</h2>
<div class="figures">@FIRST@</div>
<h2>Pages</h2>
@PAGES@
<h2>Tables</h2>
<p>Choose a column's name to sort by it.</p>
@TABLES@
<h2>All other figures</h2>
<div class="figures">@FIGURES@</div>
<script>
"use strict";
const number = text => text.trim() === "" ? NaN : Number(text);
function compare(a, b) {
  // Numbers by value, before texts; empty cells last.
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [number(a), number(b)];
  if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a.localeCompare(b);
  return x - y;
}
function shown(text) {
  const x = number(text);
  return isNaN(x) || Number.isInteger(x) ? text : String(Number(x.toPrecision(4)));
}
for (const part of document.querySelectorAll("details.table")) {
  const [names, ...rows] = JSON.parse(part.querySelector("script").textContent);
  const table = part.querySelector("table"), filter = part.querySelector("input");
  let by = -1, down = false;
  function draw() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let chosen = rows.filter(row => words.every(word => row.join("\t").toLowerCase().includes(word)));
    if (by >= 0) chosen = chosen.map((row, i) => [row, i]).sort((a, b) =>
      (down ? -1 : 1) * compare(a[0][by], b[0][by]) || a[1] - b[1]).map(pair => pair[0]);
    const head = document.createElement("tr");
    names.forEach((name, i) => {
      const th = document.createElement("th"), button = document.createElement("button");
      th.scope = "col";
      th.setAttribute("aria-sort", i !== by ? "none" : down ? "descending" : "ascending");
      button.type = "button";
      button.textContent = name.replace(/_/g, " ") + (i === by ? (down ? " ▼" : " ▲") : "");
      button.onclick = () => { down = i === by && !down; by = i; draw(); };
      th.append(button);
      head.append(th);
    });
    const body = document.createElement("tbody");
    for (const row of chosen) {
      const line = body.insertRow();
      for (const text of row) line.insertCell().textContent = shown(text);
    }
    const thead = document.createElement("thead");
    thead.append(head);
    table.replaceChildren(thead, body);
    part.querySelector("output").textContent = `${chosen.length} of ${rows.length} rows`;
  }
  filter.oninput = draw;
  part.ontoggle = () => { if (part.open && !table.tHead) draw(); };
}
</script>
</body>
</html>
"""
