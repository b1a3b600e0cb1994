"""Run every benchmark, keep the raw repetitions, and rewrite and print the report."""

from benchmarks import (
    attacks,
    autoattack,
    cost,
    defences,
    explanations,
    hybrid,
    report,
    scores,
    smallest,
    training,
    two_classes,
)

for benchmark in (attacks, two_classes, autoattack, smallest, scores, cost, hybrid, training, defences, explanations):
    benchmark.main()
report.README.write_text(report.render())
print(report.README.read_text())
