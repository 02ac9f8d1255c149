"""What pages that a browser shows share: style, sortable tables, figures with downloads, and plotly's bundle."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from markdown_it import MarkdownIt
from plotly.offline import get_plotlyjs

from lm_headroom.artifacts.file_provenance import AGAIN
from lm_headroom.artifacts.store import ArtifactError, Source, place_of

_STYLE = r"""
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
@media print { .rows { max-height: none; } input { display: none; } figure { break-inside: avoid; } }"""
_TABLES_SCRIPT = r"""const number = text => text.trim() === "" ? NaN : Number(text);
function compare(a, b) {
  // Numbers by value, before texts.
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
    // Empty cells come last, whichever way.
    if (by >= 0) chosen = chosen.map((row, i) => [row, i]).sort((a, b) => (a[0][by] === "") - (b[0][by] === "") ||
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
}"""
_UNPACK = r"""async function unpack(id) {
  const bytes = Uint8Array.from(atob(at(id).textContent), c => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}
async function show(begin) {
  try {
    const script = document.createElement("script");
    script.textContent = await unpack("bundle");
    document.head.append(script);
    D = JSON.parse(await unpack("data"));
    begin();
  } catch (error) {
    at("note").textContent = `The page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`;
    throw error;
  }
}"""
"""Plotly and the page's data, unpacked before its own ``begin`` runs."""


def fill(page: str, texts: Mapping[str, str]) -> str:
    """A page with its marks replaced: those of the parts that pages share, then its own.

    Args:
        page: markup with marks such as ``@MODEL@``.
        texts: mark to the HTML that takes its place.
    """
    shared = {"@STYLE@": _STYLE, "@TABLES_SCRIPT@": _TABLES_SCRIPT, "@UNPACK@": _UNPACK}
    for mark, text in {**shared, **texts}.items():
        page = page.replace(mark, text)
    return page


def packed(content: bytes) -> str:
    """Bytes compressed, as text that a page may hold; equal bytes give equal text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def packed_plotly() -> str:
    """Plotly's bundle, compressed."""
    return packed(get_plotlyjs().encode())


class Files:
    """Files of a model's results, of which the page notes what it has read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read: dict[Path, Source] = {}

    def content(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            ArtifactError: it is missing.
        """
        path = self.folder / name
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file, which the page shows; {AGAIN}")
        content = path.read_bytes()
        pattern = "/".join(("{model}", *Path(name).parts))
        self.read[path] = Source(place_of(path, pattern), sha256(content).hexdigest())
        return content

    def embedded(self, name: str) -> str:
        """A picture as an address that holds it."""
        return f"data:image/png;base64,{base64.b64encode(self.content(name)).decode()}"


def figure(stem: str, name: str, source: str, caption: str) -> str:
    """A figure with its caption and links to its files, as HTML.

    Args:
        stem: path of its files without suffix.
        name: what the page calls it.
        source: address of the picture.
        caption: in Markdown.
    """
    stem, name = html.escape(stem), html.escape(name)
    downloads = " ".join(f'<a href="{stem}.{suffix}">{suffix.upper()}</a>' for suffix in ("pdf", "svg", "png"))
    image = f'<img src="{html.escape(source)}" alt="{name}">'
    text = MarkdownIt("commonmark", {"html": False}).render(caption)
    return f"<figure>{image}<figcaption><b>{name}</b> {downloads} {text}</figcaption></figure>\n"


def table(stem: str, name: str, rows: Sequence[Sequence[str]], links: str = "") -> str:
    """A table as its rows in JSON, from which the page makes what it shows.

    Args:
        stem: path of its file without suffix.
        name: what the page calls it.
        rows: cells as text; the first row has the columns' names.
        links: HTML before the search field.
    """
    numbers = json.dumps(rows, separators=(",", ":")).replace("<", "\\u003c")
    name, stem = html.escape(name), html.escape(stem)
    return (
        f'<details class="table" id="{stem.replace("/", "-")}"><summary>{name} ({len(rows) - 1} rows)</summary>'
        f"<p>{links} <label>Rows that contain <input type=search></label> <output></output></p>"
        f'<div class="rows" tabindex="0" role="region" aria-label="{name}"><table></table></div>'
        f'<script type="application/json">{numbers}</script></details>\n'
    )
