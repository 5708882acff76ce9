"""Every file of conf/ composes and passes the check; mistakes are named, all at once, with what was probably meant."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from segstudy.build import unprepared_data
from segstudy.config import values
from segstudy.config.check import check
from segstudy.config.compose import apply_overrides, compose_config
from segstudy.config.overrides import check_overrides, checked_config, quote_paths
from segstudy.config.paths import CONF
from segstudy.config.run_folder import matching_record, read_config
from segstudy.config.run_names import differences, run_folder_name, run_name
from segstudy.config.targets import RENAMED, find_parts, locate
from segstudy.config.trust import is_trusted
from segstudy.errors import ConfigError
from segstudy.inference.loading import load_run
from segstudy.study.analysis.plan import Plan
from segstudy.sweep import plan_mistakes

FILES = sorted(p for p in CONF.glob("*/*.yaml"))
VOC = ["data.root=x"]
NEEDS = dict.fromkeys(("voc", "voc_sbd", "ade20k", "pet", "folder", "journey", "voc_notebook", "resnet_unet"), VOC) | {
    "ade_unet": VOC,
    "pet_benchmark": VOC,
    "pet_factorial": VOC,
    "voc_finetune": [*VOC, "start_from=x"],
    "library": ["encoder.name=resnet18"],
    "smp": ["encoder=resnet18"],
}


@pytest.mark.parametrize("file", FILES, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_file_composes_and_passes_the_check(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = NEEDS.get(file.stem, []) if file.parent.name not in ("model", "report") else []
    one_callback = file.parent.name == "callbacks" and file.stem != "default"
    overrides = [f"{file.parent.name}={f'[default,{file.stem}]' if one_callback else file.stem}", *needs]
    monkeypatch.setattr(values, "find_spec", lambda name: name)  # as if packages of loggers were there
    check_overrides(overrides)
    cfg = compose_config(overrides)
    check(cfg)
    Plan.of(OmegaConf.to_container(cfg.report))  # type: ignore[arg-type]


@pytest.mark.parametrize("group", ["loss", "bridge", "decoder", "encoder", "head", "network"])
def test_a_socket_on_the_command_line_wins_over_the_model(group: str) -> None:
    chosen = {"loss": "lovasz", "bridge": "plain", "decoder": "fpn", "encoder": "resnet18", "head": "conv_1x1"}
    other = chosen.get(group, "smp")
    alone = compose_config([f"{group}={other}", "model=v1", *NEEDS.get(other, [])])
    for model in ("v2", "v3", "v4"):
        over = compose_config([f"model={model}", f"{group}={other}", *NEEDS.get(other, [])])
        assert over[group]["_target_"] == alone[group]["_target_"]


def test_each_step_of_the_ablation_changes_the_one_thing_it_names() -> None:
    v = {m: compose_config([f"model={m}"]) for m in ("v1", "v2", "v3", "v4")}

    def changed(a: str, b: str) -> set[str]:
        return {line.split(":")[0].split(".")[0] for line in differences(v[a], v[b])}

    assert changed("v1", "v2") == {"loss"}
    assert changed("v2", "v3") == {"bridge"}
    # the ResNet's features begin at stride 2: its decoder and head differ with it
    assert changed("v3", "v4") == {"encoder", "decoder", "head"}


def test_the_experiment_is_the_sweep() -> None:
    text = (CONF / "experiment" / "ablation.yaml").read_text()
    sweep = OmegaConf.create(text)
    assert sweep.hydra.mode == "MULTIRUN"
    assert sweep.hydra.sweeper.params.model == "v1,v2,v3,v4,v4_lite"


@pytest.mark.parametrize("given", ["callbacks=crf", "callbacks=default,crf", "callbacks=[crf,best]"])
def test_one_callback_cannot_replace_the_group(given: str) -> None:
    with pytest.raises(ConfigError, match=r"^callbacks=crf would switch off .*\n  → callbacks\.crf\.enabled=true"):
        check_overrides([given])


@pytest.mark.parametrize("given", ["callbacks=default", "callbacks=[default,crf]"])
def test_callbacks_may_be_a_file_with_defaults(given: str) -> None:
    assert check_overrides([given]) == [given]


def test_all_mistakes_of_a_command_are_in_one_message() -> None:
    with pytest.raises(ConfigError) as error:
        check_overrides(["model=v9", "data.sise=3", "+typo=1", "encoder=resnet43,preact", "+loss.gama=1"])
    text = str(error.value)
    for part in (
        "model=v9",
        "data.sise",
        "did you mean data.size",
        "typo",
        "resnet43",
        "did you mean resnet34",
        "gama",
    ):
        assert part in text


def test_an_experiment_that_has_moved_is_named() -> None:
    with pytest.raises(ConfigError, match="experiment=beat/voc: no such experiment; did you mean strong/voc"):
        check_overrides(["experiment=beat/voc"])


@pytest.mark.parametrize("group", ["experiment", "logger"])
def test_null_is_no_file_of_a_group(group: str) -> None:
    with pytest.raises(ConfigError, match=f"{group}=null: no such {group}"):
        check_overrides([f"{group}=null"])


def test_the_settings_of_augmentation_are_checked() -> None:
    check_overrides(["augment=strong", "data.augment.then.mixup.probability=0.5", "data.augment.sizes=[1.0]"])
    with pytest.raises(ConfigError) as error:
        check_overrides(["augment=stong", "data.augment.then.mixup.probabilty=1", "+data.augment.then.blur.sgima=1"])
    for part in (
        "did you mean strong",
        "mean data.augment.then.mixup.probability",
        "has no argument 'sgima'; did you mean sigma",
    ):
        assert part in str(error.value)


def test_a_missing_root_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"data\.root is not set"):
        check_overrides(["data=voc"])


def test_an_unknown_target_says_what_was_meant() -> None:
    cfg = compose_config([])
    cfg.loss._target_ = "segstudy.losses.CrossEntrophy"
    cfg.bridge._target_ = "segstudy.nowhere.X"
    with pytest.raises(ConfigError, match=r"CrossEntropy[\s\S]*nowhere|nowhere[\s\S]*CrossEntropy"):
        check(cfg)


def test_a_loss_of_ones_own_needs_only_its_target() -> None:
    overrides = ["loss._target_=segstudy.losses.Focal", "loss.gamma=3"]
    cfg = compose_config([overrides[0], "+loss.gamma=3"])
    apply_overrides(cfg, [overrides[0], "+loss.gamma=3"])
    check(cfg)
    assert dict(cfg.loss) == {"_target_": "segstudy.losses.Focal", "class_weights": None, "gamma": 3}


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.run", "torch.hub.load", "torch.load", "builtins.eval", "segstudyx.Loss"]
)
def test_a_run_folder_cannot_build_foreign_things(target: str, tmp_path: Path) -> None:
    cfg = compose_config([])
    cfg.bridge = {"_target_": target, "_partial_": True}
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    (tmp_path / "record.json").write_text(json.dumps({"class_names": ["a", "b"]}))
    with pytest.raises(ConfigError, match="is not part of segstudy"):
        load_run(tmp_path)


def test_trust_is_a_setting_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_trusted("my_loss.MyLoss")
    monkeypatch.setenv("SEGSTUDY_TRUST", "my_loss, other")
    assert is_trusted("my_loss.MyLoss")
    assert not is_trusted("my_losses.MyLoss")


def test_names_of_runs() -> None:
    assert run_name("v1", ["loss._target_=my_loss.MyLoss"]) == "v1_loss-my_loss.MyLoss"
    assert run_name("v3", ["model=v3", "experiment=ablation", "data.root=/a/b"]) == "v3"
    assert run_name("v1", ["data=voc", "seed=1", "encoder.weights=../w/m.pth"]) == "v1_voc_seed-1_weights-m.pth"
    both = [run_name("v1", [f"data.augment.then.{part}.probability=0.5"]) for part in ("mixup", "cutmix")]
    assert both == ["v1_mixup.probability-0.5", "v1_cutmix.probability-0.5"]
    assert run_name("v1", ["callbacks.ema.enabled=true"]) == "v1_ema.enabled-true"
    assert "/" not in run_name("v1", ["+x.y=a/b:c d"])
    assert run_name("v1", ["data.size=[32,112]"]) == "v1_size-32-112"


def test_a_trainer_is_in_a_runs_name_if_it_makes_another_run() -> None:
    names = {p.stem: run_name("v1", [f"trainer={p.stem}"]) for p in (CONF / "trainer").glob("*.yaml")}
    assert names == {"auto": "v1", "cpu": "v1", "gpu": "v1", "smoke": "v1_trainer-smoke", "ddp": "v1_trainer-ddp"}
    auto = compose_config([])
    for trainer, name in names.items():  # by the same rule, a folder of another config is refused
        assert bool(differences(auto, compose_config([f"trainer={trainer}"]))) is (name != "v1")
    assert run_name("v1", ["trainer=of_my_own"]) == "v1_trainer-of_my_own"


def test_long_names_of_runs_stay_apart_and_fit_a_disk() -> None:
    long = [f"data.augment.then.part{i}.probability=0.{i}" for i in range(10)]
    names = [run_name("v1", [*long, f"seed={seed}"]) for seed in range(50)]
    assert len(set(names)) == 50
    assert {len(name) for name in names} == {180}
    assert {name[:150] for name in names} == {names[0][:150]}
    assert len(run_name("v1", ["+x.y=" + "ж" * 170]).encode()) <= 255
    short = run_name("v1", ["+x.y=" + "a" * (180 - len("v1_y-"))])  # as long as may be: as it always was
    assert short == "v1_y-" + "a" * 175


def test_what_a_run_is_and_where_it_runs_are_told_apart() -> None:
    a = compose_config([])
    here = compose_config(["trainer=cpu", "data.workers=2", "data.cache_dir=/x", "callbacks.pictures.every=1"])
    other = compose_config(["callbacks.ema.enabled=true", "optim.lr=1"])
    assert differences(a, here) == []
    assert differences(a, other) == ["callbacks.ema.enabled: False → True", "optim.lr: 0.001 → 1"]


def test_what_no_run_heeds_makes_no_other_run() -> None:
    """Folders of before go on: their config lacks decay_norms, and another class stopped early, where it did."""
    new = compose_config([])
    old = compose_config(["callbacks.early_stopping._target_=lightning.pytorch.callbacks.EarlyStopping"])
    OmegaConf.set_struct(old, False)
    del old.optim.decay_norms
    assert differences(old, new) == []
    decayed, stopped = (compose_config([each]) for each in ("optim=adamw", "callbacks.early_stopping.enabled=true"))
    assert "optim.decay_norms: True → False" in differences(old, decayed)
    assert any(line.startswith("callbacks.early_stopping._target_") for line in differences(old, stopped))


@pytest.mark.parametrize(
    "key",
    ["callbacks.pictures.every", "callbacks.pictures.count", "callbacks.finite_loss.every", "callbacks.inspector.every",
     "callbacks.freeze.epochs", "callbacks.tta.scales", "callbacks.crf.near", "callbacks.training_metrics.images",
     "data.size", "data.batch_size", "data.train_images", "data.seed", "data.augment.flip", "callbacks.ema.decay"],
)  # fmt: skip
def test_null_for_a_number_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=null: must be .*number"):
        check(compose_config([f"{key}=null"]))


def test_null_that_has_a_meaning_is_taken() -> None:
    check(compose_config(["callbacks.pictures.first_seconds=null", "data.limit_train=null", "trainer.max_time=null"]))


def switches(node: DictConfig, place: str = "") -> list[str]:
    """The settings of a config that are true or false."""
    found = []
    for key in [k for k in map(str, node) if not k.startswith("_")]:
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            value, name = node[key], f"{place}{key}"
            found += switches(value, f"{name}.") if isinstance(value, DictConfig) else [name] * isinstance(value, bool)
    return found


@pytest.mark.parametrize("group", [[], ["trainer=ddp", "data=pet", "data.root=x", "head=single"]])
def test_a_switch_is_true_or_false_or_an_error(group: list[str]) -> None:
    cfg = compose_config([*group, "decoder=double_conv", "loss=dice", "+trainer.fast_dev_run=false"])
    names = switches(cfg)
    assert {"compile", "callbacks.ema.enabled", "data.balanced", "optim.optimizer.fused", "decoder.bias"} <= {*names}
    check(cfg)
    for word in ("no", "off", 1.5):
        wrong = cfg.copy()
        for name in names:
            OmegaConf.update(wrong, name, word)
        with pytest.raises(ConfigError) as error:
            check(wrong, further_checks=[plan_mistakes])
        told = [line.split(": must be ")[0] for line in str(error.value).splitlines()]
        assert {f"{name}={word}" for name in names} == {line for line in told if "=" in line}


def test_what_a_switch_may_be_beside_true_and_false() -> None:
    check_overrides(["trainer.fast_dev_run=2", "trainer.deterministic=warn", "optim.optimizer.fused=null"])
    with pytest.raises(ConfigError) as error:
        check_overrides(
            ["trainer.deterministic=wran", "trainer.fast_dev_run=no", "callbacks.ema.enabled=1", "data.balanced=null"]
        )
    assert set(str(error.value).splitlines()) == {
        "trainer.deterministic=wran: must be true, false, warn or null; did you mean warn?",
        "trainer.fast_dev_run=no: must be true, false, or a whole number, 0 or more",
        "callbacks.ema.enabled=1: must be true or false",
        "data.balanced=null: must be true or false",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trainer.max_epochs=abc", "trainer.max_epochs=abc: must be -1, null, or a whole number, 1 or more"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5: must be -1, null, or a whole number, 1 or more"),
        (
            "trainer.limit_train_batches=true",
            "must be null, a number of batches, 1 or more, or a share above 0, at most 1.0",
        ),
        ("data.size=abc", "data.size=abc: must be a whole number from 1 to 32,768, or a list of 2 of them"),
        ("data.tiles=[64,32]", "data.tiles=[64,32]: must be a whole number from 1 to 32,768, or null"),
        ("data.batch_size=true", "data.batch_size=true: must be a whole number, 1 or more"),
        (
            "data.augment.then.mixup.probability=yes",
            "must be a number from 0 to 1",
        ),
        (
            "callbacks.pictures.first_seconds=no",
            "must be a number, 0 or more, or null",
        ),
        (
            "callbacks.tta=null",
            "callbacks.tta=null: must have a _target_\n  → callbacks.tta.enabled=false turns it off",
        ),
        ("~callbacks", "~callbacks: 'callbacks' cannot be removed; choose another value"),
        ("~seed", "~seed: 'seed' cannot be removed; choose another value"),
    ],
)
def test_a_value_of_another_kind_is_named_before_training(given: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_overrides([given])
    assert str(error.value) == (f"{given}: {said}" if said.startswith("must be") else said)


def test_numbers_of_every_kind_are_taken() -> None:
    check_overrides(["trainer.max_epochs=-1", "trainer.limit_train_batches=0.5", "trainer.max_time=00:00:01:00"])
    check_overrides(["data.size=[32,48]", "optim.lr=1", "trainer.gradient_clip_val=1", "seed=range(0,3)"])
    check_overrides(["~callbacks.tta", "loss.class_weights=balanced", "callbacks.pictures.first_seconds=1.5"])


def test_every_value_of_a_sweep_is_checked() -> None:
    check_overrides(["data=voc", "data.root=a,b", "seed=1,2"])
    with pytest.raises(
        ConfigError, match=r"^callbacks.ema.enabled=off: must be true or false\nseed=x: must be a whole number"
    ):
        check_overrides(["callbacks.ema.enabled=true,off", "seed=1,2,x"])


@pytest.mark.parametrize(
    "setting",
    ["trainer.strategy=ddp", "trainer.limit_train_batches=3", "callbacks.progress.enabled=false",
     "callbacks.best.save_top_k=2", "optim.optimizer.betas=[0.8,0.99]", "loss.smooth=1",
     "logger.tensorboard.save_dir=logs", "trainer.strategy=ddp,fsdp"],
)  # fmt: skip
def test_what_a_constructor_takes_is_set_without_a_plus(setting: str) -> None:
    given = check_overrides(["-m", "loss=dice", setting])
    assert given[:2] == ["-m", "loss=dice"]
    assert given[2].lstrip("+") == setting
    key, _, value = given[2].partition("=")
    compose_config(["loss=dice", f"{key}={value.removesuffix(',fsdp')}"])  # Hydra takes it too


def test_what_no_constructor_takes_is_a_mistake_with_what_was_meant() -> None:
    with pytest.raises(ConfigError) as error:
        check_overrides(["trainer.strategie=ddp", "loss.smoth=1", "network.encoder.bias=true", "loss=dice"])
    for part in ("mean trainer.strategy", "mean loss.smooth", "no setting 'network.encoder.bias'"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        ("trainer.callbacks=[]", "callbacks.NAME._target_"),
        ("trainer.default_root_dir=x", "runs_dir"),
        ("callbacks.last.dirpath=x", "runs_dir"),
        ("optim.optimizer.lr=0.1", "optim.lr"),
        ("trainer.logger=false", "logger=csv"),
        ("trainer.logger={_target_: lightning.pytorch.loggers.CSVLogger}", "logger=csv"),
        ("logger=cvs", "did you mean csv"),
        ("+logger.mine=3", "must have a _target_"),
        ("checkpoint=bets", "did you mean best"),
        ("optim.lr=-1", "0 or more"),
    ],
)
def test_what_a_run_would_not_heed_is_refused(setting: str, instead: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_overrides([setting])
    assert setting.split("=")[0].lstrip("+") in str(error.value)
    assert instead in str(error.value)


def test_a_run_that_logged_elsewhere_is_loaded_without_its_logger(tmp_path: Path) -> None:
    earlier = "+trainer.logger._target_=wandb_of_mine.Logger"  # where it stood before the group `logger`
    cfg = compose_config([earlier, "+logger.mine._target_=wandb_of_mine.Logger", "+logger.mine.name=${of_mine:1}"])
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    cfg = read_config(tmp_path)
    assert "logger" not in cfg
    assert "logger" not in cfg.trainer


def test_several_loggers_at_once() -> None:
    for both in ("logger=[tensorboard,csv]", "logger=many_loggers"):
        check_overrides([both])
        assert list(compose_config([both]).logger) == ["tensorboard", "csv"]
    check_overrides(["logger=none"])
    assert not compose_config(["logger=none"]).get("logger")
    with pytest.raises(ConfigError, match="logger=cvs: no such logger; did you mean csv"):
        check_overrides(["logger=[tensorboard,cvs]"])


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_not_there_is_named(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "find_spec", lambda name: None)
    told = rf"logger\.{service}: {service} is not installed(.|\n)*segstudy\[{service}\]"
    with pytest.raises(ConfigError, match=told):
        check_overrides([f"logger={service}"])
    monkeypatch.setattr(values, "find_spec", lambda name: name)
    check_overrides([f"logger={service}"])


def test_an_earlier_runs_targets_are_read_where_they_are_now(tmp_path: Path) -> None:
    for target in RENAMED.values():
        locate(target)
    cfg = compose_config(["augment=strong", "callbacks.tta.enabled=true"])
    back = {new: old for old, new in RENAMED.items()}
    earlier = OmegaConf.create(OmegaConf.to_yaml(cfg))
    for _, part in find_parts(earlier):
        part["_target_"] = back.get(part["_target_"], part["_target_"])
    assert differences(earlier, cfg)  # type: ignore[arg-type]
    OmegaConf.save(earlier, tmp_path / "config.yaml")
    (tmp_path / "record.json").write_text('{"status": "running"}')
    matching_record(tmp_path, cfg)  # the run goes on
    assert read_config(tmp_path, ("network", "data")).data["_target_"] == cfg.data["_target_"]


def test_loggers_do_not_make_another_run() -> None:
    both = compose_config(["logger=[tensorboard,csv]"])
    assert differences(compose_config([]), both) == []
    earlier = compose_config(["+trainer.logger._target_=lightning.pytorch.loggers.CSVLogger"])
    earlier = OmegaConf.masked_copy(earlier, [key for key in earlier if key != "logger"])
    assert differences(earlier, both) == []
    assert run_name("v1", ["logger=[tensorboard,csv]"]) == "v1"


CLAIM = "say: x, figure: miou, variant: v2, against: v1, direction: higher"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("report.margin=-1", "from 0 to 1"),
        ("report.margin=abc", "from 0 to 1"),
        ("report.min_images=0", "1 or more"),
        ("report.min_images=2.5", "1 or more"),
        ("report.pair_seeds=no", "true or false"),
        ("report.pairs=[v1,v2]", r"must be a list of \[a,b\]"),
        ("report.pairs=[[v1,v1]]", "with itself"),
        ("report.pairs=[[v1,'v2|']]", "must name a variant"),
        ("report.pairs=[[v1,'loss=dise']]", "did you mean dice"),
        (f"report.claims=[{{{CLAIM}, margin: -1}}]", "0 or more"),
        (f"report.claims=[{{{CLAIM}, no_worse: no}}]", "true or false"),
        (f"report.claims=[{{{CLAIM.replace('miou', 'mio')}}}]", "did you mean miou"),
        (f"report.claims=[{{{CLAIM.replace('v2', '3')}}}]", "the name of a variant"),
    ],
)
def test_a_plan_is_checked_before_training(setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_overrides([setting], further_checks=[plan_mistakes])


def test_mistakes_of_the_plan_are_in_the_same_message() -> None:
    with pytest.raises(ConfigError, match=r"seed=x: (.|\n)*report\.margin=-1"):
        check_overrides(["seed=x", "report.margin=-1"], further_checks=[plan_mistakes])


@pytest.mark.parametrize("key", ["study", "runs_dir"])
def test_a_run_without_a_folder_is_refused(key: str) -> None:
    """Not a folder called None."""
    with pytest.raises(ConfigError, match=f"^{key}=null: must be a "):
        check_overrides([f"{key}=null"])


def test_values_of_a_sweep_are_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []

    def compose(*given: Any) -> DictConfig:
        composed.append(given)
        return compose_config(*given)

    monkeypatch.setattr("segstudy.config.overrides.compose_config", compose)
    check_overrides(["seed=0,1,2,3", "loss._target_=segstudy.losses.Dice,segstudy.losses.OHEM", "data.size=32,[32,48]"])
    assert len(composed) == 2  # with the files of groups alone, and with the first values


AWKWARD = ["a=b", "a,b", "a#b", "it's", 'say "x"', "a[0]", "a{b}", "a${b}", "a (b)", "a\\b", "end\\", "a: b", "ä b"]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_value_that_is_an_existing_path_needs_no_quotes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (given,) = check_overrides([f"data.root={tmp_path / name}", "data=voc"])[:1]
    assert compose_config(["data=voc", given]).data.root == str(tmp_path / name)
    cfg = checked_config(["data=folder", f"data.root={tmp_path / name}"])
    assert cfg.data.root == str(tmp_path / name)
    assert unprepared_data(cfg).root == tmp_path / name  # type: ignore[attr-defined]


def test_paths_of_a_sweep_are_quoted_if_all_exist(tmp_path: Path) -> None:
    for name in ("v1_lr=1", "v1_lr=2"):
        (tmp_path / name).mkdir()
    both = f"start_from={tmp_path}/v1_lr=1,{tmp_path}/v1_lr=2"
    assert quote_paths([both]) == [f"start_from='{tmp_path}/v1_lr=1','{tmp_path}/v1_lr=2'"]
    assert quote_paths([both + "0", "data.size=[32,64]", "-m", "seed=0,1"]) == [
        both + "0", "data.size=[32,64]", "-m", "seed=0,1",
    ]  # fmt: skip
    assert run_name("v1", [f"start_from='{tmp_path}/v1_lr=1'"]) == "v1_start_from-v1_lr-1"


def test_a_value_outside_the_grammar_is_shown_with_its_quotes() -> None:
    with pytest.raises(ConfigError) as error:
        check_overrides(["start_from=runs/v1_lr=1", "seed=0"])
    assert "start_from=runs/v1_lr=1: " in str(error.value)
    (line,) = [line for line in str(error.value).splitlines() if "quote it: " in line]
    (shown,) = shlex.split(line.partition("quote it: ")[2])
    assert shown == "start_from='runs/v1_lr=1'"
    assert compose_config([shown]).start_from == "runs/v1_lr=1"


def test_folders_with_names_of_older_versions_are_found(tmp_path: Path) -> None:
    assert run_folder_name(str(tmp_path), "v1", ["seed=1", "loss=dice"]) == "v1_seed-1_loss-dice"
    (tmp_path / "v1_seed=1_loss=dice").mkdir()
    assert run_folder_name(str(tmp_path), "v1", ["seed=1", "loss=dice"]) == "v1_seed=1_loss=dice"
    assert run_folder_name(str(tmp_path), "v1", ["seed=2", "loss=dice"]) == "v1_seed-2_loss-dice"
