"""The explorer's page: markup, style and script, with marks for a model's name, its numbers and plotly's bundle."""

PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>Explorer: @MODEL@</title>
<style>
:root { color-scheme: light; --back: #fff; --ink: #1a1a1a; --soft: #5a5a5a; --line: #ccc; --mark: #b3261e; }
:root[data-theme="dark"] { color-scheme: dark; --back: #16181c; --ink: #eceef1; --soft: #a9b0b8; --line: #444b54;
 --mark: #ff8a80; }
* { box-sizing: border-box; } [hidden] { display: none !important; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 84rem; padding: 1rem; color: var(--ink);
 background: var(--back); }
h1 { font-size: 1.35rem; margin: 0 0 .3rem; } h2 { font-size: 1rem; margin: .2rem 0; }
p { margin: .3rem 0; color: var(--soft); } output { color: var(--ink); font-weight: 600; }
form { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; align-items: end; margin: .6rem 0; }
label { display: flex; flex-direction: column; font-size: .85rem; color: var(--soft); }
label.wide { flex: 1 1 16rem; }
select, button, input { font: inherit; color: var(--ink); background: var(--back); border: 1px solid var(--line);
 border-radius: 4px; padding: .2rem .4rem; } input[type=range] { padding: 0; width: 100%; }
:focus-visible { outline: 3px solid #4c8bf5; outline-offset: 2px; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
section { border: 1px solid var(--line); border-radius: 6px; padding: .6rem; min-width: 0; }
.plot { height: 24rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .5rem; border-bottom: 1px solid var(--line); text-align: right; }
tr[aria-current] { outline: 2px solid var(--mark); } td button { padding: 0 .4rem; }
.rows { max-height: 24rem; overflow: auto; }
@media print { form, button { display: none; } section { break-inside: avoid; } .rows { max-height: none; } }
</style>
</head>
<body>
<h1 id="title">@MODEL@</h1>
<p id="shape"></p>
<form id="choices" aria-label="What is shown">
<label>Component<select id="component"></select></label>
<label>Shots<select id="cell"></select></label>
<label>Task<select id="task"></select></label>
<label>Criterion<select id="criterion"></select></label>
<label>Outcome<select id="outcome"></select></label>
<label>Compare with<select id="score"></select></label>
<label class="wide">Pruned, least important first (%)
<input id="percent" type="range" min="0" max="100" step="1"></label>
<button type="button" id="theme">Light or dark</button>
</form>
<p aria-live="polite"><output id="pruned"></output> <output id="value"></output></p>
<p id="note"></p>
<main>
<section><h2 id="map-title">Map</h2><p>Arrow keys move the mark; pruned cells are grey.</p>
<div id="map" class="plot" tabindex="0" role="application" aria-label="Map of scores" aria-describedby="chosen"></div>
<p aria-live="polite"><output id="chosen"></output></p></section>
<section><h2 id="curve-title">Outcome after pruning</h2>
<div id="curve" class="plot" role="img" aria-label="Outcome against percent pruned" aria-describedby="value"></div>
</section>
<section id="scatter-section"><h2 id="scatter-title">Importance and induction</h2>
<div id="scatter" class="plot" role="img" aria-label="Importance against an induction score"></div></section>
<section><h2>Most important</h2><div class="rows" tabindex="0" role="region" aria-label="Table of the most important">
<table><thead><tr id="columns"></tr></thead><tbody id="top"></tbody></table></div></section>
</main>
<noscript>This page needs JavaScript, which it holds itself; nothing is loaded from elsewhere.</noscript>
<script type="text/plain" id="data">@DATA@</script>
<script type="text/plain" id="bundle">@PLOTLY@</script>
<script>
"use strict";
const at = id => document.getElementById(id);
const KEYS = ["component", "cell", "task", "criterion", "outcome", "score", "percent", "chosen", "theme"];
const state = {};
let D;
@UNPACK@
const few = x => x === null || x === undefined ? "not defined" : String(Number(x.toPrecision(3)));
const fixed = (x, decimals) => x === null || x === undefined ? "not defined" : x.toFixed(decimals);
const named = name => name.replace(/_/g, " ");
const isHeads = () => state.component === "heads";
const cell = () => D.cells[state.cell];
const PARTS = {heads: {many: "heads", one: "head"}, ffns: {many: "FFNs"}, experts: {many: "experts", one: "expert"}};
const part = () => PARTS[state.component];
const columns = () => part().one ? D[state.component] : 1;
const rows = () => D.rows[state.component];
const scores = () => cell()[state.component][state.task][state.criterion];
const place = i => `layer ${rows()[Math.floor(i / columns())]}` +
  (part().one ? `, ${part().one} ${i % columns() + 1}` : "");
const group = i => Math.floor((i % D.heads) * D.groups / D.heads) + 1;
function order(values) {
  // Ties go by layer, then head, as in the package.
  const sorted = values.map((x, i) => i).sort((a, b) => values[a] - values[b] || a - b);
  if (state.component !== "experts") return sorted;
  // The experts that a layer must keep come last.
  const seen = {}, layer = i => Math.floor(i / columns());
  const isKept = sorted.map(i => { seen[layer(i)] = (seen[layer(i)] || 0) + 1;
    return seen[layer(i)] > D.experts - D.per_token; });
  return [...sorted.filter((_, r) => !isKept[r]), ...sorted.filter((_, r) => isKept[r])];
}
function ranking() {
  // The curve's ranking: of the aggregate it is the aggregate's, the same for all tasks.
  const curves = cell().curves[state.component];
  const name = cell().rankings[state.component][state.criterion] || state.criterion;
  if (isHeads() && state.task === "aggregate") return name === "own" ? "aggregate" : null;
  return name in curves ? name : null;
}
function curve() {
  const name = ranking();
  const tasks = name === null ? {} : cell().curves[state.component][name];
  return (tasks[state.task] || {})[state.outcome] || null;
}
function note() {
  // Why there is no curve, or which tasks it leaves out.
  const name = ranking(), many = part().many, {title} = D.outcomes[state.outcome];
  if (name === null) return `Nothing was evaluated with ${many} pruned by ${named(state.criterion)} on ` +
    `${state.task}: the map shows what would be pruned, and there is no curve.`;
  if (!curve()) return `There is no curve: ${title} is not defined on ${state.task}.`;
  const tasks = cell().curves[state.component][name];
  const lacking = Object.keys(tasks).filter(task => !tasks[task][state.outcome]);
  return state.task === "aggregate" && lacking.length ?
    `The curve leaves out ${lacking.join(", ")}, where ${title} is not defined.` : "";
}
function parameters() {
  const curves = cell().curves[state.component].own;
  // The same by each outcome.
  const own = Object.values(curves[state.task] || curves.aggregate || {})[0];
  if (!own) return null;
  const last = own.percent.length - 1, total = rows().length * columns();
  const count = Math.floor(own.percent[last] * total / 100);
  return count ? Math.round(own.removed[last] / count) : null;
}
function unit() {
  const own = cell().units[state.component] || {}, isOwn = state.criterion === "own";
  return isOwn || state.task === "aggregate" && cell().is_rescaled ? own[state.task] : D.units[state.criterion];
}
function options(id, values, text = named) {
  const select = at(id);
  select.replaceChildren(...values.map(v => new Option(text(v), v)));
  if (!values.includes(state[id])) state[id] = values[0] || "";
  select.value = state[id];
}
function fill() {
  options("component", Object.keys(PARTS).filter(name => D.rows[name].length), v => PARTS[v].many);
  options("cell", Object.keys(D.cells));
  const by = cell()[state.component];
  options("task", Object.keys(by).sort((a, b) => (b === "aggregate") - (a === "aggregate")));
  options("criterion", Object.keys(by[state.task]), v => v === "own" ? "own (the study's)" : named(v));
  options("outcome", Object.keys(D.outcomes), v => D.outcomes[v].title);
  options("score", Object.keys(D.induction));
  at("scatter-section").hidden = !isHeads() || !state.score;
  at("score").parentElement.hidden = at("scatter-section").hidden;
  const total = rows().length * columns();
  state.percent = Math.max(0, Math.min(100, Math.round(Number(state.percent) || 0)));
  state.chosen = Math.max(0, Math.min(total - 1, Math.round(Number(state.chosen) || 0)));
  at("percent").value = state.percent;
  document.documentElement.dataset.theme = state.theme;
}
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function layout(x, y, more) {
  const axis = title => ({title: {text: title}, gridcolor: css("--line"), zeroline: false, automargin: true});
  // The bar of buttons lies above what is drawn.
  return {margin: {t: 34, r: 10, b: 40, l: 50}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: {color: css("--ink"), size: 12}, showlegend: false, hovermode: "closest",
    xaxis: {...axis(x), ...(more || {}).x}, yaxis: {...axis(y), ...(more || {}).y}};
}
const CONFIG = {displaylogo: false, responsive: true, showTips: false,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"]};
function text(i, rank) {
  const lines = [place(i), `${named(state.criterion)}: ${few(scores()[i])} ${unit()}`,
    `rank ${rank[i] + 1} of ${rank.length} (1: pruned first)`];
  if (isHeads()) {
    for (const name of Object.keys(D.induction)) lines.push(`${named(name)}: ${few(D.induction[name][i])}`);
    if (D.groups > 1) lines.push(`key-value group ${group(i)}`);
  }
  const shared = isHeads() && D.groups > 1 ? ": keys and values are pruned with the last head of a group" : "";
  if (parameters()) lines.push(`${parameters().toLocaleString("en")} parameters on average${shared}`);
  return lines;
}
function draw() {
  fill();
  const values = scores(), sorted = order(values), rank = [], n = values.length;
  sorted.forEach((i, r) => { rank[i] = r; });
  const gone = Math.floor(state.percent * n / 100);
  const isGone = i => rank[i] < gone;
  const grid = keep => Array.from({length: rows().length}, (_, l) => Array.from({length: columns()}, (_, h) =>
    keep(l * columns() + h) ? values[l * columns() + h] : null));
  const texts = Array.from({length: rows().length}, (_, l) => Array.from({length: columns()}, (_, h) =>
    text(l * columns() + h, rank).join("<br>")));
  const numbers = k => Array.from({length: k}, (_, i) => i + 1);
  const map = {type: "heatmap", x: numbers(columns()), y: rows(), text: texts, hoverinfo: "text",
    xgap: 1, ygap: 1};
  const known = values.filter(x => x !== null);
  const mark = {x: [state.chosen % columns() + 1], y: [rows()[Math.floor(state.chosen / columns())]], mode: "markers",
    hoverinfo: "skip", marker: {symbol: "square-open", size: 16, color: css("--mark"), line: {width: 3}}};
  Plotly.react("map", [
    {...map, z: grid(i => !isGone(i)), colorscale: "Viridis", zmin: Math.min(...known), zmax: Math.max(...known),
      colorbar: {title: {text: unit(), side: "right"}, thickness: 12}},
    {...map, z: grid(isGone), showscale: false, colorscale: [[0, "#8a8a8a"], [1, "#8a8a8a"]], opacity: 0.45},
    mark], layout(part().one || "", "layer", {x: part().one ? {} : {showticklabels: false},
      y: rows().length > 12 ? {} : {dtick: 1}}), CONFIG);
  drawCurve();
  if (!at("scatter-section").hidden) drawScatter(values, rank, isGone);
  table(values, sorted, rank);
  const attending = D.rows.heads.length;
  at("shape").textContent = (attending < D.layers ?
    `${D.layers} layers, ${attending} of them with ${D.heads} heads` : `${D.layers} layers of ${D.heads} heads`) +
    (D.groups > 1 ? `, in ${D.groups} groups that share keys and values` : "") + 
    `, and an FFN each${D.experts ? `, ${D.rows.experts.length} of them with ${D.experts} experts` : ""}.`;
  at("title").textContent = `${D.model}: ${D.experts ? "heads, FFNs and experts" : "heads and FFNs"}`;
  at("map-title").textContent = `Score of ${part().many}: ${named(state.criterion)}, ${state.task}`;
  at("pruned").textContent = `${gone} of ${n} ${part().many} pruned (${state.percent}%).`;
  at("chosen").textContent = text(state.chosen, rank).join("; ") + (isGone(state.chosen) ? "; pruned" : "");
  history.replaceState(null, "", "#" + new URLSearchParams(KEYS.map(k => [k, state[k]])));
  document.body.dataset.ready = "yes";
}
function drawCurve() {
  const c = curve(), spec = D.outcomes[state.outcome];
  const label = `${spec.title} (${spec.unit})`;
  at("note").textContent = note();
  if (!c) {
    at("value").textContent = "";
    Plotly.react("curve", [], layout("pruned (%)", label), CONFIG);
    return;
  }
  // Between measured levels nothing is known: the point stands at the last level that was measured.
  let k = 0;
  c.percent.forEach((p, i) => { if (p <= state.percent) k = i; });
  const show = x => fixed(x, spec.decimals);
  at("value").textContent = `At ${c.percent[k]}%: ${spec.title} ${show(c.value[k])} ${spec.unit} ` +
    `(95% interval ${show(c.low[k])} to ${show(c.high[k])}).`;
  const hover = c.percent.map((p, i) => `${p}%: ${show(c.value[i])} (${show(c.low[i])} to ${show(c.high[i])})`);
  Plotly.react("curve", [
    {x: [...c.percent, ...[...c.percent].reverse()], y: [...c.high, ...[...c.low].reverse()], fill: "toself",
      mode: "lines", line: {width: 0}, fillcolor: "rgba(76,139,245,.2)", hoverinfo: "skip"},
    {x: c.percent, y: c.value, mode: "lines+markers", line: {color: "#4c8bf5"}, text: hover, hoverinfo: "text"},
    {x: [c.percent[k]], y: [c.value[k]], mode: "markers", hoverinfo: "skip",
      error_y: {type: "data", symmetric: false, array: [c.high[k] - c.value[k]], arrayminus: [c.value[k] - c.low[k]],
        color: css("--mark")},
      marker: {size: 13, color: css("--mark")}}],
    layout("pruned (%)", label, {x: {range: [-2, 102]}}), CONFIG);
}
function drawScatter(values, rank, isGone) {
  const other = D.induction[state.score], name = named(state.score), isNew = !at("scatter").on;
  at("scatter-title").textContent = `${named(state.criterion)} against ${name}`;
  Plotly.react("scatter", [
    {x: values, y: other, mode: "markers", text: values.map((_, i) => text(i, rank).join("<br>")), hoverinfo: "text",
      marker: {size: 7, color: values.map((_, i) => isGone(i) ? "rgba(138,138,138,.45)" : "#4c8bf5")}},
    {x: [values[state.chosen]], y: [other[state.chosen]], mode: "markers", hoverinfo: "skip",
      marker: {size: 15, symbol: "circle-open", color: css("--mark"), line: {width: 3}}}],
    layout(`${named(state.criterion)} (${unit()})`, name), CONFIG);
  if (isNew) at("scatter").on("plotly_click", event => {
    if (event.points[0].curveNumber === 0) choose(event.points[0].pointNumber);
  });
}
function choose(i) {
  state.chosen = i;
  draw();
}
function table(values, sorted, rank) {
  const head = ["rank", "layer", ...(part().one ? [part().one] : []), "score",
    ...(isHeads() ? Object.keys(D.induction).map(named) : []), "show"];
  at("columns").replaceChildren(...head.map(name => {
    const th = document.createElement("th"); th.scope = "col"; th.textContent = name; return th;
  }));
  at("top").replaceChildren(...[...sorted].reverse().slice(0, 20).map(i => {
    const row = document.createElement("tr");
    if (i === state.chosen) row.setAttribute("aria-current", "true");
    const head = part().one ? [i % columns() + 1] : [];
    const cells = [rank[i] + 1, rows()[Math.floor(i / columns())], ...head, few(values[i]),
      ...(isHeads() ? Object.values(D.induction).map(v => few(v[i])) : [])];
    for (const value of cells) row.insertCell().textContent = value;
    const button = document.createElement("button");
    button.type = "button"; button.textContent = "mark"; button.setAttribute("aria-label", `Mark ${place(i)}`);
    button.onclick = () => choose(i);
    row.insertCell().append(button);
    return row;
  }));
}
function start() {
  const read = () => new URLSearchParams(location.hash.slice(1)).forEach((value, key) => {
    if (KEYS.includes(key)) state[key] = value;
  });
  state.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  state.percent = 30;
  read();
  for (const id of ["component", "cell", "task", "criterion", "outcome", "score"])
    at(id).onchange = event => { state[id] = event.target.value; draw(); };
  at("percent").oninput = event => { state.percent = event.target.value; draw(); };
  at("theme").onclick = () => { state.theme = state.theme === "dark" ? "light" : "dark"; draw(); };
  at("choices").onsubmit = event => event.preventDefault();
  addEventListener("hashchange", () => { read(); draw(); });
  at("map").onkeydown = event => {
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: columns(), ArrowDown: -columns()}[event.key];
    const next = Number(state.chosen) + (step || 0);
    if (!step || next < 0 || next >= rows().length * columns()) return;
    event.preventDefault();
    choose(next);
  };
  draw();
  at("map").on("plotly_click", event => choose(rows().indexOf(event.points[0].y) * columns() + event.points[0].x - 1));
}
show(start);
</script>
</body>
</html>
"""
