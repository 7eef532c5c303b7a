"""Write one report over every study there is, from the results alone: `make report`."""

import argparse
import sys
from pathlib import Path
from urllib.parse import urlsplit

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from dilib.artifacts import write_atomically
from dilib.experiments import step_times
from dilib.study import setting_table
from dilib.study.overview import overview, studies, summaries

SETTINGS = "docs/settings.md"  # beside the README
DIFFERENCES = "## What differs from the paper"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'">
<title>Dreaming to Distill, replicated</title>
<style>
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; font-size: 14px }}
th, td {{ padding: 0.3rem 0.6rem; border-bottom: 1px solid #ccc }}
img {{ max-width: 100% }}
.anchor-link {{ display: none }}
</style>
</head>
<body>
{}
</body>
</html>
"""


def main(arguments: list[str] | None = None) -> int:
    """REPORT.md and .html, the README's summaries and docs/settings.md; 0 on success, 2 where results are damaged."""
    parser = argparse.ArgumentParser(prog="python -m dilib.commands.report", description=__doc__)
    parser.add_argument("--results", default="results", help="folder of all results")
    parser.add_argument(
        "--readme",
        help="a README whose summaries are renewed, with docs/settings.md beside it, and whose differences are quoted",
    )
    options = parser.parse_args(arguments)
    results, readme = Path(options.results), Path(options.readme) if options.readme else None
    try:
        _write(results, readme)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"The report is {results / 'REPORT.md'}, and as a page {results / 'REPORT.html'}")
    return 0


def _write(results: Path, readme: Path | None) -> None:
    found = studies(results)
    if not found:
        raise ValueError(f"no results in {results}; run `make reproduce` first")
    before = readme.read_text("utf-8") if readme else ""
    text = overview(found, step_times.measured(results), _section(before, DIFFERENCES))
    write_atomically(results / "REPORT.md", text.encode())
    write_atomically(results / "REPORT.html", _as_page(text).encode())
    if readme:
        write_atomically(readme, _renewed(before, summaries(found)).encode())
        write_atomically(readme.parent / SETTINGS, setting_table.as_markdown().encode())


def marks(name: str) -> tuple[str, str]:
    """What stands around a summary in the README."""
    return f"<!-- {name}: written by `make report` -->", f"<!-- end of {name} -->"


def _section(markdown: str, heading: str) -> str:
    """The text under a heading, up to the next one of its kind."""
    _, _, after = markdown.partition(f"{heading}\n")
    return after.split("\n## ")[0].strip()


def _renewed(readme: str, texts: dict[str, str]) -> str:
    """The README with each text between its marks, where it has them."""
    for name, text in texts.items():
        begin, end = marks(name)
        if begin in readme and end in readme:
            before, _, rest = readme.partition(begin)
            readme = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return readme


class _AsText(IPythonRenderer):
    """nbconvert's Markdown, but that what results from elsewhere may bring, HTML and other places, is shown as text."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to a file of the project; of any other no more than its words."""
        return super().link(text, url, title) if _is_here(url) else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """A picture of the project; of any other no more than its words."""
        return super().image(text, url, title) if _is_here(url) else text


def _is_here(url: str) -> bool:
    parts = urlsplit(url)
    return not parts.scheme and not parts.netloc


def _as_page(markdown: str) -> str:
    """A page for the browser, whose pictures and links stay where they are, and which runs no scripts."""
    return PAGE.format(MarkdownWithMath(renderer=_AsText(escape=True)).render(markdown))


if __name__ == "__main__":
    sys.exit(main())
