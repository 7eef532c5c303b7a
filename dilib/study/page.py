"""The report as one page for the browser: it works offline, runs no scripts, and holds its pictures itself.

What results from elsewhere may bring, HTML and other places, is shown as text.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import latex2mathml.converter
import pandas as pd
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from dilib.artifacts import read_json
from dilib.study import claims, overview
from dilib.study.criteria import CLAIMS
from dilib.study.overview import Results
from dilib.study.tables import NOT_RUN, in_markdown

WIDTH = 1400  # pixels, of a picture at most
VERDICTS = {claims.HOLDS: "holds", claims.IN_PART: "part", claims.FAILS: "fails", claims.UNTESTABLE: "open"}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif; color: #222 }}
nav {{ background: #f4f4f4; padding: 0.5rem 1rem; border-radius: 0.5rem }}
nav a {{ display: inline-block; margin: 0.3rem 1rem 0.3rem 0 }}
h1, h2, h3 {{ line-height: 1.2; margin-top: 2rem }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; font-size: 14px }}
th, td {{ padding: 0.3rem 0.6rem; border-bottom: 1px solid #ccc; text-align: left }}
img {{ max-width: 100%; height: auto }}
pre {{ overflow-x: auto; background: #f4f4f4; padding: 0.5rem; font-size: 13px }}
details {{ border-top: 1px solid #ccc; padding: 0.4rem 0 }}
summary {{ cursor: pointer; overflow-wrap: anywhere }}
.study > summary {{ font-size: 1.3rem; font-weight: bold }}
.verdict {{ display: inline-block; padding: 0 0.5rem; border-radius: 0.7rem; white-space: nowrap; color: #111 }}
.holds {{ background: #9fd8c4 }}
.part {{ background: #f4dc91 }}
.fails {{ background: #f2b39b }}
.open {{ background: #ddd }}
.anchor-link {{ display: none }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


class _AsText(IPythonRenderer):
    """nbconvert's Markdown, but that HTML and other places are shown as text, and formulas need no script."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to a file of the project; of any other no more than its words."""
        return super().link(text, url, title) if _is_here(url) else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture of the project; of any other no more than its words."""
        return super().image(text, url, title) if _is_here(url) else text

    def block_math(self, text: str) -> str:
        """A formula on a line of its own."""
        return _formula(text, "block")

    def inline_math(self, text: str) -> str:
        """A formula in a line."""
        return _formula(text, "inline")


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return not parts.scheme and not parts.netloc


def _formula(text: str, display: str) -> str:
    try:
        return latex2mathml.converter.convert(text, display=display)
    except Exception:  # of a formula that it can't read, its source
        return f"<code>{html.escape(text)}</code>"


def as_html(markdown: str, folder: Path) -> str:
    """Markdown as HTML, with the pictures that it names, in files from `folder` on, inside."""
    rendered = MarkdownWithMath(renderer=_AsText(escape=True)).render(markdown)
    return re.sub(r'src="([^"]+)"', lambda found: f'src="{_picture(folder / html.unescape(found[1]))}"', rendered)


def _picture(path: Path) -> str:
    return _embedded(path.read_bytes()) if path.is_file() else ""


def _embedded(content: bytes) -> str:
    """A picture as an address that holds it, small enough for a phone's network."""
    picture, encoded = Image.open(io.BytesIO(content)).convert("RGB"), io.BytesIO()
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    picture.save(encoded, "webp", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def report_page(found: Sequence[Results], step_times: pd.DataFrame, differences: str, folder: Path) -> str:
    """All studies, one at a time, after the verdicts on every claim; `folder` is that of all results."""

    def text(markdown: str) -> str:
        return as_html(markdown, folder)

    sections = {
        "Claims": _coloured(text(overview.summary(found))) + _evidence(found, folder),
        "Studies": "\n".join(_study(each, folder) for each in found),
        "Every experiment": text(_body(overview.experiments_of(found))),
        "A step's time": text(_body(overview.speed_of(step_times))),
        "What differs from the paper": text(differences),
        "How it was made": text(_body(overview.provenance_of(found))),
    }
    sections = {name: content for name, content in sections.items() if content.strip()}
    contents = "".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in sections)
    parts = [
        f'<section id="{_anchor(name)}"><h2>{name}</h2>\n{content}</section>' for name, content in sections.items()
    ]
    intro = "Every table, figure and claim of the paper, with ours beside it, written from the results alone."
    body = "\n".join(["<h1>Dreaming to Distill, replicated</h1>", f"<p>{intro}</p>", f"<nav>{contents}</nav>", *parts])
    return PAGE.format(title="Dreaming to Distill, replicated", body=body)


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z]+", "-", name.lower()).strip("-")


