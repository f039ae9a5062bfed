"""Heat maps beside captum and pytorch-grad-cam, where they are installed, on torchvision's nets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_resnet as fr
from tests.report.test_explain import OPTIONS, TARGETS, ours, seeded_batch
from tests.weights.conftest import seeded_state_dict

pytestmark = pytest.mark.slow


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
