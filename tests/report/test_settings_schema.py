"""The JSON schema of configuration files: it admits what is read, and refuses what is refused."""

import json
import tomllib
from pathlib import Path

import pytest

from fcil.cli.main import main
from fcil.config import SECTIONS
from fcil.errors import ConfigError
from fcil.options import parse, typed
from fcil.registry import method_class, method_names
from fcil.report.settings_schema import settings_schema

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.toml"))
VALUES = [-1, 0, 1, 7, 0.5, 1.5, -0.5, True, "x", "auto", "", [], [1], [0.5], ["a"], {}, 10**6]


@pytest.fixture(scope="module")
def schema():
    validator = jsonschema.Draft7Validator(settings_schema())
    validator.check_schema(validator.schema)
    return validator


def test_every_shipped_configuration_fits(schema):
    assert len(CONFIGS) > 40
    for path in CONFIGS:
        assert not [error.message for error in schema.iter_errors(tomllib.loads(path.read_text()))], path.name


def read(kind, table):
    try:
        parse(kind, table, str)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("section", [*SECTIONS, "lorm", "ranpac", "compose"])
def test_what_is_read_fits(schema, section):
    kind = SECTIONS.get(section) or method_class(section)
    refused = 0
    for name, (_, default, _) in typed(kind).items():
        for value in [*VALUES, list(default) if isinstance(default, tuple) else default]:
            if value is None:
                continue
            table = {section: {name: value}} if section in SECTIONS else {"method": {"name": section, name: value}}
            fits = schema.is_valid(table)
            assert fits or not read(kind, {name: value}), (name, value)
            refused += not fits
    assert refused > 5 * len(typed(kind)), "most of these values fit no setting"


@pytest.mark.parametrize("text", [
    "[train]\nlrr = 1", "[train]\nlr = 0", "[train]\nrounds = 2.5", "[partition]\nkind = 'dirichlett'",
    "[trian]\nlr = 1",
    "[method]\nname = 'lrom'", "[method]\nname = 'lorm'\nmu = 1.0", "[compare.a.method]\nname = 'lorm'\nrank = 0",
    "[compare.a]\npublishd = 1", "base = 3", "[method]\nname = 'ridge'\nlayers = 'spread:0'",
])  # fmt: skip
def test_a_slip_does_not_fit(schema, text):
    assert not schema.is_valid(tomllib.loads(text))


@pytest.mark.parametrize("text", [
    "[method]\nname = 'mine.py:Mine'\nmu = 1.0", "[method]\nrank = 4",
    "[sweep]\n'partition.beta' = [0.5, 0.1]\nzip = true",
    "[compare.'lorm(rank=4)']", "base = 'other.toml'\n[compare.a]\nbase = 'b.toml'\npublished = 50",
])  # fmt: skip
def test_what_cannot_be_known_from_the_file_alone_fits(schema, text):
    assert schema.is_valid(tomllib.loads(text))


def test_the_command_prints_it_with_every_method(capsys):
    assert main(["settings", "--schema"]) == 0
    shown = json.loads(capsys.readouterr().out)
    rules = shown["definitions"]["method"]["allOf"]
    assert [rule["if"]["properties"]["name"]["const"] for rule in rules] == list(method_names())
    assert shown["definitions"]["train"]["properties"]["lr"]["exclusiveMinimum"] == 0
