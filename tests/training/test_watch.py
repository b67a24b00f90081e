"""Finding the place where a value stops being finite; a profile: tests/commands/test_debug.py."""

import pytest
import torch

from bigtrain.errors import NumericsError

from .conftest import tiny_config, with_trainer

FINDING = with_trainer(tiny_config(), find_nonfinite=True)


def test_the_first_module_with_a_bad_output_is_named(make_trainer):
    trainer = make_trainer(FINDING)
    name, parameter = next(
        (name, parameter) for name, parameter in trainer.module.named_parameters() if "blocks.1.feedforward" in name
    )
    with torch.no_grad():
        parameter.view(-1)[0] = float("nan")
    with pytest.raises(NumericsError) as caught:
        trainer.fit()
    assert f"the output of {name.rpartition('.')[0]} " in str(caught.value)


def test_a_bad_gradient_is_named_by_its_operation(make_trainer):
    trainer = make_trainer(FINDING)
    real = trainer.module.task.compute_loss

    def compute_loss(network, batch):
        output = real(network, batch)
        term = output.terms["loss"]
        term.sum = term.sum + (term.sum * 0).sqrt() * 0  # finite, but its derivative is infinite times zero
        return output

    trainer.module.task.compute_loss = compute_loss
    with pytest.raises(NumericsError) as caught:
        trainer.fit()
    assert "SqrtBackward" in str(caught.value)
    assert "(term.sum * 0).sqrt()" in str(caught.value), "the line of code"


def test_without_it_nothing_watches(make_trainer):
    trainer = make_trainer(tiny_config())
    assert not any(module._forward_hooks for module in trainer.module.modules())
