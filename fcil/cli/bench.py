"""Run `fcil bench` and `fcil merge-bench CONFIG`: read the arguments, call the benchmark, print."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fcil.cli.arguments import at_least_1, figure_arguments, output_folder, seeds, set_argument, whole
from fcil.errors import ConfigError
from fcil.words import counted

__all__ = ["bench_commands"]


def _merge_bench(args: argparse.Namespace, console: Console) -> None:
    from fcil.bench.merging.settings import load_suite

    out = output_folder(args, before="merge-bench-")
    if len(set(args.seeds)) < len(args.seeds):
        raise ConfigError(f"--seeds {','.join(map(str, args.seeds))}: names one twice")
    suite = load_suite(args.config, args.set)
    from fcil.data.progress import moving, waiting

    with waiting(console, "loading code"):  # not before the settings are read
        from fcil.bench.merging.records import draw_all, write
        from fcil.bench.merging.run import run_suite
        from fcil.bench.merging.tables import expert_accuracy_text, to_rich

    def tell(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    results = []
    with moving(console, "checking settings, data and weights") as step:
        for result in run_suite(suite, args.seeds, out, tell, step):
            results.append(result)
            experts = counted(len(result.tasks), "expert")
            tell(f"{result.model}, seed {result.seed}, {experts}: {result.label} {result.settings}")
            write(out, suite, results)
        step("drawing", 1.0)
        draw_all(out, results)
    console.print(to_rich(results))
    tell(f"{expert_accuracy_text(results)}\ntables and plots: {out}")


def _bench(args: argparse.Namespace, console: Console) -> None:
    from fcil.data.progress import tell, waiting

    with waiting(console, "loading code"):
        from fcil.bench.training import Workload, run_bench
        from fcil.config import MethodChoice
        from fcil.exchange.device import check_device

        check_device(args.device)
    workload = Workload(
        args.backbone, args.weights, args.image_size, args.batch, args.rank, args.threads, args.precision,
        args.device,
    )  # fmt: skip
    # lines, and nothing that moves, which would take time from what is measured
    console.print(run_bench(workload, args.repeats, args.method or MethodChoice().name, tell))


def bench_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands `merge-bench` and `bench`."""
    merges = command("merge-bench", _merge_bench, "merge one expert per task by several methods, and compare")
    merges.add_argument(
        "config",
        type=Path,
        metavar="CONFIG",
        help="a TOML file with a section [bench]; configs/merge_bench/ holds examples",
    )
    set_argument(merges)
    merges.add_argument(
        "--output", type=Path, metavar="DIR", help="folder for all that is written (default: runs/merge-bench-NAME)"
    )
    merges.add_argument(
        "--seeds", type=seeds, default=[0], metavar="0,1,2", help="of the experts' training (default: 0)"
    )
    figure_arguments(merges)
    speed = command("bench", _bench, "measure local training beside a bare PyTorch loop, and the server's merge")
    add = speed.add_argument
    add("--backbone", default="fcil_vit_tiny", metavar="NAME", help="any timm ViT (default: the embedded one)")
    add("--weights", default="", metavar="PATH", help="default: the embedded ones, else random; speed is the same")
    add("--image-size", type=whole, default=0, metavar="PX", help="default: 32 of the embedded ViT, else 224")
    add("--method", metavar="NAME", help="whose first round is measured (default: lorm)")
    add("--batch", type=at_least_1("images"), default=16, metavar="N", help="images per training step (default: 16)")
    add("--rank", type=at_least_1("columns"), default=16, metavar="R", help="LoRA rank (default: 16)")
    add("--threads", type=at_least_1("threads"), default=1, metavar="N", help="CPU threads (default: 1)")
    add("--repeats", type=at_least_1("pairs"), default=5, metavar="N", help="pairs of measurements (default: 5)")
    modes = ["fp32", "bf16", "fp16"]
    add("--precision", choices=modes, default="fp32", help="another one is measured beside fp32 (default: fp32)")
    add("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:<number> (default: cpu)")
