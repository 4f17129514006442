"""A report as one HTML file that needs nothing else: the curves as embedded SVG, and the table."""

import base64
import html
import io

from etils import epath
from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 2em auto;
       max-width: 80em; padding: 0 1em; }
img { width: 100%; max-width: 76em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .3em .6em; border-bottom: 1px solid #ddd; text-align: right; }
td { white-space: nowrap; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
th.text, td.text { text-align: left; }
ul { padding-left: 1.2em; color: #555; }
"""
_TEXT_COLUMNS = ("run", "optimizer")


def write_html(
    figure: Figure, rows: list[dict[str, str]], notes: list[str], path: epath.Path
) -> None:
    """Writes the curves, the notes under them, and the table, whose rows are column -> cell."""
    image = io.BytesIO()
    figure.savefig(image, format="svg")
    source = base64.b64encode(image.getvalue()).decode()
    title = f"{len(rows)} training run{'s' * (len(rows) > 1)}"
    items = "\n".join(f"<li>{html.escape(note)}</li>" for note in notes)
    path.write_text(
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p><img alt="Losses of the runs against tokens and against training time; the figures are in the
table below." src="data:image/svg+xml;base64,{source}"></p>
<ul>
{items}
</ul>
<div class="wide">
{_table(rows)}
</div>
</body>
</html>
""",
        encoding="utf-8",
    )


def _table(rows: list[dict[str, str]]) -> str:
    header = "".join(_cell("th", name, name) for name in rows[0])
    lines = [
        "<tr>" + "".join(_cell("td", name, value) for name, value in row.items()) + "</tr>"
        for row in rows
    ]
    body = "\n".join(lines)
    return f"<table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _cell(tag: str, column: str, text: str) -> str:
    kind = ' class="text"' if column in _TEXT_COLUMNS else ""
    return f"<{tag}{kind}>{html.escape(text)}</{tag}>"
