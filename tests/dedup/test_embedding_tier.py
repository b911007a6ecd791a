"""`--tier embedding` on folders with a network that needs no download: what it finds, and that it goes on."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from flows.stages.dedup_folders import BadRequest
from tests.dedup.sides import bring
from tests.dedup.test_folders import results, run
from vit.dedup import embedded


class Thumbnail(nn.Module):
    """The image at 8 x 8, as a vector: enough to tell 60 pictures apart."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.jit.script(Thumbnail()).save(str(tmp_path / "thumbnail.pt"))
    return tmp_path / "thumbnail.pt"


def test_an_embedding_adds_pairs_and_a_curve(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = bring(tmp_path)
    options = {"tier": "embedding", "model": model, "resolution": 64, "trust_model": True}
    run(tmp_path, **options)
    rows = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert {row["train"] for row in rows} >= known.keys()
    assert len({(row["train"], row["test"]) for row in rows}) == len(rows)
    assert {row["tier"] for row in rows} <= {"near", "exact-bytes", "embedding"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Calibration of the embedding" in page and "edited copies found" in page
    before = results(tmp_path / "out")
    monkeypatch.setattr(embedded, "_embedded", None)  # every piece is finished
    run(tmp_path, **options)
    assert results(tmp_path / "out") == before


def test_tier_and_model_go_together(tmp_path: Path, model: Path) -> None:
    bring(tmp_path)
    with pytest.raises(BadRequest, match="go together"):
        run(tmp_path, tier="embedding")
    with pytest.raises(BadRequest, match="go together"):
        run(tmp_path, model=model)
    with pytest.raises(BadRequest, match="does not exist"):
        run(tmp_path, tier="embedding", model=tmp_path / "gone.pt")
    with pytest.raises(ValueError, match="holds code as well as weights"):
        run(tmp_path, tier="embedding", model=model)
