"""Run every benchmark, keep the raw repetitions, and rewrite and print the report."""

from benchmarks import attacks, report, scores

attacks.main()
scores.main()
report.README.write_text(report.render())
print(report.README.read_text())
