"""Damage each file of a small study in every way, and give all commands to what is left.

A command may mend the damage, work around it or stop, but it names the file; or its result is that of the whole study.
"""

import hashlib
import io
import json
import os
import random
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attack.answers import Answer, Case, ask, segstudy, train
from segstudy.budget import write_budget

SMALL = (
    "data.size=32", "data.train_images=12", "data.val_images=6", "data.batch_size=4", "trainer.max_epochs=2",
    "trainer=cpu", "data.cache_dir=cache", "encoder.widths=[4,4,4]", "decoder.widths=[4,4]",
    "callbacks.pictures.count=2", "logger=none", "callbacks.inspector.enabled=false",
)  # fmt: skip
STUDY = ("-m", "model=v1,v2", "seed=0,1", "study=tiny", "hydra.launcher.n_jobs=1", *SMALL)
SINGLE = ("model=v1", "study=single", *SMALL, "++callbacks.pictures.enabled=false")
FOLDER = ("model=v1", "study=own", "data=folder", "data.root=photos", *(s for s in SMALL if "_images" not in s))
BUDGET = ("-m", "model=v1", "study=budget", "budget=1min", "hydra.launcher.n_jobs=1", *SMALL)

ANSWERS = ("named", "same result", "accepted", "unnamed", "silent", "traceback", "hang", "crash")
"""named: the answer names the damaged file. accepted: a value of the right type and range, in a file whose checksum was
removed. unnamed: an error that does not name the file. silent: another result without a word."""


# The study


def make_home(home: Path, only_interrupted: bool = False) -> None:
    """Train everything that is damaged later: an interrupted run, a study, a run of own images, a study with budget."""
    home.mkdir(parents=True)
    expect(ask(killed_after(1, *SINGLE), home), 9)
    if not only_interrupted:
        make_photos(home / "photos")
        write_budget(home / "runs/budget", {"budget": "1min", "steps": 4, "variants": {}})
        for overrides in (STUDY, FOLDER, BUDGET):
            expect(ask(train(*overrides), home, 300))
    for name, run in (("study", "runs/tiny/v1_seed-0*"), ("single", "runs/single/*"), ("own", "runs/own/*")):
        for found in home.glob(run):
            (home / name).symlink_to(found.relative_to(home))


def expect(answer: Answer, code: int = 0) -> None:
    if answer.code != code:
        raise RuntimeError(f"exit code {answer.code}, not {code}:\n{answer.text}")


