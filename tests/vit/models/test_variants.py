"""Names of networks: their numbers of parameters equal the reference to the unit, and wrong ones get an answer."""

import dataclasses

import pytest
import torch

from vit.models.resnet import ResNet, ResNetConfig
from vit.models.variants import RESNETS, canonical, configure, create, names, settings
from vit.models.vit import ViT, ViTConfig

# paper.md 1.2 at 224 px: backbone, + 1,000 classes, + representation, + 21,843 and + 18,291 classes behind it.
VITS = {
    "Ti/16": (5_524_416, 5_717_416, 5_754_472, 9_777_171, 9_091_635),
    "S/32": (22_493_952, 22_878_952, 23_026_792, 31_051_347, 29_683_827),
    "S/16": (21_665_664, 22_050_664, 22_198_504, 30_223_059, 28_855_539),
    "B/32": (87_455_232, 88_224_232, 88_814_824, 104_843_091, 102_111_603),
    "B/16": (85_798_656, 86_567_656, 87_158_248, 103_186_515, 100_455_027),
    "L/32": (305_510_400, 306_535_400, 307_585_000, 328_949_075, 325_308_275),
    "L/16": (303_301_632, 304_326_632, 305_376_232, 326_740_307, 323_099_507),
    "H/14": (630_764_800, 632_045_800, 633_685_480, 660_385_363, 655_835_251),
}
COLUMNS = ((0, False), (1000, False), (1000, True), (21843, True), (18291, True))
RESNETS_V2_V1 = {  # paper.md 1.6, backbones
    "R50x1": (23_500_352, 23_508_032),
    "R50x2": (93_891_712, 93_907_072),
    "R101x1": (42_492_480, 42_500_160),
    "R152x1": (58_136_128, 58_143_808),
    "R152x2": (232_238_208, 232_253_568),
    "R152x4": (928_340_224, 928_370_944),
    "R200x3": (562_488_000, 562_511_040),
}
HYBRIDS = {  # paper.md 1.7: backbone, tokens, total stride
    "R50+ViT-B/32": (110_176_832, 50, 32),
    "R50+ViT-L/32": (327_969_856, 50, 32),
    "R50+ViT-B/16": (97_890_112, 197, 16),
    "R50+ViT-L/16": (315_458_624, 197, 16),
    "R26+S/32": (36_046_912, 50, 32),
    "R+Ti/16": (6_337_704 - 193_000, 50, 32),
}
OTHERS = [  # the rest of 1.2: name, resolution, settings, parameters with 1,000 classes
    ("B/8", 224, {}, 86_576_872),
    ("R50+B/16", 224, {}, 98_659_112),
    ("R50+L/32", 224, {}, 328_994_856),
    ("R26+S/32", 224, {}, 36_431_912),
    ("R+Ti/16", 224, {}, 6_337_704),
    ("B/16", 224, {"pooling": "gap"}, 86_566_120),
    ("S/16", 224, {"pooling": "gap"}, 22_049_896),
    ("B/16", 384, {}, 86_859_496),
    ("L/16", 384, {}, 304_715_752),
]


def count(name: str, num_classes: int, resolution: int = 224, **changes: object) -> int:
    with torch.device("meta"):
        model = create(name, num_classes=num_classes, resolution=resolution, **changes)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", VITS)
def test_parameters_of_transformers_in_every_column(name: str) -> None:
    counted = tuple(count(name, classes, representation=representation) for classes, representation in COLUMNS)
    assert counted == VITS[name]


@pytest.mark.parametrize("name", RESNETS_V2_V1)
def test_parameters_of_resnets_in_both_flavours(name: str) -> None:
    assert (count(name, 0), count(name, 0, flavour="v1")) == RESNETS_V2_V1[name]
    assert tuple(RESNETS_V2_V1) == RESNETS


