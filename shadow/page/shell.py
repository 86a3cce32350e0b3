"""The frame of a page: head, style sheet, masthead and footer; and the parts all pages share."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from string import Template

from shadow.page.markup import NOTHING, Child, Markup, el, joined


def page(title: str, *sections: Markup) -> str:
    """Return a whole page that needs nothing but itself."""
    templates = files("shadow") / "templates"
    frame = Template((templates / "page.html").read_text(encoding="utf-8"))
    style = (templates / "page.css").read_text(encoding="utf-8")
    head = el("title", title)
    return frame.substitute(title=head.html, style=style, body=joined(sections).html)


def masthead(kind: str, name: str, facts: Sequence[str]) -> Markup:
    """Return the wordmark, what the page is, whose it is, and when."""
    mark = el(
        "svg",
        el("path", d="M2,4 C24,4 24,26 46,26", class_="mark old"),
        el("path", d="M2,26 C24,26 24,4 46,4", class_="mark new"),
        width=48,
        height=30,
        viewBox="0 0 48 30",
        class_="wordmark",
        aria_hidden="true",
    )
    shown = [el("span", fact) for fact in facts if fact]
    return el(
        "header",
        el("div", mark, el("span", "Crossfade", class_="brand"), class_="brandline"),
        el("p", kind, class_="kicker"),
        el("h1", name),
        el("p", *shown, class_="facts"),
    )


def verdict(good: bool | None, headline: str, *lines: Child) -> Markup:
    """Return the one sentence a hurried reader needs."""
    style = "unknown" if good is None else "good" if good else "bad"
    return el(
        "section",
        el("p", sign(good), el("strong", headline), class_="headline"),
        *(el("p", line) for line in lines if line != ""),
        class_=f"verdict {style}",
    )


def sign(good: bool | None) -> Markup:
    """Return a tick or a cross; the shape says it too, not the colour alone."""
    if good is None:
        return NOTHING
    path = "M3,9.5 L7,13.5 L15,4.5" if good else "M4,4 L14,14 M14,4 L4,14"
    return el(
        "svg",
        el("path", d=path),
        class_=f"sign {'good' if good else 'bad'}",
        width=18,
        height=18,
        viewBox="0 0 18 18",
        role="img",
        aria_label="passed" if good else "failed",
    )


def section(title: str, *children: Child, note: str = "") -> Markup:
    """Return a titled section with an optional sentence under its title."""
    return el(
        "section",
        el("h2", title),
        el("p", note, class_="note") if note else NOTHING,
        *children,
    )


def figure(value: str, label: str, *, state: str = "", note: str = "") -> Markup:
    """Return one large number with its name; `state` is "", "good" or "bad"."""
    tick = sign(state == "good") if state else NOTHING
    return el(
        "div",
        el("p", value, class_="value"),
        el("p", tick, label, class_="label"),
        el("p", note, class_="sub") if note else NOTHING,
        class_=f"figure {state}".strip(),
    )


def figures(*parts: Markup, style: str = "") -> Markup:
    """Return large numbers in a row."""
    return el("div", *parts, class_=f"figures {style}".strip())


def table(
    heads: Sequence[tuple[str, str]], lines: Sequence[Sequence[Child]], style: str = ""
) -> Markup:
    """Return a table; each head is (css class, text), "n" for numbers, "wide" hidden on phones."""
    head = el("tr", *(el("th", text, class_=name, scope="col") for name, text in heads))
    body = [
        el(
            "tr",
            *(el("td", cell, class_=name) for (name, _), cell in zip(heads, line, strict=True)),
        )
        for line in lines
    ]
    inner = el("table", el("thead", head), el("tbody", *body), class_=style)
    return el("div", inner, class_="scroll")


def footer(*lines: str) -> Markup:
    """Return the small print."""
    return el("footer", *(el("p", line) for line in lines if line))


def with_code(text: str) -> Markup:
    """Return text in which what stands between backticks is set as code."""
    parts = text.split("`")
    return joined(el("code", part) if index % 2 else part for index, part in enumerate(parts))
