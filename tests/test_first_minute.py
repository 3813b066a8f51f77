"""What `make quickstart` and the container run exists, and is small."""

import json
import re
import shlex
from pathlib import Path

import pytest

from fcil.cli.arguments import output_folder
from fcil.cli.main import _parser
from fcil.config import load_variant

ROOT = Path(__file__).parents[1]


def of_make():
    recipe = (ROOT / "Makefile").read_text().partition("\nquickstart:")[2].partition("\n\n")[0]
    return shlex.split(re.search(r"^\t@\$\(BIN\)/fcil (.*)$", recipe, re.MULTILINE)[1]), recipe


def of_the_container():
    command = re.search(r"^CMD (.*)$", (ROOT / "docs" / "Containerfile").read_text(), re.MULTILINE)[1]
    return [word.removeprefix("/fcil/") for word in json.loads(command)[1:]]


def test_both_run_the_same_comparison_of_three_methods_on_data_and_weights_that_are_inside():
    assert of_the_container() == of_make()[0]
    args = _parser().parse_args(of_make()[0])
    configs = [load_variant(ROOT / args.config, name, args.set) for name in args.methods]
    assert [config.method.name for config in configs] == ["lorm", "fedavg", "ridge"]
    assert {(config.data.name, config.model.weights, config.train.rounds) for config in configs} == {
        ("digits", "embedded", 2)
    }


def test_the_words_below_the_table_name_the_plots_place_and_commands_that_exist():
    words, recipe = of_make()
    assert f"{output_folder(_parser().parse_args(words), after='-compare')}/accuracy.png" in recipe
    said = re.findall(r"echo \"[^\"]*\$\(BIN\)/fcil (.*)\"$", recipe, re.MULTILINE)
    assert len(said) == 3
    for command in said:
        args = _parser().parse_args(shlex.split(command))
        assert not hasattr(args, "config") or (ROOT / args.config).exists()


@pytest.mark.parametrize("file", ["pyproject.toml", "README.md", "LICENSE", "fcil", "strategies", "configs"])
def test_the_image_gets_all_that_the_wheel_is_made_of(file):
    copies = re.findall(r"^COPY (.*) \S+$", (ROOT / "docs" / "Containerfile").read_text(), re.MULTILINE)
    assert file in " ".join(copies).split()
