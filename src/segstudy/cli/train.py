"""`segstudy train`: training with the installed package (in a clone: python train.py)."""

import sys
from importlib.util import find_spec

import typer

app = typer.Typer()


@app.command(
    rich_help_panel="Train",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train one network, or a study of several with -m. Example: segstudy train -m model=v1,v2,v3,v4",
)
def train(context: typer.Context) -> None:
    from segstudy.train import main as train_main

    sys.argv = ["segstudy train", *context.args]
    # Lightning starts further processes with the module named here.
    sys.modules["__main__"].__spec__ = find_spec("segstudy.entry")
    train_main()
