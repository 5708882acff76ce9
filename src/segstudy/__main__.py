"""`python -m segstudy …` is the command `segstudy …`."""

from segstudy.entry import command

command()
