"""docs/rules.md defines the rules that code, tests and pages cite, each once and in order."""

import re
from pathlib import Path

import pytest

from nfqlb.offline.rule_titles import RULES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "rules.md"
DEFINED = re.findall(r"^\*\*(P\d+)\.\*\* ", PAGE.read_text(), re.MULTILINE)

CITING = sorted(
    file
    for folder in ("nfqlb", "tests", "tools", "docs", "pcaps", "iptables", ".")
    for file in ((ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*"))
    if file.suffix in (".py", ".pyx", ".pxi", ".pxd", ".pyi", ".md", ".toml", ".c", ".cfg", ".v4", ".v6")
    and not any(part.startswith(".") for part in file.relative_to(ROOT).parts)
)
"""All text of ours in which a rule may be named."""

# A citation is P and a number, or a range of them: P16–P26. What stands within another word (MP3) is none.
_CITED = re.compile(r"(?<![A-Za-z0-9_-])P(\d{1,2})(?![A-Za-z0-9])")


def test_each_rule_is_defined_once_and_in_order() -> None:
    assert list(RULES) == DEFINED


def test_every_rule_that_is_cited_is_defined() -> None:
    cited = {f"P{number}": file for file in CITING for number in _CITED.findall(file.read_text(errors="replace"))}
    assert len(cited) == len(DEFINED)
    assert {rule: file for rule, file in cited.items() if rule not in DEFINED} == {}


def test_every_rule_has_a_test_that_bears_its_number() -> None:
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    tested = {
        rule for name in re.findall(r"^ *def (test_\w+)", tests, re.MULTILINE) for rule in re.findall(r"P\d+", name)
    }
    assert set(DEFINED) - tested == set()


@pytest.mark.parametrize("text", ["P{} says", "({})", "P1–P{}", "see P{}, P2"])
def test_a_citation_is_found_wherever_it_stands(text: str) -> None:
    assert "40" in _CITED.findall(text.replace("({})", "(P{})").format(40))


def test_a_rule_that_the_code_does_not_follow_yet_says_what_happens_today() -> None:
    """A line that begins with `Today:` belongs to the rule above it, and says something."""
    paragraphs = PAGE.read_text().split("\n\n")
    behind = [paragraph for paragraph in paragraphs if "\nToday:" in paragraph]
    assert behind
    assert all(re.match(r"\*\*P\d+\.\*\* ", paragraph) for paragraph in behind)
    assert all(len(paragraph.partition("\nToday: ")[2]) > 10 for paragraph in behind)
