"""Files, bases, overrides: what wins, what is refused, and that nothing is lost on the way there and back."""

import tomllib

import pytest
import tomli_w

from fcil.config import Config, from_table, load_config, to_table, variant_names
from fcil.errors import ConfigError


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    return folder / f"{next(reversed(files))}.toml"


def test_defaults_are_a_whole_configuration():
    assert from_table([]) == Config()


def test_later_files_and_then_overrides_win_and_each_holds_only_differences(tmp_path):
    path = write(
        tmp_path,
        protocol="[train]\nepochs = 7\nlr = 0.5\n[partition]\nbeta = 0.1\nclients = 3",
        middle='base = "protocol.toml"\n[train]\nlr = 0.25',
        mine='base = "middle.toml"\n[partition]\nbeta = 0.2',
    )
    config = load_config(path, ["partition.clients=4", "data.name = digits", "tasks.sizes=[4, 6]", "train.lr=1"])
    assert (config.train.epochs, config.train.lr) == (7, 1.0)
    assert (config.partition.beta, config.partition.clients) == (0.2, 4)
    assert (config.data.name, config.tasks.sizes) == ("digits", (4, 6))
    assert load_config(path).train.lr == 0.25


def test_bases_are_relative_to_their_own_file(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, root="[train]\nepochs = 9")
    path = write(tmp_path / "sub", mine='base = "../root.toml"')
    assert load_config(path).train.epochs == 9


def test_a_value_may_be_text_that_is_not_toml_or_hold_an_equals_sign(tmp_path):
    path = write(tmp_path, a="")
    assert load_config(path, ["data.root=/tmp/a=b"]).data.root == "/tmp/a=b"
    assert load_config(path, ['data.root="7"']).data.root == "7"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[partition]\nbeta = 0.1\nbtea = 2", "a.toml: partition.btea: unknown setting. Did you mean 'beta'?"),
        ("[partitoin]\nbeta = 1", "a.toml: [partitoin]: unknown section. Did you mean 'partition'?"),
        ("[train]\nepochs = 1.5", "a.toml: train.epochs = 1.5: must be integer"),
        ('[train]\nlr = "fast"', "must be number"),
        ("[train]\nlr = -1", "must be greater than 0"),
        ("[train]\nlr = nan", "finite"),
        ('[partition]\nkind = "dirichle"', "Did you mean 'dirichlet'?"),
        ("train = 3", "a.toml: train = 3: must be a section"),
        ("base = 3", "base = 3: must be the path"),
        ('base = "nowhere.toml"', "nowhere.toml: no such file"),
        ("[train", "a.toml: "),
        ("[method]\nname = 3", "a.toml: method.name = 3: must be text"),
    ],
)
def test_mistakes_name_the_file_the_key_and_the_remedy(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, a=text))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_message_names_the_file_of_the_chain_that_holds_the_mistake(tmp_path):
    path = write(tmp_path, below="[train]\nepochs = 0", mine='base = "below.toml"\n[train]\nlr = 1')
    with pytest.raises(ConfigError, match=r"below.toml: train.epochs"):
        load_config(path)
    assert load_config(path, ["train.epochs=1"]).train.epochs == 1  # what is overridden is not a mistake any more
    with pytest.raises(ConfigError, match=r"--set: train.epochs = 0"):
        load_config(path, ["train.epochs=0"])


@pytest.mark.parametrize("loop", [{"a": 'base = "a.toml"'}, {"a": 'base = "b.toml"', "b": 'base = "a.toml"'}])
def test_loops_of_bases_are_refused(tmp_path, loop):
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_config(write(tmp_path, **loop))


def test_files_that_are_not_toml(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config(tmp_path / "binary.toml")


@pytest.mark.parametrize("text", ["beta=1", "partition.beta", ".beta=1", "partition.=1", "=", ""])
def test_overrides_without_section_key_and_value(tmp_path, text):
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        load_config(write(tmp_path, a=""), [text])


LORM = '[method]\nname = "lorm"\nrank = 4\nhead_gram_shrink = 0.3'


def test_another_method_drops_the_settings_of_the_one_below(tmp_path):
    path = write(tmp_path, below=LORM, mine='base = "below.toml"\n[method]\nname = "fedavg"')
    assert load_config(path).method.settings == {}
    assert load_config(path, ["method.rank=2"]).method.settings == {"rank": 2}
    again = load_config(path, ["method.name=lorm"])
    assert (again.method.name, again.method.settings) == ("lorm", {})


def test_the_same_method_keeps_them_whether_it_is_named_or_the_default(tmp_path):
    path = write(tmp_path, below=LORM, mine='base = "below.toml"\n[method]\nrank = 8')
    assert load_config(path).method.settings == {"rank": 8, "head_gram_shrink": 0.3}
    assert load_config(path, ["method.name=lorm"]).method.settings == {"rank": 8, "head_gram_shrink": 0.3}
    path = write(tmp_path, unnamed="[method]\nrank = 8")
    default = load_config(path).method.name
    assert load_config(path, [f"method.name={default}"]).method.settings == {"rank": 8}


def test_round_trip_through_toml(tmp_path):
    config = from_table([(
        "here",
        {"tasks": {"sizes": [2, 3]}, "train": {"lr": 1e-5}, "run": {"seed": 2**40, "evaluate_rounds": True},
         "method": {"name": "lorm", "rank": 3, "gram_b": "exact"}},
    )])  # fmt: skip
    table = tomllib.loads(tomli_w.dumps(to_table(config)))
    assert from_table([("resolved", table)]) == config
    assert to_table(from_table([("resolved", table)])) == table
    path = tmp_path / "resolved.toml"
    path.write_text(tomli_w.dumps(table))
    assert load_config(path) == config
    assert set(table["train"]) >= {"rounds", "epochs", "batch", "lr"}  # defaults are written out


def test_rows_of_a_comparison_replace_those_of_the_base(tmp_path):
    (tmp_path / "base.toml").write_text("[compare.lorm]\n[compare.fedavg]\n")
    (tmp_path / "same.toml").write_text('base = "base.toml"\n[train]\nlr = 0.5\n')
    (tmp_path / "own.toml").write_text('base = "base.toml"\n[compare.slow.method]\nname = "lorm"\n')
    assert variant_names(tmp_path / "same.toml") == ["lorm", "fedavg"]
    assert variant_names(tmp_path / "own.toml") == ["slow"]


def test_settings_that_another_method_leaves_out_are_named_with_what_holds_instead():
    from fcil.report.running import left_out_settings

    base = ("quick.toml", {"method": {"name": "lorm", "rank": 4, "gram_b": "exact"}})
    other = from_table([base, ("--set", {"method": {"name": "fedavg"}})])
    assert other.method.settings == {}
    note = left_out_settings(other)
    assert "method.rank = 4" in note
    assert "fedavg runs with 16" in note
    assert "--set method.rank=4" in note
    assert "gram_b" not in note, "fedavg has no such setting"
    same = from_table([base, ("--set", {"method": {"name": "fedavg", "rank": 8}})])
    assert left_out_settings(same) == ""
    assert left_out_settings(from_table([base])) == ""
