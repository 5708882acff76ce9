"""Several runs of a study at once, each in a process of its own.

Why not joblib, as Hydra's own plugin: where one of its processes is killed, all others end as well. Here the pool holds
threads, and each of them starts a process and follows it.
"""

import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

import torch
from hydra.core.utils import JobRuntime, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from segstudy import console, interruption
from segstudy.allocator import use_fast_memory
from segstudy.config.compose import register_resolvers
from segstudy.console import silence_warnings
from segstudy.data.fit import sides
from segstudy.errors import ConfigError
from segstudy.inspection.memory import available_memory
from segstudy.precision import choose_device

PRELOADED = ["segstudy.preload"]
"""What the server of processes imports before it forks them: PyTorch and Lightning take 9 seconds of CPU time."""

GIB = 2**30
PROCESS_BYTES, PIXEL_BYTES = GIB, 8 * 1024
"""Memory of a process, and of each pixel of a batch in training: 5 to 7.5 KiB were measured for V1…V4 and `strong`."""

PATIENCE = 20
"""Seconds that a process has to end after SIGTERM, before it is killed: its run continues all the same."""


@dataclass(frozen=True)
class Job:
    """A run that a process of its own will train, or a whole study: what Hydra's `run_job` needs."""

    config: DictConfig
    context: HydraContext
    task: TaskFunction


@dataclass
class Outcome:
    """How a process ended. told: its messages by kind (see `console.tell_study`), the last of each.

    seconds: from its start, and started: until its run began.
    """

    seconds: float
    started: float
    code: int | None
    told: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return str(self.told.get("began", ["a run that did not start"])[0])

    @property
    def score(self) -> float | None:
        """What a search maximises."""
        return self.told["ended"][0] if "ended" in self.told else None

    @property
    def failure(self) -> str | None:
        """Why the run did not end; None if it did."""
        if "ended" in self.told:
            return None
        if "failed" in self.told:
            return str(self.told["failed"][0])
        signal = -(self.code or 0)
        return f"its process was killed by signal {signal}" if signal > 0 else "its process ended early"


def choose_number(n_jobs: Any, configs: Sequence[DictConfig], runs: int) -> tuple[int, int]:
    """(runs at once, threads of each) for a study of so many runs with these configs.

    "auto": on a CPU, as many as PyTorch would use threads for one run, if their memory suffices; else 1.
    Raises ConfigError if n_jobs is neither "auto" nor a number, or above 1 with several devices.
    """
    threads = torch.get_num_threads()
    if n_jobs != "auto" and (not isinstance(n_jobs, int) or isinstance(n_jobs, bool) or n_jobs < 1):
        raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: must be auto, or the number of runs at once")
    several_devices = any(cfg.trainer.devices != 1 for cfg in configs)
    if several_devices and n_jobs not in ("auto", 1):
        raise ConfigError(f"hydra.launcher.n_jobs={n_jobs}: each run uses several devices → hydra.launcher.n_jobs=1")
    if n_jobs == "auto":
        n_jobs = 1 if several_devices else _number_on_cpu(configs, threads)
    number = max(1, min(n_jobs, runs))
    return number, max(1, threads // number)


def _number_on_cpu(configs: Sequence[DictConfig], threads: int) -> int:
    """As many runs as threads, if the largest of them fits into memory so many times; 1 on a GPU."""
    if any(choose_device(cfg.trainer.accelerator, cfg.trainer.precision)[0] != "cpu" for cfg in configs):
        return 1
    pixels = max(cfg.data.batch_size * math.prod(sides(cfg.data.size)) for cfg in configs)
    return min(threads, available_memory() // (PROCESS_BYTES + PIXEL_BYTES * pixels))


def train_side_by_side(
    jobs: Iterable[Job], number: int, threads: int, on_message: Callable[..., None] = lambda *_: None
) -> list[Outcome]:
    """Train each job in its own process with so many threads, `number` of them at once; returns how each ended.

    on_message: called with the job's position and each of its messages, from several threads. If this process is
    interrupted, the others are ended too.
    """
    context = _context()
    running: dict[int, Any] = {}
    stopping = threading.Event()

    def follow(i: int, job: Job) -> Outcome:
        receive, send = context.Pipe(duplex=False)
        outcome = Outcome(0.0, 0.0, None)
        began = time.monotonic()
        process = context.Process(target=_train, args=(job, threads, send))  # type: ignore[attr-defined]
        process.start()
        running[i] = process
        send.close()
        if stopping.is_set():
            process.terminate()
        while (message := _received(receive)) is not None:
            kind, *values = message
            if kind == "began":
                outcome.started = time.monotonic() - began
            outcome.told[kind] = tuple(values)
            on_message(i, kind, *values)
        process.join()
        outcome.seconds, outcome.code = time.monotonic() - began, process.exitcode
        del running[i]
        if not stopping.is_set():
            on_message(i, "exited", outcome)
        return outcome

    with ThreadPoolExecutor(number) as pool:
        futures = []
        try:
            futures += [pool.submit(follow, i, job) for i, job in enumerate(jobs)]
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C, SIGTERM, or an error of ours
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in [*running.values()]:
                process.terminate()
            wait([future for future in futures if not future.cancelled()], PATIENCE)
            for process in [*running.values()]:
                process.kill()
            raise


def start_server() -> None:
    """Start the server from which processes are forked, which takes some seconds; does not wait for it.

    `train_side_by_side` starts it too: this is for a command that has something else to do meanwhile.
    """
    if _context().get_start_method() == "forkserver":
        forkserver.ensure_running()


def wait_for_server() -> None:
    """Wait until processes can be forked at once: the time of the first runs would else hold the server's start."""
    context = _context()
    if context.get_start_method() == "forkserver":
        process = context.Process(target=_nothing)  # type: ignore[attr-defined]
        process.start()
        process.join()


def _nothing() -> None:
    """What the first process does."""


def _context() -> BaseContext:
    """Processes are forked from a server that has imported everything, where that is safe: not with CUDA."""
    if sys.platform != "linux" or torch.cuda.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _received(pipe: Connection) -> Any:
    """The next message; None when the process has ended, also in the middle of one."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None


def _train(job: Job, threads: int, pipe: Connection) -> None:
    """What a run's process does: it tells the study's process what happens, which alone prints."""
    console.study = pipe
    interruption.place = None
    use_fast_memory(restart=False)
    with interruption.interruptible():
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        silence_warnings()
        torch.set_num_threads(threads)
        setup_globals()
        register_resolvers()
        JobRuntime.instance().set("name", "train")
        run_job(
            config=job.config, hydra_context=job.context, task_function=job.task,
            job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir",
        )  # fmt: skip
