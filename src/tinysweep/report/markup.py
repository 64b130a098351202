"""HTML that is safe by construction: whatever isn't marked as HTML is text, and is escaped."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONG = 36  # letters of a cell; one that has more is broken into lines


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Number:
    """A number in a table: how it is shown, and what a column is sorted by; None is a gap."""

    shown: str
    value: float | None


def text(content: object) -> Html:
    """Anything as HTML."""
    return content if isinstance(content, Html) else Html(html.escape(str(content)))


def join(parts: Iterable[object]) -> Html:
    """Parts one after another, each on a line of its own."""
    return Html("\n".join(text(part) for part in parts))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element; an attribute `class_` is written class, `data_sort` data-sort, and one that is None left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{''.join(text(child) for child in children)}</{name}>")


def void(name: str, **attributes: object) -> Html:
    """An element without an end, such as img."""
    return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def table(
    header: Sequence[object], rows: Iterable[Sequence[object]], *, sortable: bool = False, label: str | None = None
) -> Html:
    """A table in a box that scrolls sideways where the page is too narrow for it; numbers stand to the right.
    `sortable`: a click on a column's head sorts by it; `label`: what the table is, for those who can't see it."""
    body = list(rows)
    numeric = {
        column for column in range(len(header)) if any(isinstance(row[column], Number) for row in body)
    }  # a gap in a column of numbers may be text
    heads = (
        tag("th", tag("button", head, type="button") if sortable else head, scope="col",
            class_="number" if column in numeric else None)
        for column, head in enumerate(header)
    )  # fmt: skip
    lines = join(tag("tr", *(_cell(cell) for cell in row)) for row in body)
    inner = tag(
        "table", tag("thead", tag("tr", *heads)), tag("tbody", lines), class_="sortable" if sortable else None
    )
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=label)


def _cell(cell: object) -> Html:
    if isinstance(cell, Number):
        return tag("td", cell.shown, class_="number", data_sort="" if cell.value is None else repr(cell.value))
    return tag("td", cell, class_="long" if not isinstance(cell, Html) and len(str(cell)) > LONG else None)


def breakable(name: str) -> Html:
    """A dotted name that may be broken after each dot."""
    return Html("<wbr>".join(text(part) for part in name.replace(".", ".\0").split("\0")))


def definitions(pairs: Iterable[tuple[object, object]]) -> Html:
    """Names and what they stand for."""
    return tag("dl", join(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs))
