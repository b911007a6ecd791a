"""`vitflow bench`: how fast this machine would do a pipeline's work. Parses, calls, prints."""

import os
from typing import Annotated

import typer

bench = typer.Typer(no_args_is_help=True, help="How fast this machine is at a pipeline's work.")


@bench.callback()
def group() -> None:
    """How fast this machine is at a pipeline's work."""


@bench.command()
def train(
    name: Annotated[str, typer.Argument(help="A pipeline of pipelines.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: a.b=c. May be repeated.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="About how long; compiling is tried if there is time.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """A training step: where its time goes, images/s, MFU, and what would make it faster. Also under torchrun."""
    import torch
    import torch.distributed as dist

    from flows import bench as benchmark
    from flows.stages.run import Run
    from flows.terminal import console
    from vit.training.distributed import rank

    if "RANK" in os.environ:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    found = benchmark.bench(Run.of(name, tuple(overrides or ())), seconds=seconds)
    if rank() == 0:
        print(benchmark.dumped(found)) if as_json else benchmark.show(found, console.print)
    if dist.is_initialized():
        dist.destroy_process_group()
