"""Which of our files each stage's code consists of: the import closure of its module.

`python -m tests.closure` (`make deps`) writes it under each stage's `deps` in dvc.yaml.
"""

from pathlib import Path

import grimp
import yaml

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


def rewrite(text: str, files: dict[str, list[str]]) -> str:
    """The text of dvc.yaml with these files in place of those listed, stage by stage; all else stays as it is."""
    lines: list[str] = []
    stage, listing = "", False
    for line in text.splitlines():
        if line.startswith("  ") and line[2] != " " and line.endswith(":"):
            stage = line.strip(" :")
        is_dep = line.startswith(" " * 8 + "- ")
        if line == "      deps:":
            listing = True
            lines += [line, *(f"        - {file}" for file in files[stage])]
        elif not (listing and is_dep and not line.startswith("        - runs/")):
            listing = listing and is_dep
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    dvc_yaml = ROOT / "dvc.yaml"
    old = dvc_yaml.read_text()
    dvc_yaml.write_text(rewrite(old, closures(tuple(yaml.safe_load(old)["stages"]))))
