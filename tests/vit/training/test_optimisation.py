"""Optimisers, schedules, losses and averages against closed forms and a float64 reference."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.networks import tiny_vit
from tests.recipes import training
from vit.models.vit import ViT
from vit.training.averaging import Average
from vit.training.config import TrainConfig
from vit.training.loss import classification_loss
from vit.training.optimizer import make_optimizer, set_rate
from vit.training.schedule import learning_rate

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Rule = Callable[[TrainConfig, Floats, Floats, dict[str, Floats], int, float], Floats]


def adam(c: TrainConfig, p: Floats, g: Floats, slots: dict[str, Floats], step: int, rate: float) -> Floats:
    """Kingma & Ba 2015, algorithm 1; decay as Loshchilov & Hutter 2019, algorithm 2, with lr times the decay."""
    b1, b2 = c.betas
    m = slots["m"] = b1 * slots.get("m", np.zeros_like(p)) + (1 - b1) * g
    v = slots["v"] = b2 * slots.get("v", np.zeros_like(p)) + (1 - b2) * g**2
    m, v = m / (1 - b1**step), v / (1 - b2**step)
    return p - rate * (m / (np.sqrt(v) + c.eps) + c.weight_decay * p)


def sgd(c: TrainConfig, p: Floats, g: Floats, slots: dict[str, Floats], step: int, rate: float) -> Floats:
    """Sutskever et al. 2013 as torch and BiT have it: decay is part of the gradient."""
    slots["m"] = c.momentum * slots.get("m", np.zeros_like(p)) + g + c.weight_decay * p
    return p - rate * slots["m"]


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (training(optimizer="adamw", steps=50), adam),
        (training(optimizer="adam", steps=50, betas=(0.8, 0.95), eps=1e-6), adam),
        (training(optimizer="sgd", steps=50, decay="cosine"), sgd),
        (training(optimizer="sgd", steps=50, weight_decay=0.3), sgd),
    ],
)
def test_fifty_steps_equal_a_float64_reference(config: TrainConfig, rule: Rule) -> None:
    """Gradients are given, not computed, so that only the optimiser's own rounding is seen."""
    random = np.random.default_rng(0)
    model = nn.Linear(5, 4)
    values: list[Floats] = [parameter.detach().numpy().astype(np.float64) for parameter in model.parameters()]
    slots: list[dict[str, Floats]] = [{} for _ in values]
    optimizer = make_optimizer(model, config)
    for step in range(config.steps):
        rate = learning_rate(step, config)
        set_rate(optimizer, rate)
        for index, parameter in enumerate(model.parameters()):
            gradient = random.normal(size=parameter.shape).astype(np.float32)
            parameter.grad = torch.from_numpy(gradient)
            values[index] = rule(config, values[index], gradient.astype(np.float64), slots[index], step + 1, rate)
        optimizer.step()
    for value, parameter in zip(values, model.parameters(), strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=1e-6, atol=1e-6)


def test_decay_is_decoupled_and_touches_every_parameter() -> None:
    model = nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    _step_without_gradient(model, training(weight_decay=0.1))
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new, old * (1 - 0.5 * 0.1))


