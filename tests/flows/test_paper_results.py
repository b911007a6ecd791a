"""The paper's results in flows/paper_results.py against its tables, typed in here column by column."""

import pytest

from flows.paper_results import TABLE_9, TASKS, published
from flows.stages.config import names
from vit.data.datasets.vtab.tasks import TASKS as VTAB

# Table 5, ImageNet and ImageNet-21k: rows as printed there, columns B/16, B/32, L/16, L/32.
SIZES = ("b16", "b32", "l16", "l32")
TABLE_5 = {
    ("i1k", "CIFAR-10"): (98.13, 97.77, 97.86, 97.94),
    ("i1k", "CIFAR-100"): (87.13, 86.31, 86.35, 87.07),
    ("i1k", "ImageNet"): (77.91, 73.38, 76.53, 71.16),
    ("i1k", "ImageNet ReaL"): (83.57, 79.56, 82.19, 77.83),
    ("i1k", "Oxford Flowers-102"): (89.49, 85.43, 89.66, 86.36),
    ("i1k", "Oxford-IIIT Pets"): (93.81, 92.04, 93.64, 91.35),
    ("i21k", "CIFAR-10"): (98.95, 98.79, 99.16, 99.13),
    ("i21k", "CIFAR-100"): (91.67, 91.97, 93.44, 93.04),
    ("i21k", "ImageNet"): (83.97, 81.28, 85.15, 80.99),
    ("i21k", "ImageNet ReaL"): (88.35, 86.63, 88.40, 85.65),
    ("i21k", "Oxford Flowers-102"): (99.38, 99.11, 99.61, 99.19),
    ("i21k", "Oxford-IIIT Pets"): (94.43, 93.02, 94.73, 93.09),
}
# Table 6 column by column, in the order of its rows.
TABLE_6_ROWS = (
    *("vit-b32-jft", "vit-b16-jft", "vit-l32-jft", "vit-l16-jft", "vit-l16-jft-14ep", "vit-h14-jft"),
    *("r50x1-jft", "r50x2-jft", "r101x1-jft", "r152x1-jft", "r152x2-jft", "r152x2-jft-14ep", "r200x3-jft"),
    *("r50-vit-b32-jft", "r50-vit-b16-jft", "r50-vit-l32-jft", "r50-vit-l16-jft", "r50-vit-l16-jft-14ep"),
)
TABLE_6 = {
    "ImageNet": (
        *(80.73, 84.15, 84.37, 86.30, 87.12, 88.08, 77.54, 82.12, 80.67, 81.88, 84.97, 85.56, 87.22),
        *(84.90, 85.58, 85.68, 86.60, 87.12),
    ),
    "ImageNet ReaL": (
        *(86.27, 88.85, 88.28, 89.43, 89.99, 90.36, 84.56, 87.94, 87.07, 87.96, 89.69, 89.89, 90.15),
        *(89.15, 89.65, 89.04, 89.72, 89.76),
    ),
    "CIFAR-10": (
        *(98.61, 99.00, 99.19, 99.38, 99.38, 99.50, 97.67, 98.29, 98.48, 98.82, 99.06, 99.24, 99.34),
        *(99.01, 99.14, 99.24, 99.18, 99.31),
    ),
    "CIFAR-100": (
        *(90.49, 91.87, 92.52, 93.46, 94.04, 94.71, 86.07, 89.20, 89.17, 90.22, 92.05, 91.92, 93.53),
        *(92.24, 92.63, 92.93, 93.64, 93.89),
    ),
    "Oxford-IIIT Pets": (
        *(93.40, 95.80, 95.83, 96.81, 97.11, 97.11, 91.11, 93.43, 94.08, 94.17, 95.37, 95.75, 96.32),
        *(95.75, 96.65, 96.97, 97.03, 97.36),
    ),
    "Oxford Flowers-102": (
        *(99.27, 99.56, 99.45, 99.66, 99.56, 99.71, 94.26, 97.02, 95.95, 96.94, 98.62, 98.75, 99.04),
        *(99.46, 99.40, 99.43, 99.40, 99.11),
    ),
    "pre-training, exaFLOPs": (
        *(55, 224, 196, 783, 1567, 4262, 50, 199, 96, 141, 563, 1126, 3306, 106, 274, 246, 859, 1668),
    ),
}
# Table 2 row by row: ViT-H/14 and L/16 on JFT, L/16 on ImageNet-21k.
TABLE_2_ROWS = ("vit-h14-jft", "vit-l16-jft-14ep", "vit-l16-i21k")
TABLE_2 = {
    "ImageNet": ((88.55, 0.04), (87.76, 0.03), (85.30, 0.02)),
    "ImageNet ReaL": ((90.72, 0.05), (90.54, 0.03), (88.62, 0.05)),
    "CIFAR-10": ((99.50, 0.06), (99.42, 0.03), (99.15, 0.03)),
    "CIFAR-100": ((94.55, 0.04), (93.90, 0.05), (93.25, 0.05)),
    "Oxford-IIIT Pets": ((97.56, 0.03), (97.32, 0.11), (94.67, 0.15)),
    "Oxford Flowers-102": ((99.68, 0.02), (99.74, 0.00), (99.61, 0.02)),
    "VTAB-1k": ((77.63, 0.23), (76.28, 0.46), (72.72, 0.21)),
}
# Table 9's columns of group and overall means, in the order of TABLE_2_ROWS.
MEANS = {
    "VTAB-1k, natural": (86.69, 85.56, 83.27),
    "VTAB-1k, specialized": (87.00, 86.72, 84.65),
    "VTAB-1k, structured": (65.03, 62.96, 57.50),
}