def make_photos(root: Path) -> None:
    """Twelve images and masks, with a dataset.yaml."""
    random_numbers = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    for i in range(12):
        mask = np.zeros((40, 40), np.uint8)
        mask[10:30, 5 + i : 20 + i] = 1 + i % 2
        image = random_numbers.integers(0, 90, (40, 40, 3)) + mask[..., None] * 60
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{i:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
    (root / "dataset.yaml").write_text("classes: [background, cat, dog]\nbackground: background\nval: 0.5\n")


def killed_after(saves: int, *overrides: str) -> Callable[[], None]:
    """`python train.py …`, killed when it has written its last checkpoint `saves` times."""

    def command() -> None:
        from segstudy.runs.checkpoints import RunCheckpointIO

        save, left = RunCheckpointIO.save_checkpoint, [saves]

        def save_and_die(self: Any, checkpoint: Any, path: Any, **rest: Any) -> None:
            save(self, checkpoint, path, **rest)
            left[0] -= Path(path).name == "last.ckpt"
            if left[0] == 0:
                os._exit(9)

        RunCheckpointIO.save_checkpoint = save_and_die  # type: ignore[method-assign]
        train(*overrides)()

    return command


# Commands, and what they leave


def report_text(home: Path) -> str:
    names = ("runs.csv", "per_class.csv", "report.md")
    return "\n".join((home / "runs/tiny" / name).read_text() for name in names)


def predicted(home: Path) -> str:
    files = [home / "out/predictions.csv", *sorted((home / "out").glob("*.png"))]
    return "\n".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def exported(home: Path) -> str:
    state = torch.load(home / "out.safetensors", weights_only=True)
    return hashlib.sha256(b"".join(v.numpy().tobytes() for _, v in sorted(state.items()))).hexdigest()


def results_of(pattern: str) -> Callable[[Path], str]:
    """The results in the record and in the test of the runs that match."""

    def read(home: Path) -> str:
        found = []
        for folder in sorted(home.glob(pattern)):
            record = json.loads((folder / "record.json").read_text())
            with np.load(folder / "test" / "counts.npz") as held:
                arrays = [held[name].tolist() for name in sorted(held.files)]
            epochs = [line.split(",")[0] for line in (folder / "history.csv").read_text().splitlines()]
            found.append(
                [record.get(k) for k in ("status", "metrics", "classes", "epochs", "steps")] + [arrays, epochs]
            )
        return json.dumps(found)

    return read


def open_demo() -> None:
    """`segstudy demo`, up to the answer for a photo; no server."""
    from segstudy.inference import demo

    def answer(opened: Any, photos: Any) -> None:
        answers = demo.ask(opened.models, demo.open_photo(Path("photos/images/00.png")), demo.SIZES[0])
        print([(a.labels.tolist(), a.model.classes, a.model.palette) for a in answers])
        sys.exit(0)

    demo.page = answer  # type: ignore[assignment]
    segstudy("demo", "study", "--device", "cpu")()


def printed_only(home: Path) -> str:
    return ""


@dataclass(frozen=True)
class Command:
    """call: the command. result: what it leaves, beside what it prints."""

    call: Callable[[], None]
    result: Callable[[Path], str] = printed_only


COMMANDS = {
    "train": Command(train(*STUDY), lambda home: report_text(home) + results_of("runs/tiny/v*")(home)),
    "continue": Command(train(*SINGLE), results_of("runs/single/v*")),
    "train own": Command(train(*FOLDER), results_of("runs/own/v*")),
    "train budget": Command(train(*BUDGET), results_of("runs/budget/v*")),
    "report": Command(segstudy("report", "runs/tiny"), report_text),
    "runs": Command(segstudy("runs", "runs/tiny")),
    "runs --json": Command(segstudy("runs", "runs", "--json")),
    "evaluate": Command(segstudy("evaluate", "study")),
    "evaluate --retest": Command(segstudy("evaluate", "study", "--retest"), results_of("runs/tiny/v*")),
    "predict": Command(segstudy("predict", "study", "photos/images", "--out", "out"), predicted),
    "export": Command(segstudy("export", "study", "--format", "state_dict", "--out", "out.safetensors"), exported),
    "card": Command(
        segstudy("card", "study", "--no-latency", "--out", "card.md"),
        lambda home: re.sub(r"\d{4}-\d\d-\d\d", "", (home / "card.md").read_text()),
    ),
    "audit": Command(
        segstudy("audit", "study", "--json", "audit.json"), lambda home: (home / "audit.json").read_text()
    ),
    "demo": Command(open_demo),
    "data check": Command(segstudy("data", "check", "photos")),
}

OF_RUN = ("train", "report", "runs", "evaluate", "evaluate --retest", "predict", "export", "card", "audit", "demo")


# Damage


Damage = Callable[[Path], None]


def changed(change: Callable[[bytes], bytes]) -> Damage:
    """Replace the content, in a new file."""

    def damage(file: Path) -> None:
        content = change(file.read_bytes())
        file.unlink()
        file.write_bytes(content)

    return damage


def instead(make: Callable[[Path], object]) -> Damage:
    """Put something else in the file's place."""

    def damage(file: Path) -> None:
        file.unlink()
        make(file)

    return damage


def flipped(seed: int) -> Damage:
    def flip(content: bytes) -> bytes:
        drawn = random.Random(f"{seed} {len(content)}")
        at = drawn.randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1 << drawn.randrange(8)]) + content[at + 1 :]

    return changed(flip)


def garbage(content: bytes) -> bytes:
    return random.Random(len(content)).randbytes(len(content))


