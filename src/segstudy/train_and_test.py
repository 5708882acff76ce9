"""One run: build data and network, train, test, and write the record."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig
from torch import nn

from segstudy import allocator
from segstudy.build import build_data, build_module, build_start, build_tester, build_trainer, require_trainable
from segstudy.callbacks.loggers import guard_loggers, log_final_metrics
from segstudy.callbacks.per_image_confusion import PerImageConfusion, dataset_metrics, protocol_of_images, test_record
from segstudy.callbacks.throughput import Throughput
from segstudy.config.run_names import hyperparameters
from segstudy.console import console, print_line, print_warning, tell_study
from segstudy.data.datamodule import SegmentationData
from segstudy.errors import ConfigError, DamagedFile, TrainingError, first_line
from segstudy.files import remove, subfolder
from segstudy.formatting import counted, format_number
from segstudy.inspection.memory import memory_advice, out_of_memory
from segstudy.inspection.summary import gflop
from segstudy.module import SegmentationModule
from segstudy.networks.normalize import normalize_of
from segstudy.runs.checkpoints import EARLIER, read_checkpoint, resume_checkpoint, set_normalization
from segstudy.runs.headline import headline_metrics, headline_size
from segstudy.runs.history import read_history
from segstudy.runs.record import SEALED, Record, environment
from segstudy.runs.tables import print_classes


def run(cfg: DictConfig, folder: Path, record: Record) -> None:
    """Train and test the network of a config; continues from the folder's last checkpoint if there is one."""
    began = time.monotonic()
    resumed = resume_checkpoint(folder)
    if resumed is not None and "threads" in record.values:
        torch.set_num_threads(record.values["threads"])  # sums in another order give other last digits
    record.note(status="running", error=None, threads=torch.get_num_threads(), **environment())
    data = build_data(cfg)
    network, origin, started_from = build_start(cfg, data)
    if started_from is not None:
        record.note(started_from=started_from)
    print_data(data, origin)
    if not set_normalization(network, record.values):
        raise ConfigError(
            "this run was started by an older version, in which the data set normalised the images; now the network\n"
            "must do so, and this one does not\n"
            "  → another study=NAME, with segstudy.networks.normalize.Normalize as the network's first layer"
        )
    module = build_module(cfg, network, data)
    trainer, device = build_trainer(cfg, folder)
    require_trainable(cfg, network, data, trainer)
    record.note(**_described(cfg, data, network), encoder_weights=origin, device=device)
    memory = f"; allocator {allocator.chosen}" if device.startswith("CPU") else ""
    print_line(f"{record.values['parameters']:,} parameters; {device}{memory}")
    if cfg.compile:
        torch._dynamo.config.suppress_errors = True  # parts that cannot be compiled run uncompiled
        network.compile()
    last = folder / "checkpoints" / "last.ckpt"
    began -= 0.0 if resumed is None else record.values.get("seconds", 0.0)  # of earlier sessions
    begun: list[bool] = []
    timer = LambdaCallback(
        on_train_start=lambda *_: begun.append(True),
        on_train_epoch_end=lambda *_: record.note(seconds=time.monotonic() - began),
    )
    trainer.callbacks.append(timer)  # type: ignore[attr-defined]
    with _explained_errors(trainer, module, data, last):
        if cfg.start_from is not None and resumed is None:
            _test_before(cfg, folder, module, data, record)
        try:
            trainer.fit(module, data, ckpt_path=None if resumed is None else str(resumed), weights_only=True)
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            other = isinstance(error, RuntimeError) and "state_dict" not in str(error)  # such as too little memory
            if resumed is None or begun or other:
                raise
            raise DamagedFile(
                f"{resumed} is damaged: its state does not fit this run ({type(error).__name__}: {first_line(error)})\n"
                "  → remove it and repeat the command"
            ) from error
        _finish(cfg, trainer, module, data, record, time.monotonic() - began)


def print_data(data: SegmentationData, origin: str) -> None:
    """Print the images of each role, and warnings about them and about the encoder's weights."""
    for role, images in data.roles.items():
        print_line(f"{role}: {counted(len(images), 'image')} of {data.name} {images.name!r}")
        for line in images.notes:
            print_warning(f"{images.name}: {line}")
    if data.overlap():
        print_warning(f"{data.overlap()} images of the reported split are also training images", "bold red")
    if origin.startswith("random ("):
        print_warning(f"the encoder starts from {origin}, not from the pretrained weights asked for", "bold red")


