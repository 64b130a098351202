"""A report's page as a browser would see it."""

from html.parser import HTMLParser

from tinysweep.report.page import draw, find, render
from tinysweep.results.view import StudyView


class Reader(HTMLParser):
    """Of HTML whose every tag is closed: the text without scripts, the tags, and the addresses that it names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.text, self.tags = html, list[str](), list[str]()
        self.addresses, self.open = list[str](), list[str]()
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "link", "img", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def whole_page(view: StudyView) -> str:
    found = find(view)
    return render(view, found, draw(view, found))


def main_part(page: str) -> Reader:
    """What a page says, without the scripts that it brings along."""
    return Reader(page.partition("<main>")[2].partition("</main>")[0])


def read_page(view: StudyView) -> Reader:
    return main_part(whole_page(view))