GENERAL: dict[str, Damage] = {
    "removed": Path.unlink,
    "empty": changed(lambda content: b""),
    "half": changed(lambda content: content[: len(content) // 2]),
    "last byte cut": changed(lambda content: content[:-1]),
    "garbage": changed(garbage),
    "zeros": changed(lambda content: bytes(len(content))),
    "end of zeros": changed(lambda content: content[: -len(content) // 3] + bytes(-(-len(content) // 3))),
    "a folder": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a link to nothing": instead(lambda file: file.symlink_to("nowhere")),
    "a link to itself": instead(lambda file: file.symlink_to(file.name)),
    **{f"flipped {seed}": flipped(seed) for seed in range(8)},
}

NO_LINK = {name: damage for name, damage in GENERAL.items() if "link" not in name}

TEXTS: dict[str, Damage] = {
    "not UTF-8": changed(lambda content: content[:20] + b"\xff\xfe\xc3" + content[20:]),
    "null": changed(lambda content: b"null"),
    "a list": changed(lambda content: b"[]"),
    "no keys": changed(lambda content: b"{}"),
    "a number": changed(lambda content: b"7"),
    "nested": changed(lambda content: b"[" * 200_000),
    "nested keys": changed(lambda content: b'{"a":' * 50_000),
    "64 MiB of blanks": changed(lambda content: b" " * 2**26),
}

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("k"))
)

YAML: dict[str, Damage] = TEXTS | {
    "alias bomb": changed(lambda content: BOMB + content),
    "merge bomb": changed(lambda content: b"x: &x {y: 1}\nz: {<<: *x}\n" + content),
    "tag": changed(lambda content: b"x: !!python/object/apply:os.system [touch hacked]\n" + content),
    "nested blocks": changed(lambda content: b"".join(b" " * i + b"a:\n" for i in range(2000)) + content),
    "tabs": changed(lambda content: b"\t" + content),
    "a long number": changed(lambda content: b"x: " + b"9" * 10_000 + b"\n" + content),
}

UNSEALED = ", no checksum"
"""Ends the name of a damage that also removes the file's checksum."""

VALUES: Sequence[Any] = (
    None,
    "x",
    -1,
    0.5,
    [],
    {},
    True,
    float("nan"),
    float("inf"),
    10**400,
    [[1, 2], {"a": None}],
    "",
)


def json_value(path: Sequence[str | int], value: Any, keeps_checksum: bool) -> Damage:
    def change(content: bytes) -> bytes:
        whole = json.loads(content)
        place = whole
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        if not keeps_checksum:  # as of an older version: only types and ranges can be looked at
            whole.pop("checksum", None)
        return json.dumps(whole, indent=1).encode()

    return changed(change)


def json_paths(value: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path to each value in JSON; of a list, to its first."""
    pairs = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*before, key)
        yield from json_paths(inner, (*before, key))


def json_values(file: Path) -> dict[str, Damage]:
    """Each value of a JSON file, replaced by three of all types; with a checksum that is then wrong, and without."""
    found = {}
    for path in json_paths(json.loads(file.read_text())):
        for number, value in enumerate(random.Random(str(path)).sample(VALUES, 3)):
            ending = "" if number == 0 else UNSEALED
            found[f"{'.'.join(map(str, path))}={json.dumps(value)[:20]}{ending}"] = json_value(path, value, number == 0)
    return found


def csv_values(file: Path) -> dict[str, Damage]:
    """A value of a table, replaced by others; and lines that are missing, doubled or too long."""

    def with_value(value: str) -> Damage:
        return changed(lambda content: re.sub(rb"(?m)^1,[^,\n]*", b"1," + value.encode(), content, count=1))

    found = {f"value {value or 'empty'}": with_value(value) for value in ("nan", "inf", "-1", "1e999", "x", "", "٣")}
    return found | {
        "no head": changed(lambda content: content.split(b"\n", 1)[1]),
        "head alone": changed(lambda content: content.split(b"\n", 1)[0]),
        "a line twice": changed(lambda content: content + content.splitlines()[-1] + b"\n"),
        "a longer line": changed(lambda content: content + b"3" + b",1" * 50 + b"\n"),
        "a line of quotes": changed(lambda content: content + b'"' * 200_000),
        "epoch nan": changed(lambda content: re.sub(rb"(?m)^1,", b"nan,", content)),
        "epoch 1e300": changed(lambda content: re.sub(rb"(?m)^2,", b"1e300,", content)),
    }


def npz(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    def damage(content: bytes) -> bytes:
        with np.load(io.BytesIO(content)) as held:
            arrays = dict(held)
        change(arrays)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    return changed(damage)


def with_entry(content: bytes, name: str, data: bytes) -> bytes:
    """A zip file with one entry replaced."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, data if entry == name else old.read(entry))
    return buffer.getvalue()


def npy(shape: str, descr: str = "'<i8'", data: bytes = b"") -> bytes:
    """An .npy file with any header."""
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + data


def set_first(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[0] = value
        return array

    return change


ARRAY_CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shorter": lambda array: array[:-1],
    "longer": lambda array: np.concatenate([array, array[-1:]]),
    "none": lambda array: array[:0],
    "a number": lambda array: np.array(3),
    "another axis": lambda array: array[..., None],
    "as float": lambda array: array.astype(float) if array.dtype.kind in "iu" else np.zeros(len(array)),
    "as text": lambda array: array.astype(str),
    "NaN": lambda array: np.full(array.shape, np.nan),
    "negative": lambda array: -np.ones(array.shape, np.int64),
    "huge": lambda array: np.full(array.shape, 2**62),
    "reversed": lambda array: array[::-1],
    "first changed": lambda array: set_first(7)(array),
}


def npz_values(file: Path) -> dict[str, Damage]:
    """Each array of an .npz file changed or removed, and files that are no such file."""
    with np.load(file) as held:
        names = held.files

    def change_one(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
        return npz(lambda arrays: arrays.__setitem__(name, change(arrays[name])))

    found: dict[str, Damage] = {}
    for name in names if len(names) < 8 else (*names[:4], names[-1]):
        found |= {f"{name} {what}": change_one(name, change) for what, change in ARRAY_CHANGES.items()}
        found[f"{name} removed"] = npz(lambda arrays, name=name: arrays.pop(name))  # type: ignore[misc]
    first = f"{names[0]}.npy"
    entries = {
        "a header of 8 TB": npy("(1000000000000,)"), "a shape of 10**30": npy("(1" + "0" * 30 + ",)"),
        "a negative shape": npy("(-5,)"), "a nested header": npy("(" * 3000), "no npy": b"hello",
        "pickled": npy("(1,)", "'|O'", b"cos\nsystem\n."),
        "a long header": b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little"),
    }  # fmt: skip
    for what, data in entries.items():
        found[what] = changed(lambda content, data=data: with_entry(content, first, data))  # type: ignore[misc]
    found["a zip bomb"] = changed(
        lambda content: with_entry(content, first, npy("(500000000,)", "'<i8'", b"") + bytes(2**30))
    )
    return found | {
        "an empty zip": changed(lambda content: with_entry(content, "", b"") and b"PK\x05\x06" + bytes(18)),
        "one array": changed(lambda content: npy("(3,)", data=bytes(24))),
    }


def checkpoint(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(content: bytes) -> bytes:
        values = torch.load(io.BytesIO(content), weights_only=True)
        changed_values = change(values)
        buffer = io.BytesIO()
        torch.save(values if changed_values is None else changed_values, buffer)
        return buffer.getvalue()

    return changed(damage)


class Hostile:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


def first_tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def apply(values: dict[str, Any]) -> None:
        name = next(k for k, v in values["state_dict"].items() if v.dim() == 4)
        values["state_dict"][name] = change(values["state_dict"][name])

    return checkpoint(apply)


def weight_flipped(content: bytes) -> bytes:
    """A bit flipped within the largest tensor."""
    with zipfile.ZipFile(io.BytesIO(content)) as held:
        largest = max((e for e in held.infolist() if "/data/" in e.filename), key=lambda e: e.file_size)
        inside = held.read(largest.filename)
    at = content.index(inside) + len(inside) // 2
    return content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :]


CHECKPOINTS: dict[str, Damage] = {
    "a weight's bit": changed(weight_flipped),
    "another shape": first_tensor(lambda t: t[:1]),
    "NaN weights": first_tensor(lambda t: t * np.nan),
    "weights as text": checkpoint(lambda values: values.update(state_dict={"a": "b"})),
    "no state_dict": checkpoint(lambda values: values.pop("state_dict")),
    "a list": checkpoint(lambda values: [1, 2]),
    "a tensor": checkpoint(lambda values: torch.zeros(3)),
    "code": checkpoint(lambda values: values.update(extra=Hostile())),
    "no loops": checkpoint(lambda values: values.pop("loops", None)),
    "loops as text": checkpoint(lambda values: values.update(loops="x")),
    "no optimizer": checkpoint(lambda values: values.pop("optimizer_states", None)),
    "optimizer of another": checkpoint(lambda values: values.update(optimizer_states=[{"param_groups": []}])),
    "no global step": checkpoint(lambda values: values.pop("global_step", None)),
    "epoch as text": checkpoint(lambda values: values.update(epoch="x", global_step="y")),
    "callbacks as list": checkpoint(lambda values: values.update(callbacks=[1])),
    "no version": checkpoint(lambda values: values.pop("pytorch-lightning_version", None)),
}  # fmt: skip


# The cases


@dataclass(frozen=True)
class Target:
    """A kind of file: where it lies, which commands read it, and its own kinds of damage beside the general ones."""

    file: str
    commands: Sequence[str]
    own: Callable[[Path], Mapping[str, Damage]] = lambda file: {}
    general: Mapping[str, Damage] = NO_LINK.copy  # type: ignore[assignment]


TARGETS: dict[str, Target] = {
    "record.json": Target("study/record.json", OF_RUN, lambda file: TEXTS | json_values(file)),
    "config.yaml": Target("study/config.yaml", OF_RUN, lambda _: YAML),
    "history.csv": Target("study/history.csv", ("train", "report", "runs", "audit"), csv_values),
    "counts.npz": Target("study/test/counts.npz", ("train", "report", "audit", "card", "evaluate --retest"),
                         npz_values),
    "measures.npz": Target("study/test/measures.npz", ("train", "report", "card", "evaluate --retest"), npz_values),
    "labels.npz": Target("study/test/labels.npz", ("train", "report"), npz_values),
    "samples.npz": Target("study/test/samples.npz", ("train", "report"), npz_values),
    "final.png": Target("study/pictures/final.png", ("card", "report", "train")),
    "last.ckpt": Target("study/checkpoints/last.ckpt",
                        ("train", "report", "evaluate", "evaluate --retest", "predict", "export", "card", "demo"),
                        lambda _: CHECKPOINTS),
    "record.json of an interrupted run": Target("single/record.json", ("continue", "runs --json"),
                                                lambda file: TEXTS | json_values(file)),
    "config.yaml of an interrupted run": Target("single/config.yaml", ("continue", "runs --json"), lambda _: YAML),
    "history.csv of an interrupted run": Target("single/history.csv", ("continue", "runs --json"), csv_values),
    "last.ckpt of an interrupted run": Target("single/checkpoints/last.ckpt", ("continue",), lambda _: CHECKPOINTS),
    "best.ckpt of an interrupted run": Target("single/checkpoints/best.ckpt", ("continue",), lambda _: CHECKPOINTS),
    "cache images": Target("cache/*/images.bin", ("continue", "evaluate", "evaluate --retest", "report")),
    "cache masks": Target("cache/*/masks.bin", ("continue", "evaluate", "evaluate --retest", "report")),
    "cache index.npz": Target("cache/*/index.npz", ("continue", "evaluate"), npz_values),
    "masks-*.json": Target("cache/masks-*.json", ("train own", "data check"), lambda file: TEXTS | json_values(file)),
    "dataset.yaml": Target("photos/dataset.yaml", ("train own", "data check"), lambda _: YAML),
    "budget.json": Target("runs/budget/budget.json", ("train budget",), lambda file: TEXTS | json_values(file)),
}  # fmt: skip


FOR_ALL = {*NO_LINK, *TEXTS, *YAML, *CHECKPOINTS}
"""Kinds of damage given to all commands that read the file; each of the others is given to one of them."""


class Attack:
    """A home with a study, of which each case gets a fresh copy at the same place."""

    def __init__(self, place: Path, only_interrupted: bool = False):
        self.whole, self.home = place / "whole", place / "home"
        if not self.whole.is_dir():
            shutil.rmtree(self.home, ignore_errors=True)
            make_home(self.home, only_interrupted)
            self.home.rename(self.whole)
        self.expected: dict[str, str] = {}

    def restore(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.whole, self.home, symlinks=True)

    def result(self, command: str, answer: Answer) -> str:
        """What a command printed and left, without times, sizes on disk and the like."""
        try:
            left = COMMANDS[command].result(self.home)
        except Exception as error:
            left = f"{type(error).__name__}: {error}"
        return f"{answer.code}\n{tidy(answer.text)}\n{left}"

    def expect(self, command: str) -> str:
        """The result of a command on the whole study."""
        if command not in self.expected:
            self.restore()
            answer = ask(COMMANDS[command].call, self.home, 300)
            if answer.fault or answer.code not in (0, 1):
                raise RuntimeError(f"{command} fails on the whole study:\n{answer.text}")
            self.expected[command] = self.result(command, answer)
            print(f"{command}: {answer.seconds:.1f} s", flush=True)
        return self.expected[command]

    def case(self, target: str, damage: Damage, command: str) -> tuple[str, Answer]:
        """Damage a copy and run a command; how it answered, by ANSWERS."""
        expected = self.expect(command)
        self.restore()
        files = sorted(self.home.glob(TARGETS[target].file))
        for file in files:
            damage(file)
        answer = ask(COMMANDS[command].call, self.home)
        return self.judge(answer, command, expected, files), answer

    def judge(self, answer: Answer, command: str, expected: str, files: Sequence[Path]) -> str:
        if (self.home / "hacked").exists():
            return "crash"
        if answer.fault:
            return answer.fault
        report = self.home / "runs/tiny/report.html"
        told = answer.text + (report.read_text() if command in ("report", "train") and report.is_file() else "")
        words = {files[0].name, files[0].parent.name, str(files[0].parent.resolve().name)}
        if any(word in told for word in {files[0].name} | (words if "cache" in str(files[0]) else set())):
            return "named"
        if self.result(command, answer) == expected:
            return "same result"
        return "unnamed" if answer.code else "silent"


def tidy(text: str) -> str:
    """Without what differs between two runs of the same command."""
    return re.sub(r'\d+(\.\d+)? ?([kMG]?B|bytes|photos/s)\b|"bytes": \d+|\d+:\d\d(:\d\d)?|\s+', " ", text)


def damages(attack: Attack, target: str) -> dict[str, Damage]:
    """All kinds of damage of a target."""
    attack.restore()
    file = sorted(attack.home.glob(TARGETS[target].file))[0]
    return {**NO_LINK, **TARGETS[target].own(file)}


def cases(attack: Attack) -> Iterator[Case]:
    for target, described in TARGETS.items():
        for number, (name, damage) in enumerate(damages(attack, target).items()):
            commands = described.commands
            for command in commands if name in FOR_ALL else [commands[number % len(commands)]]:
                yield Case(target, f"{name}: {command}", partial(answer, attack, target, name, damage, command))


def answer(attack: Attack, target: str, name: str, damage: Damage, command: str) -> tuple[str, Answer]:
    kind, answer = attack.case(target, damage, command)
    return "accepted" if kind == "silent" and name.endswith(UNSEALED) else kind, answer
