"""Our networks against timm and transformers themselves: same files, same numbers, both ways.

The one module that imports the two libraries (15 s between them). Architectures are the real ones; the large are cut in
depth and resolution, never in what they compute. Every parameter is random: zeros and ones would hide exchanges.
"""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from timm.layers import resample_abs_pos_embed
from timm.models import save_for_hf
from torch import nn

from tests.vit.models.comparison import assert_same, images_for, num_blocks, randomised, run
from vit.models.variants import create
from vit.models.weights import BadCheckpoint, convert, inspect, load, native

SMALL = {"depth": 2, "num_classes": 7}
VITS = {  # timm's name, its arguments
    "Ti/16": ("vit_tiny_patch16_224", {"num_classes": 10}),
    "S/32": ("vit_small_patch32_224", {"num_classes": 10}),
    "S/16": ("vit_small_patch16_224", SMALL | {"img_size": 64}),
    "S/8": ("vit_small_patch8_224", SMALL | {"img_size": 32}),
    "B/8": ("vit_base_patch8_224", SMALL | {"depth": 1, "img_size": 32}),
    "B/32": ("vit_base_patch32_224", SMALL | {"img_size": 96}),
    "B/16": ("vit_base_patch16_384", SMALL | {"img_size": 48}),
    "L/32": ("vit_large_patch32_224", SMALL | {"depth": 1, "img_size": 64}),
    "L/16": ("vit_large_patch16_224", SMALL | {"depth": 1, "img_size": 32}),
    "H/14": ("vit_huge_patch14_224", {"depth": 1, "img_size": 42, "num_classes": 0}),
    "B/16 gap": ("vit_base_patch16_gap_224", SMALL | {"img_size": 48}),
    "B/32 map": ("vit_base_patch32_siglip_256", SMALL | {"img_size": 96}),
}
TINY: dict[str, Any] = {"depth": 2, "patch_size": 8, "width": 72, "num_heads": 6, "mlp_dim": 100}
TOY = {"depth": 2, "embed_dim": 64, "num_heads": 4, "num_classes": 7}
HYBRIDS = {
    "R+Ti/16": ("vit_tiny_r_s16_p8_224", TOY | {"img_size": 64}),
    "R26+S/32": ("vit_small_r26_s32_224", TOY | {"img_size": 96}),
    "R50+B/16, odd": ("vit_base_r50_s16_224", TOY | {"img_size": 72}),  # SAME pads a grid of 4.5 cells to 5
    "R50+L/32": ("vit_large_r50_s32_224", TOY | {"img_size": 64}),
}
BITS = {
    "R50x1": ("resnetv2_50x1_bit", {"num_classes": 7}),
    "R101x1": ("resnetv2_101x1_bit", {"num_classes": 7}),
    "R152x1": ("resnetv2_152x2_bit", {"num_classes": 7, "channels": [128, 256, 512, 1024], "stem_chs": 32}),
    "two stages, x2": ("resnetv2_101x1_bit", {"num_classes": 0, "channels": [512, 1024], "stem_chs": 128}),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("timm").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def timm_directory(name: str, arguments: dict[str, Any], out: Path) -> nn.Module:
    model = randomised(timm.create_model(name, **arguments))
    save_for_hf(model, out, safe_serialization=True)
    return model


def hf_load(kind: type, path: Path) -> nn.Module:
    model, info = kind.from_pretrained(path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    return model.eval()


@pytest.mark.parametrize("variant", [*VITS, *HYBRIDS, *BITS])
def test_timm_there_and_back(variant: str, tmp_path: Path) -> None:
    name, arguments = (VITS | HYBRIDS | BITS)[variant]
    theirs = timm_directory(name, arguments, tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    images = images_for(ours.config, 64 if variant in BITS else 0)
    expected = run(theirs, images, "timm")
    assert len(expected) == 1 + num_blocks(ours.config)
    assert_same(run(ours, images, "ours"), expected)
    convert(tmp_path / "theirs", "timm", tmp_path / "ours")
    again = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert type(again) is type(theirs)
    assert_same(run(again, images, "timm"), expected)
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in again.state_dict().items())


WRONG = [
    ("R26+S/32", {"group_norm_eps": 1e-6}),
    ("R26+S/32", {"standardize_eps": 1e-10}),
    ("R26+S/32", {"standardize_eps_on": "std"}),
    ("two stages, x2", {"group_norm_eps": 1e-6}),
    ("two stages, x2", {"standardize_eps": 1e-10}),
    ("S/16", {"layer_norm_eps": 1e-12}),
    ("S/16", {"gelu": "tanh"}),
    ("S/16", {"num_heads": 3}),
]


@pytest.mark.parametrize(("variant", "settings"), WRONG)
def test_comparison_sees_wrong_numerics(variant: str, settings: dict[str, Any], tmp_path: Path) -> None:
    name, arguments = (VITS | HYBRIDS | BITS)[variant]
    theirs = timm_directory(name, arguments, tmp_path / "theirs")
    ours = load(tmp_path / "theirs", **settings)
    images = images_for(ours.config, 64 if variant in BITS else 0)
    with pytest.raises(AssertionError, match="output"):
        assert_same(run(ours, images, "ours"), run(theirs, images, "timm"))


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
@pytest.mark.parametrize("pooling", ["tok", "gap", "map"])
def test_ours_in_timm(gelu: str, pooling: str, tmp_path: Path) -> None:
    ours = randomised(create("Ti/16", num_classes=3, resolution=48, pooling=pooling, gelu=gelu, **TINY))
    native.save(tmp_path / "ours.safetensors", ours, class_names=["cat", "dog", "ewe"])
    assert convert(tmp_path / "ours.safetensors", "timm", tmp_path / "theirs") == []
    theirs = timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True).eval()
    images = images_for(ours.config)
    assert_same(run(ours, images, "ours"), run(theirs, images, "timm"))
    back = inspect(tmp_path / "theirs")
    assert (back.config, back.class_names) == (ours.config, ("cat", "dog", "ewe"))
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in back.state.items())


