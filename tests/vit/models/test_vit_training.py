"""The network as something to train: where it starts, what drops out; that it compiles, checkpoints and autocasts."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.vit.models.toy_vit import B16, STEM, TINY, randomised
from vit.models.vit import ViT, initialise


def test_dropout_stands_after_positions_and_every_dense_layer_but_qkv() -> None:
    model = ViT(dataclasses.replace(TINY, depth=1, dropout=0.5), 0).train()
    seen: list[tuple[str, int, float]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda m, x, _, name=name: seen.append((name, x[0].shape[-1], m.p)))
    model(torch.randn(2, 3, 32, 32))
    blocks = [("blocks.0.attn.drop", 32, 0.5), ("blocks.0.mlp.drop", 64, 0.5), ("blocks.0.mlp.drop", 32, 0.5)]
    assert seen == [("pos_drop", 32, 0.5), *blocks]


def test_initialisation_follows_the_authors() -> None:
    config = dataclasses.replace(B16, depth=1, representation=True)
    model = ViT(config, num_classes=5, head_bias=-10.0)
    bound = (6 / (768 + 768)) ** 0.5  # xavier for each of q, k, v, not for the fused matrix
    for matrix in (*model.blocks[0].attn.qkv.weight.chunk(3), model.blocks[0].attn.proj.weight):
        assert matrix.abs().max().item() == pytest.approx(bound, rel=1e-3)
    plain = (model.blocks[0].attn.qkv, model.blocks[0].attn.proj, model.patch_embed.proj, model.pre_logits.fc)
    assert all(layer.bias.abs().max() == 0 for layer in plain)
    for layer in (model.blocks[0].mlp.fc1, model.blocks[0].mlp.fc2):
        assert layer.weight.abs().max().item() == pytest.approx((6 / (768 + 3072)) ** 0.5, rel=1e-3)
        assert layer.weight.std().item() == pytest.approx((2 / (768 + 3072)) ** 0.5, rel=2e-2)  # uniform
        assert layer.bias.std().item() == pytest.approx(1e-6, rel=0.1)
    for layer in (model.patch_embed.proj, model.pre_logits.fc):  # both see 768 numbers; cut at two deviations
        assert layer.weight.std().item() == pytest.approx(768**-0.5, rel=2e-2)
        assert layer.weight.abs().max().item() == pytest.approx(2 * 768**-0.5 / 0.8796, rel=1e-2)
    for norm in (model.blocks[0].norm1, model.blocks[0].norm2, model.norm):
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=2e-2) and model.cls_token.abs().max() == 0
    assert model.head.weight.abs().max() == 0 and set(model.head.bias.tolist()) == {-10.0}


def test_attention_pool_starts_with_xavier_per_matrix() -> None:
    pool = ViT(dataclasses.replace(TINY, width=256, num_heads=4, pooling="map"), 0).attn_pool
    assert pool is not None
    for matrix in (pool.q.weight, *pool.kv.weight.chunk(2), pool.proj.weight):
        assert matrix.abs().max().item() == pytest.approx((6 / 512) ** 0.5, rel=1e-2)
    assert pool.latent.abs().max().item() == pytest.approx((6 / 257) ** 0.5, rel=5e-2)


@pytest.mark.parametrize(
    "fields",
    [{}, {"pooling": "map", "position": "2d"}, {"position": "sincos2d"}, {"stem": STEM, "patch_size": 1}],
)
def test_a_meta_model_can_be_filled_and_initialised(fields: dict[str, Any]) -> None:
    config = dataclasses.replace(TINY, **fields)
    with torch.device("meta"):
        model = ViT(config, 5)
    model.to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(torch.nan)
    expected = ViT(config, 5)
    for each in (model, expected):
        torch.manual_seed(3)
        initialise(each, -10.0)
    for (name, ours), (_, theirs) in zip(everything(model), everything(expected), strict=True):
        assert torch.equal(ours, theirs), name


def everything(model: ViT) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(model.named_parameters(), model.named_buffers())


COMPILED = [
    {"dropout": 0.1, "representation": True},
    {"pooling": "map", "position": "2d", "position_at": "every"},
    {"position": "relative", "position_at": "shared", "pooling": "gap"},
    {"position": "sincos2d", "gelu": "erf", "patch_size": 2, "stem": STEM},
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fields", COMPILED)
def test_compiles_to_one_graph(fields: dict[str, Any], training: bool) -> None:
    model, images = randomised(**{"depth": 2, **fields}).train(training), torch.randn(2, 3, 32, 32)
    model.set_grad_checkpointing(training)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.set_grad_enabled(training):
        torch.manual_seed(1)
        logits = compiled(images)
        torch.manual_seed(1)
        torch.testing.assert_close(logits, model(images))


def test_compiled_training_step_has_the_eager_gradients() -> None:
    model, images = randomised(depth=1, position="relative", position_at="every").train(), torch.randn(2, 3, 32, 32)
    torch.compiler.reset()
    gradients = []
    for step in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        step(images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"position": "relative", "position_at": "every"},
        {"position": "relative", "position_at": "shared"},
        {"stem": dataclasses.replace(STEM, layers=(4, 1)), "patch_size": 1, "depth": 1, "mlp_dim": 8},
    ],
)
def test_checkpointed_blocks_give_the_same_gradients_and_keep_less(fields: dict[str, Any]) -> None:
    model = randomised(dropout=0.1, **fields).train()
    images, results, kept = torch.randn(2, 3, 32, 32), [], []

    def count(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.numel()
        return tensor

    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        kept.append(0)
        torch.manual_seed(7)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(images).square().sum()
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    torch.testing.assert_close(*results)
    assert kept[1] < kept[0] / 3


def test_bfloat16_autocast_stays_close() -> None:
    model, images = randomised(position="relative", position_at="every", pooling="map"), torch.randn(2, 3, 32, 32)
    exact = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.bfloat16
    assert (logits - exact).norm() < 0.05 * exact.norm()
