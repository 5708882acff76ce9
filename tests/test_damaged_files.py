"""A few cases of `make attack`: damage to the files of a real study, and the answers of the commands."""

from collections.abc import Iterator

import pytest
import torch
from attack.damaged_files import Attack, damages


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "120")
        torch.set_num_threads(1)  # a process with threads cannot be forked
        yield Attack(tmp_path_factory.mktemp("attack"), only_interrupted=True)


@pytest.mark.parametrize(
    ("target", "command", "names"),
    [
        ("record.json of an interrupted run", "continue", ["half", "seed"]),
        ("config.yaml of an interrupted run", "continue", ["alias bomb", "nested"]),
        ("history.csv of an interrupted run", "continue", ["garbage"]),
        ("last.ckpt of an interrupted run", "continue", ["a weight's bit"]),
        ("cache images", "continue", ["garbage"]),
        ("cache index.npz", "continue", ["a header of 8 TB"]),
        ("history.csv of an interrupted run", "runs --json", ["a pipe"]),
    ],
)
def test_a_command_names_the_damaged_file_or_has_the_same_result(
    attack: Attack, target: str, command: str, names: list[str]
) -> None:
    known = damages(attack, target)
    for name in names:
        damage = next(damage for full, damage in known.items() if full.startswith(name))
        kind, answer = attack.case(target, damage, command)
        assert kind in ("named", "same result", "accepted"), f"{target}: {name}\n{answer.text}"
