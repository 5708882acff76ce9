"""From the test results of a study to its findings: metrics, verdicts, claims."""
