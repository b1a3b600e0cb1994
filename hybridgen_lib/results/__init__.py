"""Full-scale results on file, the documents' claims, and both side by side with a verdict."""

from hybridgen_lib.results.documents import NOT_RUN, REASONS, claims
from hybridgen_lib.results.files import (
    DOCUMENTS,
    PROFILES,
    PROTOCOLS,
    folder,
    load,
    outcomes_of,
    path_of,
    record,
    record_report,
    reports,
)
from hybridgen_lib.results.pictures import Sheet, picture_of, record_pictures
from hybridgen_lib.results.verdicts import claim_verdict, number_verdict, order_verdict, scoreboard

__all__ = [
    "DOCUMENTS",
    "NOT_RUN",
    "PROFILES",
    "PROTOCOLS",
    "REASONS",
    "Sheet",
    "claim_verdict",
    "claims",
    "folder",
    "load",
    "number_verdict",
    "order_verdict",
    "outcomes_of",
    "path_of",
    "picture_of",
    "record",
    "record_pictures",
    "record_report",
    "reports",
    "scoreboard",
]