@pytest.mark.parametrize("name", HYBRIDS)
def test_parameters_tokens_and_stride_of_hybrids(name: str) -> None:
    config = configure(name, 224)
    assert isinstance(config, ViTConfig)
    assert (count(name, 0), config.num_tokens, 224 // config.grid) == HYBRIDS[name]


@pytest.mark.parametrize(("name", "resolution", "changes", "expected"), OTHERS)
def test_parameters_of_the_other_networks(name: str, resolution: int, changes: dict[str, str], expected: int) -> None:
    assert count(name, 1000, resolution, **changes) == expected


def test_half_of_b_has_every_size_halved_and_heads_as_wide() -> None:
    half, full = settings("b/16", 224), settings("B/16", 224)
    for field in ("width", "mlp_dim", "num_heads"):
        assert 2 * half[field] == full[field]
    assert half["depth"] == full["depth"]


def test_numerics_are_the_authors() -> None:
    vit, hybrid, resnet = (configure(name, 224) for name in ("B/16", "R50+B/16", "R50x1"))
    assert isinstance(vit, ViTConfig) and isinstance(hybrid, ViTConfig) and isinstance(resnet, ResNetConfig)
    assert (vit.gelu, vit.layer_norm_eps, vit.pooling, vit.representation, vit.dropout) == (
        "tanh",
        1e-6,
        "tok",
        False,
        0,
    )
    assert hybrid.stem is not None and hybrid.stem.layers == (3, 4, 9)
    v1 = (hybrid.stem.flavour, hybrid.stem.group_norm_eps, hybrid.stem.standardize_eps, hybrid.stem.standardize_eps_on)
    assert v1 == ("v1", 1e-6, 1e-5, "std")
    v2 = (resnet.flavour, resnet.group_norm_eps, resnet.standardize_eps, resnet.standardize_eps_on)
    assert v2 == ("v2", 1e-5, 1e-10, "variance")
    alone = dataclasses.replace(hybrid.stem, layers=(3, 4, 6, 3))
    assert configure("R50x1", 224, flavour="v1") == alone
    assert configure("R50x1", 224, flavour="v1", group_norm_eps=1e-4) == dataclasses.replace(alone, group_norm_eps=1e-4)


def test_short_names_and_settings() -> None:
    assert configure("B/16", 224) == configure("ViT-B/16", 224)
    assert configure("R26+S/32", 224) == configure("R26+ViT-S/32", 224)
    assert [canonical(name) for name in ("R+Ti/16", "R50x1", "what/ever")] == ["R+ViT-Ti/16", "R50x1", "what/ever"]
    hybrid = configure("R50+B/16", 96, layers=[1, 1], pooling="gap", depth=2)
    assert isinstance(hybrid, ViTConfig) and hybrid.stem is not None
    assert (hybrid.stem.layers, hybrid.pooling, hybrid.depth, hybrid.grid) == ((1, 1), "gap", 2, 12)


@pytest.mark.parametrize("name", names())
def test_every_name_of_the_list_is_a_network(name: str) -> None:
    assert configure(name, 224).resolution == 224 or name.endswith("/14")


def test_created_networks_compute() -> None:
    torch.set_num_threads(1)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    vit = create("Ti/16", num_classes=3, resolution=32, head_bias=-10.0, depth=1)
    resnet = create("R50x1", num_classes=3, resolution=32, head_bias=-10.0, layers=[1])
    assert isinstance(vit, ViT) and isinstance(resnet, ResNet)
    for model in (vit, resnet):
        assert torch.equal(model(images), torch.full((2, 3), -10.0))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ViT-B16", "ViT-B/16"),
        ("vit-b/16", "ViT-B/16"),
        ("M/16", "ViT-L/16"),
        ("ViT-Ti", "ViT-Ti/"),
        ("R50x10", "R50x1"),
        ("R51x1", "R50x1"),
        ("resnet152x2", "R152x2"),
        ("R50+ViT-B/14", "R50+ViT-B/16"),
        ("R26+T/32", "R26+ViT-S/32"),
        ("B/0", "ViT-B/16"),
        ("?", "ViT-B/16"),
    ],
)
def test_a_misspelt_name_fails_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=r"no network is called .*nearest are ") as caught:
        configure(name, 224)
    assert repr(name) in str(caught.value) and nearest in str(caught.value)


def test_a_patch_that_does_not_fit_fails_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"patch size 15 .* 224; .* are 14 and 16, .* fit 210 and 225"):
        configure("ViT-B/15", 224)
    with pytest.raises(ValueError, match=r"patch size 448 .* do are 224, "):
        configure("ViT-B/448", 224)
    with pytest.raises(ValueError, match="not a multiple of patch_size 8"):
        configure("R+Ti/16", 100)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        configure("B/16", 0)


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        ("B/16", {"poling": "gap"}, "B/16 has no setting 'poling'; nearest are pooling"),
        ("B/16", {"flavour": "v1"}, "has no setting 'flavour'"),
        ("R50x1", {"pooling": "gap"}, "has no setting 'pooling'"),
        ("B/16", {"resolution_": 3}, "has no setting 'resolution_'"),
        ("B/16", {"family": "resnet"}, "has no setting 'family'"),
        ("B/16", {"pooling": "max"}, "pooling must be one of 'tok', 'gap', 'map', not 'max'"),
        ("B/16", {"depth": "twelve"}, "depth must be a whole number, not 'twelve'"),
        ("R50+B/16", {"layers": "3,4,9"}, "stem.layers must be a list of whole numbers"),
        ("R50x1", {"flavour": "v3"}, "flavour must be one of 'v1', 'v2', not 'v3'"),
    ],
)
def test_a_wrong_setting_fails_with_what_is_valid(name: str, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        configure(name, 224, **changes)
    assert sentence in str(caught.value)
