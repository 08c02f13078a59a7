"""Reports as one HTML page that needs nothing else: frame, style, and drawings by matplotlib (extra `bench`)."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterable
from typing import Any

from edge.errors import EdgeError

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } img { max-width: 100%; display: block }
table { border-collapse: collapse; font-size: 13px } td, th { padding: 2px 12px 2px 0; text-align: right }
td:first-child, th:first-child { text-align: left; font-family: ui-monospace, monospace }
tr:nth-child(even) { background: #f3f5f8 }
.good { color: #126b3a } .bad { color: #a4262c } .note { color: #5b6675; font-size: 13px }
"""
_WIDTH, _HEIGHT = 8.0, 3.4  # inches
_DRAWING_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.ymargin": 0.1,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "edge",  # the same result, the same file
}


def whole_page(title: str, body: Iterable[str], style: str = "") -> str:
    """The page of pieces of HTML; `title` is text, `style` is added to the house's."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}{style}</style><body>{''.join(body)}</body></html>\n"
    )


def drawing(draw: Callable[[Any], bool]) -> str | None:
    """A drawing as an image inside the page, or None where there is nothing to draw.

    :param draw: gets an empty figure of matplotlib and returns whether there was anything to draw.
    :raises EdgeError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EdgeError(
            f"drawing needs matplotlib, which is not installed ({error}): pip install 'edge-slm[bench]'"
        ) from error
    with matplotlib.rc_context(_DRAWING_STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        if not draw(figure):
            return None
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return f'<img alt="" src="data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}">'


def escape(text: str) -> str:
    """Text for HTML."""
    return html.escape(text)
