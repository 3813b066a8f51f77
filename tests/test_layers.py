"""What may import what, and what may not be used at all: read from the source, nothing is run."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

from fcil.registry import method_names

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(p for folder in ("fcil", "strategies") for p in (ROOT / folder).rglob("*.py"))
STRATEGY_MAY = (
    "fcil.method",
    "fcil.errors",
    "fcil.arrays",
    "fcil.merging",
    "fcil.statistics",
    "fcil.feature_sums",
    "fcil.curvature",
    "fcil.model",
    "fcil.options",
    "fcil.local",
    "fcil.threads",
)
COMBINE = {"compose.py"}
"""Methods made of others, which they find by name."""
STRATEGIES = {path.stem for path in (ROOT / "strategies").glob("*.py") if not path.stem.startswith("_")}


def short(path):
    return str(path.relative_to(ROOT))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


@cache
def tree(path):
    return ast.parse(path.read_text())


def imported(path, top_level=False):
    """Names of the modules that a file imports; with `top_level` only what is imported when it is."""

    def walk(nodes):
        for node in nodes:
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if top_level and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only):
                continue
            yield node
            yield from walk(ast.iter_child_nodes(node))

    for node in walk(tree(path).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_of(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else base for name in names)


def under(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_strategies_import_only_the_contract_and_arithmetic():
    for path in FILES:
        if path.parent.name == "strategies":
            for name in imported(path):
                allowed = under(name, "numpy", "torch", "strategies", *STRATEGY_MAY)
                allowed = allowed or (path.name in COMBINE and name == "fcil.registry")
                assert allowed or name.partition(".")[0] in sys.stdlib_module_names, f"{short(path)} imports {name}"


def test_only_the_flower_rooms_import_flwr_and_ray():
    for path in FILES:
        if path.parent != ROOT / "fcil" / "flower":
            assert not [n for n in imported(path) if under(n, "flwr", "ray")], short(path)


def test_only_the_flower_rooms_and_who_starts_them_import_the_flower_rooms_when_imported():
    """So that an inline run, and the pure rooms, work without either library."""
    for path in FILES:
        if path.parent != ROOT / "fcil" / "flower":
            assert not [n for n in imported(path, top_level=True) if under(n, "fcil.flower")], short(path)


def test_nothing_in_fcil_imports_or_names_a_strategy():
    assert {name.replace("+", "_") for name in method_names()} == STRATEGIES
    for path in FILES:
        if path.parent.name == "strategies":
            continue
        assert not [n for n in imported(path) if under(n, "strategies", "fcil.strategies")], short(path)
        named = [
            node.value
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in STRATEGIES
        ]
        allowed = ["lorm"] if path == ROOT / "fcil" / "config.py" else []  # the default
        assert named == allowed, f"{short(path)} names {named}"


def test_the_pure_rooms_do_not_know_the_rooms_above_them():
    pure = ("arrays", "seeding", "tasks", "partition", "metrics", "errors", "options", "statistics", "merging.matching")
    above = ("fcil.loop", "fcil.worker", "fcil.inline", "fcil.config", "fcil.registry", "fcil.flower", "fcil.report",
             "fcil.cli", "fcil.records", "fcil.engine")  # fmt: skip
    for name in pure:
        assert not [n for n in imported(MODULES[f"fcil.{name}"]) if under(n, *above)], name
    assert not [n for n in imported(MODULES["fcil.local"]) if under(n, "fcil.loop", "fcil.worker", "fcil.flower")]


def test_no_cycles():
    graph = {name: {n for n in imported(path, top_level=True) if n in MODULES} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name, way):
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for n in sorted(graph[name]):
                visit(n, [*way, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def called(path):
    """Dotted names of everything that a file calls or refers to."""
    return {ast.unparse(node) for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", FILES, ids=short)
def test_no_pickle_and_no_global_randomness(path):
    admitted = ["pickle"] if short(path) == "fcil/data/cifar.py" else []  # a restricted reader of CIFAR's own format
    unsafe = [n for n in imported(path) if under(n, "pickle", "cloudpickle", "dill", "joblib", "random", "shelve")]
    assert unsafe == admitted
    dotted = called(path)
    loaders = {"torch.load", "np.load"} if short(path) == "fcil/model/weights.py" else set()
    assert not dotted & {"torch.load", "torch.save", "np.load", "numpy.load", "np.save"} - loaders
    seeded = {"np.random.Generator", "np.random.PCG64", "np.random.SeedSequence", "np.random"}
    assert not {d for d in dotted if d.startswith(("np.random.", "numpy.random."))} - seeded
    assert not dotted & {"torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.random.manual_seed"}
    if short(path) != "fcil/seeding.py":
        assert not dotted & {"np.random.PCG64", "np.random.SeedSequence"}


@pytest.mark.parametrize("path", FILES, ids=short)
def test_torch_draws_name_their_generator(path):
    drawing = {f"torch.{n}" for n in ("rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli")}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in drawing:
            assert "generator" in {k.arg for k in node.keywords}, f"{short(path)}:{node.lineno}"


def test_the_one_file_that_reads_foreign_formats_unpickles_nothing():
    asked = {"torch.load": {"weights_only": "True"}, "np.load": {"allow_pickle": "False"}}
    calls = [node for node in ast.walk(tree(MODULES["fcil.model.weights"])) if isinstance(node, ast.Call)]
    loads = [node for node in calls if ast.unparse(node.func) in asked]
    assert {ast.unparse(node.func) for node in loads} == set(asked)
    for node in loads:
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert asked[ast.unparse(node.func)].items() <= given.items()
