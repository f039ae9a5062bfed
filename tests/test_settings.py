"""Settings that are misspelt or mean nothing are refused, and those that have no effect named."""

import dataclasses

import pytest

import flax_resnet as fr
from flax_resnet.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TransferConfig,
)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Config(optimizer=OptimizerConfig(name="AdamW")),
            "--optimizer.name is 'AdamW'; it must be adam, adamw, lamb, muon, sgd or sgdw.",
        ),
        (Config(optimizer=OptimizerConfig(schedule=None)), "--optimizer.schedule is None; it must"),
        (
            Config(transfer=TransferConfig(mode="Head")),
            "--transfer.mode is 'Head'; it must be full",
        ),
        (
            Config(data=DataConfig(sampling="Balanced")),
            "--data.sampling is 'Balanced'; it must be None or balanced.",
        ),
        (Config(data=DataConfig(shuffle="shard")), "it must be global or shards."),
        (Config(data=DataConfig(on_bad_image="Skip")), "--data.on-bad-image is 'Skip'; it must"),
        (Config(checkpoint=CheckpointConfig(on_error="Stop")), "it must be continue or stop."),
        (Config(parallel=ParallelConfig(mode="pmap")), "it must be auto, jit or shard_map."),
        (
            Config(model=ModelConfig(stem="Cifar")),
            "--model.stem is 'Cifar'; it must be None, cifar",
        ),
        (Config(loss="mse"), "--loss is 'mse'; it must be one_vs_all, sigmoid or softmax."),
        (Config(track=("csv", "wanb")), "--track is 'wanb'; it must be csv, mlflow"),
    ],
    ids=lambda value: value.split(";")[0] if isinstance(value, str) else "",
)
def test_a_misspelt_choice_is_refused(config, message):
    """The command line refused it; in Python another choice was trained, sgd for AdamW."""
    with pytest.raises(fr.UserError) as caught:
        fr.check_config(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("transfer", {"views": -1}, "--transfer.views is -1; it must not be negative."),
        ("transfer", {"unfreeze_epochs": -1.0}, "--transfer.unfreeze-epochs is -1.0; it must not"),
        ("transfer", {"layer_decay": -0.5}, "--transfer.layer-decay is -0.5; learning rates are"),
        ("transfer", {"layer_decay": 2.6}, "so it must be from 0 to 1."),
        ("optimizer", {"warmup_epochs": -1.0}, "--optimizer.warmup-epochs is -1.0; it must not"),
        ("optimizer", {"milestones": (30, -60)}, "--optimizer.milestones is -60; it must not"),
        ("optimizer", {"decay_factor": 10.0}, "--optimizer.decay-factor is 10.0; learning rates"),
        ("optimizer", {"decay_factor": -0.1}, "so it must be from 0 to 1."),
        ("optimizer", {"momentum": 1.0}, "--optimizer.momentum is 1.0; it must be at least 0 and"),
        ("optimizer", {"momentum": -0.9}, "it must be at least 0 and below 1."),
    ],
)
def test_a_number_that_means_nothing_is_refused(section, fields, message):
    changed = dataclasses.replace(getattr(Config(), section), **fields)
    with pytest.raises(fr.UserError) as caught:
        fr.check_config(dataclasses.replace(Config(), **{section: changed}))
    assert message in str(caught.value)


def test_numbers_at_the_limits_are_possible():
    optimizer = OptimizerConfig(momentum=0.0, decay_factor=1.0, milestones=(0,))
    transfer = TransferConfig(layer_decay=0.0, views=0, unfreeze_epochs=0.0)
    assert fr.check_config(Config(optimizer=optimizer, transfer=transfer)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; it must be above 0."),
        ({"learning_rate": 0}, "learning-rate is 0; it must be above 0."),
        ({"mode": "Head"}, "--mode is 'Head'; it must be head, partial, full or gradual."),
    ],
)
def test_finetune_does_not_take_zero_for_the_default(options, message, tmp_path):
    with pytest.raises(fr.UserError) as caught:
        fr.check_config(
            fr.finetune_config(tmp_path, model="resnet8", weights="none", image_size=16, **options)
        )
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            Config(epochs=5, optimizer=OptimizerConfig(warmup_epochs=5)),
            "the learning rate rises over 5 epochs and the run has 5",
        ),
        (
            Config(epochs=30, optimizer=OptimizerConfig(schedule="step", milestones=(30, 60))),
            "no milestone of schedule step is before epoch 30",
        ),
        (Config(optimizer=OptimizerConfig(schedule="step")), "the learning rate does not fall"),
        (
            Config(data=DataConfig(name="folder", dir="photos", validation=0.2)),
            "--data.validation 0.2 has no effect on --data.name folder: --data.splits says how",
        ),
    ],
)
def test_a_setting_without_effect_is_warned_about(config, message):
    (warning,) = fr.check_config(config)
    assert message in warning


def test_one_variable_moves_all_that_is_kept_between_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAX_RESNET_CACHE", str(tmp_path))
    config = Config()
    assert config.compile_cache == f"{tmp_path}/xla"
    assert config.transfer.feature_cache == f"{tmp_path}/features"
    monkeypatch.delenv("FLAX_RESNET_CACHE")
    assert Config().compile_cache == "~/.cache/flax_resnet/xla"
