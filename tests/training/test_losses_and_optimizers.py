import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from clearsight.tasks import Task
from clearsight.training.classification.losses import build_loss, class_weights
from clearsight.training.engine.optimizer import OptimizerOptions, build_optimizer


def test_no_weighting_means_no_weights() -> None:
    assert class_weights([3, 2], 5, 0) is None


def test_weights_of_an_imbalanced_set() -> None:
    full, root = class_weights([80, 15, 5], 100, 2), class_weights([80, 15, 5], 100, 1)
    assert full == pytest.approx([0.4167, 2.2222, 6.6667], abs=5e-5)
    assert root == pytest.approx([0.6455, 1.4907, 2.5820], abs=5e-5)


def test_full_weights_are_scikit_learns_balanced_ones() -> None:
    labels = np.array([0] * 7 + [1] * 2 + [2] * 4)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights([7, 2, 4], 13, 2) == pytest.approx(expected)


def test_a_class_without_records_weighs_one() -> None:
    weights = class_weights([4, 0], 4, 2)
    assert weights is not None
    assert weights[1] == 1.0


def test_multi_class_loss_is_the_weighted_cross_entropy() -> None:
    logits, weights = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), np.array([1.0, 3.0])
    loss = build_loss(Task.MULTI_CLASS, weights)(logits, torch.tensor([0, 1]))
    expected = (1.0 * np.log(1 + np.exp(-2)) + 3.0 * np.log(2)) / 4
    assert loss.item() == pytest.approx(expected)


def test_multi_label_loss_weighs_positives_only() -> None:
    logits, targets = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    loss = build_loss(Task.MULTI_LABEL, np.array([5.0, 5.0]))(logits, targets)
    assert loss.item() == pytest.approx((5 * np.log(2) + np.log(2)) / 2)


@pytest.mark.parametrize(
    ("name", "expected"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_each_name_has_its_optimizer(name: str, expected: type) -> None:
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(1))], OptimizerOptions(name=name))
    assert type(optimizer) is expected


def test_options_reach_the_optimizer_that_uses_them() -> None:
    options = OptimizerOptions("adam", 0.1, 0.2, beta1=0.3, beta2=0.4, ams_gradient=True)
    [group] = build_optimizer([torch.nn.Parameter(torch.ones(1))], options).param_groups
    assert (group["lr"], group["weight_decay"], group["betas"], group["amsgrad"]) == (0.1, 0.2, (0.3, 0.4), True)


def test_nesterov_without_momentum_is_plain_sgd() -> None:
    options = OptimizerOptions("sgd", momentum=0.0, nesterov=True)
    [group] = build_optimizer([torch.nn.Parameter(torch.ones(1))], options).param_groups
    assert group["nesterov"] is False


def test_frozen_parameters_are_left_out() -> None:
    frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    optimizer = build_optimizer([frozen, torch.nn.Parameter(torch.ones(1))], OptimizerOptions())
    assert len(optimizer.param_groups[0]["params"]) == 1


def test_sgd_with_nesterov_momentum_takes_the_steps_of_the_formula() -> None:
    """Sutskever et al. 2013 as PyTorch writes it: v = m v + g; p -= lr (g + m v). Here g = p (f = p²/2)."""
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = build_optimizer([parameter], OptimizerOptions("sgd", 0.1, 0.0, momentum=0.9))
    position, velocity = 1.0, 0.0
    for _ in range(5):
        optimizer.zero_grad()
        (parameter**2 / 2).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + position
        position -= 0.1 * (position + 0.9 * velocity)
    assert parameter.item() == pytest.approx(position)


@pytest.mark.parametrize("ams_gradient", [False, True])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_takes_the_steps_of_the_formula(name: str, ams_gradient: bool) -> None:
    """Kingma and Ba 2015, algorithm 1; the decay of adam joins the gradient, that of adamw shrinks the weight
    (Loshchilov and Hutter 2019, algorithm 2); AMSGrad (Reddi et al. 2018) keeps the largest second moment, here
    before its bias is taken out, as PyTorch does. The gradients shrink, so that the largest is not the last."""
    gradients, decay, rate, beta1, beta2 = [4.0, 1.0, 0.25, 0.1], 0.2, 0.1, 0.8, 0.6
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    options = OptimizerOptions(name, rate, decay, beta1=beta1, beta2=beta2, ams_gradient=ams_gradient)
    optimizer = build_optimizer([parameter], options)
    position, first, second, largest = 1.0, 0.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        if name == "adam":
            gradient += decay * position
        else:
            position *= 1 - rate * decay
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        largest = max(largest, second)
        scale = np.sqrt((largest if ams_gradient else second) / (1 - beta2**step)) + 1e-8
        position -= rate * first / (1 - beta1**step) / scale
    assert parameter.item() == pytest.approx(position)
