"""Compare runs: results, statistics, findings, reports, and the audit of one run."""
