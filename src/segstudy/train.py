"""The entry: check the config, build, fit, test, write the run's record."""

import logging
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from segstudy import entry
from segstudy.build import (
    build_data,
    build_module,
    build_start,
    build_tester,
    build_trainer,
    starting_file,
)
from segstudy.callbacks.counts import ImageCounts, figures, tested, with_part
from segstudy.callbacks.diagnostic import guard_loggers
from segstudy.callbacks.guards import memory_advice, out_of_memory
from segstudy.callbacks.throughput import Throughput
from segstudy.config import CONF, adopt, check, check_overrides, register_resolvers, run_name
from segstudy.data.base import SegmentationData
from segstudy.device import RANK
from segstudy.errors import ConfigError, SegstudyError, TrainingError
from segstudy.files import subfolder
from segstudy.networks.describe import gflop
from segstudy.record import Record, claimed, surroundings
from segstudy.study.plan import Plan, matching
from segstudy.study.table import number, print_classes, records

console = Console(quiet=RANK > 0)  # one process of several speaks
FAILED: list[str] = []
"""Names of the runs of this sweep that failed, for its last line and exit code."""
PATIENCE = 20
"""Seconds in which the first of several processes should meet a mistake that all of them make."""
NOT_BY_TORCHRUN = """a study (-m) is not started by torchrun: each of its runs starts processes of its own
  → the same command without torchrun, with trainer=ddp; or torchrun for one run at a time"""
INTERRUPTED = [128 + number for number in entry.SIGNALS]
"""Exit codes of a run's process that was asked to end."""


def main() -> None:
    """`python train.py …` and `segstudy train …`."""
    register_resolvers()
    sys.path.insert(0, os.getcwd())  # a loss or network of the user's own beside train.py
    quiet()
    try:
        sys.argv[1:] = check_overrides(sys.argv[1:])
    except SegstudyError as error:
        tell(error)
        sys.exit(2)
    task()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(cfg: DictConfig) -> None:
    """One run, in Hydra's hands: its folder comes from the config; its failure does not stop a sweep."""
    hydra_cfg = HydraConfig.get()
    folder = Path(hydra_cfg.runtime.output_dir)
    name = folder.name
    sweep = hydra_cfg.mode == RunMode.MULTIRUN
    entry.place = str(folder.parent if sweep else folder)
    console.rule(
        f"[bold]{name}" + (f"  (run {hydra_cfg.job.num + 1} of the study {folder.parent.name})" if sweep else "")
    )
    if sweep and cfg.trainer.devices != 1:
        return alone(hydra_cfg, folder)
    try:
        adopt(cfg, hydra_cfg.overrides.task)
        check(cfg)
        if cfg.start_from is not None:
            starting_file(Path(cfg.start_from))
        with claimed(folder, cfg) as record:
            if record.status == "done":
                console.print(f"already done: {folder}")
                return
            record.note(changes=changes(hydra_cfg.runtime.choices["model"], hydra_cfg.overrides.task))
            run(cfg, folder, record)
    except Exception as error:
        if entry.received:  # what an interruption broke (a group of processes) is no failure of the run
            raise
        if isinstance(error, SegstudyError | MisconfigurationException):
            tell(error)
        else:
            traceback.print_exc()
        if not sweep:
            sys.exit(1)
        FAILED.append(name)


