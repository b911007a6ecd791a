"""Which of our files each stage's code consists of: the import closure of its module."""

from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]


def closures(stages: tuple[str, ...]) -> dict[str, list[str]]:
    """Files (relative to the checkout, sorted) that `flows.stages.STAGE` imports, directly or not; packages' empty
    __init__ files are left out."""
    graph = grimp.build_graph("flows", "vit", cache_dir=None)
    return {
        stage: sorted(
            path
            for module in graph.find_upstream_modules(f"flows.stages.{stage}") | {f"flows.stages.{stage}"}
            if (path := _path(module)) is not None
        )
        for stage in stages
    }


def _path(module: str) -> str | None:
    file = Path(*module.split(".")).with_suffix(".py")
    if not (ROOT / file).is_file():
        file = Path(*module.split(".")) / "__init__.py"
    return str(file) if (ROOT / file).read_text().strip() else None
