"""The code in the documentation is executed."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from fcil.client.settings import Train
from fcil.config import Config, MethodChoice
from fcil.data import Data
from fcil.exchange.inline import Inline
from fcil.exchange.worker import Worker
from fcil.model.backbone import Model, describe_backbone
from fcil.scenario.partition import Partition
from fcil.scenario.tasks import Tasks
from fcil.server.loop import initial_progress, make_plan, run
from strategies.fedavg import FedAvg

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIG = Config(
    data=Data(train_limit=80, test_limit=60),
    tasks=Tasks(count=2),
    model=Model(image_size=16),
    partition=Partition(clients=2, min_samples=1),
    train=Train(rounds=1, epochs=2),
    method=MethodChoice("fedavg", {"rank": 2}),
)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def final(method):
    worker = Worker(CONFIG, method)
    plan = make_plan(CONFIG, method, worker.scenario, describe_backbone(CONFIG.model))
    return run(plan, initial_progress(plan), Inline(worker), lambda event: None, lambda progress: None).sha256()


def test_the_method_of_the_guide_works_and_is_fedavg_at_strength_zero(tmp_path):
    page = ROOT / "docs" / "adding-a-method.md"
    source = tmp_path / "fedprox.py"
    source.write_text(next(block for block in blocks(page, "python") if "class FedProx" in block))
    spec = importlib.util.spec_from_file_location("strategies.fedprox_of_the_guide", source)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        plain, off, on = (
            final(m) for m in (FedAvg(rank=2), module.FedProx(rank=2, mu=0.0), module.FedProx(rank=2, mu=5.0))
        )
    finally:
        del sys.modules[spec.name]
    assert off == plain
    assert on != plain


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_other_python_blocks_run(page):
    for block in blocks(page, "python"):
        if "class FedProx" not in block:
            exec(compile(block, str(page), "exec"), {"__name__": "docs"})
    assert page.read_text().startswith("# ")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_commands_in_the_docs_name_existing_subcommands_and_settings():
    from fcil.cli.main import _parser
    from fcil.config import load_config
    from fcil.registry import build_method

    seen = 0
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^(?:\.venv/bin/)?(fcil [a-z]+.*)$", text, re.MULTILINE):
            words = shlex.split(line, comments=True)[1:]
            given = _parser().parse_args(words)
            seen += 1
            if given.command in ("run", "compare") and "fedprox" not in line:
                method = load_config(ROOT / given.config, given.set).method
                build_method(method.name, method.settings)
    assert seen >= 5