def test_decay_on_matrices_spares_biases_norms_tokens_and_positions() -> None:
    model = ViT(tiny_vit(resolution=8, patch_size=4, pooling="tok"), 3, head_bias=1.0)
    nn.init.ones_(model.cls_token)
    nn.init.ones_(model.head.weight)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    _step_without_gradient(model, training(weight_decay=0.1, decay_on="matrices"))
    shrunk = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    kernels = {"patch_embed.proj", "head"} | {f"blocks.0.{n}" for n in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert shrunk == {f"{name}.weight" for name in kernels}


def _step_without_gradient(model: nn.Module, config: TrainConfig) -> None:
    optimizer = make_optimizer(model, config)
    set_rate(optimizer, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def test_adam_without_w_does_not_decay() -> None:
    with pytest.raises(ValueError, match=r"weight_decay 0\.1 with adam: the paper decays decoupled from Adam"):
        training(optimizer="adam", weight_decay=0.1)


def rates(**changes: object) -> list[float]:
    config = training(**changes)
    return [learning_rate(step, config) for step in range(config.steps)]


def test_linear_schedule() -> None:
    found = rates(learning_rate=1.0, decay="linear", warmup_steps=10, steps=110)
    assert found[0] == pytest.approx(0.1) and found[9] == pytest.approx(1.0)
    assert found[60] == pytest.approx(0.5, abs=1e-5) and found[-1] == pytest.approx(0.01, rel=1e-2)
    end = learning_rate(110, training(learning_rate=1.0, decay="linear", warmup_steps=10, steps=110))
    assert end == pytest.approx(1e-5)  # linear_end of the authors' configs


def test_cosine_schedule() -> None:
    found = rates(learning_rate=2.0, decay="cosine", warmup_steps=0, steps=100)
    assert found == pytest.approx([1 + math.cos(math.pi * step / 100) for step in range(100)])


def test_rsqrt_schedule_with_cooldown() -> None:
    found = rates(learning_rate=3.0, decay="rsqrt", timescale=20, warmup_steps=10, cooldown_steps=40, steps=200)
    assert found[4] == pytest.approx(1.5) and found[10] == pytest.approx(3.0)
    assert found[30] == pytest.approx(3.0 / math.sqrt(2)) and found[70] == pytest.approx(1.5)  # 1 + 60/20 = 4
    assert found[180] == pytest.approx(3.0 / math.sqrt(1 + 170 / 20) / 2)  # half-way down
    assert found[199] == pytest.approx(3.0 / math.sqrt(1 + 189 / 20) / 40)


def test_sigmoid_loss_sums_over_classes_and_smooths_as_published() -> None:
    logits = torch.full((5, 4), -10.0)
    labels = torch.zeros(5, dtype=torch.long)
    positive, negative = math.log1p(math.exp(10)), math.log1p(math.exp(-10))  # the loss of targets 1 and 0
    assert classification_loss(logits, labels, "sigmoid").item() == pytest.approx(positive + 3 * negative)
    on = 0.9999 * positive + 0.0001 * negative
    off = 0.0001 * positive + 0.9999 * negative
    smooth = classification_loss(logits, labels, "sigmoid", 1e-4).item()
    assert smooth == pytest.approx(on + 3 * off, rel=1e-6)


def test_multi_label_targets_are_ones_for_each_label() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    found = classification_loss(logits, torch.tensor([[1.0, 0.0, 1.0]]), "sigmoid").item()
    assert found == pytest.approx(sum(math.log1p(math.exp(x)) for x in (-2.0, -1.0, -0.5)))


def test_softmax_smoothing_spreads_a_share_over_all_classes() -> None:
    logits, labels = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([2])
    total = math.log(sum(math.exp(x) for x in (1, 2, 4)))
    losses = [total - x for x in (1, 2, 4)]
    expected = 0.9 * losses[2] + 0.1 * sum(losses) / 3
    assert classification_loss(logits, labels, "softmax", 0.1).item() == pytest.approx(expected)


def test_average_is_exponential() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 8.0)
    average = Average(model, 0.75)
    for value in (4.0, 0.0):
        nn.init.constant_(model.weight, value)
        average.update()
    expected = 0.75**2 * 8 + 0.75 * 0.25 * 4  # 5.25
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 0.0
    average.apply()
    assert model.weight.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"betas": (0.9, 1.0)}, r"betas \[0.9, 1.0\] must be at least 0 and below 1"),
        ({"warmup_steps": 8}, "warmup_steps 8 must be at least 0 and below steps 8"),
        ({"cooldown_steps": 7}, "warmup_steps 2 and cooldown_steps 7 do not fit into 8 steps"),
        ({"average": 1.0}, "average 1.0 must be at least 0 and below 1"),
        ({"patience": 2}, "patience 2 counts validations: set validate_every"),
        ({"steps": 0}, "steps 0 must be at least 1"),
        ({"rewinds": -1}, "rewinds -1 must not be negative"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        training(**changes)
