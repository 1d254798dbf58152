"""report.html: what a compilation tells, as one file that opens from disk; see docs/report.md."""
