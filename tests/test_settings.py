"""Settings with nonsense: each is refused by name, with what is allowed, before anything is opened."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from torch import nn

import segstudy
from segstudy.build import refused_settings
from segstudy.callbacks.pictures import Pictures
from segstudy.config.check import check
from segstudy.config.compose import compose_config, nested_keys
from segstudy.config.overrides import check_overrides
from segstudy.data.bands import Bands
from segstudy.data.fit import Fit
from segstudy.data.transforms.augment import Augment
from segstudy.data.transforms.color import Blur, HueSaturation, RandomErasing
from segstudy.data.transforms.mixing import CopyPaste, CutMix, MixUp
from segstudy.errors import ConfigError
from segstudy.inference.crf import CRF, CRFEvaluation
from segstudy.inference.tta import TTAEvaluation
from segstudy.losses import CrossEntropy, Focal, Tversky
from segstudy.networks.bridges import ASPP
from segstudy.optim import cosine
from segstudy.sweep import plan_mistakes

COMMANDS = (
    "",
    "model=v3 data=voc data.root=x optim=adamw schedule=plateau",
    "encoder=double_conv decoder=double_conv loss=ohem optim=sgd schedule=poly data=pet data.root=x trainer=ddp",
    "encoder=resnet18 decoder=unet head=single loss=tversky schedule=step data=folder data.root=x augment=strong",
    "network=smp encoder=resnet18 loss=bce data=ade20k data.root=x trainer=smoke",
    "bridge=plain loss=focal data=voc_sbd data.root=x logger=csv",
    "loss=ce_dice",
    "loss=dice",
    "loss=jaccard",
    "loss=lovasz",
)
"""Between them, every constructor that a file of conf/ names."""

NONSENSE: dict[str, Any] = {
    "minus one": -1, "zero": 0, "fraction": 2.5, "nan": math.nan, "infinite": math.inf, "null": None, "text": "text",
    "empty": "", "no items": [], "one": [1], "three": [1, 1, 1], "mapping": {"a": 1}, "true": True, "huge": 10**30,
}  # fmt: skip

TAKEN: dict[str, str] = {
    "minus one": """
        callbacks.freeze.batch_norm_epochs callbacks.freeze.epochs trainer.devices trainer.max_epochs
        trainer.max_steps trainer.num_sanity_val_steps""",
    "zero": """
        bridge.dropout callbacks.crf.appearance callbacks.crf.iterations callbacks.crf.smoothness
        callbacks.early_stopping.min_delta callbacks.early_stopping.patience callbacks.ema.decay
        callbacks.freeze.batch_norm_epochs callbacks.freeze.epochs callbacks.inspector.every
        callbacks.pictures.first_seconds
        data.augment.brightness data.augment.colour data.augment.contrast data.augment.flip data.augment.rotation
        data.augment.then.blur.probability data.augment.then.copy_paste.background
        data.augment.then.copy_paste.probability data.augment.then.cutmix.probability
        data.augment.then.erase.probability data.augment.then.mixup.probability data.augment.then.tint.hue
        data.augment.then.tint.probability data.augment.then.tint.saturation data.fold data.scene_seed data.seed
        data.select_fraction data.workers loss.alpha loss.background_weight loss.beta loss.gamma
        loss.label_smoothing loss.min_kept loss.smooth loss.terms.dice.smooth loss.terms.focal.gamma
        network.auxiliary optim.encoder_lr optim.lr optim.optimizer.momentum optim.optimizer.weight_decay
        report.margin schedule.patience schedule.power schedule.warmup seed trainer.gradient_clip_val
        trainer.log_every_n_steps trainer.min_steps trainer.num_sanity_val_steps""",
    "fraction": """
        callbacks.crf.appearance callbacks.crf.colour callbacks.crf.near callbacks.crf.position
        callbacks.crf.smoothness callbacks.early_stopping.min_delta callbacks.pictures.first_seconds
        data.augment.rotation data.augment.then.cutmix.alpha data.augment.then.mixup.alpha loss.alpha
        loss.background_weight loss.beta loss.gamma loss.pos_weight loss.smooth loss.terms.dice.smooth
        loss.terms.focal.gamma network.auxiliary optim.encoder_lr optim.lr optim.optimizer.weight_decay
        schedule.power trainer.gradient_clip_val""",
    "nan": "",
    "infinite": "",
    "null": """
        bridge.channels budget callbacks.last.save_on_train_epoch_end callbacks.pictures.first_seconds data.about
        data.augment.scale data.augment.then.copy_paste.background data.channels data.fold data.images data.labels
        data.limit_train data.max_side data.name data.test data.tiles Folder.train Folder.val data.value_range
        decoder.attention DoubleConvDecoder.widths encoder.weights head.activation logger.csv.name loss.class_weights
        loss.terms.ce.class_weights loss.terms.focal.class_weights optim.encoder_lr optim.optimizer.fused
        report.claims report.pairs start_from trainer.check_val_every_n_epoch trainer.enable_model_summary
        trainer.gradient_clip_val trainer.limit_test_batches trainer.limit_train_batches trainer.limit_val_batches
        trainer.log_every_n_steps trainer.max_epochs trainer.max_time trainer.min_steps trainer.num_sanity_val_steps""",
    "text": """
        callbacks.state_dict.filename data.about data.cache_dir data.name data.root data.test data.train data.val
        encoder.weights logger.csv.name runs_dir start_from study""",
    "empty": "logger.csv.name",
    "no items": "report.claims report.pairs",
    "one": """
        bridge.rates callbacks.tta.scales data.augment.sizes data.channels decoder.widths loss.class_weights
        loss.terms.ce.class_weights loss.terms.focal.class_weights trainer.devices""",
    "three": """
        bridge.rates callbacks.tta.scales data.augment.sizes data.channels decoder.widths encoder.widths
        loss.class_weights loss.terms.ce.class_weights loss.terms.focal.class_weights trainer.devices""",
    "mapping": "",
    "true": """
        callbacks.best.enable_version_counter callbacks.best.save_weights_only callbacks.crf.enabled
        callbacks.early_stopping.enabled callbacks.ema.enabled callbacks.freeze.enabled callbacks.inspector.enabled
        callbacks.last.enable_version_counter callbacks.last.save_on_train_epoch_end callbacks.pictures.gif
        callbacks.state_dict.enabled callbacks.training_metrics.enabled callbacks.tta.enabled callbacks.tta.flip
        compile data.balanced data.cache data.device_cache data.download decoder.bias encoder.bias head.single
        loss.include_background loss.terms.dice.include_background optim.decay_norms optim.optimizer.fused
        report.pair_seeds trainer.enable_model_summary trainer.sync_batchnorm trainer.use_distributed_sampler""",
    "huge": "",
}
"""Where such a value has a meaning. All other settings must refuse it."""


def plain_settings(cfg: DictConfig) -> list[str]:
    """The settings that are no parts, without those of Hydra and of single claims."""
    keys = [k for k in nested_keys(cfg) if not k.startswith(("hydra", "report.claims.", "as_published", "reproduce"))]
    keys = [k for k in keys if not k.rpartition(".")[2].startswith("_")]
    return [k for k in keys if not isinstance(OmegaConf.select(cfg, k, throw_on_missing=False), DictConfig)]


def by_target(cfg: DictConfig, name: str) -> str:
    """decoder.widths → DoubleConvDecoder.widths."""
    place, _, last = name.rpartition(".")
    target = OmegaConf.select(cfg, f"{place}._target_") if place else None
    return f"{str(target).rpartition('.')[2]}.{last}"


def refused(cfg: DictConfig) -> str:
    """The message of the check; "" if all is allowed."""
    try:
        check(cfg, further_checks=[plan_mistakes])
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_refuses_nonsense(command: str) -> None:
    cfg = compose_config(command.split())
    assert refused(cfg) == ""
    names = plain_settings(cfg)
    for kind, value in NONSENSE.items():
        wrong = cfg.copy()
        for name in names:
            OmegaConf.update(wrong, name, value, merge=False)
        told = [line.partition("=")[0] for line in refused(wrong).splitlines()]
        expected = {name for name in names if not {name, by_target(cfg, name)} & {*TAKEN[kind].split()}}
        # the weights of a sum are told together
        expected = {"loss.weights" if name.startswith("loss.weights.") else name for name in expected}
        assert set(told) - {"loss.weights"} == expected - {"loss.weights"}, kind
        assert len(told) == len(set(told)), kind


MISTAKES = [
    # One command each: all its mistakes are told together.
    (
        "",
        {
            "data.size=[32]": "whole number from 1 to 32,768, or a list of 2 of them",
            "data.batch_size=${data.max_class_share}": "data.batch_size=0.75: must be a whole number, 1 or more",
            "data.augment.scale=[2,1]": "[low,high] with low ≤ high",
            "data.augment.sizes=[]": "a non-empty list of numbers above 0",
            "data.augment.then.blur.sigma=[0,1]": "a list of 2 numbers from 0.01 to 100",
            "data.augment.then.mixup=5": "must have a _target_",
            "data.value_range=[1,1]": "[low,high] with low < high",
            "data.channels=[]": "non-empty list",
            "data.fit=corp": "squash, crop or keep; did you mean crop?",
            "encoder.widths=[8]": "a list of 2 to 8 whole numbers",
            "head.kernel_size=2": "must be odd",
            "loss.class_weights=[0,0]": "must not be 0 everywhere",
            "optim.lr=${nothing}": "optim.lr: Interpolation key 'nothing' not found",
            "optim.optimizer.betas=[0.9,1]": "a list of 2 numbers from 0 to below 1",
            "seed=.nan": "whole number, 0 or more",
            "study=../x": "inside the folder",
            "runs_dir=": "not empty",
            "checkpoint=first": "last or best",
            "budget=0s": "a time such as 90s",
            "compile=maybe": "true or false",
            "start_from=5": "a text",
        },
    ),
    (
        "data=voc",
        {
            "data.root=": "not empty",
            "data.labels={300:1}": "a whole number from 0 to 255",
            "study=/abs": "inside the folder",
            "loss.class_weights=[-1,1]": "balanced, null, or a non-empty list of numbers, 0 or more",
            "callbacks.state_dict.filename=../x": "inside the folder",
            "callbacks.best.monitor=miou": "a logged metric such as val/miou",
            "callbacks.best.mode=maximum": "min or max",
            "callbacks.best.save_top_k=-2": "-1 or more",
            "callbacks.best.filename=x": "must be best",
            "callbacks.tta=null": "must have a _target_",
            "optim.optimizer=null": "must have a _target_",
            "optim.optimizer.eps=-1": "0 or more",
            "~optim.lr": "optim.lr is not set",
            "~trainer.devices": "trainer.devices is not set",
            "trainer.accelerator=gpuu": "did you mean gpu?",
            "trainer.precision=bf16-true": "auto, bf16-mixed",
            "trainer.strategy=dpp": "did you mean ddp?",
            "trainer.max_epochs=0": "1 or more",
            "trainer.max_steps=0": "1 or more",
            "trainer.max_time=00:00:00:00": "DD:HH:MM:SS, above 0",
            "trainer.limit_train_batches=0": "1 or more",
            "trainer.limit_val_batches=1.5": "share above 0",
            "trainer.gradient_clip_val=-1": "0 or more",
            "trainer.gradient_clip_algorithm=max": "norm, value or null",
            "trainer.accumulate_grad_batches=0": "1 or more",
            "trainer.num_nodes=0": "from 1 to 1,024",
            "trainer.fast_dev_run=-1": "0 or more",
            "encoder.widths={a:1}": "must be a list, such as [1,2]",
            "trainer.profiler=x": "simple",
            "trainer.val_check_interval=0": "1 or more",
        },
    ),
    (
        "model=v3 encoder=double_conv decoder=double_conv optim=sgd data=folder data.root=x",
        {
            "data.val=1.5": "above 0 and below 1",
            "data.fold=-1": "0 or more",
            "encoder.down=avg": "maxpool or strided",
            "encoder.weights=": "not empty",
            "decoder.up=cubic": "transpose, nearest or bilinear",
            "decoder.attention=cbm": "cbam, scse or null; did you mean cbam?",
            "bridge.rates=[0]": "from 1 to 1,024",
            "bridge.dropout=1": "from 0 to below 1",
            "loss.terms.dice=5": "must have a _target_",
            "loss.weights.dice=-1": "0 or more",
            "optim.optimizer.momentum=1": "from 0 to below 1",
            "optim.optimizer.nesterov=5": "true or false",
            "trainer.max_time={hour:1}": "weeks, days, hours, minutes or seconds",
            "trainer.devices='0;1'": "a text such as 0,1",
            "report.pairs=5": "a list of [a,b]",
            "report.min_images=0": "1 or more",
        },
    ),
    (
        "encoder=library decoder=unet",
        {
            "encoder.name=tu-convnext_tny": "did you mean tu-convnext_tiny",
            "encoder.depth=6": "from 1 to 5",
            "decoder.name=unett": "did you mean unet",
        },
    ),
    ("network=smp encoder=resnet18", {"network.arch=DPT": "must be one of Unet,", "schedule.warmup=1": "below 1"}),
]  # fmt: skip


@pytest.mark.parametrize(("command", "mistakes"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_mistakes_are_told_together(command: str, mistakes: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_overrides([*command.split(), *mistakes], further_checks=[refused_settings, plan_mistakes])
    lines = str(error.value).splitlines()
    for setting, told in mistakes.items():
        key = setting.lstrip("~").partition("=")[0]
        assert any(line.startswith((f"{key}=", f"{key}:", f"{key} ", f"{key.rpartition('.')[0]}=")) and told in line
                   for line in lines), setting  # fmt: skip
    assert len([line for line in lines if not line.startswith("  ")]) == len(mistakes)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("data.max_side=100", "has no effect with data.fit=squash"),
        ("decoder=double_conv decoder.widths=[8,8]", "decoder.widths has 2 entries, the encoder has 4 skips"),
        ("loss=dice_focal ++loss.weights.x=3", "use equal names"),
        ("loss=tversky loss.alpha=0 loss.beta=0", "must not both be 0"),
        ("optim=sgd optim.optimizer.nesterov=true optim.optimizer.momentum=0", "Nesterov momentum requires"),
        ("data.channels=5", "data=scenes draws RGB images"),
        ("network=smp encoder=preact", "needs a library encoder"),
        ("trainer.max_epochs=-1", "the training has no end"),
        ("budget=1h trainer.max_time=00:01:00:00", "a budget gives all runs of a study equally many steps"),
        ("~loss._target_", "loss={class_weights: null,"),
        ("loss=5", "no such loss"),
    ],
)
def test_settings_that_do_not_fit_each_other(command: str, told: str) -> None:
    with pytest.raises(ConfigError, match="^[^\\n]*" + told.replace("[", "\\[")):
        check_overrides(command.split(), further_checks=[refused_settings, plan_mistakes])


SEARCH = "hparams_search=optuna data.select_fraction=0.1"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("seed=range(0,3)", ""),
        ("seed=choice(0,1)", ""),
        ("seed=choice(0,x)", "seed=x: must be a whole number"),
        ("seed=range(3,0)", "a sweep must list its values"),
        ("seed=glob(*)", "a sweep must list its values"),
        ("model=glob(zzz*)", "no such model"),
        ("optim.lr=interval(0,1)", "a sweep must list its values"),
        (f"{SEARCH} optim.lr=tag(log,interval(1e-4,1e-2))", ""),
        (f"{SEARCH} optim.lr=interval(-1,1e-2)", "optim.lr=-1.0: must be a number"),
        ("data.size=[32,64],[64]", "data.size=[64]: must be"),
    ],
)
def test_sweeps_of_every_kind(command: str, told: str) -> None:
    if not told:
        assert check_overrides(["-m", *command.split()]) == ["-m", *command.split()]
        return
    with pytest.raises(ConfigError) as error:
        check_overrides(["-m", *command.split()])
    assert told in str(error.value)


def test_a_glob_stands_for_the_files_of_its_group() -> None:
    assert check_overrides(["-m", "model=glob(v*,exclude=[v1*,*_*])"]) == ["-m", "model=v2,v3,v4"]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.one_of(st.integers(-2, 70), st.floats(), st.text(max_size=3)), max_size=4),
)  # fmt: skip
BASE = compose_config([])


@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(plain_settings(BASE)), VALUES, min_size=1, max_size=3))
def test_any_value_is_taken_or_refused_by_name(chosen: dict[str, Any]) -> None:
    cfg = BASE.copy()
    for name, value in chosen.items():
        OmegaConf.update(cfg, name, value, merge=False)
    told = refused(cfg)
    assert all(any(name in line for name in chosen) for line in told.splitlines() if not line.startswith("  "))
    if not told:
        refused_settings(cfg)  # raises nothing


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Augment(rotation=-1), "Augment(rotation=-1): must be a number from 0 to 180"),
        (lambda: Augment(scale=0.5), "Augment(scale=0.5): must be a list of 2 numbers"),  # type: ignore[arg-type]
        (lambda: Augment(sizes=["a"]), "Augment(sizes=[a])"),  # type: ignore[list-item]
        (lambda: Augment(then={"odd": 3}), "Augment(then={odd: 3})"),  # type: ignore[dict-item]
        (lambda: MixUp(probability=1.5), "MixUp(probability=1.5): must be a number from 0 to 1"),
        (lambda: CutMix(alpha=0), "CutMix(alpha=0)"),
        (lambda: CopyPaste(background=255), "CopyPaste(background=255)"),
        (lambda: HueSaturation(hue=0.6), "HueSaturation(hue=0.6): must be a number from 0 to 0.5"),
        (lambda: Blur(sigma=(2.0, 1.0)), "Blur(sigma=[2.0,1.0]): must be [low,high] with low ≤ high"),
        (lambda: RandomErasing(area=(0.1, 1.5)), "RandomErasing(area=[0.1,1.5])"),
        (lambda: TTAEvaluation(scales=[]), "TTAEvaluation(scales=[])"),
        (lambda: CRF(radius=0), "CRF(radius=0)"),
        (lambda: CRFEvaluation(colour=0.0), "CRFEvaluation(colour=0.0)"),
        (lambda: Pictures(every=0), "Pictures(every=0)"),
        (lambda: segstudy.Scenes(batch_size=0), "Scenes(batch_size=0)"),
        (lambda: segstudy.Scenes(workers=-1), "Scenes(workers=-1)"),
        (lambda: segstudy.Scenes(size=[32, -1]), "Scenes(size=[32,-1])"),
        (lambda: Fit((32, 32), "corp"), "Fit(mode=corp): must be squash, crop or keep; did you mean crop?"),  # type: ignore[arg-type]
        (lambda: Bands((0, -1)), "Bands(channels=[0,-1])"),
        (lambda: Bands(5, (3, 3)), "Bands(value_range=[3,3]): must be [low,high] with low < high"),
        (lambda: CrossEntropy([0.0, 0.0]), "CrossEntropy(class_weights=[0.0,0.0]): must not be 0 everywhere"),
        (lambda: CrossEntropy("balanced"), "class_weights=balanced is for configs"),  # type: ignore[arg-type]
        (lambda: Focal(gamma=math.nan), "Focal(gamma=.nan): must be a number, 0 or more"),
        (lambda: Tversky(0, 0), "must not both be 0"),
        (lambda: ASPP(8, rates=()), "ASPP(rates=[])"),
        (lambda: cosine(None, None, warmup=2), "cosine(warmup=2): must be a number from 0 to below 1"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_calls_from_python_are_checked_too(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert told in str(error.value)


def test_numbers_of_other_libraries_and_paths_are_taken(tmp_path: Path) -> None:
    segstudy.Scenes(size=np.int64(32), cache_dir=tmp_path)  # type: ignore[arg-type]
    CrossEntropy(torch.ones(3))(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2).long())  # type: ignore[arg-type]
    assert isinstance(ASPP(np.int64(8), rates=np.array([1, 2])), nn.Module)  # type: ignore[arg-type]
