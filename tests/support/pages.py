"""How tests read the pages of this project, and what must hold of each."""

import itertools
import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}
LOADING = {"src", "srcset", "poster", "data", "background", "action", "formaction"}


class Reader(HTMLParser):
    """Reads a page as a browser would, and notes what it is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.pictures: list[dict[str, str | None]] = []  # the attributes of each
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "svg" and tag not in self.open:
            self.pictures.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} ends where it did not begin"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def of(self, name: str) -> list[str]:
        return [value for _, found, value in self.attributes if found == name]


def check_loads_nothing(text: str) -> None:
    """Require that a page is whole in itself."""
    for tag, name, value in Reader(text).attributes:
        assert name not in LOADING, (tag, name, value)
        if name == "href" and tag != "a":  # links are for reading
            assert value.startswith(("#", "data:")), (tag, value)
        assert not re.search(r"url\((?!#)", value), (tag, name, value)
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text


def check_sound(text: str) -> None:
    """Require that a page is HTML that also those can read who do not see it."""
    reader = Reader(text)
    assert reader.open == []
    identifiers = reader.of("id")
    assert len(identifiers) == len(set(identifiers))
    inside = [value[1:] for value in reader.of("href") if value.startswith("#")]
    assert set(inside) <= set(identifiers)
    levels = [int(tag[1]) for tag in reader.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert reader.tags.count("caption") == reader.tags.count("table")
    assert all(tag == "th" for tag, name, _ in reader.attributes if name == "scope")
    assert reader.tags.count("th") == len(reader.of("scope"))
    assert ("html", "lang", "en") in reader.attributes
    assert "viewport" in reader.of("name")
    for picture in reader.pictures:
        named = picture.get("role") == "img" and picture.get("aria-label")
        assert named or picture.get("aria-hidden") == "true", picture
