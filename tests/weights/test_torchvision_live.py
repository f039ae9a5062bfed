"""Beside real torchvision, where it is installed: logits, gradients, running statistics.

``pytest -m slow -s tests/weights/test_torchvision_live.py`` shows the figures.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_resnet as fr
from flax_resnet.models import QUICK_COMPILATION

from .conftest import seeded_images, seeded_state_dict
from .test_torchvision_parity import SHAPES, difference

pytestmark = pytest.mark.slow
LABELS = np.array([3, 1, 4, 1])
# One of each kind of block: the others differ from them in depth and width only.
KINDS = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")


@pytest.fixture(autouse=True)
def torch():
    """On one thread: its own and XLA's would wait for each other. Imported by tests that run only,
    as that takes seconds."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.fixture
def torchvision(torch):
    return pytest.importorskip("tests.weights.torchvision_import").torchvision


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def torch_model(torch, torchvision):
    """Makes torchvision's model of a name, with these arrays: loaded strictly, never drawn."""

    def make(name, state_dict, num_classes=1000):
        with torch.device("meta"):
            model = torchvision.models.get_model(name, num_classes=num_classes)
        tensors = {key: torch.from_numpy(value) for key, value in state_dict.items()}
        model.load_state_dict(tensors, assign=True)
        return model

    return make


def images(count, size=64):
    return np.concatenate([seeded_images(size, size + i)[:, :, :size] for i in range(count)])


def torch_logits(torch, model, batch):
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        return model(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()).to(dtype)).numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_export(name, torch, torch_model):
    """Our float32 rounds about as much as torch's own, and what goes out comes back the same."""
    batch, state_dict = images(2), seeded_state_dict(SHAPES[name])
    torch_net = torch_model(name, state_dict).eval()
    model = fr.create_model(name)
    variables = fr.from_torchvision(torch_net.state_dict(), model)
    ours = np.asarray(model.apply(variables, jnp.asarray(batch, jnp.float32), train=False))
    assert ours.dtype == np.float32

    single = torch_logits(torch, torch_net, batch)
    exact = torch_logits(torch, torch_net.double(), batch)
    apart = difference(ours, single)
    rounding, theirs = difference(ours, exact), difference(single, exact)
    print(
        f"\n{name}: float32 apart {apart:.1e}; from float64: ours {rounding:.1e}, "
        f"torch's {theirs:.1e}"
    )
    assert apart <= 2e-4
    assert rounding <= 10 * theirs

    exported = fr.to_torchvision(variables, model)
    assert list(exported) == list(torch_net.state_dict())
    for key, array in exported.items():
        if not key.endswith("num_batches_tracked"):
            assert array.dtype == np.float32
            assert np.array_equal(array.view(np.int32), state_dict[key].view(np.int32)), key
    torch_model(name, exported)  # strictly


@pytest.mark.parametrize("name", KINDS)
def test_gradients_and_running_statistics_in_float64(name, torch, torchvision, torch_model):
    batch = images(len(LABELS)).astype(np.float64)
    with torch.device("meta"):
        shapes = torchvision.models.get_model(name, num_classes=10).state_dict()
    state_dict = seeded_state_dict({key: value.shape for key, value in shapes.items()})
    torch_net = torch_model(name, state_dict, num_classes=10).double().train()
    model = fr.create_model(name, num_classes=10, dtype=jnp.float64, param_dtype=jnp.float64)
    variables = fr.from_torchvision(torch_net.state_dict(), model)

    logits = torch_net(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS))
    loss.backward()

    @partial(jax.jit, compiler_options=QUICK_COMPILATION)
    @partial(jax.value_and_grad, has_aux=True)
    def ours_of(params, statistics, batch):
        variables = {"params": params, "batch_stats": statistics}
        logits, new = model.apply(variables, batch, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
        return losses.mean(), new["batch_stats"]

    (value, batch_stats), gradients = ours_of(variables["params"], variables["batch_stats"], batch)
    assert abs(float(value) - loss.item()) <= 1e-12 * loss.item()
    ours = fr.to_torchvision({"params": gradients, "batch_stats": batch_stats}, model)
    worst = max(
        difference(ours[key], parameter.grad.numpy())
        for key, parameter in torch_net.named_parameters()
    )
    statistics = max(
        difference(ours[key], buffer.numpy())
        for key, buffer in torch_net.named_buffers()
        if not key.endswith("num_batches_tracked")
    )
    print(f"\n{name}: float64 gradients apart {worst:.1e}, running statistics {statistics:.1e}")
    assert worst <= 1e-6
    assert statistics <= 1e-9
