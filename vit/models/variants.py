"""The networks of the paper by name: "ViT-B/16", "R50x1", "R50+ViT-B/16", with the authors' numerics.

A row of a table is a network; the number after the slash is the patch size in pixels, of a hybrid the total stride.
Sources: paper Table 1, §3.1, §4.1, §4.4; vision_transformer vit_jax/configs/models.py; big_transfer's models.py.
"""

import difflib
import re
from typing import Any

from vit.models.build import Model, ModelConfig, build, config_from_dict

# Width, depth, heads, mlp_dim. Ti and S are DeiT's; b is B halved (Fig. 4), whose heads we keep 64 wide: not stated.
SIZES = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "b": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
}
DEPTHS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3), "200": (3, 24, 36, 3)}
# Units of the stem, size of the transformer, its patch in cells. Option (i) of §3.1 reads stage 4, at stride 32; option
# (ii) moves the three units of stage 4 to stage 3, at stride 16. R+ViT-Ti/16 is a root of stride 4 under 8 x 8 patches:
# 32 in all whatever its name says, for no other number of tokens fits its published number of parameters.
HYBRIDS = {
    "R50+ViT-B/32": ((3, 4, 6, 3), "B", 1),
    "R50+ViT-B/16": ((3, 4, 9), "B", 1),
    "R50+ViT-L/32": ((3, 4, 6, 3), "L", 1),
    "R50+ViT-L/16": ((3, 4, 9), "L", 1),
    "R26+ViT-S/32": ((2, 2, 2, 2), "S", 1),
    "R+ViT-Ti/16": ((), "Ti", 8),
}
RESNETS = ("R50x1", "R50x2", "R101x1", "R152x1", "R152x2", "R152x4", "R200x3")
PATCHES = (32, 16, 14)  # of the paper; any other that divides the resolution works too
# v1 as the hybrids of vision_transformer have it, v2 as the public BiT checkpoints.
NUMERICS: dict[str, dict[str, Any]] = {
    "v1": {"group_norm_eps": 1e-6, "standardize_eps": 1e-5, "standardize_eps_on": "std"},
    "v2": {"group_norm_eps": 1e-5, "standardize_eps": 1e-10, "standardize_eps_on": "variance"},
}
FIXED = ("family", "resolution")  # the name and the resolution decide them
_VIT = re.compile(r"ViT-([A-Za-z]+)/([1-9]\d*)")
_RESNET = re.compile(r"R(\d+)x([1-9])")


def create(name: str, *, num_classes: int, resolution: int = 224, head_bias: float = 0.0, **settings: Any) -> Model:
    """A new network by name, randomly initialised: B 3 R R in [-1, 1] -> B num_classes.

    `settings` are fields of its config, e.g. pooling="gap", representation=True (pre-training), position="2d";
    for a ResNet or the stem of a hybrid also flavour, layers, group_norm_eps. Raises ValueError as `configure`.
    """
    return build(configure(name, resolution, **settings), num_classes, head_bias=head_bias)


def configure(name: str, resolution: int, **changes: Any) -> ModelConfig:
    """The config of a network, with fields changed; a ResNet's other flavour brings its own numerics.

    Raises ValueError with the nearest valid names if the name, a setting or a patch size is unknown or does not fit.
    """
    values = settings(name, resolution)
    if values["family"] == "resnet":
        values |= NUMERICS.get(str(changes.get("flavour")), {})
    stem: dict[str, Any] | None = values.get("stem")
    valid = [field for field in values if field not in FIXED]
    valid += [field for field in stem or {} if field not in FIXED]
    for field, value in changes.items():
        if field not in valid:
            near = _nearest(field, valid) or valid
            raise ValueError(f"{name} has no setting {field!r}; nearest are {', '.join(near)}")
        target = values if field in values or stem is None else stem
        target[field] = value
    return config_from_dict(values)


def settings(name: str, resolution: int) -> dict[str, Any]:
    """The fields of a network's config as `config_from_dict` reads them, for transfer: without representation layer.

    "B/16" is "ViT-B/16", "R26+S/32" is "R26+ViT-S/32". Raises ValueError with the nearest valid names.
    """
    full = canonical(name)
    if full in HYBRIDS:
        layers, size, patch_size = HYBRIDS[full]
        return _vit(size, resolution, patch_size, _resnet(layers, 1, "v1", resolution))
    if (resnet := _RESNET.fullmatch(full)) and resnet[1] in DEPTHS:
        return _resnet(DEPTHS[resnet[1]], int(resnet[2]), "v2", resolution)
    if (vit := _VIT.fullmatch(full)) and vit[1] in SIZES:
        _check_patch(full, int(vit[2]), resolution)
        return _vit(vit[1], resolution, int(vit[2]), None)
    near = _nearest(name, names()) or names()
    raise ValueError(f"no network is called {name!r}; nearest are {', '.join(near)}")


def canonical(name: str) -> str:
    """The name in full: "ViT-" before the size of a transformer. Unknown names come back as they are."""
    stem, plus, rest = name.strip().rpartition("+")
    size = rest.partition("/")[0]
    return f"{stem}{plus}ViT-{rest}" if size in SIZES and "/" in rest else f"{stem}{plus}{rest}"


def names() -> list[str]:
    """Every network of the table: transformers at the paper's patch sizes, ResNets, hybrids."""
    return [f"ViT-{size}/{patch}" for size in SIZES for patch in PATCHES] + [*RESNETS, *HYBRIDS]


def _vit(size: str, resolution: int, patch_size: int, stem: dict[str, Any] | None) -> dict[str, Any]:
    width, depth, num_heads, mlp_dim = SIZES[size]
    return {
        "family": "vit",
        "resolution": resolution,
        "patch_size": patch_size,
        "stem": stem,
        "width": width,
        "depth": depth,
        "num_heads": num_heads,
        "mlp_dim": mlp_dim,
        "pooling": "tok",
        "representation": False,
        "position": "learned",
        "position_at": "stem",
        "gelu": "tanh",
        "layer_norm_eps": 1e-6,
        "dropout": 0.0,
    }


def _resnet(layers: tuple[int, ...], width_factor: int, flavour: str, resolution: int) -> dict[str, Any]:
    return {
        "family": "resnet",
        "resolution": resolution,
        "layers": layers,
        "width_factor": width_factor,
        "flavour": flavour,
        **NUMERICS[flavour],
    }


def _check_patch(name: str, patch_size: int, resolution: int) -> None:
    if resolution < 1:
        raise ValueError(f"resolution {resolution} must be at least 1 pixel")
    if resolution % patch_size == 0:
        return
    divisors = [size for size in range(1, resolution + 1) if resolution % size == 0]
    below = [size for size in divisors if size < patch_size][-1:]
    near = " and ".join(str(size) for size in below + [size for size in divisors if size > patch_size][:1])
    low = max(resolution // patch_size, 1) * patch_size
    raise ValueError(
        f"{name}: patch size {patch_size} does not divide resolution {resolution}; the nearest patch sizes that do are "
        f"{near}, the nearest resolutions that fit {low} and {low + patch_size}"
    )


def _nearest(word: str, valid: list[str]) -> list[str]:
    """Up to three valid words, letter case aside; names of networks also match in their short form."""
    forms = {form: full for full in valid for form in (full.lower(), full.lower().replace("vit-", ""))}
    found = difflib.get_close_matches(word.lower(), forms, n=6, cutoff=0.6)
    return list(dict.fromkeys(forms[form] for form in found))[:3]
