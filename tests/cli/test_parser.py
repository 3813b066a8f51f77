"""Mistakes in what was typed: one message that names the command, the word, the nearest right one, and what to do."""

import pytest

from fcil.cli.main import main
from fcil.config import load_config
from fcil.engine.same_settings import doubled_rows
from fcil.report.rows import caption, compare_rows

RUN = ["run", "configs/quickstart.toml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a command, for example: fcil run configs/quickstart.toml. See: fcil --help"),
        (["rnu"], "rnu: no such command. Did you mean 'run'? See: fcil --help"),
        (["my.toml"], "my.toml: a command comes first; to run it: fcil run my.toml. See: fcil --help"),
        (["run"], "run: CONFIG is missing (a TOML file"),
        (["run", "--sett", "a"], "run: --sett: no such option. Did you mean '--set'? See: fcil run --help"),
        ([*RUN, "--train.lr", "1"], "run: --train.lr: no such option. It is a setting: --set train.lr=VALUE. See"),
        ([*RUN, "--beta=1"], "run: --beta: no such option. It is a setting: --set partition.beta=VALUE. See"),
        ([*RUN, "--qqq"], "run: --qqq: no such option. Settings are given as --set SECTION.KEY=VALUE; `fcil settings`"),
        ([*RUN, "--exchange", "rayy"], "run: --exchange 'rayy': must be inline or ray. Did you mean 'ray'? See"),
        ([*RUN, "--workers", "two"], "run: --workers 'two': must be a whole number, at least 0. See"),
        ([*RUN, "--set"], "run: --set needs SECTION.KEY=VALUE ("),
        ([*RUN, "--zoom=1"], "run: --zoom: takes no value. See"),
        ([*RUN, "b.toml"], "run: b.toml: one word too many. See: fcil run --help"),
        (["tune", "c.toml", "--methds", "lorm"], "tune: --methds: no such option. Did you mean '--methods'? See"),
        (
            ["tune", "c.toml"],
            "tune: --methods is missing (methods, or rows [compare.LABEL] of CONFIG); --grid is missing (",
        ),
        (["plan", "c.toml", "--s", "1"], "plan: ambiguous option: --s could match --set, --sweep, --seeds. See"),
        (["compare", "c.toml", "--no-memo", "--check-memo", "1"], "not allowed with argument --no-memo. See"),
        (["data"], "data: ACTION is missing (list, prepare or preview). See: fcil data --help"),
        (["data", "prep"], "data: prep: no such action. Did you mean 'prepare'? See: fcil data --help"),
        (["data", "preview", "c.toml", "-x"], "data preview: -x: no such option."),
        (["report", "a", "--reach", "2"], "report: --reach '2': must be a share from 0 to 1, as 0.8 for 80 %. See"),
    ],
)
def test_a_slip_is_one_line_on_stderr_and_exit_code_2(words, message, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("fcil: ")
    assert message in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sweep", "partition.bta=1,2"], "fcil: --sweep: partition.bta: unknown setting. Did you mean 'beta'?"),
        (["--sweep", "trian.lr=1,2"], "fcil: --sweep: [trian]: unknown section. Did you mean 'train'?"),
        (["--sweep", "partition.beta=1,0"], "fcil: --sweep: partition.beta = 0: must be greater than 0"),
        (["--set", "partition.bta=1", "--sweep", "train.lr=1,2"], "fcil: --set: partition.bta: unknown setting."),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said_of_the_sweep(words, message, capsys):
    assert main(["compare", "configs/quickstart.toml", "--methods", "ncm", "--seeds", "0", *words]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_what_is_wrong_with_a_grid_is_said_of_the_grid(capsys):
    assert main(["tune", "configs/quickstart.toml", "--methods", "ncm", "--grid", "train.lr=1,0"]) == 2
    assert capsys.readouterr().err.startswith("fcil: --grid: train.lr = 0: must be greater than 0")


def test_rows_that_are_the_same_by_their_defaults_are_named(capsys):
    def config(*settings):
        return load_config({}, list(settings))

    plain, written, other = config(), config("method.rank=16", "run.workers=2"), config("method.rank=3")
    rows = [("", "lorm", plain), ("", "lorm(rank=16)", written), ("", "lorm", config("run.seed=1")), ("", "c", other)]
    assert doubled_rows(rows) == ["lorm and lorm(rank=16) have the same settings: one row, not several"]
    assert doubled_rows([("a=1", "lorm", plain), ("a=2", "written", written)]) == []
    runs = [
        {"label": label, "same": same, "final_accuracy": 0.5, "final_accuracy_task_mean": 0.5, "average_accuracy": 0.5,
         "forgetting": 0.0, "upload_bytes": 1, "download_bytes": 1, "seconds": {"total": 1.0}}
        for label, same in (("a", "x"), ("b", "y"), ("c", "x"), ("old", ""), ("older", ""))
    ]  # fmt: skip
    assert caption(compare_rows(runs)) == "a and c have the same settings: one row, not several."
