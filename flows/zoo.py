"""`vitflow models` and `vitflow weights`: what networks there are and cost, and other people's files in and out.

Parses, calls `vit.models` and prints. Imports of torch wait until a command needs them.
"""

import contextlib
import dataclasses
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from vit.models.build import ModelConfig

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a field of the network: a=b. May be repeated.")]
Told = Annotated[list[str] | None, typer.Option("--set", help="What the file cannot say: num_heads=6, grid=[12,24].")]
File = Annotated[Path, typer.Argument(help="A .npz, .safetensors or .pth file, or a Hugging Face directory.")]
JFT_EPOCHS = 7  # what most networks of the paper were pre-trained for (Table 6)


class Format(enum.StrEnum):
    """What `weights convert` writes."""

    TIMM = "timm"
    HF = "hf"
    NPZ = "npz"
    NATIVE = "native"


class ListsByDefault(TyperGroup):
    """`vitflow models` and `vitflow models NAME` mean `vitflow models list …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, "--help"}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


models = typer.Typer(cls=ListsByDefault, help="Registered versions; `describe` for any network of the paper.")
weights = typer.Typer(no_args_is_help=True, help="Read, explain and convert files of weights.")


@models.command("list")
def list_models(
    name: Annotated[str | None, typer.Argument(help="A registered model; all of them by default.")] = None,
    as_json: Json = False,
) -> None:
    """List registered versions with aliases, scores and lineage."""
    from flows import registry_view

    registry_view.show(name, as_json=as_json)


@models.command()
def describe(
    name: Annotated[str, typer.Argument(help="ViT-B/16, R50x1, R50+ViT-B/16, …; B/16 is ViT-B/16.")],
    resolution: Annotated[int, typer.Option(min=1, help="Side of the images in pixels.")] = 224,
    num_classes: Annotated[int, typer.Option(min=0, help="Outputs of the head; 0 for none.")] = 1000,
    images: Annotated[
        int | None,
        typer.Option(min=0, help="Images of the training to count exaFLOPs for.", show_default="7 epochs of JFT-300M"),
    ] = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Parameters by part, products, activation memory and the paper's exaFLOPs of a network."""
    with _misuse():
        from vit.models import counting, variants

        config = variants.configure(name, resolution, **_parsed(settings or []))
        seen = JFT_EPOCHS * counting.JFT_IMAGES if images is None else images
        facts = {"name": variants.canonical(name), **_facts(config, num_classes, seen)}
    print(json.dumps(facts, indent=2)) if as_json else _print_facts(facts)


@weights.command()
def inspect(file: File, settings: Told = None, as_json: Json = False) -> None:
    """Say what a file of weights is: format, network, classes, and what its format leaves open."""
    with _misuse():
        from vit.models.weights import inspect as read

        found = read(file, **_parsed(settings or []))
    facts: dict[str, Any] = {
        "file": str(file),
        "origin": found.origin,
        "config": dataclasses.asdict(found.config),
        "num_classes": found.num_classes,
        "class_names": list(found.class_names),
        "parameters": sum(tensor.numel() for tensor in found.state.values()),
        "notes": list(found.notes),
    }
    print(json.dumps(facts, indent=2)) if as_json else _print_file(facts)


@weights.command()
def convert(
    file: File,
    out: Annotated[Path, typer.Argument(help="The file to write; a directory for hf.")],
    to: Annotated[Format, typer.Option("--to", help="The format to write.")],
    resolution: Annotated[
        int | None, typer.Option(min=1, help="Resize position embeddings to this side in pixels.")
    ] = None,
    settings: Told = None,
) -> None:
    """Write the weights in another format; what the format cannot say is printed as a note."""
    with _misuse():
        from vit.models.weights import convert as write

        notes = write(file, to.value, out, resolution=resolution, **_parsed(settings or []))
    from flows.terminal import console

    console.print(f"wrote {out}", highlight=False, soft_wrap=True)
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _misuse() -> Iterator[None]:
    """A bad name, setting or file is wrong usage: one sentence and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        from flows.stages.config import ConfigError

        raise ConfigError(str(error)) from error


def _parsed(settings: list[str]) -> dict[str, Any]:
    """`depth=2`, `pooling=gap`, `layers=[3,4,9]` as values; what is not JSON is text."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r} must look like field=value")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def _facts(config: "ModelConfig", num_classes: int, images: int) -> dict[str, Any]:
    import torch

    from vit.models import counting

    kinds = {"float32": (torch.float32, False), "bfloat16 autocast": (torch.bfloat16, False)}
    kinds["bfloat16 autocast, checkpointed"] = (torch.bfloat16, True)
    return {
        "config": dataclasses.asdict(config),
        "num_classes": num_classes,
        "parameters": _with_total(counting.parameters(config, num_classes)),
        "forward_macs": _with_total(counting.forward_macs(config, num_classes)),
        "activation_bytes": {
            kind: dataclasses.asdict(
                counting.activations(config, num_classes, dtype=dtype, grad_checkpointing=checkpointed)
            )
            for kind, (dtype, checkpointed) in kinds.items()
        },
        "images": images,
        "exaflops": counting.exaflops(config, images),
    }


def _with_total(parts: dict[str, int]) -> dict[str, int]:
    return {**parts, "total": sum(parts.values())}


def _print_facts(facts: dict[str, Any]) -> None:
    from rich.table import Table

    from flows.report import Row
    from flows.terminal import console, print_rows

    resolution, classes = facts["config"]["resolution"], facts["num_classes"]
    table = Table(title=f"{facts['name']} at {resolution} px, {classes:,} classes")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("forward MACs", justify="right")
    parameters, macs = facts["parameters"], facts["forward_macs"]
    for part in parameters:
        style = "bold" if part == "total" else None
        table.add_row(part, f"{parameters[part]:,}", f"{macs.get(part, 0):,}", style=style)
    console.print(table)
    memory = [
        Row(
            what=kind,
            value=f"{kept['per_image'] / 1e6:.1f} MB an image",
            note=f"and {kept['per_step'] / 1e6:.1f} MB a step" if kept["per_step"] else "",
        )
        for kind, kept in facts["activation_bytes"].items()
    ]
    print_rows("activations kept for the backward pass", memory)
    cost = Row(what=f"{facts['exaflops']:,.1f} exaFLOPs", value=f"for {facts['images']:,} images")
    print_rows("training, as the paper counts", [cost])


def _print_file(facts: dict[str, Any]) -> None:
    from rich.markup import escape

    from flows.report import Row
    from flows.terminal import print_rows

    config: dict[str, Any] = facts["config"]
    rows = [Row(what="format", value=escape(facts["origin"]))]
    rows += [Row(what=name, value=escape(str(value))) for name, value in config.items() if value is not None]
    rows += [Row(what="num_classes", value=f"{facts['num_classes']:,}")]
    rows += [Row(what="parameters", value=f"{facts['parameters']:,}")]
    rows += [Row(what="note", value=escape(note)) for note in facts["notes"]]
    print_rows(escape(facts["file"]), rows)
