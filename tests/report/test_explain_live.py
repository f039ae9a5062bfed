"""Heat maps beside captum and pytorch-grad-cam, where they are installed, on torchvision's nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_resnet as fr
from tests.report.test_explain import OPTIONS, TARGETS, ours, seeded_batch
from tests.weights.conftest import seeded_state_dict

pytestmark = pytest.mark.slow
METHOD = "integrated-gradients"


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_maps_on_torchvision_nets(name):
    pytest.importorskip("tests.weights.torchvision_import")  # before grad-cam, which imports it too
    for package in ("captum", "pytorch_grad_cam"):
        pytest.importorskip(package)
    from tests.report.make_explain_golden import theirs, torch, torchvision

    net = torchvision.models.get_model(name)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    arrays = seeded_state_dict(shapes)
    net.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    wanted = theirs(net, seeded_batch(), TARGETS, ("layer3", "layer4"))
    with jax.enable_x64(True):
        model = fr.create_model(
            name, conv_impl="reference", dtype=jnp.float64, param_dtype=jnp.float64
        )
        variables = fr.from_torchvision(net.state_dict(), model)
        for method, options in OPTIONS.items():
            maps = ours(model, variables, seeded_batch(), TARGETS, method, options)
            apart = np.abs(maps - wanted[method]).max() / np.abs(wanted[method]).max()
            print(f"{name} {method}: {apart:.1e}")
            assert apart <= 1e-4, method


def test_integrated_gradients_in_single_precision_are_near_those_in_double_precision():
    """With few steps no ReLU is flipped; with many each of both libraries flips some."""
    pytest.importorskip("tests.weights.torchvision_import")
    captum = pytest.importorskip("captum.attr")
    from tests.report.make_explain_golden import torch, torchvision

    net = torchvision.models.resnet18()
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    arrays = seeded_state_dict(shapes)
    net.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
    model = fr.create_model("resnet18")
    variables = fr.from_torchvision(net.state_dict(), model)
    options = {"steps": 6}
    single = ours(model, variables, np.float32(seeded_batch()), TARGETS, METHOD, options)

    def theirs(dtype):
        batch = torch.from_numpy(seeded_batch().transpose(0, 3, 1, 2).copy()).to(dtype)
        method = captum.IntegratedGradients(net.to(dtype).eval())
        found = method.attribute(batch, target=torch.from_numpy(TARGETS), n_steps=6)
        return found.sum(1).detach().double().numpy()

    truth, captums = theirs(torch.float64), theirs(torch.float32)
    errors = [np.abs(maps - truth).max() / np.abs(truth).max() for maps in (single, captums)]
    print("ours {:.1e}, captum {:.1e}".format(*errors))
    assert max(errors) <= 1e-4
