"""Text as troff's man macros want it [man(7)].

Knows which characters mean something to troff, and the few macros that our pages need. In prose, what stands in
`backquotes` or is a call of nfqlb in 'quotes' becomes bold, as do options. Does not know what the pages say.
"""

import re
from collections.abc import Iterable, Iterator

WIDTH = 78
"""Bytes of a line of prose in the source."""

_ESCAPES = {"\\": "\\e", "-": "\\-", "'": "\\(aq", '"': "\\(dq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}

_BOLD = re.compile(r"`([^`]+)`|'(nfqlb [^']+)'|(?<![\w-])(--?[A-Za-z0-9][\w-]*)")
"""A piece in backquotes, a call in quotes, or an option."""

_GLUE = "\0"
"""Stands for a space where no line may end."""


def escaped(text: str) -> str:
    """As it stands: a hyphen can be copied into a shell, a quotation mark stays what it is."""
    return "".join(_ESCAPES.get(each, each if each.isascii() else f"\\[u{ord(each):04X}]") for each in text)


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{escaped(text)}\\fR"


def inline(text: str) -> str:
    """Prose, with what is bold in it."""
    found, at = [], 0
    for match in _BOLD.finditer(text):
        found += [escaped(text[at : match.start()]), bold(next(each for each in match.groups() if each))]
        at = match.end()
    return "".join([*found, escaped(text[at:])])


class Roff:
    """A page as it grows."""

    def __init__(self, name: str, section: int, *, date: str, source: str, manual: str) -> None:
        self._lines = [
            f'.TH {escaped(name.upper())} {section} {date} "{escaped(source)}" "{escaped(manual)}"',
            ".nh",  # names of commands and keys are not broken
            ".ad l",
        ]
        self._begun = False
        """Something stands below the last heading already."""

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def heading(self, title: str) -> None:
        self._lines.append(f'.SH "{escaped(title)}"')
        self._begun = False

    def subheading(self, title: str) -> None:
        self._lines.append(f'.SS "{escaped(title)}"')
        self._begun = False

    def pieces(self, words: Iterable[str]) -> None:
        """A paragraph of words that are troff already."""
        self._paragraph()
        self._lines += filled(words)

    def prose(self, text: str) -> None:
        self._paragraph()
        self._lines += _sentences(text)

    def verbatim(self, lines: Iterable[str]) -> None:
        """Lines as they are, indented."""
        self._paragraph()
        self._lines += [".RS 4", ".nf", *(_first(escaped(line)) for line in lines), ".fi", ".RE"]

    def tagged(self, tag: str, text: str) -> None:
        """`tag`, which is troff already, and below it what it means."""
        self._lines += [".TP", tag, *_sentences(text)]
        self._begun = True

    def _paragraph(self) -> None:
        if self._begun:
            self._lines.append(".PP")
        self._begun = True


def _sentences(text: str) -> Iterator[str]:
    """Each sentence begins a line, as troff likes it."""
    whole = _BOLD.sub(lambda match: match[0].replace(" ", _GLUE), " ".join(text.split()))
    for sentence in re.split(r"(?<=[.:!?])\s+(?=[A-Z])", whole):
        yield from filled(inline(word.replace(_GLUE, " ")) for word in sentence.split(" "))


def filled(words: Iterable[str]) -> Iterator[str]:
    """Pieces of troff in lines of at most WIDTH, where they fit."""
    line = ""
    for word in words:
        if line and len(line) + 1 + len(word) > WIDTH:
            yield _first(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield _first(line)


def _first(line: str) -> str:
    """A line that does not begin with a request."""
    return f"\\&{line}" if line.startswith((".", "'")) else line
