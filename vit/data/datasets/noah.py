"""VTAB-1k as most PyTorch code has it: the folders that NOAH's script writes (ZhangYuanhan-AI/NOAH: data/vtab-source).

    vtab-1k/TASK/{train800,val200,train800val200,test}.txt     lines `images/train800/000000.jpg 307`, labels from 0
    vtab-1k/TASK/images/SPLIT/000000.jpg                       numbered anew in every split

The script writes every image as a JPEG of quality 75, 32 x 32 pixels and binary sprites too, which costs up to twenty
points (visinf/adapter_plus#3, NOAH#28): scores on such data form a family of their own, `noah-jpeg`, never to be
compared with others. Only if all images are lossless files is the family `lossless`. What the images really were, and
that they are the right ones, cannot be seen from the folders: numbers, labels and classes are what is checked.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from vit.data.datasets.archives import BadArchive, Member, index, is_gzipped, plain
from vit.data.datasets.vtab.dataset import lines, wanted
from vit.data.datasets.vtab.splits import PIECES, SPLITS
from vit.data.datasets.vtab.tasks import ALIASES, TASKS, Task, named
from vit.data.record import Record, Source

TRAIN, VAL = 800, 200
KNOWN = ("train800", "val200", "train800val200", "test")
LOSSLESS = {".png", ".bmp", ".ppm"}
Rows = list[tuple[str, int]]  # path below the task's folder, and label


def tasks(directory: Path) -> list[str]:
    """The tasks that `directory` has a folder of, in the order of the benchmark."""
    return [task.name for task in TASKS.values() if _folder(directory, task) is not None]


def noah(directory: Path, task: str, *, splits: Sequence[str] = ()) -> Source:
    """A task from `directory`, which holds the folders of the tasks, or from a zip or tar of them.

    Keys are paths below the folder of the task. Where only train800val200.txt is there (some zips in circulation),
    its first 800 lines are train800 and the rest val200, which is the order in which the script writes it. Raises
    ValueError if the task, a list or an image is missing, or if numbers or labels are not those of VTAB-1k.
    """
    chosen, splits = named(task), splits or SPLITS
    if unknown := [split for split in splits if split not in KNOWN]:
        raise ValueError(f"NOAH's folders have no split {unknown[0]!r}; they have {', '.join(KNOWN)}")
    place, files = _files(directory, chosen)
    listed = {split: _rows(split, files, place) for split in splits}
    for split, rows in listed.items():
        _check(chosen, split, rows, place)
    images = {path: wanted(files, path, place) for rows in listed.values() for path, _ in rows}
    if len(images) != sum(map(len, listed.values())):
        raise BadArchive(f"the lists of {', '.join(splits)} in {place} name an image twice; get the folder again")
    lossless = all(PurePosixPath(path).suffix.lower() in LOSSLESS for path in images)
    return Source(
        name=f"vtab/{chosen.name}",
        family="lossless" if lossless else "noah-jpeg",
        class_names=tuple(str(label) for label in range(chosen.num_classes)),
        records=list(_records(listed, images)),
        keep_order=directory.is_file() and is_gzipped(directory),
        where=str(place),
    )


def _folder(directory: Path, task: Task) -> Path | None:
    folders = (directory / name for name in (task.name, *ALIASES.get(task.name, ())))
    return next((folder for folder in folders if (folder / "test.txt").is_file()), None)


def _files(directory: Path, task: Task) -> tuple[Path, dict[str, Member]]:
    """The files of the task by their path below its folder."""
    names = (task.name, *ALIASES.get(task.name, ()))
    if directory.is_file():
        found = index(directory)
        tops = [PurePosixPath(name).parent for name in found if PurePosixPath(name).name == "test.txt"]
        top = next((f"{top}/" for top in tops if top.name in names), None)
        if top is not None:
            return directory, {name.removeprefix(top): m for name, m in found.items() if name.startswith(top)}
    elif folder := _folder(directory, task):
        return folder, _unread(folder)
    raise ValueError(
        f"{directory} has no {' or '.join(names)} with a test.txt: it is no vtab-1k as NOAH's script writes it "
        "(ZhangYuanhan-AI/NOAH), or lacks this task"
    )


def _unread(folder: Path) -> dict[str, Member]:
    """As `index`, of the lists and images only: other programs leave files there."""
    lists = {path.name: plain(path) for path in sorted(folder.glob("*.txt"))}
    images = index(folder / "images") if (folder / "images").is_dir() else {}
    return lists | {f"images/{name}": member for name, member in images.items()}


def _rows(split: str, files: dict[str, Member], place: Path) -> Rows:
    both, name = "train800val200.txt", f"{split}.txt"
    if split in ("train800", "val200") and name not in files and both in files:
        rows = list(_parsed(files[both], place))
        return rows[:TRAIN] if split == "train800" else rows[TRAIN:]
    return list(_parsed(wanted(files, name, place), place))


def _parsed(member: Member, place: Path) -> Iterator[tuple[str, int]]:
    for line in lines(member):
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdecimal() or fields[0].startswith("/") or ".." in fields[0].split("/"):
            raise BadArchive(f"{member.name} of {place} has the line {line!r}, which is not `images/… LABEL`")
        yield fields[0], int(fields[1])


def _check(task: Task, split: str, rows: Rows, place: Path) -> None:
    number = sum(size or task.counts[2] for _, size in PIECES[split])
    allowed = task.tolerance if split == "test" else 0
    if abs(len(rows) - number) > allowed:
        raise BadArchive(f"{split} in {place} has {len(rows)} images, {task.name} has {number}: it is incomplete")
    if wrong := [(path, label) for path, label in rows if label >= task.num_classes]:
        raise BadArchive(
            f"{split} in {place} gives {wrong[0][0]} the label {wrong[0][1]}, but {task.name} has "
            f"{task.num_classes} classes: it was written for another task"
        )


def _records(listed: dict[str, Rows], images: dict[str, Member]) -> Iterator[Record]:
    for split, rows in listed.items():
        for path, label in rows:
            ext = PurePosixPath(path).suffix.removeprefix(".").lower()
            yield Record(key=path, split=split, labels=(label,), read=images[path].read, ext=ext)
