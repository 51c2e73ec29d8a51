"""The page's HTML: its frame, its style sheet, tables. Everything that comes from data goes through `text`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from d2v_fast.log import escaped

GENERATOR = "d2v-fast report"
"""What a page names as its generator: so that a page is known again, and nothing else is ever replaced."""

_LONGEST = 400
"""Characters of one value; the rest is left out."""

_WHOLE = 24
"""Characters of a value in a table that stand on one line."""

_LIGHT = ("#0072b2", "#c24e00", "#00805a", "#b0478a", "#8a6a00", "#2a86ad", "#444444", "#8c510a")
_DARK = ("#5ab4f0", "#ff8f4d", "#3ccb9b", "#ee9ac6", "#f2c14e", "#a5dcf7", "#dddddd", "#cf9b66")


def text(value: Any) -> str:
    """`value` as text of HTML: markup is escaped, and what cannot be printed stands as an escape."""
    words = escaped(str(value))
    return escape(words if len(words) <= _LONGEST else words[:_LONGEST] + "…")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str) -> str:
    """A table that scrolls sideways by itself where it is too wide, also with the keyboard.

    Args:
        head: Titles of the columns.
        rows: The first value of each is its title.
        caption: Above it.
    """
    titles = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "".join(f'<tr><th scope="row">{text(row[0])}</th>' + "".join(map(_cell, row[1:])) + "</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    whole = ' class="n"' if len(str(value)) <= _WHOLE else ""
    return f"<td{whole}>{text(value)}</td>"


def folded(title: str, content: str) -> str:
    """Content that is shown when its title is chosen."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def document(title: str, sections: Sequence[tuple[str, str, str]], *, note: str, refresh: float | None) -> str:
    """A whole page. It may load nothing and run nothing: its security policy says so as well.

    Args:
        title: Of the page.
        sections: (anchor, title, content) of each.
        note: Below the title.
        refresh: Seconds after which a browser reads the page again; None: never.
    """
    links = "".join(f'<a href="#{anchor}">{text(name)}</a>' for anchor, name, _ in sections)
    body = "".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{text(name)}</h2>{content}'
        "</section>"
        for anchor, name, content in sections
    )
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{max(1, round(refresh))}">'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="{GENERATOR}">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{again}<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>"
        '<a class="skip" href="#main">Skip to the content</a>'
        f'<header><h1>{text(title)}</h1><p>{text(note)}</p><nav aria-label="Sections">{links}</nav></header>'
        f'<main id="main">{body}</main></body></html>\n'
    )


def _colours(values: Sequence[str]) -> str:
    return ";".join(f"--s{i}:{value}" for i, value in enumerate(values))


STYLE = (
    """
:root{color-scheme:light dark;--ground:#f6f7f8;--card:#fff;--ink:#1d2126;--soft:#59616b;--line:#dcdfe3;--link:#005a9c;
--warn:#9a3b00;LIGHT}
@media (prefers-color-scheme:dark){:root{--ground:#14171a;--card:#1d2126;--ink:#e6e9ec;--soft:#a3abb4;--line:#363c43;
--link:#7cc0ff;--warn:#ffb074;DARK}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI","DejaVu Sans",sans-serif;
overflow-wrap:anywhere}
header,main{max-width:82rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:1.5rem}
h1{font-size:1.6rem;line-height:1.25;margin:0}
h2{font-size:1.2rem;margin:2.2rem 0 .7rem}
h3{font-size:1rem;margin:0 0 .3rem}
header p,.normal{color:var(--soft)}
header p{margin:.3rem 0 .8rem}
nav{display:flex;flex-wrap:wrap;gap:.4rem 1.1rem}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:3px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.3rem .6rem}
main{padding-bottom:3rem}
.grid2{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,27rem),1fr));gap:1rem}
.card,.wide,details{background:var(--card);border:1px solid var(--line);border-radius:8px}
.card{padding:.9rem 1rem;margin:0;min-width:0}
.card svg:not(.key){display:block;width:100%;height:auto}
.normal{font-size:.88rem;margin:.4rem 0 0}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;list-style:none;margin:0 0 .3rem;padding:0;font-size:.85rem}
.key{width:28px;height:10px;margin-right:.4rem}
.grid line{stroke:var(--line)}
.axis{stroke:var(--soft)}
.tick text,.name{fill:var(--soft);font-size:12px}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke:currentColor}
.dot{fill:currentColor}
.band{fill:var(--soft);fill-opacity:.22;stroke:var(--soft);stroke-opacity:.55;stroke-width:1}
.frame{fill:none;stroke:var(--line)}
.mark{fill:none;stroke:currentColor;stroke-width:5.5;stroke-linecap:round;stroke-opacity:.8}
.m1{stroke-linecap:square;stroke-width:4.5}
.m2{stroke-linecap:butt;stroke-width:1.8}
.rest{color:var(--soft);stroke-opacity:.5}
.maps{display:flex;flex-wrap:wrap;gap:.6rem;margin:.4rem 0 1rem}
figure{margin:0;max-width:100%}
figcaption{font-size:.82rem;color:var(--soft);max-width:22rem}
.pixels{image-rendering:pixelated}
.words{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.85rem;line-height:1.9;white-space:pre-wrap}
.words .t{padding:.1rem 0;border-radius:2px}
.words .here{outline:2px solid var(--ink)}
.scale{display:inline-block;width:7rem;height:.7rem;border-radius:2px;vertical-align:middle;margin:0 .4rem}
td.h{text-align:right;white-space:nowrap}
.wide{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums;overflow-wrap:break-word}
caption{text-align:left;font-weight:600;padding:.6rem .8rem .3rem;position:sticky;left:0}
th,td{text-align:left;padding:.3rem .8rem;border-top:1px solid var(--line);vertical-align:top;font-weight:400}
thead th{color:var(--soft);border-top:0}
td{max-width:34rem}
td.n{white-space:nowrap}
tbody th{max-width:22rem}
thead th{white-space:nowrap}
details{padding:.5rem .9rem;margin:.6rem 0}
summary{cursor:pointer}
details .wide{border:0}
ul.found{margin:.3rem 0;padding-left:1.2rem}
.warn{color:var(--warn);font-weight:600}
img{display:block;max-width:100%;height:auto;background:#fff;border-radius:4px}
@media (max-width:40rem){.tick text,.name{font-size:15px}}
@media print{nav,.skip{display:none}.card{break-inside:avoid}}
""".replace("LIGHT", _colours(_LIGHT)).replace("DARK", _colours(_DARK))
    + "".join(f".s{i}{{color:var(--s{i})}}" for i in range(len(_LIGHT)))
).replace("\n", "")
