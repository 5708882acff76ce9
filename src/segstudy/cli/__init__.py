"""The commands of `segstudy`, a file for each family of them."""
