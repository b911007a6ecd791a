"""The scaling page is what its command writes, and its model behaves."""

import pytest

from benchmarks.scaling import Assumptions, page, predict
from tests.checkout import ROOT


def test_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "scaling.md").read_text() == page(Assumptions())


def test_one_gpu_is_the_counted_product() -> None:
    """B/16 at 224 with 1,000 classes costs 105.38 GFLOP a step and image (performance.md); more classes, a bit more."""
    about = Assumptions(peak=790e12, utilisation=1.0)
    row = predict("ViT-B/16", 1, about)
    flops = 105.38e9 + 6 * 768 * (21_843 - 1_000)
    assert row.images_per_second == pytest.approx(790e12 / flops, rel=1e-3)
    assert row.efficiency == 1.0 and row.exposed == 0.0


def test_communication_grows_with_gpus_and_efficiency_falls() -> None:
    rows = [predict("ViT-L/16", gpus, Assumptions()) for gpus in (1, 8, 64, 1024)]
    assert [r.efficiency for r in rows] == sorted((r.efficiency for r in rows), reverse=True)
    assert [r.lost for r in rows] == sorted(r.lost for r in rows)
