"""All that is to be measured on a GPU, in ten minutes at a time: `make gpu-day`.

Steps in the order of their worth, each with a time limit; each writes its JSON at once, and the page is made anew after
each, so that a cut loses only the step it falls into. The same command goes on after the steps that are done.
Data come as tars and Python packages as wheels, from two folders that `make gpu-pack` fills; no network is needed.
With --tiny everything runs on a CPU, small: does it run?

Nothing but Python's standard library is imported here: the packages are installed by the first step.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
SEGSTUDY = ("-m", "segstudy")
"""The command `segstudy`, which is not installed on that machine."""
SEEDS = (0, 1, 2)
VOC_SIZES = (256, 192, 128)
ADE20K_TRAINING = 20_210
"""Images of ADE20K's training list, for the extrapolation of `ade_unet`'s 30 epochs."""


class StepError(Exception):
    """A step that could not be done, with the last lines of what failed."""


@dataclass
class Day:
    """Folders and settings of all steps, and the ways to run a command."""

    data: Path
    wheels: Path
    work: Path
    out: Path
    tiny: bool
    ends: float = 0.0
    """When the present step must be over (time.monotonic)."""
    log: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.work / "data"

    @property
    def environment(self) -> dict[str, str]:
        paths = [str(self.work / "site"), str(PROJECT / "src"), os.environ.get("PYTHONPATH", "")]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in paths if p),
            "SEGSTUDY_CACHE": str(self.work / "cache"),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "120",
        }

    def threads(self, processes: int) -> dict[str, str]:
        """Each of several processes takes its part of the cores."""
        return {"OMP_NUM_THREADS": str(max(2, (os.cpu_count() or 2) // processes))} if processes > 1 else {}

    def left(self) -> float:
        return max(1.0, self.ends - time.monotonic())

    def run(self, *commands: Sequence[str]) -> list[tuple[int, str]]:
        """Run commands side by side until the step's end; their exit codes (124: cut off) and output.

        One that is still running is interrupted first, so that it can save, and killed 10 s later.
        """
        started = []
        for number, command in enumerate(commands):
            self.log.append(shlex.join(command))
            output = open(self.work / f"output-{number}.txt", "w+")  # noqa: SIM115 (closed below)
            started.append((
                subprocess.Popen(
                    command, cwd=PROJECT, env=self.environment | self.threads(len(commands)), stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                ),
                output,
            ))  # fmt: skip
        found = []
        for process, output in started:
            code = _finish(process, self.left())
            output.seek(0)
            found.append((code, output.read()))
            output.close()
        return found

    def command(self, *words: str) -> str:
        """Run one command; its output. Raises StepError if it fails."""
        code, output = self.run(words)[0]
        if code:
            raise StepError(f"{shlex.join(words)} ended with {code}:\n{output[-1500:]}")
        return output

    def python(self, *arguments: str) -> str:
        return self.command(sys.executable, *arguments)

    def segstudy(self, *arguments: str) -> str:
        return self.python(*SEGSTUDY, *arguments)


def _finish(process: subprocess.Popen, seconds: float) -> int:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
                process.wait(10)
                break
            except (subprocess.TimeoutExpired, ProcessLookupError):
                continue
        return 124


# The steps


def prepare(day: Day) -> dict[str, Any]:
    """Unpack the data, install the wheels, and write the caches that several runs share."""
    for tar in sorted(day.data.glob("*.tar.gz")):
        with tarfile.open(tar) as file:
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # new in Python 3.11.4
            file.extractall(day.root, **safely)
    wheels = sorted(map(str, day.wheels.glob("*.whl")))
    if wheels:
        day.python(
            "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade",
            "--target", str(day.work / "site"), *wheels,
        )  # fmt: skip
    sizes = "32" if day.tiny else "256,512"
    made = day.python(
        "benchmarks/gpu_speed.py", "prepare", str(day.root), "--cache", str(day.work / "cache"), "--sizes", sizes
    )
    return {"data": sorted(p.name for p in day.root.iterdir()), "wheels": len(wheels), "caches": made.splitlines()}


def speed(day: Day) -> dict[str, Any]:
    """Images per second of training, end to end and of the network alone."""
    return measured(day, "speed")


def windows(day: Day) -> dict[str, Any]:
    """The same for windows (data.fit=crop) of 512² from large photos."""
    return measured(day, "windows")


def measured(day: Day, cases: str) -> dict[str, Any]:
    file = day.out / f"{cases}.json"
    day.python(
        "benchmarks/gpu_speed.py", "measure", str(day.root), "--cache", str(day.work / "cache"), "--out", str(file),
        "--cases", cases, "--seconds", str(max(5.0, day.left() - 15)), *(["--tiny"] if day.tiny else []),
    )  # fmt: skip
    return json.loads(file.read_text())


def voc(day: Day) -> dict[str, Any]:
    """V1→V4 on VOC-animals: equal steps, three seeds, as many epochs as fit."""
    grids = [["model=v1"]] if day.tiny else [["model=v1,v2"], ["model=v3,v4_random"]]
    weights = day.root / "weights" / "mobilenet_v2_imagenet.pth"
    size, epochs = (32, 1) if day.tiny else size_and_epochs_that_fit(day, 3131)
    common = [
        "data=voc", f"data.root='{day.root}'", "data.name=VOC-animals", "data.train=trainaug", f"data.size={size}",
        "data.batch_size=16", f"trainer.max_epochs={epochs}", "report=journey", "callbacks.pictures.enabled=false",
        "callbacks.training_metrics.enabled=false", "data.device_cache=true",
    ]  # fmt: skip
    if day.tiny:
        common += ["+trainer.limit_train_batches=2", "data.batch_size=2"]
    if weights.is_file() and not day.tiny:
        grids += [
            ["model=v4", "encoder=mobilenet_v2", f"encoder.weights='{weights}'"],
            ["model=v4_random", "encoder=mobilenet_v2", "encoder.weights=null"],
        ]
    return study(day, "voc-animals", common, grids) | {"epochs": epochs, "size": size}


def pet(day: Day) -> dict[str, Any]:
    """The Pet benchmark on the stand-in: four experiments, three seeds, 15 epochs."""
    size, epochs = (32, 1) if day.tiny else (128, 15)
    common = [
        "data=pet", f"data.root='{day.root / 'pet_standin'}'", "data.name=Pet stand-in", f"data.size={size}",
        "data.batch_size=32", "data.border=background", "augment=none", "optim=adam", "schedule=constant",
        "checkpoint=best", "callbacks.best.monitor=val/loss", "callbacks.best.mode=min", f"trainer.max_epochs={epochs}",
        "callbacks.pictures.enabled=false", "callbacks.training_metrics.enabled=false", "data.device_cache=true",
    ]  # fmt: skip
    grids = [["model=pet_1"]] if day.tiny else [["model=pet_1,pet_2"], ["model=pet_3,pet_4"]]
    if day.tiny:
        common += ["+trainer.limit_train_batches=2", "data.batch_size=2", "encoder.widths=[4,4,4,4,8]"]
        common += ["decoder.widths=[4,4,4,4]"]
    return study(day, "pet-standin", common, grids) | {"epochs": epochs, "size": size}


def camvid(day: Day) -> dict[str, Any]:
    """CamVid at full size, from scratch and pretrained."""
    weights = day.root / "weights" / "mobilenet_v2_imagenet.pth"
    common = [
        "experiment=strong/folder", "model=smp_unet", "encoder=mobilenet_v2", f"data.root='{day.root / 'camvid'}'",
        f"data.about='{PROJECT / 'docs' / 'camvid.yaml'}'", "data.augment.scale=[0.75,2.0]", "data.size=[360,480]",
        "data.batch_size=8", "data.device_cache=true", "callbacks.tta.enabled=false",
        "callbacks.pictures.enabled=false", "callbacks.training_metrics.enabled=false", "trainer.max_epochs=25",
        "trainer.check_val_every_n_epoch=25",
        "callbacks.ema.decay=0.99",
    ]  # fmt: skip
    if day.tiny:
        common += ["data.size=32", "trainer.max_epochs=1", "trainer.check_val_every_n_epoch=1", "data.batch_size=2"]
        common += ["+trainer.limit_train_batches=1"]
        return study(day, "camvid", common, [["encoder.weights=null"]], seeds=(0,))
    grids = [["encoder.weights=null", "optim.encoder_lr=1e-3"]]
    if weights.is_file():
        grids += [[f"encoder.weights='{weights}'", "optim.encoder_lr=3e-4"]]
    return study(day, "camvid", common, grids, seeds=(0,))


def rest(day: Day) -> dict[str, Any]:
    """Predict, export, evaluate on the GPU; float16 with its scaler; two processes where there are two GPUs."""
    run = next(iter(sorted((day.work / "runs").glob("voc-animals/*/checkpoints/last.ckpt"))), None)
    if run is None:
        raise StepError("the study voc left no run to predict with")
    run, photos = run.parents[1], day.root / "VOCdevkit" / "VOC2012" / "JPEGImages"
    small = day.work / "photos"
    small.mkdir(exist_ok=True)
    for photo in sorted(photos.iterdir())[: 4 if day.tiny else 400]:
        shutil.copyfile(photo, small / photo.name)
    tiny = ["data.size=32", "data.batch_size=2"] if day.tiny else ["data.size=256"]
    train = [
        "train", "model=v1", "data=voc", f"data.root='{day.root}'", *tiny, f"runs_dir='{day.work / 'runs'}'",
        "trainer=smoke", "callbacks.pictures.enabled=false",
    ]  # fmt: skip
    cuda = day.python("-c", "import torch; print(torch.cuda.device_count())").split()[-1]
    tasks = {
        "predict": ["predict", str(run), str(small), "--out", str(day.work / "masks")],
        "evaluate": ["evaluate", str(run), "--retest"],
        "export": ["export", str(run), "--out", str(day.work / "network.onnx")],
    }
    if cuda != "0":
        tasks["float16 with a loss scaler"] = [*train, "study=fp16", "trainer.precision=16-mixed"]
    if int(cuda) > 1:
        tasks["two processes with NCCL"] = [*train, "study=nccl", "trainer=ddp", "trainer.devices=2"]
    found: dict[str, Any] = {"gpus": int(cuda), "photos": len(list(small.iterdir()))}
    for name, task in tasks.items():
        began = time.monotonic()
        code, output = day.run([sys.executable, *SEGSTUDY, *task])[0]
        found[name] = {"exit": code, "seconds": round(time.monotonic() - began, 1), "said": output[-600:]}
    return found


TWO_CORES = ("env", "CUDA_VISIBLE_DEVICES=", "taskset", "--cpu-list", "0,1")
"""Before a command: without the GPU, as on the computer that most people have."""


def cpu(day: Day) -> dict[str, Any]:
    """`benchmarks/training.py` on two cores; GPU machines often have AMX, for which its bars are."""
    file = day.out / "cpu.json"
    small = ["--rounds", "1", "--steps", "1", "--size", "32", "--images", "8", "--batch", "4"] if day.tiny else []
    day.command(*TWO_CORES, sys.executable, "benchmarks/training.py", "--out", str(file), *small)
    return json.loads(file.read_text())


def ablation(day: Day) -> dict[str, Any]:
    """`make ablation` on two cores: its time and its report."""
    began = time.monotonic()
    smaller = ["model=v1", "budget=null", "trainer=smoke", "seed=0"] if day.tiny else []
    day.command(
        *TWO_CORES, sys.executable, "train.py", "experiment=ablation", f"runs_dir='{day.work / 'runs'}'",
        "study=ablation", *smaller,
    )  # fmt: skip
    seconds = time.monotonic() - began
    shutil.copyfile(day.work / "runs" / "ablation" / "first_screen.png", day.out / "ablation.png")
    return {"seconds": seconds, "report": (day.work / "runs" / "ablation" / "report.md").read_text()[:3000]}


def study(
    day: Day, name: str, common: Sequence[str], grids: Sequence[Sequence[str]], seeds: Sequence[int] = SEEDS
) -> dict[str, Any]:
    """Train a study, all grids and seeds side by side; its report's files go to OUT/NAME. Returns its records."""
    if day.tiny:
        seeds = seeds[:1]
    folder = day.work / "runs" / name
    began = time.monotonic()
    always = [*common, f"study={name}", f"runs_dir='{day.work / 'runs'}'", "hydra.mode=MULTIRUN"]
    ended = day.run(*([sys.executable, "train.py", *always, *g, f"seed={seed}"] for seed in seeds for g in grids))
    seconds = time.monotonic() - began
    records = {p.parent.name: json.loads(p.read_text()) for p in sorted(folder.glob("*/record.json"))}
    keys = ("status", "changes", "seed", "steps", "epochs", "seconds", "images_per_second", "peak_memory_gib", "error")
    runs = {run: {k: r[k] for k in keys if k in r} | {"metrics": r.get("metrics")} for run, r in records.items()}
    found = {"seconds": seconds, "side_by_side": len(ended), "runs": runs}
    if any(r.get("status") == "done" for r in records.values()):
        day.ends = max(day.ends, time.monotonic() + 30)  # a study that was cut is reported all the same
        code, said = day.run([sys.executable, *SEGSTUDY, "report", str(folder)])[0]
        if not (folder / "report.md").is_file():  # 1 if runs are unfinished: the others are reported
            raise StepError(f"the report ended with {code}:\n{said[-1500:]}")
        place = day.out / name
        place.mkdir(exist_ok=True)
        for file in ("report.md", "runs.csv", "per_class.csv", "report.html", "first_screen.png"):
            if (folder / file).is_file() and (folder / file).stat().st_size < 2_000_000:
                shutil.copyfile(folder / file, place / file)
        if (folder / "figures").is_dir():
            shutil.copytree(folder / "figures", place / "figures", dirs_exist_ok=True)
    else:
        raise StepError(f"no run was finished: {json.dumps(runs)[:1000]}\n{ended[0][1][-1000:]}")
    return found


