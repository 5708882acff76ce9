"""The entry: check the config, build, fit, test, write the run's record."""

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from segstudy import entry
from segstudy.build import build_data, build_module, build_start, build_tester, build_trainer
from segstudy.callbacks.diagnostic import guard_loggers
from segstudy.callbacks.per_image_confusion import PerImageConfusion, dataset_metrics, test_record, with_part
from segstudy.callbacks.throughput import Throughput
from segstudy.config.check import check, check_overrides
from segstudy.config.compose import apply_overrides, register_resolvers
from segstudy.config.paths import CONF
from segstudy.config.run_folder import claimed_folder
from segstudy.config.summary import hyperparameters
from segstudy.console import console, format_number, print_error, silence_warnings
from segstudy.data.datamodule import SegmentationData
from segstudy.errors import ConfigError, SegstudyError, TrainingError
from segstudy.files import subfolder
from segstudy.inspection.memory import memory_advice, out_of_memory
from segstudy.inspection.summary import gflop
from segstudy.networks.normalize import normalize_of
from segstudy.runs.checkpoints import set_normalization, starting_file
from segstudy.runs.record import Record, environment
from segstudy.runs.tables import print_classes
from segstudy.sweep import FAILED, alone, changes


def main() -> None:
    """`python train.py …` and `segstudy train …`."""
    register_resolvers()
    sys.path.insert(0, os.getcwd())  # a loss or network of the user's own beside train.py
    silence_warnings()
    try:
        sys.argv[1:] = check_overrides(sys.argv[1:])
    except SegstudyError as error:
        print_error(error)
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
        apply_overrides(cfg, hydra_cfg.overrides.task)
        check(cfg)
        if cfg.start_from is not None:
            starting_file(Path(cfg.start_from))
        with claimed_folder(folder, cfg) as record:
            if record.status == "done":
                console.print(f"already done: {folder}")
                return
            record.note(changes=changes(hydra_cfg.runtime.choices["model"], hydra_cfg.overrides.task))
            run(cfg, folder, record)
    except Exception as error:
        if entry.received:  # what an interruption broke (a group of processes) is no failure of the run
            raise
        if isinstance(error, SegstudyError | MisconfigurationException):
            print_error(error)
        else:
            traceback.print_exc()
        if not sweep:
            sys.exit(1)
        FAILED.append(name)


def run(cfg: DictConfig, folder: Path, record: Record) -> None:
    """Data, network, fit, test, record."""
    began = time.monotonic()
    record.note(status="running", error=None, **environment())
    data = build_data(cfg)
    network, origin, started = build_start(cfg, data)
    if started is not None:
        record.note(started_from=started)
    announce(data, origin)
    if not set_normalization(network, record.values):
        raise ConfigError(
            "this run was begun when the data normalised images; now the network does, and this one does not\n"
            "  → another study=NAME, with segstudy.networks.normalize.Normalize as the network's first layer"
        )
    module, normalize = build_module(cfg, network, data), normalize_of(network)
    trainer, device = build_trainer(cfg, folder)
    record.note(
        class_names=list(data.classes),
        palette=[list(rgb) for rgb in data.palette],
        data=data.describe() | {"overlap": data.overlap()},
        encoder_weights=origin,
        normalisation=None if normalize is None else normalize.values(),
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
            counts = PerImageConfusion()
            build_tester(cfg, subfolder(folder, "before"), [counts]).test(module, datamodule=data, verbose=False)
            before = dataset_metrics(counts.total, data.classes)["metrics"]
            record.note(metrics_before=before)
            console.print(f"before: mIoU {format_number(before['network']['miou'])} on {counts.images} images")
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
        for line in images.cache.notes:
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
    entries = test_record(trainer.callbacks, data.classes)
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


if __name__ == "__main__":
    entry.train()
