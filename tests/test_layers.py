"""What may import what, and what may not be used at all: read from the source, nothing is run."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

from fcil.method import Method
from fcil.registry import method_class, method_names

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(p for folder in ("fcil", "strategies") for p in (ROOT / folder).rglob("*.py"))
STRATEGY_MAY = (
    "fcil.method",
    "fcil.errors",
    "fcil.arrays",
    "fcil.merging",
    "fcil.statistics",
    "fcil.model",
    "fcil.options",
)
FLOWER = ROOT / "fcil" / "exchange" / "flower"
SERVER_APP = ROOT / "fcil" / "cli" / "server_app.py"
"""The other way in: what Flower starts in the place of the command line."""
COMBINE = {"_parts.py"}
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
        if path.parent != FLOWER and path != SERVER_APP:
            assert not [n for n in imported(path) if under(n, "flwr", "ray")], short(path)


def test_only_the_flower_rooms_and_who_starts_them_import_the_flower_rooms_when_imported():
    """So that an inline run, and the pure rooms, work without either library."""
    for path in FILES:
        if path.parent != FLOWER and path != SERVER_APP:
            assert not [n for n in imported(path, top_level=True) if under(n, "fcil.exchange.flower")], short(path)


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
        allowed = ["lorm"] if path == ROOT / "fcil" / "config" / "sections.py" else []  # the default
        assert named == allowed, f"{short(path)} names {named}"


ORDER = (
    ("errors", "checkout"),
    ("arrays", "files", "options", "seeding", "threads", "words"),
    ("method", "data", "merging", "secure"),
    ("scenario", "model", "registry"),
    ("statistics", "client", "filters", "loggers"),
    ("config",),
    ("server",),
    ("exchange", "battery"),
    ("engine",),
    ("report",),
    ("bench",),
    ("api", "cli"),
)  # fmt: skip
"""The rooms of `fcil/`, from the ground up: a room imports only from rooms below it, also for types."""
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}


def room_of(module):
    return module.split(".")[1] if module.startswith("fcil.") else None


def test_every_room_has_its_floor():
    assert {room_of(name) for name in MODULES} - {None, "hatch_build", "install_checkout"} == set(FLOOR)


def test_rooms_import_only_from_rooms_below_them():
    for name, path in MODULES.items():
        for other in (n for n in imported(path) if n in MODULES and room_of(n) and room_of(name)):
            same = room_of(other) == room_of(name)
            assert same or FLOOR[room_of(other)] < FLOOR[room_of(name)], f"{name} imports {other}"


def test_methods_are_made_by_composition_and_not_by_deep_inheritance():
    """Method, the average, a family of methods, a method: four classes at most."""
    for name in method_names():
        lineage = [c.__name__ for c in method_class(name).__mro__ if issubclass(c, Method)]
        assert len(lineage) <= 4, f"{name}: {' < '.join(lineage)}"


def test_few_modules_stand_outside_a_room():
    assert len(list((ROOT / "fcil").glob("*.py"))) <= 12


def test_no_cycles():
    graph = {name: {n for n in imported(path) if n in MODULES} for name, path in MODULES.items()}
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
    looks = short(path) == "fcil/battery/randomness.py"  # whether others draw from the global generators
    admitted = (
        ["pickle"] if short(path) == "fcil/data/families/cifar.py" else ["random"] if looks else []
    )  # a restricted reader of CIFAR's own format
    unsafe = [n for n in imported(path) if under(n, "pickle", "cloudpickle", "dill", "joblib", "random", "shelve")]
    assert unsafe == admitted
    dotted = called(path)
    loaders = {"torch.load", "np.load"} if short(path) == "fcil/model/weights.py" else set()
    loaders |= {"np.load"} if short(path) == "fcil/data/families/npz.py" else set()  # of plain arrays only
    assert not dotted & {"torch.load", "torch.save", "np.load", "numpy.load", "np.save"} - loaders
    seeded = {"np.random.Generator", "np.random.PCG64", "np.random.SeedSequence", "np.random"}
    seeded |= {"np.random.RandomState", "np.random.RandomState(seed).permutation"}  # with a state of its own
    seeded |= {"np.random.get_state"} if looks else set()
    assert not {d for d in dotted if d.startswith(("np.random.", "numpy.random."))} - seeded
    assert not dotted & {"torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.random.manual_seed"}
    if short(path) != "fcil/seeding.py":
        assert not dotted & {"np.random.PCG64", "np.random.SeedSequence", "np.random.RandomState"}


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
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert asked[ast.unparse(node.func)].items() <= keywords.items()