def size_and_epochs_that_fit(day: Day, images: int) -> tuple[int, int]:
    """The largest of VOC_SIZES at which ten epochs of V1→V4, and of V4 twice more, fit three times; and the epochs.

    By the speeds that were measured; a fifth of the time and 60 s are kept for starts, tests and the report.
    """
    speeds = {}
    if (day.out / "speed.json").is_file():
        rows = json.loads((day.out / "speed.json").read_text())["rows"]
        speeds = {row["case"].split()[0]: row["images_per_second"] for row in reversed(rows) if "error" not in row}
    v1, v4 = speeds.get("V1", 800.0), speeds.get("V4", 800.0)
    seconds = 0.8 * (day.left() - 60)
    for size in VOC_SIZES:
        epoch = len(SEEDS) * images * (3 / v1 + 3 / v4) * (size / 256) ** 2
        epochs = math.floor(seconds / epoch)
        if epochs >= 10:
            break
    return size, max(1, min(30, epochs))


@dataclass(frozen=True)
class Step:
    """name: of its JSON; seconds: its limit."""

    name: str
    seconds: float
    do: Callable[[Day], dict[str, Any]]


STEPS = (
    Step("prepare", 40, prepare), Step("speed", 110, speed), Step("windows", 80, windows), Step("voc", 290, voc),
    Step("camvid", 100, camvid), Step("pet", 150, pet), Step("rest", 60, rest),
    Step("cpu", 110, cpu), Step("ablation", 400, ablation),
)  # fmt: skip


