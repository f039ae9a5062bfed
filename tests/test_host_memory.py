"""The memory of a container and of a machine, from what the system says of them."""

from flax_resnet import host_memory


def test_the_limits_of_containers(tmp_path):
    v2 = tmp_path / "v2"
    (v2 / "a" / "b").mkdir(parents=True)
    (v2 / "a" / "memory.max").write_text("5000000\n")
    (v2 / "a" / "b" / "memory.max").write_text("max\n")
    assert host_memory.container_limit("0::/a/b\n", v2) == 5_000_000
    v1 = tmp_path / "v1"
    (v1 / "memory").mkdir(parents=True)
    (v1 / "memory" / "memory.limit_in_bytes").write_text("7000000\n")
    assert host_memory.container_limit("5:cpu:/x\n4:memory:/outside\n0::/\n", v1) == 7_000_000
    assert host_memory.container_limit("0::/\n", tmp_path) is None