def values(pipeline: str, source: str) -> dict[str, float]:
    return {one.what: one.value for one in published(pipeline) if one.source.startswith(source)}


@pytest.mark.parametrize(("data", "what"), TABLE_5)
def test_table_5(data: str, what: str) -> None:
    assert tuple(values(f"vit-{size}-{data}", "Table 5")[what] for size in SIZES) == TABLE_5[data, what]


@pytest.mark.parametrize("what", TABLE_6)
def test_table_6(what: str) -> None:
    assert tuple(values(row, "Table 6")[what] for row in TABLE_6_ROWS) == TABLE_6[what]


@pytest.mark.parametrize("what", TABLE_2)
def test_table_2(what: str) -> None:
    found = [
        next(one for one in published(row) if (one.what, one.source[:7]) == (what, "Table 2")) for row in TABLE_2_ROWS
    ]
    assert tuple((one.value, one.std) for one in found) == TABLE_2[what]


@pytest.mark.parametrize("what", MEANS)
def test_table_9(what: str) -> None:
    found = [values(row, "Table 9, mean")[what] for row in TABLE_2_ROWS]
    assert found == pytest.approx(MEANS[what], abs=0.006)


def test_means_of_table_9_are_those_it_prints() -> None:
    assert [sum(TABLE_9[row]) / 19 for row in TABLE_2_ROWS] == pytest.approx([77.6, 76.3, 72.7], abs=0.06)


def test_tasks_are_called_as_we_call_them() -> None:
    assert sorted(TASKS) == sorted(f"{task.group}/{task.name}" for task in VTAB.values())


def test_optimisers_and_upstream() -> None:
    assert values("r50x1-jft-sgd", "Table 7") == {"ImageNet": 78.24, "mean of five data sets": 88.79}
    assert values("r152x2-jft-sgd", "Table 7") == {"ImageNet": 84.37, "mean of five data sets": 93.72}
    upstream = {
        f"vit-{size}-{data}": values(f"vit-{size}-{data}", "issue 62") for data in ("i1k", "i21k") for size in SIZES
    }
    assert [next(iter(one.values())) for one in upstream.values()] == [
        *(74.79, 69.19, 72.59, 66.90),
        *(47.88, 44.04, 49.90, 45.42),
    ]


def test_table_8() -> None:
    """Rows none, 1-D, 2-D, relative; columns added after the stem, at every layer, at every layer shared."""
    rows = {"": (64.206,), "none": (61.382,), "learned-every": (63.964,), "learned-shared": (64.292,)}
    rows |= {"2d": (64.001,), "2d-every": (64.046,), "2d-shared": (64.022,), "relative": (64.032,)}
    for name, expected in rows.items():
        pipeline = f"vit-b16-jft-position-{name}" if name else "vit-b16-jft"
        (found,) = [one for one in published(pipeline) if one.source == "Table 8"]
        assert (found.value,) == expected and found.measured_as == "downstream/few_shot_5"


def test_only_pipelines_have_results(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import paper_results
    from tests.checkout import ROOT

    monkeypatch.setenv("VITFLOW_ROOT", str(ROOT))
    tables = (paper_results.TABLE_2, paper_results.TABLE_5, paper_results.TABLE_6, paper_results.TABLE_7)
    tables += (paper_results.TABLE_8, TABLE_9)
    assert {pipeline for table in (*tables, paper_results.UPSTREAM) for pipeline in table} <= set(names())
    assert published("mini") == []
