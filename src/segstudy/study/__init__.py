"""Compare runs: test results, statistics, findings, report; and the audit of a single run."""
