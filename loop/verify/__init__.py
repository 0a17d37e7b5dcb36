"""Verifying a run: everything that can be derived again is, and every row that does not fit is named."""
