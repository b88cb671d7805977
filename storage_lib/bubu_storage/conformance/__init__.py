"""Runs recorded outcomes of the Go implementation against this library.

A vector file is a JSON list of cases, each with an input and what the Go SDK made of it.
Two kinds are known: storage cases (each runs on a fresh file store in a temporary
directory) and ApplyEnv cases. ``bubu-storage conformance FILE…`` prints the outcome.
"""

from bubu_storage.conformance.cases import CaseReport, VectorFileError, Verdict, load_cases
from bubu_storage.conformance.runner import run_case, run_file

__all__ = ["CaseReport", "VectorFileError", "Verdict", "load_cases", "run_case", "run_file"]
