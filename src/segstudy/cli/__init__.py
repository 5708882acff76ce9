"""The commands of `segstudy`, one file for each group of commands."""
