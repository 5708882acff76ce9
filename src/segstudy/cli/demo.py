"""`segstudy demo`: a local page for photos."""

from pathlib import Path
from typing import Annotated

import typer

from segstudy.cli.arguments import USE
from segstudy.console import console, print_line

app = typer.Typer()


@app.command(rich_help_panel=USE)
def demo(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    host: Annotated[str, typer.Option(help="The address to serve at; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 7860,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse photos with more pixels.")] = 50_000_000,
    examples: Annotated[Path | None, typer.Option(help="A folder with photos to offer; its first six.")] = None,
) -> None:
    """Show on a local web page what trained networks see in a photo: areas, confidence, and where several runs differ.

    Only this machine reaches the page, unless --host says otherwise; the page loads nothing from elsewhere.
    Several runs stand side by side. Their classes may differ; where they disagree is shown if they do not.
    Example: segstudy demo runs/study/v1 runs/study/v4 --examples photos
    """
    from segstudy.inference import demo as web

    with web.uploads() as folder:
        photos = web.examples_in(examples, folder) if examples else []
        opened = web.open_demo(runs, folder, device, max_pixels)
        blocks = web.page(opened, photos)
        address, local = web.launch(blocks, host, port)
        print_line(f"{', '.join(m.name for m in opened.models)} on {opened.models[0].device_line}")
        if not local:
            console.print("everyone who reaches this machine over the network can use the page", style="bold yellow")
        console.print(f"open {address} in a browser; Ctrl-C ends it", highlight=False, soft_wrap=True)
        blocks.block_thread()
    console.print("ended; the uploaded photos are removed")  # Python takes seconds to clear so many modules away