def test_timm_resizes_positions_as_we_do_for_its_files(tmp_path: Path) -> None:
    timm_directory("vit_tiny_patch16_224", TOY | {"img_size": 48, "patch_size": 8}, tmp_path)
    for side in (32, 80):
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=side).eval()
        ours = load(tmp_path, resolution=side)
        images = images_for(ours.config)
        assert_same(run(ours, images, "ours"), run(theirs, images, "timm"))


@pytest.mark.parametrize("argument", ["no_embed_class", "qkv_bias"])
def test_timm_parameters_left_out(argument: str, tmp_path: Path) -> None:
    arguments = TOY | {"img_size": 48, argument: argument == "no_embed_class"}
    theirs = timm_directory("vit_tiny_patch16_224", arguments, tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    images = images_for(ours.config)
    assert_same(run(ours, images, "ours"), run(theirs, images, "timm"))


def test_timm_file_without_description(tmp_path: Path) -> None:
    theirs = randomised(timm.create_model("vit_tiny_patch16_224", **TOY, img_size=64))
    torch.save({"state_dict": theirs.state_dict(), "epoch": 3}, tmp_path / "toy.pth")
    with pytest.raises(BadCheckpoint, match=r"toy\.pth.*pass num_heads"):
        load(tmp_path / "toy.pth")
    ours = load(tmp_path / "toy.pth", num_heads=4)
    images = images_for(ours.config)
    assert_same(run(ours, images, "ours"), run(theirs, images, "timm"))


def test_timm_images_that_are_not_square(tmp_path: Path) -> None:
    theirs = timm_directory("vit_tiny_patch16_224", TOY | {"img_size": (32, 64)}, tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    assert ours.config.resolution == 64
    table = resample_abs_pos_embed(theirs.pos_embed, [4, 4], [2, 4], num_prefix_tokens=1)
    assert torch.equal(ours.pos_embed, table)


@pytest.mark.parametrize(
    ("name", "arguments", "what"),  # what: a part of the sentence
    [
        ("deit3_small_patch16_224", {"img_size": 32, "depth": 1}, "LayerScale .blocks.0.ls1.gamma"),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}, "distillation token .dist_token"),
        ("vit_base_patch16_clip_224", {"img_size": 32, "depth": 1}, "norm before the blocks .norm_pre"),
        ("vit_wee_patch16_reg1_gap_256", {"img_size": 32, "depth": 1}, "register tokens .reg_token"),
        ("vit_tiny_patch16_224", TOY | {"img_size": 32, "global_pool": "avg"}, "norm after pooling"),
        ("vit_tiny_patch16_224", TOY | {"img_size": 32, "global_pool": "avg", "fc_norm": False}, "pools by 'gap'"),
        ("vit_tiny_patch16_224", TOY | {"img_size": 32, "qk_norm": True}, "normalised queries and keys"),
        ("vit_tiny_patch16_224", TOY | {"img_size": 32, "act_layer": "relu"}, "act_layer 'relu'"),
    ],
)
def test_timm_relatives_that_are_not_of_the_paper(
    name: str, arguments: dict[str, Any], what: str, tmp_path: Path
) -> None:
    save_for_hf(timm.create_model(name, **arguments), tmp_path, safe_serialization=True)
    with pytest.raises(BadCheckpoint, match=what):
        load(tmp_path)