def alone(hydra_cfg: HydraConf, folder: Path) -> None:
    """Train one run of a sweep over several devices as a command of its own: Lightning starts its other processes with
    the command line of this one, and they would each begin the whole sweep."""
    overrides = [*hydra_cfg.overrides.task, f"hydra.run.dir='{folder}'", "hydra.mode=RUN"]
    entry.place = None  # the run's process tells
    with subprocess.Popen([sys.executable, "-m", "segstudy.entry", *overrides]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()  # Ctrl-C reaches it too, a signal to this process alone does not
            process.wait()
            raise
    if code in INTERRUPTED:
        entry.stop(code - 128)
    if code:
        FAILED.append(folder.name)


def changes(model: str, overrides: Sequence[str]) -> list[str]:
    """What the command changed, model first, for the names of variants in tables."""
    keep = (o.lstrip("+~") for o in overrides)
    return [f"model={model}", *(o for o in keep if not o.startswith(("model=", "experiment=", "report.")))]


def planned(config: DictConfig) -> dict[str, list[str]]:
    """The variants that a sweep will train and that its folder holds already: their changes by their names."""
    from segstudy.study.collect import own, without_seeds

    swept = [f"{key}={values}" for key, values in (config.hydra.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*swept, *config.hydra.overrides.task])
    runs = dict(records(Path(config.hydra.sweep.dir)))
    for batch in BasicSweeper.split_arguments(overrides, None):
        for given in batch:
            model = next((o[6:] for o in given if o.startswith("model=")), config.hydra.runtime.choices["model"])
            runs |= {run_name(model, given): {"changes": changes(model, given)}}
    names = without_seeds(runs)
    return {names[run]: own(r["changes"]) for run, r in runs.items() if "changes" in r}


class Study(Callback):
    """Hydra's callback: before a sweep, what its plan will lack; at its end, the table of all runs and the report."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            tell(ConfigError(NOT_BY_TORCHRUN))
            sys.exit(2)
        # Hydra writes this file next, and would follow a link.
        (Path(config.hydra.sweep.dir) / "multirun.yaml").unlink(missing_ok=True)
        plan = Plan.of(OmegaConf.to_container(config.report))  # type: ignore[arg-type]
        variants = planned(config) if plan.sides() else {}
        for side in plan.sides():
            if not matching(side, variants):
                console.print(
                    f"[yellow]report: no run of this study is {escape(repr(side))} ({escape(', '.join(variants))})",
                    soft_wrap=True,
                    highlight=False,
                )

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        entry.place = str(folder)
        console.rule(f"[bold]study {folder.name}")
        unfinished = self._conclude(folder)
        console.print(
            f"next: make tensorboard RUNS={folder}; the same command continues what is unfinished", soft_wrap=True
        )
        if unfinished or FAILED:
            console.print(f"[red]failed or unfinished: {', '.join(sorted({*unfinished, *FAILED}))}", soft_wrap=True)
            sys.exit(1)  # Hydra itself would end with 0 here

    def _conclude(self, folder: Path) -> list[str]:
        """The study's tables and report. Hydra turns an exception of a callback into a warning: it ends here."""
        from segstudy.study.conclude import conclude  # a single run needs none of what a report is made with

        try:
            return conclude(folder, console)
        except Exception as error:
            if isinstance(error, SegstudyError):
                tell(error)
            else:
                traceback.print_exc()
            failed = f"; failed: {', '.join(FAILED)}" if FAILED else ""
            console.print(
                f"[red]no report was written[/] (segstudy report {folder} writes it later){failed}", soft_wrap=True
            )
            sys.exit(1)


def run(cfg: DictConfig, folder: Path, record: Record) -> None:
    """Data, network, fit, test, record."""
    began = time.monotonic()
    record.note(status="running", error=None, **surroundings())
    data = build_data(cfg)
    network, origin, started = build_start(cfg, data)
    if started is not None:
        record.note(started_from=started)
    announce(data, origin)
    module = build_module(cfg, network, data)
    trainer, device = build_trainer(cfg, folder)
    record.note(
        class_names=list(data.classes),
        palette=[list(rgb) for rgb in data.palette],
        data=data.describe() | {"overlap": data.overlap()},
        encoder_weights=origin,
        normalisation={"mean": list(data.mean), "std": list(data.std)},
        parameters=sum(p.numel() for p in network.parameters()),
        gflop=gflop(network, data.size),
        device=device,
        checkpoint=cfg.checkpoint,
        reproduce=cfg.reproduce,
        seed=cfg.seed,
        selected_on_reported=selects(cfg) and "select" not in data.roles,
    )
    console.print(f"{record.values['parameters']:,} parameters; {device}", highlight=False)
    if cfg.compile:
        torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
        network.compile()
    last = folder / "checkpoints" / "last.ckpt"
    try:
        if cfg.start_from is not None and not last.is_file():
            counts = ImageCounts()
            build_tester(cfg, subfolder(folder, "before"), [counts]).test(module, datamodule=data, verbose=False)
            before = figures(counts.total, data.classes)["metrics"]
            record.note(metrics_before=before)
            console.print(f"before: mIoU {number(before['network']['miou'])} on {counts.images} images")
        trainer.fit(module, data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
        finish(cfg, trainer, module, data, record, time.monotonic() - began)
    except OSError as error:
        raise TrainingError(
            f"the run folder could not be written: {error}\n  nothing that was whole is lost: free some space, and the "
            f"same command continues from {last if last.is_file() else 'the start'}"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            advice = memory_advice(module, data.batch_size, data.size, trainer.precision)
            raise TrainingError(advice) from error
        if str(error).startswith("Early stopping conditioned on"):
            raise ConfigError(f"callbacks.early_stopping: {error}") from error
        raise


def announce(data: SegmentationData, origin: str) -> None:
    """Say what is trained and reported on, and what a user should know of it."""
    for role, images in data.roles.items():
        console.print(f"{role}: {len(images)} images of {data.name} {images.name!r}", highlight=False)
        for line in images.cache.stated:
            console.print(f"  [yellow]{line}", highlight=False)
    if data.overlap():
        console.print(f"[bold red]{data.overlap()} images of the reported split are also trained on")
    if origin.startswith("random ("):
        console.print(f"[bold red]the encoder starts from {origin}: not the pretrained network that was asked for")


def finish(cfg: DictConfig, trainer: Any, module: Any, data: Any, record: Record, seconds: float) -> None:
    """Keep the last weights, test the chosen ones, and close the record."""
    folder = Path(trainer.default_root_dir)
    epochs, steps = trainer.current_epoch, trainer.global_step
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")  # a time limit ends within an epoch
    chosen = folder / "checkpoints" / f"{cfg.checkpoint}.ckpt"
    if not chosen.is_file():
        raise TrainingError("checkpoint=best, but training ended before its first validation; give it more time")
    # Read back, so that what is tested is what is kept: a run continued after its last epoch holds weights that are
    # trained, not averaged.
    module.load_state_dict(torch.load(chosen, map_location="cpu", weights_only=True)["state_dict"])
    unlogged: dict[str, str] = {}
    guard_loggers(trainer, unlogged)
    trainer.test(module, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return
    speed = next((c.figures for c in trainer.callbacks if isinstance(c, Throughput)), {})
    before = record.values.get("seconds", 0.0)
    entries = tested(trainer.callbacks, data.classes)
    images, whole = entries["images_tested"], len(data.roles["report"])
    record.note(
        status="done",
        epochs=epochs,
        steps=steps,
        seconds=before + seconds,
        data=record.values["data"] | {"protocol": with_part(data.protocol(), images, whole)},
        **entries,
        **speed,
    )
    final = {f"final/{k}": v for k, v in record.values["metrics"]["network"].items()}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):  # its table of settings has figures of its own
            logger.log_hyperparams(hyperparameters(cfg, folder.name), final)
        else:
            logger.log_hyperparams(hyperparameters(cfg, folder.name))
            logger.log_metrics(final, step=steps)
        logger.save()
    if unlogged:
        record.note(not_measured=record.values["not_measured"] | unlogged)
    print_classes(record.values, console, "test" if images == whole else f"test on {images} of {whole} images")
    console.print(f"run folder: {folder}", soft_wrap=True)


def selects(cfg: DictConfig) -> bool:
    """Whether the validation split chooses something: the checkpoint, the end, or the learning rate."""
    stopping = cfg.callbacks.get("early_stopping", {}).get("enabled", False)
    return bool(cfg.checkpoint == "best" or stopping or "monitor" in cfg.schedule)


SOCKETS = ("encoder", "bridge", "decoder", "head")


def hyperparameters(cfg: DictConfig, variant: str) -> dict[str, int | float | str]:
    """What sets a run apart, in plain values and under the same names in every run: TensorBoard takes the columns of
    its table from the first run of a study, and shows the first five."""
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    network, optim = settings["network"], settings["optim"]
    parts = {name: network.get(name) for name in SOCKETS}  # the network's: not every one has them all
    parts |= {"network": {name: value for name, value in network.items() if name not in SOCKETS}}
    parts |= {"loss": settings["loss"], "optimizer": optim["optimizer"], "schedule": settings["schedule"]}
    encoder_lr = optim["lr"] if optim["encoder_lr"] is None else optim["encoder_lr"]
    plain = {"variant": variant, "seed": settings["seed"], "lr": optim["lr"], "lr of the encoder": encoder_lr}
    return plain | {name: in_short(part) for name, part in parts.items()}


def in_short(node: Any) -> str:
    """Nested settings in one line, such as Focal(gamma=2.0), without those that are null; – for null itself."""
    if not isinstance(node, dict):
        return "–" if node is None else str(node)
    given = [f"{k}={in_short(v)}" for k, v in node.items() if v is not None and not k.startswith("_")]
    return f"{str(node.get('_target_', '')).rsplit('.', 1)[-1]}({', '.join(given)})"


def tell(error: BaseException) -> None:
    """The user's mistake in red, without a traceback.

    Of several processes the first tells what all meet, and the launcher then ends the others, which wait for that; what
    one of them alone meets, it tells after all.
    """
    if RANK > 0:
        time.sleep(PATIENCE)
    Console(stderr=True).print(f"[bold red]{type(error).__name__}:[/] ", end="")
    print(error, file=sys.stderr)


def quiet() -> None:
    """Silence what Lightning says on every run and what has a reason here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # One slice of a memory map a batch needs no worker processes (design: under 5 % of the step).
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Lightning's own use of a function that torch has renamed.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.* is deprecated.*")
    # A run of few batches (a smoke test, a small folder) still logs at each epoch's end.
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    # A resumed or time-limited run tests what it holds in memory, which is meant.
    warnings.filterwarnings("ignore", ".*You are resuming.*|.*Checkpoint directory .* exists and is not empty.*")


if __name__ == "__main__":
    entry.train()
