# ruff: noqa: S101
"""Contract suite of a family of networks, for one row of the catalogue.

Subclass `FamilyContract` in a test file, name the row and override one fixture:

    class TestMine(FamilyContract):
        model_name = "mine"

        @pytest.fixture
        def loss(self) -> Callable[[nn.Module], torch.Tensor]: ...
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
import torch
from torch import nn

from clearsight.catalogue.models import MODELS, ModelRow
from clearsight.documents.settings import SETTINGS_TYPES, parse_settings, to_document
from clearsight.exporters.formats.torchscript import export_torchscript
from clearsight.networks.families.family import Family
from clearsight.networks.families.table import family_of

__all__ = ["NUM_CLASSES", "FamilyContract"]

NUM_CLASSES: Final = 3


class FamilyContract:
    """Not collected by itself: derive a class whose name begins with `Test`, and give it a row and a loss."""

    model_name: ClassVar[str]
    architecture: ClassVar[Mapping[str, Any]] = {}
    """Of a small network; keys beyond the family's own are ignored."""
    crop_size: ClassVar[int | None] = None
    """Side of a classifier's images, pixels."""

    @pytest.fixture
    def loss(self) -> Callable[[nn.Module], torch.Tensor]:
        """The loss of a network in training mode on images made up for it: a scalar with a graph."""
        raise NotImplementedError

    @pytest.fixture
    def row(self) -> ModelRow:
        return MODELS[self.model_name]

    @pytest.fixture
    def family(self, row: ModelRow) -> Family[Any]:
        return family_of(row.model_name)

    @pytest.fixture
    def network(self, row: ModelRow, family: Family[Any]) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            architecture = {**family.default_architecture, **self.architecture}
            network: nn.Module = family.build(row, NUM_CLASSES, architecture, self.crop_size)
        return network

    def test_the_architecture_record_builds_the_network_again(
        self, row: ModelRow, family: Family[Any], network: nn.Module
    ) -> None:
        again = family.build(row, NUM_CLASSES, family.architecture(network), self.crop_size)
        again.load_state_dict(network.state_dict(), strict=True)
        assert family.architecture(again) == family.architecture(network)

    def test_the_row_names_parameters_of_the_network(self, row: ModelRow, network: nn.Module) -> None:
        names = [name for name, _ in network.named_parameters()]
        for prefix in row.frozen_prefixes(len(row.freeze_groups)):
            assert any(name.startswith(prefix) for name in names), prefix
        for module in row.head:
            assert any(name.startswith(f"{module}.") for name in names), module

    @pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated:DeprecationWarning")
    def test_the_serving_module_answers_as_its_signature_says_and_can_be_traced(
        self, row: ModelRow, family: Family[Any], network: nn.Module, tmp_path: Path
    ) -> None:
        module, signature = family.serving_module(network), family.signature(row)
        example = family.example_inputs(self.crop_size)
        assert len(example) == len(signature.inputs)
        assert signature.free_axes.keys() <= {*signature.inputs, *signature.outputs}
        export_torchscript(module, example, tmp_path / "graph.pt")
        graph = torch.jit.load(str(tmp_path / "graph.pt"))  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            outputs, traced = module(*example), graph(*example)
        tensors, others = ((found,) if isinstance(found, torch.Tensor) else found for found in (outputs, traced))
        assert len(tensors) == len(signature.outputs)
        for one, other in zip(tensors, others, strict=True):
            assert one.shape == other.shape

    def test_a_training_step_changes_the_weights(
        self, network: nn.Module, loss: Callable[[nn.Module], torch.Tensor]
    ) -> None:
        before = [parameter.detach().clone() for parameter in network.parameters()]
        optimizer = torch.optim.SGD(network.train().parameters(), lr=1e-3)
        loss(network).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert any(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))

    def test_its_settings_are_read_as_they_are_written(self, row: ModelRow) -> None:
        for task in row.tasks:
            settings, _ = parse_settings({}, task, row.model_name)
            assert isinstance(settings, SETTINGS_TYPES[row.settings])
            assert parse_settings(to_document(settings), task, row.model_name) == (settings, [])
