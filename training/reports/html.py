"""A report as one HTML file that needs nothing else: the curves as embedded SVG, and the table."""

import base64
import io

from etils import epath
from matplotlib.figure import Figure

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; margin: 2em auto;
       max-width: 80em; padding: 0 1em; }
img { width: 100%; max-width: 76em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .3em .6em; border-bottom: 1px solid #ddd; text-align: right; }
td { white-space: nowrap; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; } /* run and optimizer */
ul { padding-left: 1.2em; color: #555; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p><img alt="Losses of the runs against tokens and against training time; the figures are in the
table below." src="data:image/svg+xml;base64,{{ image }}"></p>
<ul>
{% for note in notes %}<li>{{ note }}</li>
{% endfor %}</ul>
<div class="wide">
<table>
<thead><tr>{% for name in rows[0] %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}<tr>{% for cell in row.values() %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</div>
</body>
</html>
"""


def write_html(
    figure: Figure, rows: list[dict[str, str]], notes: list[str], path: epath.Path
) -> None:
    """Writes the curves, the notes under them, and the table, whose rows are column -> cell."""
    import jinja2

    svg = io.BytesIO()
    figure.savefig(svg, format="svg")
    image = base64.b64encode(svg.getvalue()).decode()
    title = f"{len(rows)} training run{'s' * (len(rows) > 1)}"
    page = jinja2.Template(_PAGE, autoescape=True)
    text = page.render(title=title, image=image, notes=notes, rows=rows)
    path.write_text(text, encoding="utf-8")
