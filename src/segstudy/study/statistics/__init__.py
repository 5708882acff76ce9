"""Standard errors, comparisons and corrections for many of them, on arrays alone."""