# The page


def page(out: Path) -> str:
    """What the JSON files hold, in Markdown."""
    found = {step.name: json.loads(p.read_text()) for step in STEPS if (p := out / f"{step.name}.json").is_file()}
    lines = ["# Measured on a GPU", ""]
    if machine := found.get("speed", {}).get("machine"):
        lines += [
            f"{machine.get('gpu') or 'no GPU'}, {machine['cores']} cores of {machine['cpu']}; precision "
            f"{machine['precision']}; PyTorch {machine['versions']['torch']}; segstudy at {machine['git']}; "
            f"{machine['date']}. Made by `make gpu-day`.", "",
        ]  # fmt: skip
    if "rows" in found.get("speed", {}):
        lines += speed_lines(found["speed"], found.get("windows", {}).get("rows", []))
    for name, title in (
        ("voc", "V1→V4 on VOC-animals"),
        ("pet", "The Pet benchmark on the stand-in"),
        ("camvid", "CamVid"),
    ):
        if "runs" in found.get(name, {}):
            lines += study_lines(title, found[name])
    if "rest" in found and "error" not in found["rest"]:
        lines += ["## Predict, evaluate, export, float16", "", "| task | seconds | exit code |", "|---|---:|---:|"]
        lines += [f"| {k} | {v['seconds']} | {v['exit']} |" for k, v in found["rest"].items() if isinstance(v, dict)]
        lines += ["", f"{found['rest']['photos']} photos were predicted.", ""]
    if "networks" in found.get("cpu", {}):
        lines += ["## Two cores of its CPU", "", "```", json.dumps(found["cpu"]["networks"], indent=1), "```", ""]
    if "report" in found.get("ablation", {}):
        minutes = found["ablation"]["seconds"] / 60
        lines += [f"`make ablation` took {minutes:.1f} minutes there ([first screen](ablation.png)).", ""]
    for name, values in found.items():
        if "error" in values:
            lines += [f"**{name}** was not finished:", "", "```", values["error"][-800:], "```", ""]
    return "\n".join(lines)


