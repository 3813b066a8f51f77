"""Run `fcil deploy-demo`: a SuperLink with TLS and nodes with keys on this machine, and a short run on them."""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console

from fcil.cli.arguments import at_least_1
from fcil.cli.deployment.certificates import make_certificates, make_node_key
from fcil.cli.deployment.deploy import carry_out
from fcil.cli.deployment.flwr_command import app_folder, environment, flwr
from fcil.cli.deployment.processes import Processes, free_port
from fcil.cli.deployment.sites import CLASSES, Site, check_sites, write_sites
from fcil.engine.signals import leaving_contexts

__all__ = ["demo_command", "demo_settings", "start_node", "start_superlink"]

_NAME = "demo"
_HOST = "127.0.0.1"


def demo_settings(clients: int) -> dict[str, dict[str, Any]]:
    """The settings of the run: seconds of work for each client."""
    return {
        "data": {"name": "folder", "view": "identity"},
        "tasks": {"count": 2, "classes": list(CLASSES)},
        "partition": {"kind": "sites", "clients": clients},
        "train": {"rounds": 2, "epochs": 2, "lr": 3e-3},
        "method": {"name": "lorm+ranpac", "rank": 4},
        "run": {"device": "cpu", "min_clients": clients},
    }


def _node_config(folder: Path, number: int, site: Site) -> str:
    class_map = f" class-map='{site.class_map}'" if site.class_map else ""
    return (
        f"partition-id={number} data-root='{site.root}'{class_map} resident-dir='{folder / 'residents'}' "
        f"state-dir='{folder / f'node-{number}'}'"
    )


def start_superlink(
    processes: Processes, name: str, folder: Path, port: int, files: tuple[Path, Path, Path], env: dict[str, str]
) -> None:
    """Start a SuperLink, which listens after some seconds (`Processes.listening`).

    Args:
        files: certificate of the authority, certificate and key of the SuperLink.
    """
    ca, certificate, key = files
    processes.start(
        name, "flower-superlink", "--host", _HOST, "--port", str(port), "--ssl-ca-certfile", str(ca),
        "--ssl-certfile", str(certificate), "--ssl-keyfile", str(key), "--enable-supernode-auth",
        "--database", str(folder / "superlink.db"), env=env,
    )  # fmt: skip


def _nodes(
    processes: Processes, folder: Path, sites: Sequence[Site], superlink: tuple[int, Path], env: dict[str, str]
) -> None:
    """Make and register a key for each site's node, and start it."""
    keys = [make_node_key(folder / f"node-{number}.key") for number in range(len(sites))]

    def register(key: Path) -> None:
        flwr("supernode", "register", f"{key}.pub", _NAME, "--name", key.stem, env=env)

    with ThreadPoolExecutor(len(sites)) as pool:
        list(pool.map(register, keys))
    for number, key in enumerate(keys):
        start_node(processes, f"node-{number}", key, superlink, _node_config(folder, number, sites[number]), env)


def start_node(
    processes: Processes, name: str, key: Path, superlink: tuple[int, Path], config: str, env: dict[str, str]
) -> None:
    """Start a SuperNode, which connects to a SuperLink of this machine.

    Args:
        superlink: its port, and the certificate by which it is known.
        config: the value of --node-config.
    """
    port, ca = superlink
    processes.start(
        name, "flower-supernode", "--superlink", f"{_HOST}:{port}", "--root-certificates", str(ca),
        "--auth-supernode-private-key", str(key), "--port", str(free_port()), "--node-config", config, env=env,
    )  # fmt: skip


def _start_all(
    processes: Processes, folder: Path, clients: int, env: dict[str, str], show: Callable[[str], None]
) -> tuple[int, Path]:
    """Start a SuperLink and its nodes; its port, and the certificate by which it is known."""
    files, port = make_certificates(folder, ["localhost", _HOST]), free_port()
    start_superlink(processes, "superlink", folder, port, files, env)
    connection = {"address": f"{_HOST}:{port}", "root-certificates": str(files[0])}
    config = {"superlink": {"default": _NAME, _NAME: connection}}
    (Path(env["FLWR_HOME"]) / "config.toml").write_text(tomli_w.dumps(config))
    sites = write_sites(folder, clients)
    processes.listening("superlink", port)
    show(f"SuperLink on {_HOST}:{port}, TLS, registered nodes only")
    _nodes(processes, folder, sites, (port, files[0]), env)
    show(", ".join(f"{name}: process {pid}" for name, pid in processes.pids().items()))
    return port, files[0]


def _run(folder: Path, clients: int, show: Callable[[str], None]) -> None:
    """Start everything, carry the run out, and end everything."""
    home = folder / "user"
    home.mkdir()
    env = environment(FLWR_HOME=str(home), FLWR_SUPEREXEC_TASK_POLL_INTERVAL="0.2")
    config = folder / "demo.toml"
    config.write_text(tomli_w.dumps(demo_settings(clients)))
    app = app_folder(None)
    with Processes(folder) as processes:
        try:
            _start_all(processes, folder, clients, env, show)
            carry_out(app, _NAME, config, [], str(folder / "run"), env, show)
        except KeyboardInterrupt:
            show("ending the SuperLink and its nodes, which may take half a minute")
            raise
        processes.check()


@contextmanager
def _folder(keep: bool, show: Callable[[str], None]) -> Iterator[Path]:
    """A folder for everything; it stays if that is asked for, or if something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="fcil-demo-"))
    (folder / "residents").mkdir(mode=0o700)
    show(f"folder: {folder}")
    try:
        with leaving_contexts():
            yield folder
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException:
        show(f"kept, with the logs of every process: {folder}")
        raise
    if keep:
        show(f"kept: keys, certificates and logs in {folder}, the run in {folder / 'run'}")
    else:
        shutil.rmtree(folder)


def _demo(args: argparse.Namespace, console: Console) -> None:
    from fcil.engine.records import read_summary
    from fcil.report.tables import run_table

    plain, begin = Console(highlight=False, soft_wrap=True, markup=False), time.monotonic()

    def show(text: str) -> None:
        plain.print(f"{time.monotonic() - begin:6.1f} s  {text}")

    check_sites(args.clients)
    with _folder(args.keep, show) as folder:
        _run(folder, args.clients, show)
        summary = read_summary(folder / "run") or {}
        show("every process that was started has ended")
        console.print(run_table(summary, summary["correct"], summary["total"]))
        show(f"final arrays: sha256 {summary['sha256']}")


def demo_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command `fcil deploy-demo` to the parser."""
    parser = command("deploy-demo", _demo, "start a SuperLink and nodes with TLS here, and carry out a short run")
    parser.add_argument(
        "--clients", type=at_least_1("clients"), default=3, metavar="N", help="number of nodes (default: 3)"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the folder with keys, certificates, logs and the run (default: delete it)",
    )
