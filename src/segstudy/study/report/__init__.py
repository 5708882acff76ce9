"""A study's report (HTML, Markdown, LaTeX, CSV, plots, pictures), written from its findings."""