def speed_lines(found: dict[str, Any], windows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of speeds, the profile, and `ade_unet`'s 30 epochs extrapolated."""
    lines = [
        "## Speed of training", "",
        "End to end is a real fit (cache, augmentation, Lightning, callbacks); alone is the same network's step on "
        "random tensors; both in turns in one process.", "",
        "| case | images/s | alone | share | peak GiB |", "|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in [*found["rows"], *windows]:
        if "error" in row:
            lines.append(f"| {row['case']} | {row['error'].splitlines()[0][:90]} | | | |")
            continue
        peak = f"{row['peak_gib']:.1f}" if row["peak_gib"] is not None else "n/a"
        lines.append(
            f"| {row['case']} | {row['images_per_second']:,.0f} | {row['images_per_second_alone']:,.0f} "
            f"| {row['share_of_alone']:.0%} | {peak} |"
        )
    if (profile := found.get("profile")) and "ms_per_step" in profile:
        waits = ", ".join(f"{n:g} × {name}" for name, n in profile["waits_per_step"].items()) or "none"
        lines += [
            "",
            f"Profile of {profile['case']}: {profile['ms_per_step']:.1f} ms a step"
            + (f", of which the device is busy {profile['device_busy']:.0%}" if "device_busy" in profile else "")
            + f"; the host has queued a step after {profile['ms_per_step_until_queued']:.1f} "
            f"ms; waits for the device in each step: {waits}"
            + (f", at {', '.join(profile['waits_at'])}." if profile.get("waits_at") else "."),
        ]
    for row in found["rows"]:
        if row["case"].startswith("ade_unet") and "error" not in row:
            hours = 30 * ADE20K_TRAINING / row["images_per_second"] / 3600
            lines += [
                "",
                f"`experiment=ade_unet`, 30 epochs of {ADE20K_TRAINING:,} images: {hours:.1f} hours, extrapolated.",
            ]
    return [*lines, ""]


def study_lines(title: str, found: dict[str, Any]) -> list[str]:
    """A study's runs; its report lies beside the page."""
    done = sum(run["status"] == "done" for run in found["runs"].values())
    budget = f"; {found['epochs']} epochs at {found['size']}²" if "epochs" in found else ""
    side_by_side = f"{found['side_by_side']} side by side"
    lines = [
        f"## {title}", "",
        f"{done} of {len(found['runs'])} runs done in {found['seconds']:.0f} s, {side_by_side}{budget}.", "",
        "| run | steps | seconds | images/s | mIoU | mIoU, original size |", "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    changes = [run.get("changes") or [name] for name, run in found["runs"].items()]
    shared = set.intersection(*map(set, changes)) if len(changes) > 1 else set()
    for name, run in found["runs"].items():
        metrics = run["metrics"] or {}
        figures = [
            f"{metrics.get(size, {}).get('miou'):.3f}" if metrics.get(size, {}).get("miou") is not None else "n/a"
            for size in ("network", "original")
        ]
        own = [c for c in run.get("changes") or [name] if c not in shared]
        ips = f"{run['images_per_second']:,.0f}" if run.get("images_per_second") else "n/a"
        short = " ".join(f"{c.partition('=')[0]}={c.rpartition('/')[2].strip(chr(39))}" if "/" in c else c for c in own)
        row = [short, str(run.get("steps", run["status"])), f"{run.get('seconds') or 0:.0f}", ips, *figures]
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, ""]


def archive(out: Path, target: Path) -> None:
    """Everything in OUT as one tar, replaced as a whole."""
    part = target.with_name(f"{target.name}.part")
    with tarfile.open(part, "w:gz") as tar:
        tar.add(out, arcname=out.name)
    part.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".gpu/data"), help="folder of *.tar.gz")
    parser.add_argument("--wheels", type=Path, default=Path(".gpu/wheels"), help="folder of *.whl")
    parser.add_argument("--work", type=Path, default=Path(".gpu/work"), help="folder for data, caches and runs")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder for the results")
    parser.add_argument("--archive", type=Path, help="a .tar.gz of the results, made anew after every step")
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything")
    parser.add_argument("--steps", default=",".join(s.name for s in STEPS), help="which (default: all)")
    parser.add_argument("--tiny", action="store_true", help="small, on a CPU: does it run?")
    given = parser.parse_args()
    unknown = set(given.steps.split(",")) - {s.name for s in STEPS}
    if unknown:
        parser.error(f"--steps: there is no {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in STEPS)}")
    if not list(given.data.glob("*.tar.gz")):
        parser.error(f"no *.tar.gz in --data={given.data} → make gpu-pack")
    for folder in (given.work, given.out):
        folder.mkdir(parents=True, exist_ok=True)
    (given.work / "data").mkdir(exist_ok=True)
    day = Day(given.data.resolve(), given.wheels.resolve(), given.work.resolve(), given.out.resolve(), given.tiny)
    slower = 10 if given.tiny else 1  # a CPU may be busy; what --tiny asks is whether all runs
    over = time.monotonic() + 60 * given.minutes * slower
    failed = []
    for step in STEPS:
        file = day.out / f"{step.name}.json"
        if step.name not in given.steps.split(",") or done(file, day, step):
            continue
        if over - time.monotonic() < 15:
            print(f"{step.name}: no time is left; the same command goes on here", flush=True)
            failed.append(step.name)
            continue
        began = time.monotonic()
        day.ends = min(over, began + step.seconds * slower)
        day.log.clear()
        try:
            found = step.do(day)
        except (StepError, OSError, KeyError, ValueError) as error:
            kept = json.loads(file.read_text()) if file.is_file() else {}
            found = kept | {"error": str(error) or repr(error)}
            failed.append(step.name)
        taken = time.monotonic() - began
        text = json.dumps(found | {"step_seconds": round(taken, 1), "commands": day.log}, indent=1)
        file.write_text(text.replace(f"{PROJECT}/", "") + "\n")
        (day.out / "README.md").write_text(page(day.out))
        if given.archive:
            archive(day.out, given.archive)
        print(f"{step.name}: {'failed, ' if 'error' in found else ''}{taken:.0f} s", flush=True)
        if "error" in found:
            print(found["error"][-1500:], flush=True)
    print(f"results: {given.out / 'README.md'}", flush=True)
    sys.exit(1 if failed else 0)


def done(file: Path, day: Day, step: Step) -> bool:
    """Whether a step was finished before; `prepare` only where what it made is still there."""
    if not file.is_file() or "error" in json.loads(file.read_text()):
        return False
    return step.name != "prepare" or (day.work / "cache").is_dir()


if __name__ == "__main__":
    main()