def _described(cfg: DictConfig, data: SegmentationData, network: nn.Module) -> dict[str, Any]:
    """The record's entries that are known before training."""
    normalize = normalize_of(network)
    return {
        "class_names": list(data.classes),
        "palette": [list(rgb) for rgb in data.palette],
        "data": data.describe() | {"overlap": data.overlap()},
        "normalisation": None if normalize is None else normalize.values(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "gflop": gflop(network, data.size),
        "checkpoint": cfg.checkpoint,
        "reproduce": cfg.reproduce,
        "seed": cfg.seed,
        "selected_on_reported": selects(cfg) and "select" not in data.roles,
    }


def selects(cfg: DictConfig) -> bool:
    """Whether validation decides something: which checkpoint is tested, when training ends, or the learning rate."""
    stopping = cfg.callbacks.get("early_stopping", {}).get("enabled", False)
    return bool(cfg.checkpoint == "best" or stopping or "monitor" in cfg.schedule)


def selection_score(folder: Path, checkpoint: str) -> float | None:
    """The validation mIoU of a run's last or best checkpoint, from its history; None without a validation."""
    scores = [row["val/miou"] for row in read_history(folder / "history.csv") if "val/miou" in row]
    return (max(scores) if checkpoint == "best" else scores[-1]) if scores else None


def _test_before(
    cfg: DictConfig, folder: Path, module: SegmentationModule, data: SegmentationData, record: Record
) -> None:
    """Test the weights of `start_from` before they are trained further."""
    counts = PerImageConfusion()
    build_tester(cfg, subfolder(folder, "before"), [counts]).test(module, datamodule=data, verbose=False)
    before = dataset_metrics(counts.total, data.classes)["metrics"]
    record.note(metrics_before=before)
    miou = before[headline_size(record.values)]["miou"]
    print_line(f"before: mIoU {format_number(miou)} on {counted(counts.images, 'image')}")


@contextmanager
def _explained_errors(
    trainer: L.Trainer, module: SegmentationModule, data: SegmentationData, last: Path
) -> Iterator[None]:
    """Turn a full disk, full memory and a missing early-stopping metric into errors that say what to do."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"the run folder could not be written: {error}\n  no complete file is lost: free some space; the "
            f"same command continues from {last if last.is_file() else 'the start'}"
        ) from error
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            advice = memory_advice(module, data.batch_size, data.size, trainer.precision)
            raise TrainingError(advice) from error
        if str(error).startswith("Early stopping conditioned on"):
            raise ConfigError(f"callbacks.early_stopping: {error}") from error
        raise


def _finish(
    cfg: DictConfig, trainer: L.Trainer, module: SegmentationModule, data: SegmentationData, record: Record,
    seconds: float,
) -> None:  # fmt: skip
    """Save the last weights, test the last or best checkpoint, and complete the record."""
    folder = Path(trainer.default_root_dir)
    # Not `current_epoch`: of a continued run that ended within an epoch, it leaves out the last.
    epochs: int = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    steps = trainer.global_step
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file() or read_checkpoint(last)["global_step"] != steps:
        trainer.save_checkpoint(last)  # without the callback `last`, or after an epoch that it leaves out
    chosen = folder / "checkpoints" / f"{cfg.checkpoint}.ckpt"
    if not chosen.is_file():
        raise TrainingError("checkpoint=best, but training ended before its first validation; give it more time")
    # Load the file, so that the saved weights are the tested ones: a run that was continued after its last epoch holds
    # the trained weights in memory, not the averaged ones.
    module.load_state_dict(read_checkpoint(chosen)["state_dict"])
    remove(folder, f"checkpoints/{EARLIER}")
    failed_loggers: dict[str, str] = {}
    guard_loggers(trainer, failed_loggers)
    trainer.test(module, datamodule=data, verbose=False)
    if not trainer.is_global_zero:
        return
    speed = next((c.figures for c in trainer.callbacks if isinstance(c, Throughput)), {})  # type: ignore[attr-defined]
    entries = test_record(trainer.callbacks, data.classes)  # type: ignore[attr-defined]
    images, whole = entries["images_tested"], len(data.roles["report"])
    entries["data"] = record.values["data"] | {"protocol": protocol_of_images(data.protocol(), images, whole)}
    record.seal(SEALED, status="done", epochs=epochs, steps=steps, seconds=seconds, **entries, **speed)
    metrics = headline_metrics(record.values)
    log_final_metrics(trainer, steps, hyperparameters(cfg, folder.name), metrics)
    if failed_loggers:
        record.note(not_measured=record.values["not_measured"] | failed_loggers)
    tell_study("tested", metrics["miou"])
    print_classes(record.values, console, "test" if images == whole else f"test on {images} of {whole} images")
    print_line(f"run folder: {folder}")
