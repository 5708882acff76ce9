"""Attacks on the commands: each section damages or abuses something and counts how the commands answer.

`make attack` runs all sections in full and writes the counts to results/robustness.md; the tests run a quick part.
"""