def _body(markdown: str) -> str:
    """A section without its heading."""
    return markdown.partition("\n")[2] if markdown.startswith("## ") else markdown


def _badge(verdict: str) -> str:
    return f'<span class="verdict {VERDICTS[verdict]}">{verdict}</span>' if verdict in VERDICTS else verdict


def _coloured(rendered: str) -> str:
    """A table with each verdict in its colour."""
    words = "|".join(map(re.escape, VERDICTS))
    return re.sub(rf">({words})</td>", lambda found: f">{_badge(found[1])}</td>", rendered)


def _evidence(found: Sequence[Results], folder: Path) -> str:
    """What each verdict rests on, folded away."""
    verdicts = {each.name: claims.read(each.folder) for each in found}
    parts = ["<h3>Evidence</h3>"]
    for number, claim in CLAIMS.items():
        rows = {name: table.loc[number] for name, table in verdicts.items()}
        rows = {name: row for name, row in rows.items() if row.verdict != NOT_RUN}
        held = as_html(f"Held to: {'; '.join(map(str, claim.criteria.values()))}.", folder)
        said = [
            f"<p><b>{html.escape(name)}</b> {_badge(row.verdict)}</p>" + as_html(in_markdown(row.evidence), folder)
            for name, row in rows.items()
        ]
        badges = " ".join(_badge(row.verdict) for row in rows.values()) or "not run"
        title = f"{number}. {html.escape(claim.statement)} {badges}"
        parts.append(f"<details><summary>{title}</summary>{held}{''.join(said)}</details>")
    return "\n".join(parts)


def _study(each: Results, folder: Path) -> str:
    """A study's conclusions, notebooks, tables, figures and choices; opening it closes the others."""
    executed = sorted((each.folder / "notebooks").glob("*.ipynb"))
    links = ", ".join(f"[{path.stem}]({each.place}/notebooks/{path.stem}.html)" for path in executed)
    parts = [
        _body(overview.conclusions([each]).partition("\n")[2]),
        f"Its notebooks, as executed: {links}" if links else "",
        overview.tables_of([each]),
        overview.figures_of([each]),
        overview.choices_of([each]),
    ]
    rendered = as_html("\n\n".join(filter(None, parts)), folder)
    return f'<details class="study" name="study"><summary>{html.escape(each.name)}</summary>{rendered}</details>'


def notebook_page(path: Path) -> str:
    """An executed notebook as a page, its code folded away."""
    parts = []
    for cell in read_json(path).get("cells", []):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(as_html(source, path.parent).replace('.ipynb"', '.html"'))
            continue
        parts.append(f"<details><summary>code</summary><pre>{html.escape(source)}</pre></details>")
        parts += [_output(output, path.parent) for output in cell.get("outputs", [])]
    return PAGE.format(title=html.escape(path.stem), body="\n".join(parts))


def _output(output: dict, folder: Path) -> str:
    """What a cell showed: a picture, a table, a text."""
    data = {kind: "".join(value) for kind, value in output.get("data", {}).items() if isinstance(value, str | list)}
    if "image/png" in data:
        return f'<img alt="" src="{_embedded(base64.b64decode(data["image/png"]))}">'
    if "text/html" in data and (tables := re.findall(r"<table.*?</table>", data["text/html"], re.DOTALL)):
        return "\n".join(map(_plain_table, tables))
    if "text/markdown" in data:
        return as_html(data["text/markdown"], folder)
    text = data.get("text/plain", "".join(output.get("text", [])))
    return f"<pre>{html.escape(text)}</pre>" if text.strip() else ""


def _plain_table(table: str) -> str:
    """A table of pandas' with nothing in it but cells and their text."""
    parts = []
    for part in re.split(r"(<[^>]*>)", table):
        if found := re.match(r"<(/?(?:table|thead|tbody|tr|th|td))\b", part):
            parts.append(f"<{found[1]}>")
        elif not part.startswith("<"):
            parts.append(html.escape(html.unescape(part)))
    return "".join(parts)
