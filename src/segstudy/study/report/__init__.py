"""A study's report: the page, Markdown, LaTeX, CSV, plots and pictures, all made from its findings."""
