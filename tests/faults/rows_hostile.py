"""Row 26: files, names and settings that somebody made on purpose."""

import hashlib
import io
import json
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

from tests.checkout import run
from tests.faults import bed as beds
from tests.faults import faults
from tests.faults.bed import FLOW, PRETRAIN, SAVE_EVERY, Bed, started
from tests.faults.row import Draw, Row, Trial
from tests.faults.rows_data import bare, prepared
from tests.vit.data.pictures import png
from tests.vit.models.bad_files import BAD, plain_pickle
from vit.data.datasets.archives import BadArchive, members
from vit.training import checkpoint

VITFLOW = (sys.executable, "-m", "flows.cli")
CLASSES = (
    *("<img src=x onerror=alert(1)>", "<script>alert(1)", "[click](javascript:alert(1))", "a`|b", "# ${mean} {uri}"),
)


def refused(code: int, text: str, *said: str) -> None:
    assert code in (1, 2) and "Traceback" not in text, f"{code}: {text[-2000:]}"
    assert all(words in text for words in said), f"{said} not in {text[-2000:]}"


def cli(where: Bed, *arguments: str) -> tuple[int, str]:
    done = run(where.checkout, *VITFLOW, *arguments)
    return done.returncode, done.stdout + done.stderr


INSPECT = """
import sys
from typer.testing import CliRunner
from flows.zoo import weights
for path in sys.argv[1:]:
    done = CliRunner().invoke(weights, ["inspect", path])
    print(path, type(done.exception).__name__, str(done.exception).replace("\\n", " "))
"""


def pickles(where: Bed, draw: Draw) -> None:
    """Every hostile file of weights, offered to the command that reads such files."""
    folder = where.root / f"weights-{draw.number}"
    for number, make in enumerate(BAD):
        (place := folder / str(number)).mkdir(parents=True)
        make(place / "weights.bin")
    paths = [str(folder / str(number) / "weights.bin") for number in range(len(BAD))]
    done = run(where.checkout, sys.executable, "-c", INSPECT, *paths)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(paths), done.stdout + done.stderr
    for make, path, said in zip(BAD, paths, done.stdout.splitlines(), strict=True):
        assert said.startswith((f"{path} BadCheckpoint ", f"{path} ConfigError ")) and said.count(path) > 1, said
        assert not (Path(path).parent / "ran").exists(), f"{make}: code ran"


def pickled_checkpoint(where: Bed, draw: Draw) -> None:
    """A pickle in the place of a checkpoint's tensors, with a manifest that fits it."""
    with started(where.checkout, *PRETRAIN, VITFLOW_WORKERS="0") as training:
        training.reach(SAVE_EVERY + 10)
        faults.kill(training.head)
    for path in beds.checkpoints(where.checkout):
        state, manifest = path / checkpoint.STATE, path / checkpoint.MANIFEST
        plain_pickle(state)
        about = json.loads(manifest.read_text())
        data = state.read_bytes()
        about["files"][checkpoint.STATE] = [len(data), hashlib.sha256(data).hexdigest()]
        manifest.write_text(json.dumps(about))
    with started(where.checkout, *PRETRAIN, VITFLOW_WORKERS="0") as again:
        code, text = again.end(), again.text()
    assert not list(where.checkout.glob("runs/smoke/.scratch/**/ran")), "code ran"
    beds.forget(where.checkout)
    refused(code, text, "checkpoint")


