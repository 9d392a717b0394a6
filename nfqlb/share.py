"""What nfqlb brings for a `share` directory, made from the code: manual pages, completions, the schema of the
configuration.

setup.py has it written when nfqlb is built, so that it is installed with it: after `pip install` into /opt/nfqlb it
lies in /opt/nfqlb/share. `python -m nfqlb.share DIR` writes it anywhere.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from nfqlb.cli import completion, main
from nfqlb.config.reference.json_schema import schema
from nfqlb.manual import commands, configuration


def files() -> Iterator[tuple[str, str]]:
    """Each with its place below `share`, and its text."""
    for page in (*commands.pages(main), configuration.page()):
        yield f"man/{page.place}", page.text
    for shell, place in completion.PLACES.items():
        yield place, completion.script(shell)
    yield "nfqlb/nfqlb.schema.json", json.dumps(schema(), ensure_ascii=False, indent=2) + "\n"


def write(directory: Path) -> None:
    """All of them. Raises OSError."""
    for place, text in files():
        path = directory / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m nfqlb.share DIR")
    write(Path(sys.argv[1]))