HF_TOY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
HF_SMALL = {"num_hidden_layers": 2, "image_size": 48}
HF_LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 1} | {
    "image_size": 48
}
HF_VITS = {
    "Ti/16": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "num_labels": 10},
    "S/32": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "patch_size": 32},
    "S/16": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536} | HF_SMALL,
    "B/32": HF_SMALL | {"image_size": 96, "patch_size": 32},
    "B/16": HF_SMALL | {"layer_norm_eps": 1e-6},
    "L/32": HF_LARGE | {"image_size": 64, "patch_size": 32},
    "L/16": HF_LARGE,
    "H/14": HF_LARGE | {"hidden_size": 1280, "intermediate_size": 5120, "image_size": 42, "patch_size": 14},
    "toy, tanh": HF_TOY | {"image_size": 48, "patch_size": 8, "hidden_act": "gelu_pytorch_tanh"},
    "toy, gelu_new": HF_TOY | {"image_size": 48, "hidden_act": "gelu_new"},
    "toy, no qkv bias": HF_TOY | {"image_size": 48, "qkv_bias": False},
    "toy, no head": HF_TOY | {"image_size": 48, "num_labels": 0},
}
HF_BITS = {
    "R50x1": {"num_labels": 7},
    "R101x1": {"num_labels": 7, "depths": [3, 4, 23, 3]},
    "one stage, x2": {"depths": [2], "hidden_sizes": [512], "embedding_size": 128, "num_labels": 7},
}


def hf_directory(variant: str, out: Path) -> nn.Module:
    if variant in HF_VITS:
        config = transformers.ViTConfig(**HF_VITS[variant])
        model = randomised(transformers.ViTForImageClassification(config))
    else:
        model = randomised(transformers.BitForImageClassification(transformers.BitConfig(**HF_BITS[variant])))
    model.save_pretrained(out)
    return model


@pytest.mark.parametrize("variant", [*HF_VITS, *HF_BITS])
def test_hugging_face_there_and_back(variant: str, tmp_path: Path) -> None:
    theirs, peer = hf_directory(variant, tmp_path / "theirs"), "vit" if variant in HF_VITS else "bit"
    ours = load(tmp_path / "theirs")
    images = images_for(ours.config, 64 if peer == "bit" else 0)
    expected = run(theirs, images, peer)
    assert len(expected) == 1 + num_blocks(ours.config)
    assert_same(run(ours, images, "ours"), expected)
    convert(tmp_path / "theirs", "hf", tmp_path / "ours")
    again = hf_load(type(theirs), tmp_path / "ours")
    assert_same(run(again, images, peer), expected)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
def test_ours_in_hugging_face(gelu: str, tmp_path: Path) -> None:
    ours = randomised(create("Ti/16", num_classes=3, resolution=48, gelu=gelu, layer_norm_eps=1e-6, **TINY))
    native.save(tmp_path / "ours.safetensors", ours, class_names=["cat", "dog", "ewe"])
    assert len(convert(tmp_path / "ours.safetensors", "hf", tmp_path / "theirs")) == 0
    theirs = hf_load(transformers.ViTForImageClassification, tmp_path / "theirs")
    images = images_for(ours.config)
    assert_same(run(ours, images, "ours"), run(theirs, images, "vit"))
    assert theirs.config.id2label == {0: "cat", 1: "dog", 2: "ewe"}
    back = inspect(tmp_path / "theirs")
    assert (back.config, back.class_names) == (ours.config, ("cat", "dog", "ewe"))
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in back.state.items())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "theirs")
    assert processor.size == {"height": 48, "width": 48}
    assert list(processor.image_mean) == [0.5] * 3


def test_hugging_face_pooler_is_our_representation_layer(tmp_path: Path) -> None:
    theirs = randomised(transformers.ViTModel(transformers.ViTConfig(**HF_TOY, image_size=48)))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs")
    assert (ours.config.representation, ours.num_classes) == (True, 0)
    convert(tmp_path / "theirs", "hf", tmp_path / "ours")
    again = hf_load(transformers.ViTModel, tmp_path / "ours")
    images = images_for(ours.config)
    with torch.inference_mode():
        expected = theirs(images).pooler_output
        assert_same([ours(images), again(images).pooler_output], [expected, expected])


@pytest.mark.parametrize("kind", ["shards", "bin", "half"])
def test_hugging_face_ways_to_store(kind: str, tmp_path: Path) -> None:
    theirs = hf_directory("toy, tanh", tmp_path)
    if kind == "shards":
        theirs.save_pretrained(tmp_path, max_shard_size="100KB")
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    if kind == "bin":  # with the module names of transformers 5
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    if kind == "half":
        theirs.bfloat16().save_pretrained(tmp_path)
        convert(tmp_path, "hf", tmp_path / "ours")
        assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "bfloat16"
    ours = load(tmp_path)
    images = images_for(ours.config)
    assert_same(run(ours, images, "ours"), run(theirs.float(), images, "vit"))


def test_hugging_face_resizes_positions_as_we_do_for_its_files(tmp_path: Path) -> None:
    theirs = hf_directory("toy, tanh", tmp_path)
    for side in (32, 80):
        ours = load(tmp_path, resolution=side)
        images = images_for(ours.config)
        with torch.inference_mode():
            expected = theirs(images, interpolate_pos_encoding=True).logits
            assert_same([ours(images)] * 2, [expected] * 2)