def archives(where: Bed, draw: Draw) -> None:
    """Members that lead out of an archive, by name or by link, for the reader and for the stage that uses it."""
    folder = where.root / f"archives-{draw.number}"
    folder.mkdir()
    names = {"../outside": tarfile.REGTYPE, "/tmp/absolute": tarfile.REGTYPE, "link": tarfile.SYMTYPE}
    for number, (name, kind) in enumerate(names.items()):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            info = tarfile.TarInfo(f"{name}.png" if kind == tarfile.REGTYPE else name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0 if kind == tarfile.SYMTYPE else len(png(1))
            tar.addfile(info, io.BytesIO(png(1)))
        with zipfile.ZipFile(folder / f"{number}.zip", "w") as file:
            entry = zipfile.ZipInfo(f"{name}.png")
            entry.external_attr = 0o120777 << 16 if kind == tarfile.SYMTYPE else 0o100644 << 16
            file.writestr(entry, "/etc/passwd")
        for ending in ("tar", "zip"):
            try:
                list(members(folder / f"{number}.{ending}"))
            except BadArchive as error:
                assert f"{number}.{ending}" in str(error)
            else:
                raise AssertionError(f"{name} in a {ending} was accepted")
        for path in folder.glob("*.zip"):
            path.unlink()
    checkout = bare(where)
    code, text, _ = prepared(checkout, source="webdataset", location=str(folder))
    refused(code, text)
    assert not Path("/tmp/absolute.png").exists() and not list(where.root.glob("outside*"))


def settings(where: Bed, draw: Draw) -> None:
    """YAML that asks for objects, names with underscores or dots in overrides, names of pipelines that are paths."""
    proof = where.root / "ran"
    for override in (
        "pretrain.__class__.x=1",
        f"prepare.seed=!!python/object/apply:os.mkdir ['{proof}']",
        "register.model_name=../../outside",
        "deploy.env.__init__=1",
        "..=1",
    ):
        refused(*cli(where, "run", "smoke", "--set", override))
    for name in ("../smoke", "..", "/etc", "smoke/../smoke", "smoke@x", ""):
        refused(*cli(where, "run", name))
    checkout = bare(where)
    path = checkout / "pipelines.yaml"
    plain = path.read_text()
    path.write_text(f"evil: !!python/object/apply:os.mkdir ['{proof}']\n{plain}")
    done = run(checkout, *VITFLOW, "run", "smoke")
    refused(done.returncode, done.stderr, "pipelines.yaml")
    for name in ("..", "../../outside", ".scratch"):
        path.write_text(yaml.safe_dump({"pipelines": {name: yaml.safe_load(plain)["pipelines"]["smoke"]}}))
        done = run(checkout, *VITFLOW, "run", name)
        refused(done.returncode, done.stderr, "pipeline name")
    assert not proof.exists(), "code ran"
    assert not (checkout / "prepare").exists() and not (checkout / "runs").exists()


def names_of_models(where: Bed, draw: Draw) -> None:
    """Names of registered models that are paths or queries."""
    for name in ("../../etc/passwd", "models:/../x@champion", "x' OR 1=1 --", "a/b/c", "..%2f..%2fetc"):
        for command in (
            ("models", "show", name),
            ("models", "export", name, str(where.root / "out"), "--to", "native"),
        ):
            refused(*cli(where, *command))
        code, text = cli(where, "predict", "nothing.png", "--model", name)
        refused(code, text)
    assert not (where.root / "out").exists()


class Runs(HTMLParser):
    """What a browser would run of a page: attributes and addresses that are code, scripts that are not the page's."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [name for name, _ in attrs if name in ("onerror", "onclick")]
        self.found += [value for _, value in attrs if value and "javascript:" in value]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script" and data.startswith("alert(1)"):
            self.found.append("script")


def names_of_classes(where: Bed, draw: Draw) -> None:
    """Class names and image paths full of markup, through the whole pipeline: they are text wherever they are shown."""
    checkout, folder = bare(where), where.root / f"classes-{draw.number}"
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for image in range(20):
            (folder / name / f"{image} <b onclick=x>.png").write_bytes(png(100 * number + image))
    beds.configure(checkout, pretrain={"steps": 12, "save_every": 4, "log_every": 2})
    code, text, _ = prepared(checkout, source="folder", location=str(folder))
    assert code == 0, text[-2000:]
    done = run(checkout, *FLOW, "--set", "evaluate.train.steps=2", **where.prefect)
    assert done.returncode == 0, done.stdout + done.stderr
    report = ("report", "smoke", "--set", "evaluate.train.steps=2", "--html", "r.html", "--markdown", "r.md")
    done = run(checkout, *VITFLOW, *report)
    assert done.returncode == 0, done.stderr
    pages = [checkout / "r.html", *checkout.glob("runs/smoke/**/*.html")]
    assert len(pages) > 1
    shown = {str(page): page.read_text() for page in pages}
    shown["r.md"] = MarkdownIt().render((checkout / "r.md").read_text())
    card = run(checkout, sys.executable, "-c", CARD).stdout
    assert "click" in card
    shown["the model card"] = MarkdownIt().render(card)
    for page, text in shown.items():
        assert not Runs(text).found, f"{page}: {Runs(text).found}"
    assert "<img src=x" not in shown["the model card"] and "<h1># " not in shown["the model card"]


CARD = """
from flows.environment import apply_defaults
apply_defaults()
from flows.adapters import mlflow_registry
print(mlflow_registry.versions("vit-smoke")[0].card)
"""
KINDS: dict[str, Callable[[Bed, Draw], None]] = {
    one.__name__: one for one in (settings, archives, pickled_checkpoint, names_of_models, names_of_classes, pickles)
}


def hostile_input(where: Bed, draw: Draw) -> Trial:
    start = time.monotonic()
    KINDS[draw.of(*KINDS)](where, draw)
    return Trial(seconds=time.monotonic() - start)


ROWS = [
    Row(
        number=26,
        fault="hostile input: pickles as weights or in a checkpoint, archives that lead outside, YAML that asks for "
        "objects, overrides with `__`, `..` in names of pipelines and models, markup in names of classes and images: "
        "no code runs, no file is outside, names are text; refused with a sentence",
        times=len(KINDS),
        attempt=hostile_input,
    )
]
