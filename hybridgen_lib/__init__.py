"""The library behind the book: each idea of a chapter once, tested. See CONTRIBUTING.md for its map."""

__version__ = "0.1.0"
