"""The page that compares models: markup, style and script, with marks for what it holds."""

PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>Comparison of @COUNT@ models</title>
<style>@STYLE@
form { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; } #verdicts td { white-space: normal; }
#shares { height: 26rem; }
</style>
</head>
<body>
<h1>Comparison of @COUNT@ models</h1>
<form id="choices" aria-label="What is shown">
<label>Outcome <select id="outcome"></select></label>
<label>Component <select id="component"></select></label>
<label>Shots <select id="cell"></select></label>
</form>
<p id="note"></p>
<h2>How much of each model can be pruned</h2>
<div class="rows"><table><thead><tr><th scope="col">model</th><th scope="col">verdict</th>
<th scope="col">score of the whole model</th><th scope="col">pages</th></tr></thead>
<tbody id="verdicts"></tbody></table></div>
<div id="shares" role="img" aria-label="Prunable share of each model" aria-describedby="verdicts"></div>
<p>A point is the largest share that a test shows to be prunable within the margin; its line reaches to the upper
bound, from which losses are shown to be larger (both limits at 95%). A diamond is the point estimate. A model without a
point is inconclusive, or has an estimate only.</p>
<h2>Tables</h2>
<p>Choose a column's name to sort by it.</p>
@TABLES@
<h2>Figures</h2>
<div class="figures">@FIGURES@</div>
<noscript>This page needs JavaScript, which it holds itself; nothing is loaded from elsewhere.</noscript>
<script type="text/plain" id="data">@DATA@</script>
<script type="text/plain" id="bundle">@PLOTLY@</script>
<script>
"use strict";
@TABLES_SCRIPT@
const at = id => document.getElementById(id);
@UNPACK@
let D;
const KEYS = ["outcome", "component", "cell"];
const chosen = () => D.rows.filter(row => KEYS.every(key => row[key] === at(key).value));
function verdict(row) {
  const line = document.createElement("tr"), name = document.createElement("th");
  const strong = document.createElement("strong");
  name.scope = "row";
  name.textContent = row.model;
  strong.textContent = row.verdict;
  line.append(name);
  line.insertCell().append(strong, row.reason ? `: ${row.reason}` : "");
  line.insertCell().textContent = row.score === null ? "not defined" : shown(String(row.score));
  const pages = line.insertCell();
  for (const [label, page] of Object.entries(D.pages[row.model])) {
    const link = document.createElement("a");
    link.href = page;
    link.textContent = {index: "all results"}[label] ?? label;
    pages.append(link, " ");
  }
  return line;
}
function draw() {
  const rows = chosen(), ink = getComputedStyle(document.body).color, y = rows.map(row => row.model);
  at("verdicts").replaceChildren(...rows.map(verdict));
  const known = rows.filter(row => row.percent !== null);
  const axis = {automargin: true, zeroline: false, gridcolor: "rgba(128, 128, 128, .3)"};
  Plotly.react("shares", [
    {name: "shown to be prunable, up to the upper bound", type: "scatter", mode: "markers", marker: {size: 10},
      x: known.map(row => row.percent), y: known.map(row => row.model),
      error_x: {type: "data", symmetric: false, array: known.map(row => (row.below ?? 100) - row.percent),
        arrayminus: known.map(() => 0)}},
    {name: "point estimate", type: "scatter", mode: "markers", marker: {size: 11, symbol: "diamond-open"},
      x: rows.map(row => row.estimate), y},
  ], {margin: {t: 10, r: 10}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: ink},
    legend: {orientation: "h", y: 1.12}, xaxis: {...axis, title: {text: "prunable (%)"}, range: [-2, 102]},
    yaxis: {...axis, categoryorder: "array", categoryarray: [...y].reverse(), range: [-0.5, y.length - 0.5]}},
  {displaylogo: false, responsive: true});
  history.replaceState(null, "", "#" + new URLSearchParams(KEYS.map(key => [key, at(key).value])));
}
function read() {
  // What an address names and the study lacks changes nothing.
  for (const [key, value] of new URLSearchParams(location.hash.slice(1)))
    if (KEYS.includes(key) && [...at(key).options].some(option => option.value === value)) at(key).value = value;
}
show(() => {
  for (const key of KEYS) {
    for (const value of new Set(D.rows.map(row => row[key]))) at(key).add(new Option(D.names[value] ?? value, value));
    at(key).onchange = draw;
  }
  addEventListener("hashchange", () => { read(); draw(); });
  read();
  draw();
});
</script>
</body>
</html>
"""
