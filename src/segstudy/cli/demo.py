"""`segstudy demo`: a local web page that predicts photos."""

from pathlib import Path
from typing import Annotated

import typer

from segstudy.cli.arguments import USE
from segstudy.console import print_line

app = typer.Typer()


@app.command(rich_help_panel=USE)
def demo(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    host: Annotated[
        str, typer.Option(help="Address to serve at; 0.0.0.0 makes the page reachable from the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 7860,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse photos with more pixels.")] = 50_000_000,
    examples: Annotated[Path | None, typer.Option(help="Folder of example photos; the first six are offered.")] = None,
) -> None:
    """Predict photos on a local web page: classes, their shares, confidence, and where several runs disagree.

    Only this machine can open the page, unless --host is set; the page loads nothing from other servers.
    Several runs are shown side by side. Their disagreement is shown if they have the same classes.
    Example: segstudy demo runs/study/v1 runs/study/v4 --examples photos
    """
    from segstudy.inference import demo as web

    with web.uploads() as folder:
        photos = web.examples_in(examples, folder) if examples else []
        opened = web.open_demo(runs, folder, device, max_pixels)
        blocks = web.page(opened, photos)
        address, local = web.launch(blocks, folder, host, port)
        print_line(f"{', '.join(m.name for m in opened.models)} on {opened.models[0].device_line}")
        if not local:
            print_line("anyone who can reach this machine over the network can use the page", "bold yellow")
        print_line(f"open {address} in a browser; Ctrl-C stops the server")
        blocks.block_thread()
    print_line("stopped; the uploaded photos are removed")  # printed now: Python takes seconds more to exit
