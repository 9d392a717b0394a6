"""The reference of the configuration and its looks: the example, the JSON Schema, what `nfqlb config show` prints."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from test_config import GOOD, mutations, uncommented

from nfqlb.cli import main
from nfqlb.config.build import build, load
from nfqlb.config.parse import read_table
from nfqlb.config.problems import ConfigError, Problem
from nfqlb.config.reference import toml
from nfqlb.config.reference.effective import effective
from nfqlb.config.reference.example import WIDTH, example
from nfqlb.config.reference.json_schema import schema
from nfqlb.config.reference.reference import Key, Section, sections
from nfqlb.config.schema.tables import REPEATED, SINGLE, WITHIN

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "nfqlb.example.toml"
MODELS = SINGLE | REPEATED | WITHIN
KEYS = [(section, key) for section in sections() for key in section.keys]
VALIDATOR = Draft7Validator(schema())


def named(value: object) -> str:
    return f"{value.place}." if isinstance(value, Section) else value.name if isinstance(value, Key) else ""


def wrong(raw: object) -> list[str]:
    """What the schema says against a configuration."""
    return [error.json_path for error in VALIDATOR.iter_errors(raw)]


# -- the reference itself


def test_every_table_and_every_key_is_in_it() -> None:
    assert {section.place for section in sections()} == set(MODELS)
    for section in sections():
        assert [key.name for key in section.keys] == list(MODELS[section.place].model_fields)
        assert section.explained_as in MODELS


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.place)
def test_every_table_is_explained(section: Section) -> None:
    assert_stands_alone(section.text)


@pytest.mark.parametrize(("section", "key"), KEYS, ids=named)
def test_every_key_is_explained(section: Section, key: Key) -> None:
    """And what it is without being given: by its default, or in words where TOML cannot write that."""
    assert_stands_alone(key.text)
    says_itself = "Unless given, " in key.text
    assert (key.default in (None, []) and not key.required) == says_itself, section.place
    if key.default in (None, []) and key.name != "name":
        assert key.example is not None, "an example of it is missing"


def assert_stands_alone(text: str) -> None:
    assert text, "without a docstring"
    assert text[0].isupper()
    assert text.endswith(".")
    assert not text.startswith(("And ", "But ", "Likewise", "The same")), "leans on its neighbour"


# -- the example


def test_the_page_is_what_the_command_prints() -> None:
    assert EXAMPLE.read_text() == example(), "write it anew: nfqlb config example > docs/nfqlb.example.toml"
    result = CliRunner().invoke(main, ["config", "example"])
    assert (result.exit_code, result.output) == (0, example())


def test_explanations_fit_a_terminal() -> None:
    assert all(len(line) <= WIDTH for line in example().splitlines() if line.startswith("# "))


def test_what_the_example_comments_out_is_the_default() -> None:
    """Of each key that has one. The first table of each kind has them all."""
    plain, full = tomllib.loads(example()), tomllib.loads(uncommented())
    for section in sections():
        for key in section.keys:
            in_force = place_in(plain, section.place)
            if key.name not in in_force and key.default not in (None, []) and section.explained_as == section.place:
                assert place_in(full, section.place)[key.name] == key.default, (section.place, key.name)


def place_in(raw: dict[str, Any], place: str) -> dict[str, Any]:
    found: Any = raw
    for name in place.split("."):
        found = found.get(name, {})
        found = found[0] if isinstance(found, list) else found
    assert isinstance(found, dict)
    return found


# -- the schema


def test_the_command_prints_a_schema_that_explains_every_key() -> None:
    result = CliRunner().invoke(main, ["config", "schema"])
    assert result.exit_code == 0
    printed = json.loads(result.output)
    Draft7Validator.check_schema(printed)
    for section in sections():
        table = printed
        for name in section.place.split("."):
            table = table["properties"][name]
            assert table["description"] == section.text or name != section.place.rpartition(".")[2]
            table = table.get("items", table)
        for key in section.keys:
            value = table["properties"][key.name]
            assert value["description"] == key.text
            assert value.get("default") == key.default


@pytest.mark.parametrize(
    "path", [EXAMPLE, *sorted((ROOT / "pcaps").glob("*/*.toml"))], ids=lambda path: path.parent.name
)
def test_configurations_of_this_house_are_valid(path: Path) -> None:
    assert wrong(tomllib.loads(path.read_text())) == []
    assert wrong(effective(path)) == []


def test_the_example_is_valid_with_every_key_in_force() -> None:
    assert wrong(tomllib.loads(uncommented())) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("external =", "externl ="), "$.listener[0]"),
        (("[[route]]", "[[rout]]"), "$"),
        (('"203.0.113.5:5060"', '"203.0.113.5:sip"'), "$.listener[0].external"),
        (('name = "reg1"', "name = 1"), "$.pool[0].backend[0].name"),
        (('address = "192.168.1.11:5060"\n', ""), "$.pool[0].backend[0]"),
        (("[[listener]]", "[limits]\nenabled = 1\n[[listener]]"), "$.limits.enabled"),
        (("[[listener]]", '[rules]\nbackend = "nftables"\n[[listener]]'), "$.rules.backend"),
        (("[[listener]]", "[health]\naccept = [199]\n[[listener]]"), "$.health.accept[0]"),
        (("[workers]", '[workers]\nsocket_buffer = "8 MB"'), "$.workers.socket_buffer"),
    ],
)
def test_an_editor_sees_where_a_mistake_is(change: tuple[str, str], place: str) -> None:
    assert change[0] in GOOD
    assert place in wrong(tomllib.loads(GOOD.replace(*change)))


@pytest.mark.parametrize(
    ("section", "key"), [each for each in KEYS if {"minimum", "maximum"} & set(each[1].schema)], ids=named
)
def test_bounds_are_those_of_the_reader(section: Section, key: Key) -> None:
    others = {each.name: each.example or "x" for each in section.keys if each.required}
    within = Draft7Validator(dict(key.schema))
    for value in around(key):
        problems: list[Problem] = []
        read_table(MODELS[section.place], {**others, key.name: value}, section.place, problems)
        assert (not problems) == within.is_valid(value), value


def around(key: Key) -> Iterator[float]:
    low, high = key.schema["minimum"], key.schema["maximum"]
    step = 1 if key.schema.get("type") != "number" else 0.01
    yield from (low - step, low, high, high + step)


@pytest.mark.slow
@given(mutations())
def test_what_is_read_is_valid(raw: dict[str, object]) -> None:
    """The schema is never narrower than the reader: an editor marks nothing that `nfqlb check` would take."""
    try:
        build(Path("/etc/nfqlb/nfqlb.toml"), raw)
    except ConfigError:
        assume(False)
    assert wrong(raw) == []


# -- what takes effect


@pytest.mark.parametrize("text", [GOOD, example(), uncommented()], ids=["good", "example", "uncommented"])
def test_what_is_shown_is_a_configuration_that_amounts_to_the_same(text: str, tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "nfqlb.toml", Path("/etc/nfqlb/nfqlb.toml")
    path.write_text(text)
    result = CliRunner().invoke(main, ["config", "show", "-c", str(path)])
    assert result.exit_code == 0, result.output
    shown = tomllib.loads(result.output)
    assert build(path, shown) == load(path)
    # Wherever it is put: names of files do not depend on its place.
    assert build(elsewhere, shown).gateway == load(path).gateway
    as_json = CliRunner().invoke(main, ["config", "show", "-c", str(path), "--json"])
    assert json.loads(as_json.output) == shown
    assert wrong(shown) == []


def test_what_is_shown_has_every_default(tmp_path: Path) -> None:
    path = tmp_path / "nfqlb.toml"
    path.write_text(GOOD)
    shown = effective(path)
    for section, key in KEYS:
        if section.place in shown and key.default is not None:
            assert key.name in place_in(shown, section.place), (section.place, key.name)


def test_what_a_pool_says_of_health_is_filled_up_with_what_holds_for_all(tmp_path: Path) -> None:
    path = tmp_path / "nfqlb.toml"
    path.write_text(f"{GOOD}\n[health]\nrise = 7\n".replace("[[route]]", "[pool.health]\nfall = 9\n[[route]]", 1))
    health = effective(path)["pool"][-1]["health"]
    assert (health["rise"], health["fall"]) == (7, 9)


@pytest.mark.slow
@given(mutations())
def test_whatever_is_read_can_be_shown(tmp_path_factory: pytest.TempPathFactory, raw: dict[str, object]) -> None:
    path = tmp_path_factory.getbasetemp() / "shown.toml"
    try:
        config = build(path, raw)
        path.write_text(toml.document(raw))
    except (ConfigError, UnicodeEncodeError):
        assume(False)
    assert build(path, effective(path)) == config


def test_mistakes_are_told(tmp_path: Path) -> None:
    path = tmp_path / "nfqlb.toml"
    path.write_text(GOOD.replace("external", "externl"))
    result = CliRunner().invoke(main, ["config", "show", "-c", str(path)])
    assert result.exit_code == 1
    assert 'did you mean "external"?' in result.output


# -- TOML


plain = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False))
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), plain, max_size=4))
def test_settings_read_as_they_were(settings: dict[str, Any]) -> None:
    assert tomllib.loads(toml.document(settings)) == settings


def test_tables_within_tables_read_as_they_were() -> None:
    tables = {"a": {"x": 1, "b": {"y": [1, 2]}}, "c": [{"d": [{"z": "é\x7f"}], "e": {}}, {"f g": True}]}
    assert tomllib.loads(toml.document(tables)) == tables
