"""Beside real torchvision, where it is installed: logits, gradients, running statistics.

``pytest -m slow -s tests/weights/test_torchvision_live.py`` shows the figures.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_resnet as fr

from .conftest import seeded_images, seeded_state_dict
from .test_torchvision_parity import SHAPES, difference

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("tests.weights.torchvision_import").torchvision

pytestmark = pytest.mark.slow
LABELS = np.array([3, 1, 4, 1])


@pytest.fixture(autouse=True)
def one_thread_of_torch():
    """Torch's threads and XLA's would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def torch_model(name, dtype, num_classes=1000):
    model = torchvision.models.get_model(name, num_classes=num_classes).to(dtype)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    state_dict = {
        key: torch.from_numpy(value).to(model.state_dict()[key].dtype)
        for key, value in seeded_state_dict(shapes).items()
    }
    model.load_state_dict(state_dict)
    return model


def images(count, size=64):
    return np.concatenate([seeded_images(size, size + i)[:, :, :size] for i in range(count)])


def to_torch(array, dtype):
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).to(dtype)


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_export(name):
    """Our float32 rounds about as much as torch's own, and what goes out comes back the same."""
    batch = images(2)
    logits = {}
    for dtype in (torch.float32, torch.float64):
        twin = torch_model(name, dtype).eval()
        with torch.no_grad():
            logits[dtype] = twin(to_torch(batch, dtype)).numpy()
    twin = torch_model(name, torch.float32).eval()
    model = fr.create_model(name)
    variables = fr.from_torchvision(twin.state_dict(), model)
    ours = np.asarray(model.apply(variables, jnp.asarray(batch, jnp.float32), train=False))
    assert ours.dtype == np.float32

    exact = logits[torch.float64]
    apart = difference(ours, logits[torch.float32])
    rounding, theirs = difference(ours, exact), difference(logits[torch.float32], exact)
    print(
        f"\n{name}: float32 apart {apart:.1e}; from float64: ours {rounding:.1e}, "
        f"torch's {theirs:.1e}"
    )
    assert apart <= 2e-4
    assert rounding <= 10 * theirs

    exported = fr.to_torchvision(variables, model)
    original = twin.state_dict()
    assert list(exported) == list(original)
    for key, array in exported.items():
        if not key.endswith("num_batches_tracked"):
            assert np.array_equal(array.view(np.int32), original[key].numpy().view(np.int32)), key
    again = torchvision.models.get_model(name).eval()
    again.load_state_dict({key: torch.from_numpy(value) for key, value in exported.items()})
    with torch.no_grad():
        same = again(to_torch(batch, torch.float32)).numpy()
    assert np.array_equal(same, logits[torch.float32])


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_and_running_statistics_in_float64(name):
    batch = images(len(LABELS)).astype(np.float64)
    twin = torch_model(name, torch.float64, num_classes=10).train()
    model = fr.create_model(name, num_classes=10, dtype=jnp.float64, param_dtype=jnp.float64)
    variables = fr.from_torchvision(twin.state_dict(), model)

    loss = torch.nn.functional.cross_entropy(
        twin(to_torch(batch, torch.float64)), torch.from_numpy(LABELS)
    )
    loss.backward()

    def our_loss(params):
        logits, new = model.apply(
            {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
        return losses.mean(), new["batch_stats"]

    (value, batch_stats), gradients = jax.value_and_grad(our_loss, has_aux=True)(
        variables["params"]
    )
    assert abs(float(value) - loss.item()) <= 1e-12 * loss.item()
    ours = fr.to_torchvision({"params": gradients, "batch_stats": batch_stats}, model)
    worst = max(
        difference(ours[key], parameter.grad.numpy()) for key, parameter in twin.named_parameters()
    )
    statistics = max(
        difference(ours[key], buffer.numpy())
        for key, buffer in twin.named_buffers()
        if not key.endswith("num_batches_tracked")
    )
    print(f"\n{name}: float64 gradients apart {worst:.1e}, running statistics {statistics:.1e}")
    assert worst <= 1e-6
    assert statistics <= 1e-9
