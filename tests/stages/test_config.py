"""Everything wrong in a config or an override is a sentence with the dotted path and the nearest name."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from flows.stages.config import ConfigError, load
from flows.stages.run import Run, flatten
from vit.models.config import ViTConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITFLOW_ROOT", str(ROOT))


def test_overrides_change_one_value_each() -> None:
    plain, changed = load("mini"), load("mini", ["finetune.train.learning_rate=2e-2", "evaluate.augment.flip=true"])
    assert changed.finetune.train.learning_rate == 0.02 and changed.evaluate.augment.flip is True
    assert changed.pretrain == plain.pretrain
    flat, before = flatten(changed), flatten(plain)
    assert {name for name in flat if flat[name] != before[name]} == {
        "finetune.train.learning_rate",
        "evaluate.augment.flip",
    }


@pytest.mark.parametrize(
    "override",
    [
        "evaluate.benchmarks.cifar10={steps: 9, warmup_steps: 1, learning_rates: [0.1]}",
        "evaluate.benchmarks={cifar10: {steps: 9, warmup_steps: 1, learning_rates: [0.1]}}",
    ],
)
def test_benchmarks_are_added_by_an_override(override: str) -> None:
    benchmarks = load("mini", [override]).evaluate.benchmarks
    assert {name: (how.steps, how.learning_rates) for name, how in benchmarks.items()} == {"cifar10": (9, [0.1])}
    more = load("mini", [override, "evaluate.benchmarks.cifar10.steps=7"]).evaluate.benchmarks
    assert more["cifar10"].steps == 7


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("pretrain.train.lerning_rate=3", "pretrain.train has no 'lerning_rate'; did you mean 'learning_rate'"),
        ("pretrian.train.steps=3", "the pipeline has no 'pretrian'; did you mean 'pretrain'"),
        ("pretrain.train.steps=many", "pretrain.train.steps is 'many': input should be a valid integer"),
        ("pretrain.train.steps=10.5", "pretrain.train.steps is 10.5: input should be a valid integer"),
        ("evaluate.augment.flip=3", "evaluate.augment.flip is 3: input should be a valid boolean"),
        (
            "pretrain.train.optimizer=lamb",
            "pretrain.train.optimizer is 'lamb': input should be 'adamw', 'adam' or 'sgd'",
        ),
        (
            "pretrain.model.resolution=30",
            "patch size 8 does not divide resolution 30; the nearest patch sizes that do are 6",
        ),
        ("finetune.resolution=50", "finetune.resolution does not fit pretrain.model: resolution 50 is not a multiple"),
        ("pretrain.model.variant=ViT-Ty/8", "pretrain.model: no network is called 'ViT-Ty/8'; nearest are ViT-Ti/"),
        ("pretrain.model.pooling=mean", "pretrain.model.pooling is 'mean': input should be 'tok', 'gap' or 'map'"),
        ("pretrain.model.wdth=3", "pretrain.model has no 'wdth'; did you mean 'width'"),
        ("pretrain.model.family=cnn", "pretrain.model: say which network, by `variant: ViT-B/16` or by `family: vit`"),
        ("pretrain.train=3", "would replace a whole section; name one value in it: seed, steps"),
        ("evaluate.benchmarks.cifar10={stps: 1}", "evaluate.benchmarks.cifar10"),
        (
            "evaluate.benchmarks.cifar11={steps: 9, warmup_steps: 1, learning_rates: [0.1]}",
            "there is no benchmark 'cifar11'; did you mean 'cifar10'",
        ),
        ("evaluate.benchmarks.cifar10=1", "evaluate.benchmarks.cifar10 is 1"),
        ("deploy.env.NEW=1", "deploy.env has no 'NEW'"),
        ("pretrain.train.steps", "must look like stage.section.name=value"),
        ("pretrain.train.warmup_steps=999999", "warmup_steps 999999 must be at least 0 and below steps"),
        ("pretrain.__class__.x=1", "pretrain has no '__class__'"),
        ("prepare.seed=!!python/object/apply:os.system [id]", "prepare.seed is '!!python/object"),
    ],
)
def test_bad_override_is_a_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        load("mini", [override])
    assert sentence in str(error.value)


def test_unknown_pipeline_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"there is no pipeline 'mni' in pipelines\.yaml; did you mean 'mini'"):
        load("mni")


def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    document = yaml.safe_load((ROOT / "pipelines.yaml").read_text())
    document["pipelines"]["mini"]["pretrain"]["train"] |= changes
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("VITFLOW_ROOT", str(tmp_path))


def test_unknown_key_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(tmp_path, monkeypatch, lerning_rate=1.0)
    with pytest.raises(
        ConfigError, match=r"pretrain.train.lerning_rate is not a known name; did you mean 'learning_ra"
    ):
        load("mini")


def test_number_that_yaml_reads_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(tmp_path, monkeypatch, learning_rate="1e-3")  # what PyYAML makes of a bare 1e-3
    with pytest.raises(ConfigError, match=r"pretrain.train.learning_rate is '1e-3': input should be a valid number"):
        load("mini")


def test_file_that_is_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipelines.yaml").write_text("pipelines: [")
    monkeypatch.setenv("VITFLOW_ROOT", str(tmp_path))
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load("mini")


def test_only_what_follows_an_override_leaves_the_tracked_directories() -> None:
    run = Run.of("mini", ("finetune.train.learning_rate=0.02",))
    tracked = [
        stage for stage in ("prepare", "deduplicate", "pretrain", "finetune", "evaluate") if run.is_tracked(stage)
    ]
    assert tracked == ["prepare", "deduplicate", "pretrain"]
    same = Run.of("mini", (f"finetune.train.learning_rate={run.plain.finetune.train.learning_rate}",))
    assert same.is_tracked("register")


@pytest.mark.parametrize("name", ["..", "../outside", ".hidden", "a@b", "a/b"])
def test_a_pipeline_is_named_like_a_directory_inside_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = yaml.safe_load((ROOT / "pipelines.yaml").read_text())
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump({"pipelines": {name: document["pipelines"]["mini"]}}))
    monkeypatch.setenv("VITFLOW_ROOT", str(tmp_path))
    with pytest.raises(ConfigError, match="pipeline name"):
        Run.of(name)


def test_what_a_killed_stage_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(tmp_path, monkeypatch)
    run, runs = Run.of("mini"), tmp_path / "runs" / "mini"
    left = (".pretrain.writing-1", ".pretrain@0123.writing-2", ".pretrain.old-3", ".scratch/.pretrain-0123.done-4")
    others = (".prepare.writing-1", ".scratch/pretrain-0123", "pretrain")
    for name in (*left, *others):
        (runs / name / "inside").mkdir(parents=True)
    with run.only_one("pretrain"):
        assert not [name for name in left if (runs / name).exists()]
    assert all((runs / name).exists() for name in others)


def test_flatten_gives_the_names_that_overrides_use() -> None:
    @dataclasses.dataclass
    class Inner:
        b: int

    @dataclasses.dataclass
    class Outer:
        a: Inner
        c: str

    assert flatten(Outer(Inner(1), "x")) == {"a.b": 1, "c": "x"}


def test_a_variant_fills_in_its_network_and_overrides_go_on_top() -> None:
    hybrid = load("mini", ["pretrain.model.depth=2", "pretrain.model.variant=R50+ViT-B/16"]).pretrain.model
    assert isinstance(hybrid, ViTConfig) and hybrid.stem is not None
    assert (hybrid.stem.layers, hybrid.patch_pixels, hybrid.depth, hybrid.width) == ((3, 4, 9), 16, 2, 128)


def test_a_variant_of_another_family_says_which_values_do_not_belong() -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.model\.width is not a known name") as error:
        load("mini", ["pretrain.model.variant=R50x1"])
    assert "pretrain.model.resnet" not in str(error.value)


def test_resnet_needs_no_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = yaml.safe_load((ROOT / "pipelines.yaml").read_text())
    document["pipelines"]["mini"]["pretrain"]["model"] = {"variant": "R50x1", "resolution": 32}
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("VITFLOW_ROOT", str(tmp_path))
    assert load("mini").pretrain.model.family == "resnet"
    with pytest.raises(ConfigError, match="a ResNet has no dropout"):
        load("mini", ["finetune.dropout=0.1"])


def test_a_value_in_a_table_by_name_is_found_by_its_path() -> None:
    path = "evaluate.benchmarks.cifar10"
    assert load("vit-b16-i21k", [f"{path}.steps=500"]).evaluate.benchmarks["cifar10"].steps == 500
    with pytest.raises(ConfigError, match=f"{path}.steps is 'many': input should be a valid integer"):
        load("vit-b16-i21k", [f"{path}.steps=many"])
